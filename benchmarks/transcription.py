"""How fast `transcribe` is, with the LLM and without, beside faster-whisper's `base` in the same run, and how right.

Each way has its turn on all clips, again and again; times real time is audio seconds by the median of its wall seconds.

    python recipes/mini/whisper_folder.py --out whisper-base
    python benchmarks/transcription.py dev-librispeech/manifest.jsonl --whisper whisper-base --json transcription.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from timing import interleaved, machine_facts, medians

import soundwave
from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.evaluation.systems import WhisperCascade
from soundwave.inference.engine import Engine
from soundwave.text.metrics import word_errors


def ways_of(
    engine: Engine, whisper: Path | None, clips: list[np.ndarray], batch: int
) -> dict[str, Callable[[], list[str]]]:
    """Each way of writing all clips down."""
    sounds = [(clip, SAMPLE_RATE) for clip in clips]

    def ours(llm: bool, at_once: int) -> list[str]:
        texts = []
        for first in range(0, len(sounds), at_once):
            texts += [one.text for one in engine.transcribe_batch(sounds[first : first + at_once], llm=llm)]
        return texts

    ways: dict[str, Callable[[], list[str]]] = {
        "transcribe": lambda: ours(engine.inference.transcribe.llm, 1),
        f"transcribe, batches of {batch}": lambda: ours(engine.inference.transcribe.llm, batch),
        "transcribe --no-llm": lambda: ours(False, 1),
        f"transcribe --no-llm, batches of {batch}": lambda: ours(False, batch),
    }
    if whisper is not None:
        peer = WhisperCascade(engine, whisper, beam_size=1)
        ways["faster-whisper base, int8, beam 1"] = lambda: [one.text for one in peer.transcribe_batch(sounds)]
    return ways


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="recordings with their texts")
    parser.add_argument("--whisper", type=Path, help="the folder that whisper_folder.py made; left out: no peer")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--every", type=int, default=8, help="take every so-manieth clip (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="recordings at once (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    lines = chosen.manifest.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()][:: chosen.every]
    clips = [load_audio(chosen.manifest.parent / row["audio"]) for row in rows]
    seconds = sum(len(clip) for clip in clips) / SAMPLE_RATE
    engine = soundwave.load(chosen.model)
    ways = ways_of(engine, chosen.whisper, clips, chosen.batch)
    texts = {name: run() for name, run in ways.items()}
    spent = interleaved(ways, chosen.repeats)
    print(f"{len(clips)} clips, {seconds:.0f} s of audio")
    result = {}
    for name, middle in medians(spent).items():
        errors = word_errors([row["text"] for row in rows], texts[name]).rate
        speed = round(seconds / middle, 2)
        result[name] = {"times_real_time": speed, "word_error_rate": errors, "seconds": spent[name]}
        print(f"{name:45} {speed:6.1f} x real time, {100 * errors:5.1f} % of the words wrong")
    if chosen.json:
        about = {"clips": len(clips), "audio_seconds": round(seconds, 1), "ways": result, **machine_facts()}
        chosen.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
