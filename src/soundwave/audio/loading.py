"""From a recording or an array to float32 samples at 16 kHz: a whole, a cut, or a stream of blocks.

Files and arrays go through the same mixing and the same resampler. Nothing is cut off, padded or skipped without a
word: what cannot be used whole is refused with an `AudioError`, and what is used otherwise than it says is named in a
`SoundwaveWarning`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

from soundwave.audio.arrays import ARRAY_LABEL, array_blocks, check_rate
from soundwave.audio.decoding import Reading, too_long
from soundwave.audio.mixing import SILENCE_PEAK, Channels, Mixer, Samples, check_channels
from soundwave.audio.recording import Recording
from soundwave.audio.resampling import SAMPLE_RATE, Rows, rechunked, resampled
from soundwave.audio.sources import opened
from soundwave.audio.tracks import Track, check_track, file_rows
from soundwave.errors import AudioError, AudioTooLongError, ConfigurationError, SoundwaveWarning

MIN_SECONDS = 0.01  # half an encoder frame; the resampler itself needs a few milliseconds
MAX_FLOAT_PEAK = 10.0  # lossy codecs overshoot 1.0 a little; 16-bit numbers stored as floats overshoot it by far
LEAD_SECONDS = 1  # read before a cut: the resampler looks back, and mixing fades from the second before
END_TOLERANCE = 0.1  # s; a cut may end this far behind the recording, as stated lengths are rounded
PADDING_LEVEL = 0.1  # of the peak; an encoder's padding is quieter

AudioInput = str | os.PathLike[str] | bytes | BinaryIO | tuple[Any, int]


@dataclass(frozen=True)
class _Request:
    """What is to be read; the fields are those of `iter_audio` and `load_audio`."""

    start: float
    end: float | None
    channels: Channels
    track: Track
    damage: Literal["refuse", "skip"]
    max_seconds: float | None
    warn: Callable[[str], None]

    def check(self) -> None:
        check_channels(self.channels)
        check_track(self.track, self.channels)
        if self.damage not in ("refuse", "skip"):
            raise ConfigurationError(f"damage is {self.damage!r}; allowed are 'refuse' and 'skip'")
        start, end = self.start, self.end
        if not (math.isfinite(start) and start >= 0 and (end is None or (math.isfinite(end) and end > start))):
            raise AudioError(
                f"the cut from {start} to {end} s is none; start must be at least 0, and end greater than start"
            )
        if end is not None and self.max_seconds is not None and end - start > self.max_seconds + 1e-6:
            raise too_long(f"the cut from {start:g} to {end:g} s", end - start, self.max_seconds)


def load_audio(
    source: AudioInput,
    *,
    max_seconds: float | None = 30.0,
    start: float = 0.0,
    end: float | None = None,
    channels: Channels = "mix",
    track: Track = None,
    damage: Literal["refuse", "skip"] = "refuse",
    on_warning: Callable[[str], None] | None = None,
) -> Samples:
    """Read a recording of any format, rate and number of channels, or a cut of it.

    A cut is the same, sample by sample, as that part of the whole, but little more than it is decoded.

    Args:
        source: A path; the bytes of a file; a binary file object (one that can seek is read from its beginning and
            left where it was); a text `data:audio/...;base64,...`; or `(samples, sampling_rate)`, where samples is
            anything NumPy understands, torch tensors included, of shape (samples,), (channels, samples) or
            (samples, channels) (the shorter axis is the channels), as uint8, int16, int32, or floats in -1 ... 1.
        max_seconds: Refuse what is longer, without decoding much more than this; None allows any length.
        start, end: The cut, in seconds of the recording; None: to its end.
        channels: "mix": their mean, or the loudest where they cancel; "each"; or a channel's number, from 1.
        track: A sound track's number, from 1; "mix": all of them; None: the first that is not silent.
        damage: "refuse" what cannot be decoded, or "skip" it: silence stands there, and a warning says where.
        on_warning: Called with each warning's text; None: Python's `warnings`, as `SoundwaveWarning`.

    Returns:
        (samples,) float32 at 16 kHz; (channels, samples) with channels="each".

    Raises:
        AudioError: The recording is missing, unreadable, not audio, empty, damaged, or ends before the cut does.
        AudioTooLongError: It is longer than max_seconds.
        ConfigurationError: An option has a value that is not allowed.
    """
    request = _Request(start, end, channels, track, damage, max_seconds, _told_once(on_warning))
    request.check()
    reader = _Reader(request)
    if channels == "each":
        samples = np.concatenate(list(reader.pieces(source)), axis=1)
    else:
        data = bytearray()  # grows in place: parts that are joined at the end would need the memory twice
        for piece in reader.pieces(source):
            data += piece[0].tobytes()
        samples = np.frombuffer(data, np.float32)
    return samples if reader.over is None else _without_padding(samples, reader.over)


def iter_audio(
    source: AudioInput,
    block_seconds: float = 30.0,
    *,
    start: float = 0.0,
    end: float | None = None,
    channels: Channels = "mix",
    track: Track = None,
    damage: Literal["refuse", "skip"] = "refuse",
    on_warning: Callable[[str], None] | None = None,
) -> Iterator[Samples]:
    """Read a recording of any length as a stream of blocks; their join is what `load_audio` returns.

    Memory does not grow with the recording. A stream that cannot seek, as standard input, is first copied to a
    temporary file.

    Args:
        source, start, end, channels, track, damage, on_warning: As of `load_audio`.
        block_seconds: The length of each block but the last.

    Yields:
        (samples,) float32 at 16 kHz; (channels, samples) with channels="each".

    Raises:
        AudioError, ConfigurationError: As `load_audio`; what is wrong with the options is raised by the call itself.
    """
    request = _Request(start, end, channels, track, damage, None, _told_once(on_warning))
    request.check()
    if not (math.isfinite(block_seconds) and block_seconds * SAMPLE_RATE >= 1):
        raise ConfigurationError(f"block_seconds is {block_seconds}; it must be a positive number of seconds")
    blocks = rechunked(_Reader(request).pieces(source), round(block_seconds * SAMPLE_RATE))
    return blocks if channels == "each" else (block[0] for block in blocks)


def is_silent(samples: Samples) -> bool:
    """Whether nothing in (samples,) rises above -60 dB of full scale, a constant offset aside; so is no sample."""
    return samples.size == 0 or bool(np.abs(samples - samples.mean()).max() < SILENCE_PEAK)


class _Reader:
    """One reading of one source.

    Attributes:
        over: The error to raise if the sound is over the limit by more than its encoder's padding, which is in it.
    """

    def __init__(self, request: _Request):
        self.request = request
        self.over: AudioTooLongError | None = None
        self._begin = max(0, math.floor(request.start) - LEAD_SECONDS)  # the second from which on it is read
        self._seconds = float(self._begin)  # where reading stands

    def pieces(self, source: AudioInput) -> Iterator[Samples]:
        """(rows, T) at 16 kHz, which together are the cut.

        Raises:
            AudioError: As `load_audio`.
        """
        request = self.request
        whole = request.start == 0 and request.end is None
        limit = request.max_seconds if whole else None  # of a cut, its own length is what matters
        if isinstance(source, tuple):
            mixer = Mixer(request.channels, ARRAY_LABEL, request.warn, start=self._begin)
            rows = mixer.rows_of(array_blocks(source, self._begin, limit))
            yield from self._cut(self._checked(rows, ARRAY_LABEL), ARRAY_LABEL)
            return
        with opened(source, request.warn, short=request.max_seconds is not None) as recording:
            try:
                reading = Reading(self._begin, limit, request.damage == "skip")
                rows = file_rows(recording, request.track, request.channels, reading)
                yield from self._cut(self._checked(rows, recording.label, recording), recording.label)
            except OSError as error:
                raise AudioError(f"{recording.label} cannot be read ({error}); check the disk or connection") from error

    def _checked(self, blocks: Iterator[Rows], label: str, recording: Recording | None = None) -> Iterator[Rows]:
        """Pass on what may be used, and stop soon after the limit."""
        request = self.request
        for samples, rate in blocks:
            check_rate(rate, label)
            _check_values(samples, rate, self._seconds, label)
            self._seconds += samples.shape[1] / rate
            yield samples, rate
            if request.max_seconds is not None and request.end is None:
                over = self._seconds - request.start - request.max_seconds
                if over > 1e-6:  # the sum rounds
                    self.over = too_long(label, None, request.max_seconds)
                    if over > (recording.padding if recording else 0.0):
                        raise self.over

    def _cut(self, blocks: Iterator[Rows], label: str) -> Iterator[Samples]:
        """Resample, and leave out what is before and after the cut."""
        offset = self._begin * SAMPLE_RATE
        first = round(self.request.start * SAMPLE_RATE) - offset
        last = None if self.request.end is None else round(self.request.end * SAMPLE_RATE) - offset
        count = 0
        for piece in resampled(blocks):
            part = piece[:, max(0, first - count) : None if last is None else max(0, last - count)]
            if part.shape[1]:
                yield part
            count += piece.shape[1]
            if last is not None and count >= last:
                return
        self._check_length(count - first, None if last is None else last - first, label)

    def _check_length(self, count: int, wanted: int | None, label: str) -> None:
        """Refuse what is empty, and a cut that ends behind the recording."""
        start, end, seconds = self.request.start, self.request.end, self._seconds
        if seconds == 0:
            raise AudioError(f"{label} holds no sound at all (0 samples); record or copy it again")
        if start == 0 and seconds < MIN_SECONDS:
            least = f"at least {MIN_SECONDS * 1000:g} ms are needed"
            raise AudioError(f"{label} is only {seconds * 1000:.3g} ms long; {least}")
        if count <= 0:
            length = f"is {seconds:.1f} s long" if seconds > self._begin else f"ends before {self._begin} s"
            raise AudioError(f"{label} has nothing from {start:g} s on; it {length}")
        if wanted is not None and count < wanted - END_TOLERANCE * SAMPLE_RATE:
            raise AudioError(
                f"{label} is {seconds:.2f} s long; the cut from {start:g} to {end:g} s ends after it: correct the cut"
            )


def _check_values(samples: Samples, rate: int, seconds: float, label: str) -> None:
    """Refuse what no microphone gives; seconds is the time at which these samples begin."""
    finite = np.isfinite(samples)
    if not finite.all():
        first = seconds + int(np.argmin(finite.all(axis=0))) / rate
        raise AudioError(f"{label} has NaN or infinite samples, the first after {first:.2f} s; make it again without")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > MAX_FLOAT_PEAK:
        raise AudioError(
            f"{label} has float samples up to {peak:g}; they must lie in -1 ... 1: "
            "divide by full scale (32768 for 16 bits)"
        )


def _without_padding(samples: Samples, over: AudioTooLongError) -> Samples:
    """Samples cut to the limit by what an encoder added at both ends, which is quiet; else they are over the limit.

    It is what makes 30.016 s of a recording of exactly 30 s.
    """
    excess = samples.shape[-1] - round(over.limit * SAMPLE_RATE)
    level = np.abs(samples).reshape(-1, samples.shape[-1]).max(axis=0)
    loud = np.flatnonzero(level > PADDING_LEVEL * level.max())
    behind = min(excess, samples.shape[-1] - 1 - int(loud[-1]) if len(loud) else excess)
    before = excess - behind
    if len(loud) and before > loud[0]:
        raise over
    return samples[..., before : samples.shape[-1] - behind]


def _told_once(tell: Callable[[str], None] | None) -> Callable[[str], None]:
    """Passes on each warning's text the first time."""
    told: set[str] = set()

    def warn(text: str) -> None:
        if text not in told:
            told.add(text)
            if tell is None:
                warnings.warn(text, SoundwaveWarning, stacklevel=2)
            else:
                tell(text)

    return warn
