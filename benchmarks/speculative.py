"""Drafts from CTC: passes of the LLM and seconds of decoding, with and without them, and whether the texts are equal.

The LLM writes every transcript from the audio itself, as a model without an n-gram lets it; what CTC reads is the
draft. Plain and drafted decoding take turns on the same prompts; the speech encoder is not in the time.

    python benchmarks/speculative.py dev-librispeech/manifest.jsonl dev-questions/manifest.jsonl --json speculative.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

from timing import machine_facts

import soundwave
from soundwave.audio import load_audio
from soundwave.inference.backends.protocol import Prompt
from soundwave.inference.engine import Engine
from soundwave.inference.options import GenerationOptions
from soundwave.inference.prompts import PromptBuilder
from soundwave.inference.transcription import transcript_tokens


@dataclass(frozen=True)
class Utterance:
    """A prompt, what CTC reads, and the most tokens that its transcript can have."""

    prompt: Prompt
    draft: list[int]
    most: int


class Passes:
    """Counts how often the LLM is called."""

    def __init__(self, engine: Engine):
        twins = engine.decoder._twins  # type: ignore[union-attr]  # no public count: users do not need one
        self.count = 0
        for model in {id(one): one for one in (twins.get(True), twins.get(False))}.values():
            model.register_forward_pre_hook(self._one_more)

    def _one_more(self, *_: Any) -> None:
        self.count += 1


def utterances(engine: Engine, manifest: Path, every: int) -> list[Utterance]:
    """The recordings of a manifest in which CTC reads anything."""
    prompts = PromptBuilder(engine.processor, engine.inference, engine.encoder.config.audio_token_id)
    lines = manifest.read_text(encoding="utf-8").split("\n")
    made = []
    for row in [json.loads(line) for line in lines if line.strip()][::every]:
        speech = engine.encode((load_audio(manifest.parent / row["audio"]), 16_000))
        if not speech.ctc_token_ids:
            continue
        prompt = prompts.audio(engine.inference.transcribe_prompt, speech.embeddings.float().cpu().numpy())
        made.append(Utterance(prompt, prompts.draft(speech.ctc_text), transcript_tokens(speech.duration)))
    return made


def written(engine: Engine, some: Sequence[Utterance], drafted: bool) -> list[list[int]]:
    """The greedy answers of some utterances, decoded together."""
    rows: list[list[int]] = [[] for _ in some]
    options = GenerationOptions(temperature=0, max_new_tokens=max(one.most for one in some))
    drafts = [one.draft for one in some] if drafted else None
    assert engine.decoder is not None
    for token in engine.decoder.generate([one.prompt for one in some], options, drafts):
        rows[token.row].append(token.id)
    return rows


def compared(engine: Engine, every: Sequence[Utterance], at_once: int) -> dict[str, Any]:
    """Passes and seconds of both ways, in turns, and how many answers differ."""
    passes = Passes(engine)
    counts: dict[bool, list[int]] = {False: [], True: []}
    seconds = {False: 0.0, True: 0.0}
    differing = tokens = 0
    for first in range(0, len(every), at_once):
        some = every[first : first + at_once]
        answers = {}
        for drafted in (False, True):
            before, started = passes.count, time.perf_counter()
            answers[drafted] = written(engine, some, drafted)
            seconds[drafted] += time.perf_counter() - started
            counts[drafted].append(passes.count - before)
        differing += sum(one != other for one, other in zip(answers[False], answers[True], strict=True))
        tokens += sum(map(len, answers[False]))
    ways = {
        "plain" if not drafted else "drafted": {
            "passes": round(mean(values), 2),
            "passes_90": quantiles(values, n=10)[-1] if len(values) > 1 else values[0],
            "seconds": round(seconds[drafted], 2),
        }
        for drafted, values in counts.items()
    }
    return {
        "utterances": len(every), "at_once": at_once, "tokens": tokens, "differing": differing, **ways,
        "fewer_passes": round(sum(counts[False]) / sum(counts[True]), 2),
        "faster": round(seconds[False] / seconds[True], 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, nargs="+", help="recordings")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take every so-manieth clip (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="utterances at once in the second round (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    engine = soundwave.load(chosen.model)
    result = {}
    for manifest in chosen.manifests:
        every = utterances(engine, manifest, chosen.every)
        for at_once in (1, chosen.batch):
            name = f"{manifest.parent.name}, {at_once} at once"
            result[name] = made = compared(engine, every, at_once)
            print(
                f"{name:30} {made['plain']['passes']:6.1f} passes plain, {made['drafted']['passes']:5.1f} drafted: "
                f"{made['fewer_passes']:.2f} x fewer, {made['faster']:.2f} x faster, {made['differing']} of "
                f"{made['utterances']} texts differ", flush=True,
            )
    if chosen.json:
        chosen.json.write_text(json.dumps({"rounds": result, **machine_facts()}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
