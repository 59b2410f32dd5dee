"""A row of a manifest as an evaluation needs it: which recording, what is said in it, what would be a right answer.

The rows are read as training and the data tools read them (`soundwave.data.manifests`), in every format; a row may also
lack a text, or be a question in writing without a recording. Knows nothing about models, and opens no audio by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from soundwave.data.example import AudioSpan, Example
from soundwave.data.extras import extras_of
from soundwave.data.manifests import Row, read_rows, without_text
from soundwave.data.probe import facts_of, samples_of, seconds_of_span
from soundwave.data.readers import FORMATS
from soundwave.errors import AudioError, DataError
from soundwave.files import hash_file, hash_json

LABELS = ("intent", "label", "translation")  # each a text; what a task compares with


@dataclass(frozen=True)
class Manifest:
    """A manifest by what it is, not by where it lies on somebody's disk.

    Attributes:
        name: folder and file, `dev-librispeech/manifest.jsonl`.
        sha256: of the file; of a folder's files with their names; of an address itself.
        path: where it is.
    """

    name: str
    sha256: str
    path: str


@dataclass(frozen=True, eq=False)
class Clip:
    """One row.

    Attributes:
        manifest: where it stands.
        line: counted from 1.
        span: the recording or its part; None where the row has none.
        text: what is said, or asked in writing; None where the row does not say.
        answers: any of them is a right answer.
        duration: in seconds, as the manifest says.
        labels: those of `LABELS` that the row has.
        language: what decides how texts are compared; None: English.
        group: what the row says of itself in the field that the report groups by; None: nothing, or nothing was asked.
    """

    manifest: Manifest
    line: int
    span: AudioSpan | None
    text: str | None
    answers: tuple[str, ...] = ()
    duration: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    language: str | None = None
    group: str | None = None

    @property
    def where(self) -> str:
        return f"{self.manifest.path}:{self.line}"

    @property
    def name(self) -> str:
        """For people: `dev-questions/003.flac`."""
        if self.span is None or self.span.path.startswith("data:"):
            return f"{self.manifest.name}:{self.line}"
        cut = f" from {self.span.start:g} s" if self.span.start else ""
        return str(Path(self.manifest.name).parent / Path(self.span.path).name) + cut

    @property
    def path(self) -> Path:
        """The recording's file.

        Raises:
            DataError: The row names none.
        """
        return Path(self._span().path)

    def samples(self) -> np.ndarray:
        """What is said, (samples,) float32 at 16 kHz.

        Raises:
            AudioError: It cannot be read, or the cut lies outside of the recording.
            DataError: The row has no recording.
        """
        return samples_of(self._span(), max_seconds=None)

    def seconds(self) -> float:
        """Its length: the manifest's word, else the recording's; 0 where that cannot be read."""
        if self.duration is not None or self.span is None:
            return self.duration or 0.0
        try:
            return seconds_of_span(self.span, facts_of(self.span.path).seconds)
        except AudioError:
            return 0.0  # it is reported when its turn comes

    def _span(self) -> AudioSpan:
        if self.span is None:
            raise DataError(f"{self.where}: no 'audio'; give the path of a recording.")
        return self.span


def read_clips(
    manifests: Sequence[str | os.PathLike[str]], needs: Sequence[str], limit: int | None = None,
    language: str | None = None, by: str | None = None,
) -> list[Clip]:
    """The rows of several manifests.

    Args:
        manifests: in any format that training reads.
        needs: which of `audio`, `text`, `answers` and `LABELS` every row must have, or `no text`: nobody may speak.
        limit: at most so many rows of each manifest, its first ones.
        language: of the rows that state none.
        by: a field of the rows whose value becomes each clip's `group`.

    Raises:
        DataError: A manifest cannot be read or has no rows, a row is not what the task needs, or none has the field.
    """
    clips = [clip for path in manifests for clip in islice(_clips(os.fspath(path), needs, language, by), limit)]
    if by is not None and all(clip.group is None for clip in clips):
        raise DataError(f"{', '.join(map(str, manifests))}: no row has the field {by!r}; group by one that rows have.")
    return clips


def _clips(path: str, needs: Sequence[str], language: str | None, by: str | None) -> Iterator[Clip]:
    manifest: Manifest | None = None
    for row in read_rows(path):
        manifest = manifest or _manifest(path)  # once it is known to be one
        clip = _clip(row, manifest, language, by)
        _check(clip, needs)
        yield clip


def _manifest(path: str) -> Manifest:
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
        content = hash_json({file.relative_to(place).as_posix(): hash_file(file) for file in files})
    else:
        content = hash_file(place) if place.is_file() else hash_json(path)
    return Manifest("/".join(place.resolve().parts[-2:]) if place.exists() else path, content, path)


def _clip(row: Row, manifest: Manifest, language: str | None, by: str | None) -> Clip:
    example = row.example or without_text(row)
    if example is None and (FORMATS.keys() & row.fields.keys() or not isinstance(row.fields.get("text"), str)):
        raise DataError(f"{row.where}: {row.problem}")
    if example is not None and len(example.audios) > 1:
        raise DataError(f"{row.where}: {len(example.audios)} recordings; an evaluation asks about one. Split the row.")
    extras = extras_of(row.fields)
    answers = extras.get("answers") or []
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{row.where}: 'answers' is {answers!r}; give a list of strings.")
    labels = {name: extras[name] for name in LABELS if isinstance(extras.get(name), str)}
    stated = row.fields.get("language") if example is None else example.language
    return Clip(
        manifest, row.position, example.audios[0] if example and example.audios else None,
        row.fields["text"] if example is None else _text_of(row, example), tuple(answers),
        example.duration if example else None, labels, stated if isinstance(stated, str) else language,
        None if by is None else _group(extras.get(by, row.fields.get(by))),
    )


def _group(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _text_of(row: Row, example: Example) -> str | None:
    """What is said in the recording; of a conversation in writing what is asked last."""
    if row.example is None:
        return None
    if example.audios:
        return example.reply if example.spoken is None else example.spoken
    asked = [message["content"] for message in example.messages if message["role"] == "user"]
    return "".join(part["text"] for part in asked[-1]) if asked else None


def _check(clip: Clip, needs: Sequence[str]) -> None:
    for need in needs:
        if need == "no text":
            if clip.text:
                raise DataError(f"{clip.where}: it says {clip.text!r}; this task takes clips in which nobody speaks.")
            continue
        value = clip.labels.get(need) if need in LABELS else clip.span if need == "audio" else getattr(clip, need)
        if not value and not (need == "text" and clip.text == "" and clip.span):
            raise DataError(f"{clip.where}: no {need!r}, which this task compares with or asks about; add it.")
