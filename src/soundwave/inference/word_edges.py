"""Where words begin and end, from the CTC frames that say them: these are late, narrow spikes within the word.

Learned offsets lead from a word's first spike back to its start and from its last on to its end. Words that nearly
touch share one edge. Where there is a pause, its edge is where the recording falls quiet, if it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soundwave.ctc.align import Token
from soundwave.inference_config import TimingOptions

LOUDNESS_RATE = 100  # values a second
TOUCHING = 0.15  # seconds: words nearer than this follow each other without a pause
START_SHARE = 0.8  # of such words' common edge: the start of the second is better known than the end of the first
ROOM = 0.6  # seconds before the first word and after the last in which their edges are sought
LATEST, EARLIEST = 0.6, 0.3  # seconds by which loudness may lengthen a word's end and its start
INWARD = 0.1  # and by which it may shorten them
CONTRAST = 12.0  # decibels from the pause to the word, for loudness to have a say
QUIET = 0.08  # share of this contrast up to which it is quiet; in loud noise a word ends beneath it
HOLD = 8  # values that must be quiet in a row


def loudness_of(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Decibels of full scale in each hundredth of a second."""
    size = rate // LOUDNESS_RATE
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return (10 * np.log10(np.square(frames).mean(1) + 1e-10)).astype(np.float32)


def word_edges(
    tokens: Sequence[Sequence[Token]], step: float, duration: float, options: TimingOptions,
    loudness: NDArray[np.float32] | None = None,
) -> list[tuple[float, float]]:
    """Start and end of each word in seconds: in order, within the recording.

    Args:
        tokens: of each word, one at least, as `align` gives them.
        step: seconds a frame.
        duration: of the recording.
        options: the model's offsets.
        loudness: as `loudness_of` gives it; None: the offsets alone.
    """
    starts = [
        pieces[0].first * step - options.start - options.start_each_letter * pieces[0].letters for pieces in tokens
    ]
    ends = [pieces[-1].last * step + options.end + options.end_each_letter * pieces[-1].letters for pieces in tokens]
    expected = list(zip(starts, ends, strict=True))
    for after in range(len(tokens) + 1):  # the place before each word, and after the last
        before = after - 1
        inner = 0 < after < len(tokens)
        if inner and starts[after] - ends[before] < TOUCHING:
            edge = START_SHARE * starts[after] + (1 - START_SHARE) * ends[before]
            starts[after] = ends[before] = edge
        elif loudness is not None:
            left = tokens[before][-1].last * step if after else max(0.0, starts[0] - ROOM)
            right = tokens[after][0].first * step if after < len(tokens) else min(duration, ends[-1] + ROOM)
            first, last = int(left * LOUDNESS_RATE), int(right * LOUDNESS_RATE)
            if after:
                peak = loudness[max(0, int(starts[before] * LOUDNESS_RATE)) : first + 1].max(initial=-100.0)
                quiet = _quiet(loudness[first:last], peak)
                if len(quiet):
                    end = expected[before][1]
                    ends[before] = min(max((first + quiet[0]) / LOUDNESS_RATE, end - INWARD), end + LATEST)
            if after < len(tokens):
                peak = loudness[last - 1 : int(ends[after] * LOUDNESS_RATE)].max(initial=-100.0)
                quiet = _quiet(loudness[first:last], peak)
                if len(quiet):
                    start = expected[after][0]
                    found = (first + quiet[-1] + HOLD) / LOUDNESS_RATE
                    starts[after] = min(max(found, start - EARLIEST), start + INWARD)
    return _in_order(starts, ends, duration)


def _quiet(pause: NDArray[np.float32], peak: float) -> NDArray[np.int64]:
    """Where in a pause it is quiet for a while; nowhere if it is not much quieter than the word beside it."""
    if len(pause) < HOLD:
        return np.zeros(0, np.int64)
    floor = float(np.percentile(pause, 20))
    if peak - floor < CONTRAST:
        return np.zeros(0, np.int64)
    below = pause < floor + QUIET * (peak - floor)
    return np.flatnonzero(np.convolve(below, np.ones(HOLD), "valid") > HOLD - 0.5)


def _in_order(starts: Sequence[float], ends: Sequence[float], duration: float) -> list[tuple[float, float]]:
    """Edges that neither overlap nor leave the recording."""
    times: list[tuple[float, float]] = []
    before = 0.0
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        start = min(max(start, before), duration)
        if i + 1 < len(starts) and starts[i + 1] < end:
            end = (starts[i + 1] + end) / 2
        before = min(max(end, start), duration)
        times.append((start, before))
    return times
