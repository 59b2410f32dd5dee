"""The recordings of rows, opened or decoded ahead of whoever goes through the rows; what is wrong with one is said.

Knows nothing about what rows may hold; rows go by one at a time, so that their sounds need no room.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from soundwave.audio import SAMPLE_RATE, is_silent, iter_audio
from soundwave.data.example import AudioSpan
from soundwave.data.manifests import Row
from soundwave.data.probe import MAX_SECONDS, facts_of
from soundwave.errors import AudioError

ROWS_AHEAD = 4  # for each job


@dataclass(frozen=True)
class Decoded:
    """One audio file: its length in seconds, whether it is silent, which rule it breaks and why, or what it lacks."""

    seconds: float = 0.0
    silent: bool = False
    rule: str | None = None
    detail: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DecodeOptions:
    """How recordings are opened.

    Attributes:
        decode: decode them; else their header is read only.
        jobs: recordings that are decoded at once.
        longest: a whole file of more seconds is not decoded: whoever asks will refuse it.
        stated: recordings of rows that state their duration are not opened.
    """

    decode: bool = True
    jobs: int = 1
    longest: float = MAX_SECONDS
    stated: bool = False


def decoded_rows(rows: Iterable[Row], options: DecodeOptions) -> Iterator[tuple[Row, list[Decoded]]]:
    """The rows, in order, each with what is known of each of its recordings; none for rows that were not opened."""
    known: dict[tuple[str, bool], Future[Decoded]] = {}
    waiting: deque[tuple[Row, list[Future[Decoded]]]] = deque()
    with ThreadPoolExecutor(options.jobs) as pool:

        def begin(span: AudioSpan) -> Future[Decoded]:
            key = span.path, span.end is None  # a file that is cut may have any length
            if span.path.startswith("data:"):
                return pool.submit(decode, *key, options)
            if key not in known:
                known[key] = pool.submit(decode, *key, options)
            return known[key]

        for row in rows:
            skipped = row.example is None or (options.stated and row.example.duration is not None)
            spans = () if skipped or row.example is None else row.example.audios
            spans = () if any(span.words is not None for span in spans) else spans
            waiting.append((row, [begin(span) for span in spans]))
            if len(waiting) > ROWS_AHEAD * options.jobs:
                first, begun = waiting.popleft()
                yield first, [future.result() for future in begun]
        for row, begun in waiting:
            yield row, [future.result() for future in begun]


def decode(path: str, whole: bool, options: DecodeOptions) -> Decoded:
    """One audio file or data: text, opened; what is wrong with it is said, not raised."""
    inside = path.startswith("data:")
    if not inside and not os.path.isfile(path):
        return Decoded(rule="audio-missing", detail=f"{path} does not exist")
    try:
        if not (inside and options.decode):  # a data: text has to be decoded for its length
            seconds = facts_of(path).seconds
            if not options.decode or (whole and seconds > options.longest):
                return Decoded(seconds)
        told: list[str] = []
        count, silent = 0, True
        for block in iter_audio(path, on_warning=told.append):  # in pieces: a file that is cut may be hours long
            count, silent = count + len(block), silent and is_silent(block)
        return Decoded(count / SAMPLE_RATE, silent, warnings=tuple(told))
    except AudioError as problem:
        return Decoded(rule="audio-broken", detail=str(problem))
