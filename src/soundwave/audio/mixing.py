"""From blocks of any sample type and channels to rows of float32: the mean of the channels, one of them, or each.

Channels that cancel are never mixed to silence. Mixing goes by whole seconds of the recording and remembers only the
one before, so that a cut is mixed as the whole is. Knows nothing about files, and changes no sampling rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from soundwave.errors import AudioError, ConfigurationError

Samples = NDArray[np.float32]
Channels = Literal["mix", "each"] | int

SILENCE_PEAK = 1e-3  # -60 dBFS
# The mean's energy, as a share of what channels that have nothing to do with each other would keep: 1 for two speakers
# on a channel each, 2 for equal channels, and below this limit where one is more than half the other's negative.
CANCELLED = 0.25
FADE_SECONDS = 0.01  # between two ways of mixing
MEAN, UNKNOWN = -1, -2  # in place of a channel that is taken alone

# Integer samples by (kind, bytes): the value of silence and the distance from it to full scale.
INTEGER_SCALES = {("u", 1): (128.0, 2.0**7), ("i", 2): (0.0, 2.0**15), ("i", 4): (0.0, 2.0**31)}


def check_channels(channels: Channels) -> None:
    """Refuse a choice of channels that means nothing.

    Raises:
        ConfigurationError: It is none of "mix", "each", or 1, 2, ….
    """
    number = isinstance(channels, int) and not isinstance(channels, bool) and channels >= 1
    if channels not in ("mix", "each") and not number:
        raise ConfigurationError(f"channels is {channels!r}; allowed are 'mix', 'each' and a number from 1 on")


def as_floats(samples: NDArray[Any], label: str) -> Samples:
    """(channels, T) of any sample type -> the same as float32, full scale at 1.

    Raises:
        AudioError: The type has no known full scale.
    """
    kind, width = samples.dtype.kind, samples.dtype.itemsize
    if kind != "f" and (kind, width) not in INTEGER_SCALES:
        raise AudioError(
            f"{label} has samples of type {samples.dtype}, whose full scale is unknown; "
            "allowed are uint8, int16, int32 and floats in -1 ... 1"
        )
    silence, full_scale = INTEGER_SCALES.get((kind, width), (0.0, 1.0))
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and Inf are refused by name afterwards
        return (samples.astype(np.float32) - np.float32(silence)) / np.float32(full_scale)


class Mixer:
    """Makes rows of a recording's channels, block by block.

    Args:
        channels: "mix": one row, the mean; "each": a row a channel; N: channel N alone, counted from 1.
        label: The recording, for messages.
        warn: Called once, when channels cancel.
        what: What is mixed, for that warning.
        start: The second of the recording at which the first block begins.
    """

    def __init__(
        self, channels: Channels, label: str, warn: Callable[[str], None], what: str = "channels", start: int = 0
    ):
        self.channels, self.label, self.warn, self.what = channels, label, warn, what
        self.rows = 0  # of "each"; or the most channels there have been
        self._second = start
        self._waiting: list[Samples] = []  # less than a second of several channels
        self._rate = 0
        self._taken = UNKNOWN  # in the second before
        self._warned = False

    def rows_of(self, blocks: Iterable[tuple[NDArray[Any], int]]) -> Iterator[tuple[Samples, int]]:
        """All blocks (channels, T) of any type, and their rates, as (rows, T)."""
        for samples, rate in blocks:
            yield from self.add(as_floats(samples, self.label), rate)
        yield from self.flush()

    def add(self, samples: Samples, rate: int) -> Iterator[tuple[Samples, int]]:
        """Give (channels, T) float32, get what can be mixed by now, as (rows, T)."""
        if self.channels == "mix" and len(samples) > 1:
            if self._waiting and (len(self._waiting[0]), self._rate) != (len(samples), rate):
                yield from self.flush()
            self._rate = rate
            self._waiting.append(samples)
            if sum(part.shape[1] for part in self._waiting) >= rate:
                whole = np.concatenate(self._waiting, axis=1)
                full = whole.shape[1] // rate * rate
                for begin in range(0, full, rate):
                    yield self._mixed(whole[:, begin : begin + rate]), rate
                self._waiting = [whole[:, full:]] if full < whole.shape[1] else []
            return
        yield from self.flush()
        self._taken = UNKNOWN
        yield self._chosen(samples), rate

    def flush(self) -> Iterator[tuple[Samples, int]]:
        """What still waits for its second to be full."""
        if self._waiting:
            yield self._mixed(np.concatenate(self._waiting, axis=1)), self._rate
            self._waiting = []

    def _chosen(self, samples: Samples) -> Samples:
        """The rows of one block where nothing is mixed."""
        count = len(samples)
        if self.channels == "mix":
            return samples
        if self.channels == "each":
            self.rows = self.rows or count
            if count not in (1, self.rows):
                raise AudioError(
                    f"{self.label} changes from {self.rows} to {count} channels; read it with channels 'mix'"
                )
            return samples if count == self.rows else np.repeat(samples, self.rows, axis=0)
        self.rows = max(self.rows, count)
        if self.channels > self.rows:
            have = "one channel" if self.rows == 1 else f"{self.rows} channels"
            raise AudioError(f"{self.label} has {have}, no channel {self.channels}; count them from 1")
        return samples[self.channels - 1 : self.channels] if count >= self.channels else samples[:1]

    def _mixed(self, samples: Samples) -> Samples:
        """(channels, T), at most a second -> (1, T)."""
        before, self._taken = self._taken, self._best(samples)
        mixed = _one_row(samples, self._taken)
        if before not in (UNKNOWN, self._taken):
            fade = min(round(self._rate * FADE_SECONDS), len(mixed))
            share = np.linspace(0, 1, fade, dtype=np.float32)
            mixed[:fade] = share * mixed[:fade] + (1 - share) * _one_row(samples[:, :fade], before)
        self._second += 1
        return mixed[None]

    def _best(self, samples: Samples) -> int:
        """The loudest channel where the mean loses most of the energy, else MEAN."""
        with np.errstate(over="ignore", invalid="ignore"):
            level = samples - samples.mean(axis=1, keepdims=True)  # a constant offset is no sound
            energies = np.einsum("ct,ct->c", level, level, dtype=np.float64)
            mean = level.mean(axis=0)
            kept = np.einsum("t,t->", mean, mean, dtype=np.float64)
        if not kept < CANCELLED * energies.sum() / len(samples) ** 2:  # so written that NaN stays with the mean
            return MEAN
        best = int(energies.argmax())
        if not self._warned and np.abs(level[best]).max() > SILENCE_PEAK:
            self._warned = True
            self.warn(
                f"the {self.what} of {self.label} cancel each other from about {self._second} s on; where they do, the "
                f"loudest is taken, there number {best + 1} of {len(samples)}"
            )
        return best


def _one_row(samples: Samples, taken: int) -> Samples:
    """(channels, T) -> (T,), a copy."""
    return samples.mean(axis=0, dtype=np.float32) if taken == MEAN else samples[taken].copy()
