"""How fast the engine is beside the released code's steps, beside itself with a 30-s window, and in batches.

Ratios, from one process on one machine, all variants in turn (`timing.py`); both sides use the same weights and
the same language model, and make the same number of tokens.

    python benchmarks/speed.py --json speed.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from released_steps import ReleasedSteps
from rich.console import Console
from rich.table import Table
from subjects import engine_of, padded, speech
from timing import CLOCKS, interleaved, machine_facts, medians

from soundwave.audio import SAMPLE_RATE
from soundwave.inference.engine import Engine
from soundwave.model.soundwave import SoundwaveForConditionalGeneration

PROMPT = "What is the intent of the speaker?"  # all sides answer the audio itself
OURS, OURS_30S, RELEASED = "ours", "ours, 30-s window", "released steps"
SHORT_SECONDS = 5.0  # a short clip is at most this long
WANTED_RATIO = 3.0  # short clips: time to the first token with the dynamic window, against 30 s
BATCH, BATCH_SECONDS = 8, 5.0


@contextmanager
def exactly(model: SoundwaveForConditionalGeneration, tokens: int) -> Iterator[None]:
    """Within it no answer ends early: every variant makes the same number of tokens."""
    settings = model.language_model.generation_config
    before, settings.min_new_tokens = settings.min_new_tokens, tokens
    try:
        yield
    finally:
        settings.min_new_tokens = before


def compare(
    engine: Engine, steps: ReleasedSteps, seconds: float, tokens: int, repeats: int, clock: str = "wall"
) -> list[dict[str, Any]]:
    """Rows for one clip length: encode, first token, and a whole answer, by every variant."""
    clip, twin = speech(seconds), padded(engine)
    positions = {
        OURS: len(engine.encode((clip, SAMPLE_RATE)).embeddings),
        OURS_30S: len(twin.encode((clip, SAMPLE_RATE)).embeddings), RELEASED: len(steps.encode(clip).embeddings),
    }
    rows = []
    for what, count in (("encode", 0), ("first token", 1), (f"answer of {tokens} tokens", tokens)):
        with exactly(steps.model, count):
            times = interleaved(_variants(engine, twin, steps, clip, count), repeats, clock)
        middle = medians(times)
        rows.append({
            "clip_seconds": seconds, "what": what, "seconds": middle, "all_seconds": times,
            "audio_positions": positions, "ratio_to_released": middle[RELEASED] / middle[OURS],
            "ratio_to_30s_window": middle[OURS_30S] / middle[OURS],
        })
        told = ", ".join(f"{name} {value:.3f} s" for name, value in middle.items())
        print(f"{seconds:g} s, {what}: {told}", file=sys.stderr, flush=True)  # it takes minutes: somebody may watch
    return rows


def _variants(
    engine: Engine, twin: Engine, steps: ReleasedSteps, clip: np.ndarray, tokens: int
) -> dict[str, Callable[[], object]]:
    audio = (clip, SAMPLE_RATE)
    if not tokens:
        return {
            OURS: lambda: engine.encode(audio), OURS_30S: lambda: twin.encode(audio),
            RELEASED: lambda: steps.encode(clip),
        }
    options: dict[str, Any] = {"via": "audio", "temperature": 0, "max_new_tokens": tokens}
    return {
        OURS: lambda: engine.ask(audio, PROMPT, **options), OURS_30S: lambda: twin.ask(audio, PROMPT, **options),
        RELEASED: lambda: steps.ask(clip, PROMPT, tokens),
    }


def compare_batch(
    engine: Engine, model: SoundwaveForConditionalGeneration, tokens: int, repeats: int, clock: str = "wall"
) -> dict[str, Any]:
    """Eight clips asked at once, against one after another."""
    requests = [((speech(BATCH_SECONDS + i / 4), SAMPLE_RATE), PROMPT) for i in range(BATCH)]
    options: dict[str, Any] = {"via": "audio", "temperature": 0, "max_new_tokens": tokens}
    with exactly(model, tokens):
        times = interleaved(
            {
                "batch": lambda: engine.ask_batch(requests, **options),
                "singles": lambda: [engine.ask(*request, **options) for request in requests],
            },
            repeats, clock,
        )
    middle = medians(times)
    return {
        "clips": BATCH, "clip_seconds": BATCH_SECONDS, "tokens": tokens, "seconds": middle, "all_seconds": times,
        "ratio": middle["singles"] / middle["batch"],
    }


def verdict(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether short clips reach their first token fast enough, against both kinds of 30-s window."""
    short = [row for row in rows if row["what"] == "first token" and row["clip_seconds"] <= SHORT_SECONDS]
    return [
        {"clip_seconds": row["clip_seconds"], "against": against, "ratio": row[key], "wanted": WANTED_RATIO,
         "met": row[key] >= WANTED_RATIO}
        for row in short
        for against, key in ((RELEASED, "ratio_to_released"), (OURS_30S, "ratio_to_30s_window"))
    ]


def show(result: dict[str, Any]) -> None:
    """Tables for people."""
    console = Console(highlight=False)
    facts = result["machine"]
    console.print(f"{result['weights']}; float32")
    console.print(f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}")
    table = Table(title=f"median {result['clock']} seconds of {result['repeats']} interleaved rounds")
    for name in ("clip", "what", OURS, OURS_30S, RELEASED, "released ÷ ours", "30 s ÷ ours", "positions ours/released"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for row in result["rows"]:
        times, positions = row["seconds"], row["audio_positions"]
        table.add_row(
            f"{row['clip_seconds']:g} s", row["what"], *(f"{times[name]:.3f}" for name in (OURS, OURS_30S, RELEASED)),
            f"{row['ratio_to_released']:.1f}×", f"{row['ratio_to_30s_window']:.1f}×",
            f"{positions[OURS]}/{positions[RELEASED]}",
        )
    console.print(table)
    batch = result["batch"]
    console.print(
        f"{batch['clips']} clips of {batch['clip_seconds']:g} s and a little more, {batch['tokens']} tokens each: "
        f"one by one {batch['seconds']['singles']:.2f} s, in a batch {batch['seconds']['batch']:.2f} s: "
        f"{batch['ratio']:.1f}×"
    )
    for one in result["verdict"]:
        console.print(
            f"{'met   ' if one['met'] else 'MISSED'} {one['clip_seconds']:g} s to the first token against "
            f"{one['against']}: {one['ratio']:.1f}× (wanted {one['wanted']:g}×)"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="mini, a folder or a hub id")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 5.0, 10.0, 29.0], help="lengths of clips")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds")
    parser.add_argument("--threads", type=int, help="for PyTorch; default: its own choice")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: for a busy machine, with --threads 1"
    )
    parser.add_argument("--json", type=Path, help="keep everything that was measured here")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    engine, model, weights = engine_of(options.model)
    steps = ReleasedSteps(model, engine.processor)
    rows: list[dict[str, Any]] = []
    for length in options.seconds:
        rows += compare(engine, steps, length, options.tokens, options.repeats, options.clock)
    result = {
        "weights": weights, "machine": machine_facts(), "clock": options.clock, "repeats": options.repeats,
        "rows": rows, "batch": compare_batch(engine, model, options.tokens, options.repeats, options.clock),
        "verdict": verdict(rows),
    }
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
