"""Arrays of samples, of any shape and type that means sound, as blocks like those of a file."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundwave.audio.decoding import Block, too_long
from soundwave.audio.sources import short_text
from soundwave.errors import AudioError

ALLOWED_RATES = (4_000, 768_000)  # Hz; outside of it a rate is a mistake, not a recording of speech
MAX_CHANNELS = 64  # of an array, whose shorter axis they are
ARRAY_LABEL = "the audio array"


def array_blocks(source: tuple[Any, ...], start: int, limit: float | None) -> Iterator[Block]:
    """The samples of `(samples, sampling_rate)` from a second on, a second at a time.

    Raises:
        AudioError: They are of no allowed shape or rate, or more than limit seconds.
    """
    if len(source) != 2:
        raise AudioError(f"an array comes as (samples, sampling_rate); this tuple has {len(source)} parts")
    rate = _whole_rate(source[1])
    check_rate(rate, ARRAY_LABEL)
    samples = _channels_first(_as_numpy(source[0]))
    total = samples.shape[1]
    if limit is not None and total > limit * rate:
        raise too_long(ARRAY_LABEL, total / rate, limit)
    for begin in range(start * rate, total, rate):  # by seconds, so that hours need little memory beside the result
        yield samples[:, begin : begin + rate], rate


def check_rate(rate: int, label: str) -> None:
    """Refuse a rate that no recording of speech has.

    Raises:
        AudioError: It is outside of `ALLOWED_RATES`.
    """
    lowest, highest = ALLOWED_RATES
    if not lowest <= rate <= highest:
        raise AudioError(f"{label} has a sampling rate of {rate} Hz; allowed are {lowest} to {highest} Hz")


def _whole_rate(rate: Any) -> int:
    if isinstance(rate, float) and rate.is_integer():
        return int(rate)
    try:
        return operator.index(rate)
    except TypeError as error:
        if np.ndim(rate):
            raise AudioError("this is (sampling_rate, samples); give (samples, sampling_rate)") from error
        raise AudioError(f"the sampling rate must be a whole number of Hz, not {short_text(str(rate))}") from error


def _as_numpy(samples: Any) -> NDArray[Any]:
    if hasattr(samples, "detach"):  # a torch tensor, known by its methods so that torch need not be imported
        samples = samples.detach().cpu()
        samples = samples.float() if samples.is_floating_point() else samples  # NumPy has no bfloat16
    try:
        return np.asarray(samples)
    except (TypeError, ValueError) as error:
        raise AudioError(f"the audio array cannot be read as numbers: {short_text(str(error))}") from error


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
