"""What is known of a recording: its length, rate and channels from the header, or its samples.

Knows nothing about manifests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soundfile

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.data.example import AudioSpan

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
    """The facts of a file (or a data: text), from its header where libsndfile reads it, else by decoding it.

    Raises:
        AudioError: it cannot be read.
    """
    if not path.startswith("data:"):
        try:
            info = soundfile.info(path)
            return Facts(info.frames / info.samplerate, info.samplerate, info.channels, info.frames, info.format)
        except (soundfile.SoundFileError, OSError):
            pass  # FFmpeg reads more formats, and says better what is wrong with a file
    count = len(load_audio(path, max_seconds=None))
    return Facts(count / SAMPLE_RATE, SAMPLE_RATE, 1, count, "other")


def samples_of(span: AudioSpan, max_seconds: float | None = MAX_SECONDS) -> np.ndarray:
    """The samples of a span, (samples,) float32 at 16 kHz.

    Args:
        span: where the sound is.
        max_seconds: the longest sound, unless the span states its end.

    Raises:
        AudioError: it cannot be read, is too long, or the span lies outside.
    """
    limit = None if span.end is not None else max_seconds
    return load_audio(span.path, max_seconds=limit, start=span.start or 0.0, end=span.end)


def seconds_of_span(span: AudioSpan, whole: float) -> float:
    """The length of a span of a recording that is `whole` seconds long, as far as the recording reaches."""
    end = whole if span.end is None else min(whole, span.end)
    return max(0.0, end - (span.start or 0.0))
