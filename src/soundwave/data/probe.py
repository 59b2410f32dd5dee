"""What is known of a recording: its length, rate and channels from the header, or its samples.

Knows nothing about manifests.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import soundfile

from soundwave.audio import SAMPLE_RATE, iter_audio, load_audio
from soundwave.audio.headers import header_holds
from soundwave.audio.loading import END_TOLERANCE
from soundwave.data.example import AudioSpan
from soundwave.errors import AudioError

__all__ = ["END_TOLERANCE", "MAX_SECONDS", "Facts", "facts_of", "samples_of", "seconds_of_span"]

MAX_SECONDS = 30.0  # one example's recording; what the encoder hears at once


@dataclass(frozen=True)
class Facts:
    """A recording's length in seconds, sampling rate in Hz, channels, frames at that rate, and format ("FLAC")."""

    seconds: float
    rate: int
    channels: int
    frames: int
    format: str


def facts_of(path: str) -> Facts:
    """The facts of a file (or a data: text), from its header where that holds, else by decoding it.

    Raises:
        AudioError: it cannot be read.
    """
    info = None
    if not path.startswith("data:"):
        _require_file(path)
        with suppress(soundfile.SoundFileError, OSError):  # FFmpeg reads more, and says better what is wrong
            info = soundfile.info(path)
    if info is not None and info.frames and header_holds(path):
        return Facts(info.frames / info.samplerate, info.samplerate, info.channels, info.frames, info.format)
    count = sum(len(block) for block in iter_audio(path, on_warning=lambda _: None))
    seconds = count / SAMPLE_RATE
    if info is None:
        return Facts(seconds, SAMPLE_RATE, 1, count, "other")
    return Facts(seconds, info.samplerate, info.channels, round(seconds * info.samplerate), info.format)


def samples_of(span: AudioSpan, max_seconds: float | None = MAX_SECONDS) -> np.ndarray:
    """The samples of a span, (samples,) float32 at 16 kHz.

    Args:
        span: where the sound is.
        max_seconds: the longest that is taken; a cut may be part of a file of any length, and is sought.

    Raises:
        AudioError: it cannot be read, is too long, or the span lies outside.
    """
    _require_file(span.path)
    limit = None if span.end is not None else max_seconds
    return load_audio(span.path, max_seconds=limit, start=span.start or 0.0, end=span.end)


def _require_file(path: str) -> None:
    """Refuses pipes and devices before they are waited for; what is missing is told by whoever opens it."""
    if not path.startswith("data:") and os.path.exists(path) and not os.path.isfile(path):
        raise AudioError(f"{path} is no regular file; give a recording's file.")


def seconds_of_span(span: AudioSpan, whole: float) -> float:
    """The length of a span of a recording that is `whole` seconds long, as far as the recording reaches."""
    end = whole if span.end is None else min(whole, span.end)
    return max(0.0, end - (span.start or 0.0))
