"""An engine that knows recordings by their length, and manifests of such recordings: for tests of evaluations."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from soundwave.audio import SAMPLE_RATE
from soundwave.errors import AudioError
from soundwave.evaluation import TaskName
from soundwave.evaluation.clips import read_clips
from soundwave.evaluation.runner import Notebook, evaluate
from soundwave.evaluation.tasks import TASKS

STEP = 0.1  # seconds: the n-th clip of a manifest lasts n steps, and so the fake engine knows it again


class ListeningEngine:
    """Knows a clip by its length and says what it was told to; keeps what it was asked."""

    name, folder = "fake", None
    heard: str | None = None  # the words that it says to have found first
    model = SimpleNamespace(
        config=SimpleNamespace(
            transcribe_prompt="Write it down.", answer_prompt=None, joint_ctc_weight=0.0, audio_tower_source=None,
            language_model_source=None,
        )
    )

    def __init__(self, *replies: str, breaks_at: int | None = None, refuses: tuple[int, ...] = ()) -> None:
        self.replies, self.breaks_at, self.refuses = replies, breaks_at, refuses
        self.batches: list[list[int]] = []
        self.prompts: list[str] = []
        self.options: dict[str, Any] = {}

    def hear(self, audios: Any) -> list[str]:
        numbers = [round(len(samples) / rate / STEP) for samples, rate in audios]
        self.batches.append(numbers)
        if self.breaks_at in numbers:
            raise RuntimeError("the power went")
        if set(self.refuses) & set(numbers):
            raise AudioError("the engine refuses one of these")
        return [self.replies[number - 1] for number in numbers]

    def transcribe_batch(self, audios: Any) -> list[Any]:
        return [
            SimpleNamespace(text=text, ctc_text=text.upper() + " ctc")
            for text in self.hear(audios)
        ]

    def read_batch(self, audios: Any) -> list[Any]:
        return [SimpleNamespace(text=text, ctc_text=text.upper() + " ctc") for text in self.hear(audios)]

    def ask_batch(self, requests: Any, **options: Any) -> list[Any]:
        self.options = options
        self.prompts += [prompt for _, prompt in requests]
        if requests[0][0] is None:
            return [SimpleNamespace(text=f"re: {prompt}", heard=None) for _, prompt in requests]
        return [SimpleNamespace(text=text, heard=self.heard) for text in self.hear([audio for audio, _ in requests])]

    def describe(self) -> dict[str, Any]:
        return {"model": "/some/disk/fake", "device": "cpu", "dtype": "float32", "parameters": {"total": 7}}


def manifest_of(folder: Path, *lines: dict[str, Any], name: str = "manifest.jsonl") -> Path:
    """A manifest whose n-th line's recording lasts n steps, unless the line says which recording it has."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        row = {"audio": f"{number}.wav", **line}
        if row["audio"] == f"{number}.wav":
            with wave.open(str(folder / row["audio"]), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SAMPLE_RATE)
                tone = 9000 * np.sin(np.arange(round(number * STEP * SAMPLE_RATE)) / 5)
                file.writeframes(tone.astype("<i2").tobytes())
        rows.append(json.dumps(row))
    path = folder / name
    path.write_text("\n".join(rows) + "\n")
    return path


def judge(name: str, engine: Any, path: Path, *, notebook: Path | None = None, **options: Any) -> Any:
    task = TASKS[TaskName(name)]
    book = Notebook(notebook, {"task": name, **options})
    return evaluate(engine, task, read_clips([path], task.needs), task.asking, book, batch_size=2)
