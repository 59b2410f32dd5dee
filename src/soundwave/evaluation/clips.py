"""The lines of an evaluation manifest: which clip, what is said in it, what would be a right answer.

A line is a JSON object with `audio` (a path relative to the manifest) and what its task compares with: `text`,
`answers`, or a label (`intent`, `label`, `translation`). Knows nothing about models, and opens no audio except to learn
how long it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.errors import AudioError, DataError

LABELS = ("intent", "label", "translation")  # each a text; what a task compares with


@dataclass(frozen=True)
class Manifest:
    """A manifest by what it is, not by where it lies on somebody's disk.

    Attributes:
        name: folder and file, `dev-librispeech/manifest.jsonl`.
        sha256: of the file.
        path: where it is.
    """

    name: str
    sha256: str
    path: Path


@dataclass(frozen=True)
class Clip:
    """One line.

    Attributes:
        manifest: where it stands.
        line: counted from 1.
        audio: the path as the manifest writes it; None where the line has none.
        text: what is said; None where the line does not say.
        answers: any of them is a right answer.
        duration: in seconds, as the manifest says.
        labels: those of `LABELS` that the line has.
    """

    manifest: Manifest
    line: int
    audio: str | None
    text: str | None
    answers: tuple[str, ...]
    duration: float | None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people: `dev-questions/003.flac`."""
        folder = Path(self.manifest.name).parent
        return str(folder / Path(self.audio).name) if self.audio else f"{self.manifest.name}, line {self.line}"

    @property
    def path(self) -> Path:
        """The recording's file.

        Raises:
            DataError: The line names none.
        """
        if self.audio is None:
            raise DataError(f"{self.manifest.path}, line {self.line}: no 'audio'; give the path of a recording.")
        return self.manifest.path.parent / self.audio

    def seconds(self) -> float:
        """Its length: the manifest's word, else the decoded recording's; 0 where that cannot be read."""
        if self.duration is not None:
            return self.duration
        try:
            return len(load_audio(self.path)) / SAMPLE_RATE
        except AudioError:
            return 0.0  # it is reported when its turn comes


def read_clips(paths: Sequence[Path], needs: Sequence[str], limit: int | None = None) -> list[Clip]:
    """The lines of several manifests.

    Args:
        paths: JSON-lines files.
        needs: which of `audio`, `text`, `answers` and `LABELS` every line must have, or `no text`: nobody may speak.
        limit: at most so many lines of each manifest, its first ones.

    Raises:
        DataError: A file cannot be read or holds no lines, or a line is not what the task needs.
    """
    clips: list[Clip] = []
    for path in paths:
        found = _read(path, limit)
        for clip in found:
            _check(clip, needs)
        clips += found
    return clips


def _read(path: Path, limit: int | None) -> list[Clip]:
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"Cannot read the manifest {path}: {error.strerror}. Give a JSON-lines file.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; a manifest is a JSON-lines file.") from error
    manifest = Manifest("/".join(path.resolve().parts[-2:]), hashlib.sha256(content).hexdigest(), path)
    clips = [_clip(manifest, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not clips:
        raise DataError(f"{path} holds no lines; a manifest has a JSON object on each line.")
    return clips[:limit]


def _clip(manifest: Manifest, number: int, line: str) -> Clip:
    where = f"{manifest.path}, line {number}"
    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); write one object a line.") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: a {type(values).__name__}, not an object; write {{'audio': …, 'text': …}}.")
    audio, text = values.get("audio", values.get("audio_filepath")), values.get("text")
    answers, duration = values.get("answers", []), values.get("duration")
    for key, value, allowed in (("audio", audio, str), ("text", text, str), ("duration", duration, (int, float))):
        if value is not None and not isinstance(value, allowed):
            wanted = "a number of seconds" if key == "duration" else "a string"
            raise DataError(f"{where}: {key!r} is {value!r}; give {wanted}.")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{where}: 'answers' is {answers!r}; give a list of strings.")
    labels = {name: values[name] for name in LABELS if isinstance(values.get(name), str)}
    return Clip(manifest, number, audio, text, tuple(answers), duration, labels)


def _check(clip: Clip, needs: Sequence[str]) -> None:
    where = f"{clip.manifest.path}, line {clip.line}"
    for need in needs:
        if need == "no text":
            if clip.text:
                raise DataError(f"{where}: it says {clip.text!r}; this task takes clips in which nobody speaks.")
            continue
        found = clip.labels.get(need) if need in LABELS else getattr(clip, need)
        if not found and not (need == "text" and clip.text == "" and clip.audio):
            raise DataError(f"{where}: no {need!r}, which this task compares with or asks about; add it.")
