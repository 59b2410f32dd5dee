"""What a recogniser makes of clips, kept on disk at once, so that a stopped pass goes on where it was.

Any recogniser is a function from samples to text; Whisper (CTranslate2, through faster-whisper) is one of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soundwave.data.example import AudioSpan
from soundwave.data.probe import samples_of
from soundwave.errors import AudioError, DataError
from soundwave.files import JsonLines, hash_json

Recogniser = Callable[[np.ndarray], str]  # (samples,) float32 at 16 kHz to text


@dataclass(frozen=True)
class Heard:
    """What a recogniser made of a clip, and the mean log-probability of its tokens: 0 is sure, -1 is poor."""

    text: str
    logprob: float


Hearing = Callable[[np.ndarray, int], Heard]  # (samples,) float32 at 16 kHz, and how many beams search


def whisper(folder: Path, language: str | None = "en", threads: int = 1) -> Recogniser:
    """Greedy Whisper, as `hearing` has it."""
    hear = hearing(folder, language, threads)
    return lambda samples: hear(samples, 1).text


def hearing(folder: Path, language: str | None = "en", threads: int = 1) -> Hearing:
    """Whisper from a CTranslate2 folder, on the CPU in int8; it spells numbers as words, as transcripts do.

    Raises:
        DataError: the folder holds no such model, or faster-whisper is not installed.
    """
    if not all((folder / name).is_file() for name in ("model.bin", "tokenizer.json")):
        raise DataError(
            f"{folder}: no CTranslate2 model of Whisper (model.bin, tokenizer.json) there; "
            "recipes/mini/whisper_folder.py makes one."
        )
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise DataError("A pass with Whisper needs the package faster-whisper; pip install faster-whisper.") from error
    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    digits = [number for token, number in vocabulary.items() if any(c in "0123456789%$£&" for c in token)]

    def hear(samples: np.ndarray, beams: int) -> Heard:
        found, _ = model.transcribe(
            samples, language=language, beam_size=beams, temperature=0.0, without_timestamps=True,
            condition_on_previous_text=False, suppress_tokens=[-1, *digits],  # -1: Whisper's own list
        )
        segments = list(found)
        sure = min((segment.avg_logprob for segment in segments), default=0.0)
        return Heard(" ".join(segment.text.strip() for segment in segments), sure)

    return hear


@contextmanager
def resumable(recogniser: Recogniser, name: str, notes: Path) -> Iterator[Callable[[AudioSpan], str | None]]:
    """A function that gives the text of a span; None where the recording cannot be used.

    Args:
        recogniser: called once a span.
        name: of the recogniser; notes of another one do not count.
        notes: a JSON-lines file that is added to; spans that it holds are not recognised again.
    """
    with JsonLines(notes) as noted:
        known = {row["key"]: row["asr_text"] for row in noted.earlier if {"key", "asr_text"} <= row.keys()}

        def transcribe(span: AudioSpan) -> str | None:
            key = span_key(span, name)
            if key not in known:
                known[key] = _recognised(span, recogniser)
                noted.add({"key": key, "audio": span.path[:200], "asr": name, "asr_text": known[key]})
            text: str | None = known[key]
            return text

        yield transcribe


def _recognised(span: AudioSpan, recogniser: Recogniser) -> str | None:
    try:
        return recogniser(samples_of(span))
    except AudioError:
        return None


def span_key(span: AudioSpan, name: str) -> str:
    """Identifies a recogniser's view of a span: path, size, modification time, cut and the recogniser's name."""
    content = span.path
    if not span.path.startswith("data:") and os.path.isfile(span.path):
        stat = Path(span.path).stat()
        content = f"{Path(span.path).resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    return hash_json([content, span.start, span.end, name])
