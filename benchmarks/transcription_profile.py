"""Where the time of `transcribe` goes on a long recording: seconds of each step per minute of audio.

Reading and cutting run in a thread of their own, beside the other steps; their seconds are the processor's, the others'
are the clock's.

    python benchmarks/transcription_profile.py dev-librispeech/manifest.jsonl --seconds 600 --json transcription-profile.json
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from long_audio import recording
from timing import machine_facts

import soundwave
import soundwave.inference.speech as speech
from soundwave.audio import SAMPLE_RATE
from soundwave.audio.cutting import SpeechCutter
from soundwave.inference.engine import Engine

CUTTING = "reading and cutting (beside the others)"


class Steps:
    """Seconds spent in each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._main = threading.current_thread()

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted."""

        def call(*given: Any, **named: Any) -> Any:
            clock = time.perf_counter if threading.current_thread() is self._main else time.thread_time
            started = clock()
            try:
                return function(*given, **named)
            finally:
                self.seconds[step] += clock() - started

        return call


def watched(engine: Engine, steps: Steps) -> None:
    """Counts what each step of an engine's `transcribe` takes."""
    transcriber = engine._transcriber  # private: no user needs the steps
    engine.processor.features = steps.timed("log-mel", engine.processor.features)  # type: ignore[method-assign]
    engine.encoder.forward = steps.timed("speech encoder", engine.encoder.forward)  # type: ignore[method-assign]
    speech.speech_probabilities = steps.timed("voice of each stretch", speech.speech_probabilities)
    SpeechCutter.feed = steps.timed(CUTTING, SpeechCutter.feed)  # type: ignore[method-assign]
    if transcriber.has_words:
        search = transcriber.search
        search.decode = steps.timed("CTC search", search.decode)  # type: ignore[method-assign]
    if engine.decoder is not None:
        engine.decoder.score = steps.timed("LLM", engine.decoder.score)  # type: ignore[method-assign]
    transcriber.timer.words = steps.timed("word times", transcriber.timer.words)  # type: ignore[method-assign]


def profile(engine: Engine, samples: np.ndarray, llm: bool) -> dict[str, float]:
    """Seconds of each step for a minute of a recording; `other` is what no step has."""
    steps = Steps()
    watched(engine, steps)
    started = time.perf_counter()
    engine.transcribe((samples, SAMPLE_RATE), llm=llm)
    total = time.perf_counter() - started
    steps.seconds["other"] = total - sum(value for name, value in steps.seconds.items() if name != CUTTING)
    minutes = len(samples) / SAMPLE_RATE / 60
    return {name: round(value / minutes, 4) for name, value in steps.seconds.items()} | {"all": round(total / minutes, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="recordings with their texts")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="of the recording (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order, the gaps and the noise (%(default)s)")
    parser.add_argument("--no-llm", action="store_true", help="by CTC and n-gram alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    samples = np.concatenate([some for some, _, _ in recording(chosen.manifest, chosen.seconds, chosen.seed)])
    engine = soundwave.load(chosen.model, backend="none" if chosen.no_llm else "torch")
    engine.transcribe((samples[: 40 * SAMPLE_RATE], SAMPLE_RATE))  # what is made when first needed is not in the time
    steps = profile(engine, samples, not chosen.no_llm)
    for name, seconds in sorted(steps.items(), key=lambda pair: -pair[1]):
        print(f"{name:42} {seconds:6.2f} s a minute, {100 * seconds / steps['all']:4.0f} %")
    if chosen.json:
        about = {"audio_seconds": round(len(samples) / SAMPLE_RATE, 1), "seed": chosen.seed, "seconds_a_minute": steps}
        chosen.json.write_text(json.dumps({**about, **machine_facts()}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
