"""The recordings of rows, opened or decoded ahead of whoever goes through the rows; what is wrong with one is said.

Knows nothing about what rows may hold; rows go by one at a time, so that their sounds need no room.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from soundwave.audio import SAMPLE_RATE, is_silent, load_audio
from soundwave.data.example import AudioSpan
from soundwave.data.probe import MAX_SECONDS, facts_of
from soundwave.data.rows import Row
from soundwave.errors import AudioError

ROWS_AHEAD = 4  # for each job


@dataclass(frozen=True)
class Heard:
    """What was found in one audio file: its length, whether anything is audible, or what is wrong with it."""

    seconds: float = 0.0
    silent: bool = False
    rule: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Attention:
    """How recordings are listened to.

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


def heard_rows(rows: Iterable[Row], attention: Attention) -> Iterator[tuple[Row, list[Heard]]]:
    """The rows, in order, each with what was heard in each of its recordings; none for rows that were not opened."""
    known: dict[tuple[str, bool], Future[Heard]] = {}
    waiting: deque[tuple[Row, list[Future[Heard]]]] = deque()
    with ThreadPoolExecutor(attention.jobs) as pool:

        def begin(span: AudioSpan) -> Future[Heard]:
            key = span.path, span.end is None  # a file that is cut may have any length
            if span.path.startswith("data:"):
                return pool.submit(listen, *key, attention)
            if key not in known:
                known[key] = pool.submit(listen, *key, attention)
            return known[key]

        for row in rows:
            skipped = row.example is None or (attention.stated and row.example.duration is not None)
            spans = () if skipped or row.example is None else row.example.audios
            waiting.append((row, [begin(span) for span in spans]))
            if len(waiting) > ROWS_AHEAD * attention.jobs:
                first, heard = waiting.popleft()
                yield first, [one.result() for one in heard]
        for row, heard in waiting:
            yield row, [one.result() for one in heard]


def listen(path: str, whole: bool, attention: Attention) -> Heard:
    """One audio file or data: text, opened; what is wrong with it is said, not raised."""
    inside = path.startswith("data:")
    if not inside and not os.path.isfile(path):
        return Heard(rule="audio-missing", detail=f"{path} does not exist")
    try:
        if not (inside and attention.decode):  # a data: text has to be decoded for its length
            seconds = facts_of(path).seconds
            if not attention.decode or (whole and seconds > attention.longest):
                return Heard(seconds)
        samples = load_audio(path, max_seconds=None)
        return Heard(len(samples) / SAMPLE_RATE, is_silent(samples))
    except AudioError as problem:
        return Heard(rule="audio-broken", detail=str(problem))
