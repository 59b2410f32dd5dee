"""Asks a model about every clip of an evaluation, in batches, and goes on where an earlier run stopped.

Every reply is written down as soon as it is there. A later run with the same settings reads it instead of asking again;
a run with other settings (another model, prompt, version of the code) does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundwave.audio import SAMPLE_RATE
from soundwave.errors import SoundwaveError
from soundwave.evaluation.clips import Clip
from soundwave.evaluation.systems import System
from soundwave.evaluation.tasks import Asking, Prediction, Samples, Task
from soundwave.files import JsonLines, hash_json

Progress = Callable[[int, int], None]  # clips done, clips in all


@dataclass(frozen=True)
class Failure:
    """A clip without a reply, and why."""

    clip: Clip
    reason: str


@dataclass
class Evaluation:
    """All replies of one evaluation, and what this run itself spent on them.

    Attributes:
        predictions: in the order of the manifests, earlier runs' included.
        failures: clips that could not be used.
        asked_clips, asked_seconds, spent_seconds: this run's clips, their audio, and the wall time from reading the
            recordings to the last reply, without loading the model.
    """

    task: Task
    asking: Asking
    predictions: list[Prediction] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    asked_clips: int = 0
    asked_seconds: float = 0.0
    spent_seconds: float = 0.0


class Notebook:
    """Replies on disk, one JSON object a line, added to at the end only.

    Args:
        path: the file; None: replies are kept nowhere.
        settings: all that decides a reply.
        alone: whether lines with other settings are taken out of the file; else they are left as they are.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], alone: bool = False):
        self.path, self.alone = path, alone
        self.settings = hash_json(settings)[:16]
        self._lines: JsonLines | None = None

    def read(self, clips: Sequence[Clip]) -> list[Prediction]:
        """What is known about these clips.

        Raises:
            ConfigurationError: Another evaluation writes to this file.
            DataError: The file holds something else.
        """
        if self.path is None:
            return []
        of_key = {self._key(clip): clip for clip in clips}
        known: dict[tuple[str, str, int], Prediction] = {}
        for row in self._opened().earlier:
            key = row.get("settings", ""), row.get("manifest_sha256", ""), row.get("line", 0)
            if key in of_key and {"seconds", "said"} <= row.keys():
                known[key] = Prediction(of_key[key], row["seconds"], row["said"])
        return list(known.values())

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Writes replies down, at once."""
        if self.path is None:
            return
        for prediction in predictions:
            settings, manifest, line = self._key(prediction.clip)
            self._opened().add({
                "settings": settings, "manifest_sha256": manifest, "line": line, "audio": prediction.clip.name,
                "seconds": prediction.seconds, "said": prediction.said,
            })  # fmt: skip

    def close(self) -> None:
        """Lets another evaluation write."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _opened(self) -> JsonLines:
        if self._lines is None:
            assert self.path is not None
            self._lines = JsonLines(self.path, self._is_ours if self.alone else None)
        return self._lines

    def _is_ours(self, row: Mapping[str, Any]) -> bool:
        return row.get("settings") == self.settings

    def _key(self, clip: Clip) -> tuple[str, str, int]:
        return self.settings, clip.manifest.sha256, clip.line


def evaluate(
    engine: System, task: Task, clips: Sequence[Clip], asking: Asking, notebook: Notebook, *, batch_size: int = 8,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Asks about every clip, the longest first, so that batches are of like length and memory is tried at the start.

    Args:
        engine: a loaded model.
        task: from `TASKS`.
        clips: from `read_clips`.
        asking: from `task.ask_with`.
        notebook: replies of earlier runs, and where new ones go.
        batch_size: clips asked at once.
        progress: called after each batch.
    """
    result = Evaluation(task, asking, notebook.read(clips))
    known = {id(prediction.clip) for prediction in result.predictions}
    left = [clip for clip in clips if id(clip) not in known]
    if task.listens:
        left.sort(key=Clip.seconds, reverse=True)
    progress(len(known), len(clips))
    with closing(notebook):
        for start in range(0, len(left), batch_size):
            began = time.perf_counter()
            predictions, failures = _ask(engine, task, left[start : start + batch_size], asking)
            result.spent_seconds += time.perf_counter() - began
            notebook.add(predictions)
            result.predictions += predictions
            result.failures += failures
            result.asked_clips += len(predictions)
            result.asked_seconds += sum(prediction.seconds for prediction in predictions)
            progress(len(result.predictions) + len(result.failures), len(clips))
    order = {id(clip): place for place, clip in enumerate(clips)}
    result.predictions.sort(key=lambda prediction: order[id(prediction.clip)])
    result.failures.sort(key=lambda failure: order[id(failure.clip)])
    return result


def _ask(engine: System, task: Task, clips: Sequence[Clip], asking: Asking) -> tuple[list[Prediction], list[Failure]]:
    """One batch; where something in it cannot be used, its clips one by one, so that only those fail that must."""
    try:
        audio = [_samples(clip) for clip in clips] if task.listens else []
        answers = task.answer(engine, clips, audio, asking)
    except SoundwaveError as problem:
        if len(clips) == 1:
            return [], [Failure(clips[0], str(problem))]
        alone = [_ask(engine, task, [clip], asking) for clip in clips]
        return [p for good, _ in alone for p in good], [f for _, bad in alone for f in bad]
    lengths = [len(samples) / rate for samples, rate in audio] if audio else [0.0] * len(clips)
    rounded = [round(seconds, 3) for seconds in lengths]
    return [Prediction(*each) for each in zip(clips, rounded, answers, strict=True)], []


def _samples(clip: Clip) -> Samples:
    return clip.samples(), SAMPLE_RATE
