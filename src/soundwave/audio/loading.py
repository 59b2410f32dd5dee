"""From a path, bytes, a stream, base64 text or an array to float32 mono samples at 16 kHz.

Files and arrays go through the same mixing (the mean of the channels) and the same resampler. Nothing is ever cut,
padded or skipped: what cannot be used whole is refused with an `AudioError`.
"""

import base64
import io
import operator
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from soundwave.audio.decoding import Block, Recording, decode, too_long
from soundwave.errors import AudioError

SAMPLE_RATE = 16_000  # Hz; what Whisper encoders hear
ALLOWED_RATES = (4_000, 768_000)  # Hz; outside of it a rate is a mistake, not a recording of speech
MAX_CHANNELS = 64  # of an array, whose shorter axis they are
MIN_SECONDS = 0.01  # half an encoder frame; the resampler itself needs a few milliseconds
MAX_STREAM_BYTES = 256 * 2**20  # of a stream that cannot seek, which is held in memory
SILENCE_PEAK = 1e-3  # -60 dBFS
MAX_FLOAT_PEAK = 10.0  # lossy codecs overshoot 1.0 a little; 16-bit numbers stored as floats overshoot it by far

# Integer samples by (kind, bytes): the value of silence and the distance from it to full scale.
INTEGER_SCALES = {("u", 1): (128.0, 2.0**7), ("i", 2): (0.0, 2.0**15), ("i", 4): (0.0, 2.0**31)}

Samples = NDArray[np.float32]
AudioInput = str | os.PathLike[str] | bytes | BinaryIO | tuple[Any, int]

ARRAY_LABEL = "the audio array"


def load_audio(source: AudioInput, *, max_seconds: float | None = 30.0) -> Samples:
    """Read a recording of any format, rate and number of channels.

    Args:
        source: A path; the bytes of a file; a binary file object (one that can seek is read from its beginning and
            left where it was); a text `data:audio/...;base64,...`; or `(samples, sampling_rate)`, where samples is
            anything NumPy understands, torch tensors included, of shape (samples,), (channels, samples) or
            (samples, channels) (the shorter axis is the channels), as uint8, int16, int32, or floats in -1 ... 1.
        max_seconds: Refuse what is longer, without decoding much more than this; None allows any length.

    Returns:
        (samples,) float32, mono, 16 kHz.

    Raises:
        AudioError: The recording is missing, unreadable, not audio, empty, damaged, or too long.
    """
    if isinstance(source, tuple):
        return _at_16_khz(_array_blocks(source, max_seconds), ARRAY_LABEL, max_seconds)
    with _opened(source) as recording:
        try:
            return _at_16_khz(decode(recording, max_seconds), recording.label, max_seconds)
        except OSError as error:
            raise AudioError(f"{recording.label} cannot be read ({error}); check the disk or connection") from error


def decode_base64(text: str) -> bytes:
    """The bytes of a recording sent as base64 text, bare or as a `data:...;base64,` address.

    Raises:
        AudioError: The text is not base64.
    """
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise AudioError(f"a data address must begin like 'data:audio/wav;base64,', not {_short(header)}")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:  # binascii.Error, or characters beyond ASCII
        raise AudioError(f"the audio text {_short(text)} is not base64 ({error}); encode the whole file") from error


def is_silent(samples: Samples) -> bool:
    """Whether nothing in (samples,) rises above -60 dB of full scale, a constant offset aside; so is no sample."""
    return samples.size == 0 or bool(np.abs(samples - samples.mean()).max() < SILENCE_PEAK)


# --- From blocks of sound to the one array ---------------------------------------------------------------------------


