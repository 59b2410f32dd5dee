"""Sounds inside the data, written as FLAC files (16 kHz, mono), each named by what it holds.

So a sound that is there already is not written again, and two equal ones share a file. Knows nothing about formats.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import soundfile

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.data.example import AudioSpan, Example
from soundwave.data.probe import facts_of
from soundwave.errors import AudioError, DataError


def with_files(example: Example, folder: Path, mono: bool = False) -> Example:
    """The example with each sound inside the data in a file of its own; cuts of it stay cuts.

    Args:
        example: what may hold sounds as `data:` texts.
        folder: where the files are, or are made.
        mono: recordings of several channels are written there too, mixed.

    Raises:
        AudioError: a sound cannot be decoded.
        DataError: a file cannot be written.
    """
    return replace(example, audios=tuple(_with_file(span, folder, mono, example.where) for span in example.audios))


def _with_file(span: AudioSpan, folder: Path, mono: bool, where: str) -> AudioSpan:
    inside = span.path.startswith("data:")
    if not inside and not (mono and facts_of(span.path).channels > 1):
        return span
    held = span.path.encode() if inside else Path(span.path).read_bytes()
    file = folder.absolute() / f"{hashlib.sha256(held).hexdigest()[:20]}.flac"
    if not file.exists():
        try:
            _write(file, span.path)
        except AudioError as error:
            raise AudioError(f"{where}: {error}") from error
        except OSError as error:
            raise DataError(
                f"{file} could not be written ({error.strerror or error}); free some space and run the same command "
                "again: it goes on with the sounds that are missing."
            ) from error
    return replace(span, path=str(file))


def _write(file: Path, source: str) -> None:
    """A sound as a file that is there whole or not at all."""
    encoded = io.BytesIO()
    soundfile.write(encoded, load_audio(source, max_seconds=None), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(encoded.getvalue())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
