"""When each word of a transcript is said, and how sure it is: its CTC classes aligned with the recording's frames.

It does not matter who wrote the text: CTC's search, the LLM that chose among its texts, or the LLM alone. A word that
CTC cannot spell, or a text that the recording is too short for, gets the room that its neighbours leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np

from soundwave.ctc.align import WILDCARD, Speller, Token, align, emissions_of
from soundwave.ctc.confidence import path_confidence
from soundwave.inference.results import Speech, Word


class WordTimer:
    """Finds the times of words.

    Args:
        pieces: the text of each CTC class in small letters; a leading space begins a word.
        blank: class of the CTC blank.
    """

    def __init__(self, pieces: Sequence[str], blank: int):
        self.blank = blank
        spelling = [*pieces, *[""] * (blank + 1 - len(pieces))]
        spelling[blank] = ""
        self._speller = Speller(spelling)

    def words(self, text: str, speech: Speech) -> list[Word]:
        """The words of a text that is said in a recording; none where its log-probabilities were not kept."""
        written = text.split()
        tokens = self._aligned(written, speech)
        if tokens is None:
            return []
        step = speech.seconds_per_frame
        spans = [
            None if not pieces else (pieces[0].first * step, pieces[-1].last * step) for pieces in tokens
        ]
        times = _in_order(written, spans, speech.duration)
        return [
            Word(word, round(start, 3), round(end, 3), None if not pieces else _confidence(pieces))
            for word, (start, end), pieces in zip(written, times, tokens, strict=True)
        ]

    def _aligned(self, words: Sequence[str], speech: Speech) -> list[list[Token]] | None:
        """The tokens of each word, none where a word has no letters or the recording is too short for the text."""
        lattice = self._speller.lattice(words)
        if speech.ctc_logprobs is not None:
            logprobs = speech.ctc_logprobs.cpu().numpy()
            emissions, blank = emissions_of(logprobs, lattice), logprobs[:, self.blank]
        elif speech.ctc_likely is not None:
            emissions, blank = emissions_of(speech.ctc_likely, lattice), speech.ctc_likely.blank
        else:
            return None
        return align(emissions, blank.astype(np.float64), lattice) or [[] for _ in words]


def _confidence(pieces: Sequence[Token]) -> float | None:
    if any(piece.ctc_class == WILDCARD for piece in pieces):
        return None
    return round(path_confidence(pieces), 3)


def _in_order(
    words: Sequence[str], spans: Sequence[tuple[float, float] | None], duration: float
) -> list[tuple[float, float]]:
    """Times within the recording that never overlap; words without any share the room between their neighbours.

    Of such a room each word has as much as it has letters.
    """
    times: list[tuple[float, float]] = []
    before, place = 0.0, 0
    for group in (list(some) for _, some in groupby(spans, key=lambda span: span is None)):
        place += len(group)
        known = [span for span in group if span is not None]
        for start, end in known:
            start = min(max(start, before), duration)
            before = min(max(end, start), duration)
            times.append((start, before))
        if not known:
            following = spans[place] if place < len(spans) else None
            after = duration if following is None else min(max(following[0], before), duration)
            letters = np.cumsum([0, *(len(word) for word in words[place - len(group) : place])])
            times += pairwise((before + (after - before) * letters / letters[-1]).tolist())
            before = after
    return times