def _at_16_khz(blocks: Iterator[Block], label: str, max_seconds: float | None) -> Samples:
    """Mix, check, resample and join blocks; the rate may change between them, as in joined mp3 and ogg files."""
    parts: list[Samples] = []
    resampler, resampler_rate = None, 0
    seconds = 0.0
    for block, rate in blocks:
        _check_rate(rate, label)
        samples = _mono(block, label)
        _check_values(samples, rate, seconds, label)
        seconds += len(samples) / rate
        if max_seconds is not None and seconds > max_seconds + 1e-6:  # the sum rounds
            raise too_long(label, None, max_seconds)
        if rate != resampler_rate:
            parts += _resampled(resampler, None)
            resampler, resampler_rate = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE), rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
        frame.sample_rate = rate
        parts += _resampled(resampler, frame)
    if seconds == 0:
        raise AudioError(f"{label} holds no sound at all (0 samples); record or copy it again")
    if seconds < MIN_SECONDS:
        raise AudioError(f"{label} is only {seconds * 1000:.3g} ms long; at least {MIN_SECONDS * 1000:g} ms are needed")
    return np.concatenate(parts + _resampled(resampler, None))


def _resampled(resampler: av.AudioResampler | None, frame: av.AudioFrame | None) -> list[Samples]:
    """What the resampler gives for a frame; None as the frame drains it."""
    return [] if resampler is None else [out.to_ndarray()[0] for out in resampler.resample(frame)]


def _mono(samples: NDArray[Any], label: str) -> Samples:
    """(channels, T) of any sample type -> (T,) float32, the mean of the channels, full scale at 1."""
    kind, width = samples.dtype.kind, samples.dtype.itemsize
    if kind != "f" and (kind, width) not in INTEGER_SCALES:
        raise AudioError(
            f"{label} has samples of type {samples.dtype}, whose full scale is unknown; "
            "allowed are uint8, int16, int32 and floats in -1 ... 1"
        )
    silence, full_scale = INTEGER_SCALES.get((kind, width), (0.0, 1.0))
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and Inf are refused by name afterwards
        floats = (samples.astype(np.float32) - np.float32(silence)) / np.float32(full_scale)
        return floats[0] if len(floats) == 1 else floats.mean(axis=0, dtype=np.float32)


def _check_rate(rate: int, label: str) -> None:
    lowest, highest = ALLOWED_RATES
    if not lowest <= rate <= highest:
        raise AudioError(f"{label} has a sampling rate of {rate} Hz; allowed are {lowest} to {highest} Hz")


def _check_values(samples: Samples, rate: int, seconds: float, label: str) -> None:
    """Refuse what no microphone gives; seconds is the time at which these samples begin."""
    finite = np.isfinite(samples)
    if not finite.all():
        first = seconds + int(np.argmin(finite)) / rate
        raise AudioError(f"{label} has NaN or infinite samples, the first after {first:.2f} s; make it again without")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > MAX_FLOAT_PEAK:
        raise AudioError(
            f"{label} has float samples up to {peak:g}; they must lie in -1 ... 1: "
            "divide by full scale (32768 for 16 bits)"
        )


# --- Arrays ----------------------------------------------------------------------------------------------------------


def _array_blocks(source: tuple[Any, ...], max_seconds: float | None) -> Iterator[Block]:
    if len(source) != 2:
        raise AudioError(f"an array comes as (samples, sampling_rate); this tuple has {len(source)} parts")
    rate = _whole_rate(source[1])
    _check_rate(rate, ARRAY_LABEL)
    samples = _channels_first(_as_numpy(source[0]))
    total = samples.shape[1]
    if max_seconds is not None and total > max_seconds * rate:
        raise too_long(ARRAY_LABEL, total / rate, max_seconds)
    for start in range(0, total, rate):  # by seconds, so that hours need little memory beside the result
        yield samples[:, start : start + rate], rate


def _whole_rate(rate: Any) -> int:
    if isinstance(rate, float) and rate.is_integer():
        return int(rate)
    try:
        return operator.index(rate)
    except TypeError as error:
        if np.ndim(rate):
            raise AudioError("this is (sampling_rate, samples); give (samples, sampling_rate)") from error
        raise AudioError(f"the sampling rate must be a whole number of Hz, not {_short(str(rate))}") from error


