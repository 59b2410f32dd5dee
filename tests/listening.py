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
from soundwave.inference.results import Reply, Timings, Usage
from soundwave.inference_config import InferenceConfig

STEP = 0.1  # seconds: the n-th clip of a manifest lasts n steps, and so the fake engine knows it again


class ListeningEngine:
    """Knows a clip by its length and says what it was told to; keeps what it was asked."""

    name, folder, decoder, processor, default_prompt = "fake", None, None, None, "The model's own prompt."
    transcript: str | None = None  # the words that it says to have read first
    encoder = SimpleNamespace(config=SimpleNamespace(audio_tower_source=None, language_model_source=None))
    inference = InferenceConfig(transcribe_prompt="Write it down.")

    def __init__(self, *replies: str, breaks_at: int | None = None, refuses: tuple[int, ...] = ()) -> None:
        self.replies, self.breaks_at, self.refuses = replies, breaks_at, refuses
        self.batches: list[list[int]] = []
        self.prompts: list[str | None] = []
        self.options: dict[str, Any] = {}

    def texts(self, audios: Any) -> list[str]:
        numbers = [round(len(samples) / rate / STEP) for samples, rate in audios]
        self.batches.append(numbers)
        if self.breaks_at in numbers:
            raise RuntimeError("the power went")
        if set(self.refuses) & set(numbers):
            raise AudioError("the engine refuses one of these")
        return [self.replies[number - 1] for number in numbers]

    def transcribe_batch(self, audios: Any, *, llm: bool | None = None) -> list[Any]:
        self.options = {"llm": llm}
        source = "ctc" if llm is False else "llm"
        return [SimpleNamespace(text=text, ctc_text=f"{text} ctc", source=source) for text in self.texts(audios)]

    def ask_batch(self, requests: Any, **options: Any) -> list[Any]:
        self.options = options
        self.prompts += [prompt for _, prompt in requests]
        if requests[0][0] is None:
            return [reply(f"re: {prompt}", "text") for _, prompt in requests]
        via = "transcript" if options["via"] == "auto" else options["via"]
        words = self.transcript if via == "transcript" else None
        return [reply(text, via, words) for text in self.texts([audio for audio, _ in requests])]

    def describe(self) -> dict[str, Any]:
        return {"model": "/some/disk/fake", "device": "cpu", "dtype": "float32", "parameters": {"total": 7}}


def reply(text: str, via: Any, transcript: str | None = None) -> Reply:
    return Reply(text, [], "stop", Usage(0, 0, 0, 0), Timings(0, 0, 0, 0), via, transcript)


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
