"""A transcription that can be stopped, however it is: its parts in a file of JSON lines, each as soon as it is final.

Another run reads them, checks that recording and options are the same, and goes on from the last mark; the text is then
the same as without a stop. A recording that has grown goes on too. It knows nothing of how parts are made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from soundwave.audio import SAMPLE_RATE, iter_audio
from soundwave.errors import AudioError, ConfigurationError
from soundwave.files import JsonLines, Row, hash_file, hash_json
from soundwave.inference.longform import Part
from soundwave.inference.results import Segment, Word
from soundwave.inference.stretches import Listening, Mark, SoundHash

LARGEST_HASHED = 1 << 26  # bytes of a model's file; of larger ones size and time are looked at


class Journal:
    """The parts of one recording's transcript on disk.

    Args:
        path: of the file; one run at a time has it.
        about: what decides the text beside the recording: model, options. JSON values.
        name: of the recording, for messages.
        anew: what an earlier run left is forgotten.

    Raises:
        ConfigurationError: another run is at it, or it was made with other options.
        DataError: it is no such file.
        WriteError: it cannot be written.
    """

    def __init__(self, path: Path, about: dict[str, Any], name: str, anew: bool):
        self.path, self.about, self.name = path, about, name
        self._number = 0
        self._lines = JsonLines(path, keep=(lambda row: False) if anew else None)
        try:
            self._check_options()
        except ConfigurationError:
            self._lines.close()
            raise

    def _check_options(self) -> None:
        rows = self._lines.earlier
        if not rows:
            return
        before = rows[0].get("made_with", {})
        other = sorted(key for key in {*before, *self.about} if before.get(key) != self.about.get(key))
        if other:
            told = ", ".join(f"{key} {before.get(key)!r}, not {self.about.get(key)!r}" for key in other)
            raise ConfigurationError(
                f"{self.path} was made with {told}; give the same to go on, or leave out --resume to begin anew."
            )

    def resume(self, listening: Listening) -> list[Part]:
        """The parts that earlier runs wrote and that hold; reading goes on behind them, or is over (`Part.whole`).

        Raises:
            ConfigurationError: they are of another recording.
        """
        rows = self._lines.earlier
        if not rows:
            self._lines.add({"made_with": self.about, "file": file_facts(listening.audio)})
            return []
        facts, parts = file_facts(listening.audio), [_part(row) for row in rows[1:]]
        same = facts is not None and facts == rows[0].get("file")
        if not same:  # as the system has it: it was copied or touched, it has grown, or it is another one
            parts = [part for part in parts if not (part.ending or part.whole)]
        parts = up_to_marks(parts)
        if not same and parts and not is_same_sound(listening, marks_of(parts)):
            raise ConfigurationError(
                f"{self.path} was made of another recording than {self.name} is now; restore that one, or leave out "
                "--resume to begin anew."
            )
        if not same or len(parts) < len(rows) - 1:
            self._lines.replace([{"made_with": self.about, "file": facts}, *map(_row, parts)])
        return parts

    def add(self, part: Part) -> None:
        """Writes a part; it is in the file when this returns."""
        self._lines.add(_row(part))

    def close(self) -> None:
        """Lets another run go on with it."""
        self._lines.close()

    def remove(self) -> None:
        """The transcript is whole: the file goes."""
        self._lines.remove()


def marks_of(parts: Iterable[Part]) -> dict[int, Mark]:
    """From where each channel goes on."""
    return {part.mark.channel: part.mark for part in parts if part.mark is not None}


def file_facts(audio: Any) -> dict[str, int] | None:
    """Size and time of a file; None for what is no file."""
    try:
        status = os.stat(audio) if isinstance(audio, str | os.PathLike) else None
    except (OSError, ValueError):
        return None
    return None if status is None else {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def fingerprint(folder: Path | None) -> str:
    """Tells one model from another by its files."""
    facts: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")) if folder is not None else ():
        status = file.stat()
        if file.is_file():
            large = status.st_size > LARGEST_HASHED
            name = file.relative_to(folder).as_posix() if folder is not None else file.name
            facts[name] = [status.st_size, status.st_mtime_ns] if large else hash_file(file)
    return hash_json(facts)[:16]


def is_same_sound(listening: Listening, marks: dict[int, Mark]) -> bool:
    """Whether a recording sounds, sample by sample, as it did when these marks were set; it is decoded up to them."""
    end = max(mark.position for mark in marks.values())
    if end == 0:
        return True
    arguments = listening.sound.arguments()
    arguments["end"] = arguments["start"] + end / SAMPLE_RATE
    hashes = {channel: SoundHash() for channel in marks}
    values: dict[int, int] = {}
    try:
        for block in iter_audio(listening.audio, **arguments, damage=listening.damage, on_warning=lambda _: None):
            rows = block if block.ndim == 2 else block[None]
            for channel, mark in marks.items():
                if channel >= len(rows):
                    return False
                _hash(hashes[channel], rows[channel], mark, values)
    except AudioError:  # it is shorter now, or damaged
        return False
    return all(values.get(channel) == mark.sound for channel, mark in marks.items() if mark.position)


def _hash(own: SoundHash, samples: Any, mark: Mark, values: dict[int, int]) -> None:
    own.add(samples[: max(0, mark.position - own.position)])
    values[mark.channel] = own.upto(min(mark.position, own.position + len(samples)))


def up_to_marks(parts: list[Part]) -> list[Part]:
    """The parts of each channel up to its last mark: what comes after is made again."""
    last = {part.channel: i for i, part in enumerate(parts) if part.mark is not None}
    whole = bool(parts) and parts[-1].whole
    return [
        part for i, part in enumerate(parts)
        if whole or part.warning or (i <= last.get(part.channel, -1) and not part.whole)
    ]


def _row(part: Part) -> Row:
    """A part as JSON; what says nothing is left out."""
    return {name: value for name, value in asdict(replace(part, recording=0)).items() if value}


def _part(row: Row) -> Part:
    part = Part(0, **row)
    segments = tuple(
        Segment(**segment | {"words": tuple(Word(**word) for word in segment["words"])})
        for segment in row.get("segments", ())
    )
    return replace(part, segments=segments, mark=Mark(**row["mark"]) if "mark" in row else None)