def _as_numpy(samples: Any) -> NDArray[Any]:
    if hasattr(samples, "detach"):  # a torch tensor, known by its methods so that torch need not be imported
        samples = samples.detach().cpu()
        samples = samples.float() if samples.is_floating_point() else samples  # NumPy has no bfloat16
    try:
        return np.asarray(samples)
    except (TypeError, ValueError) as error:
        raise AudioError(f"the audio array cannot be read as numbers: {_short(str(error))}") from error


def _channels_first(samples: NDArray[Any]) -> NDArray[Any]:
    """Any allowed shape -> (channels, samples)."""
    if samples.ndim == 1:
        return samples[None]
    if samples.ndim != 2:
        raise AudioError(f"the audio array has shape {samples.shape}; allowed are (samples,) and (channels, samples)")
    channels, length = sorted(samples.shape)
    if channels == 0 and length > MAX_CHANNELS:
        raise AudioError(f"the audio array has zero channels (shape {samples.shape}); at least one is needed")
    if channels == 0:  # a few channels without samples
        return samples.reshape(1, 0)
    if channels > MAX_CHANNELS:
        raise AudioError(f"the audio array has shape {samples.shape}; one axis must be at most {MAX_CHANNELS} channels")
    return samples.T if samples.shape[0] > samples.shape[1] else samples


# --- Files, bytes and streams ----------------------------------------------------------------------------------------


@contextmanager
def _opened(source: Any) -> Iterator[Recording]:
    """Whatever is not an array, as a recording that can be read and searched."""
    if isinstance(source, str) and source.startswith("data:"):
        yield _not_empty(Recording(io.BytesIO(decode_base64(source)), "the base64 audio"))
    elif isinstance(source, bytes | bytearray | memoryview):
        yield _not_empty(Recording(io.BytesIO(source), "the audio given as bytes"))
    elif isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        with _opened_path(path) as file:
            yield _not_empty(Recording(file, _short(path)))
    elif hasattr(source, "read"):
        stream, position = _opened_stream(source)
        try:
            yield _not_empty(Recording(stream, "the audio stream"))
        finally:
            stream.seek(position)
    else:
        kind = type(source).__name__
        raise AudioError(f"audio cannot be of type {kind}; give a path, bytes, a file or (samples, sampling_rate)")


def _not_empty(recording: Recording) -> Recording:
    if recording.size == 0:
        raise AudioError(f"{recording.label} is empty (0 bytes); record or copy it again")
    return recording


def _opened_path(path: str) -> BinaryIO:
    label = _short(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{label} is a folder, not a recording; give the path of a file in it")
        if not stat.S_ISREG(mode):  # opening a pipe could wait for ever
            raise AudioError(f"{label} is a pipe or a device, not a file; read it yourself and give its bytes")
        return open(path, "rb")
    except PermissionError as error:
        raise AudioError(f"{label} may not be read by this user; allow it, for instance with chmod +r") from error
    except (OSError, ValueError) as error:
        if "://" in path:
            raise AudioError(f"{label} is an address, not a file; download it first") from error
        hint = "base64 text must begin with 'data:audio/wav;base64,'" if len(path) > 255 else "check the path"
        raise AudioError(f"there is no file {label}; {hint}") from error


def _opened_stream(stream: Any) -> tuple[BinaryIO, int]:
    """A caller's file object and its position; one that cannot seek is read into memory."""
    try:
        if isinstance(stream.read(0), str):
            raise AudioError("the audio stream is opened as text; open it with mode 'rb'")
        if stream.seekable():
            return stream, stream.tell()
        data = stream.read(MAX_STREAM_BYTES + 1)
    except (OSError, ValueError) as error:
        raise AudioError(f"the audio stream cannot be read ({error}); open it again") from error
    if len(data) > MAX_STREAM_BYTES:
        raise AudioError(f"the audio stream is over {MAX_STREAM_BYTES // 2**20} MB; save it and give its path")
    return io.BytesIO(data), 0


def _short(text: str) -> str:
    """Text from outside, quoted, on one line of bearable length."""
    return repr(text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}")
