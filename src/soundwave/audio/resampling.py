"""From rows at any sampling rate to rows at 16 kHz; the rate may change between blocks, as in joined files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
import numpy as np

from soundwave.audio.mixing import Samples

SAMPLE_RATE = 16_000  # Hz; what Whisper encoders take

Rows = tuple[Samples, int]  # (rows, T) float32 and their rate in Hz


def resampled(blocks: Iterator[Rows]) -> Iterator[Samples]:
    """(rows, T) at any rate -> (rows, T) at 16 kHz, as they come out of the resampler."""
    resamplers: list[av.AudioResampler] = []  # one for each row
    current = 0
    for block, rate in blocks:
        if rate != current or len(block) != len(resamplers):
            yield from _through(resamplers, None, current)
            resamplers = [av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE) for _ in block]
            current = rate
        yield from _through(resamplers, block, rate)
    yield from _through(resamplers, None, current)


class StreamResampler:
    """Sound that comes piece by piece, (T,) at one rate, to 16 kHz; the pieces do not change what comes out.

    Args:
        rate: in Hz.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self._resamplers = [av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)]

    def feed(self, samples: Samples) -> Samples:
        """What the next samples give; a little is held back until those after them are known."""
        return self._joined(samples[None]) if len(samples) else samples

    def finish(self) -> Samples:
        """What was held back."""
        return self._joined(None)

    def _joined(self, block: Samples | None) -> Samples:
        pieces = [piece[0] for piece in _through(self._resamplers, block, self.rate)]
        return np.concatenate([np.zeros(0, np.float32), *pieces])


def _through(resamplers: list[av.AudioResampler], block: Samples | None, rate: int) -> Iterator[Samples]:
    """What the resamplers give for (rows, T); None drains them."""
    rows = []
    for i, resampler in enumerate(resamplers):
        frame = None
        if block is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block[i : i + 1]), format="flt", layout="mono")
            frame.sample_rate = rate
        rows.append([out.to_ndarray()[0] for out in resampler.resample(frame)])
    for parts in zip(*rows, strict=True):
        yield np.stack(parts)


def rechunked(pieces: Iterable[Samples], count: int) -> Iterator[Samples]:
    """(rows, T) of any lengths -> (rows, count), the last one shorter."""
    waiting: list[Samples] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += piece.shape[1]
        if size >= count:
            whole = np.concatenate(waiting, axis=1)
            full = size // count * count
            for begin in range(0, full, count):
                yield whole[:, begin : begin + count]
            waiting, size = [whole[:, full:]], size - full
    if size:
        yield np.concatenate(waiting, axis=1)
