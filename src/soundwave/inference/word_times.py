"""When each word of a transcript is said, and how sure it is: its CTC classes aligned with the recording's frames.

It does not matter who wrote the text: CTC's search, the LLM that chose among its texts, or the LLM alone. A word that
CTC cannot spell has what is said between its neighbours; of a text that the recording is too short for each word has a
share by its letters, and no confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from soundwave.ctc.align import WILDCARD, Speller, Token, align, emissions_of
from soundwave.ctc.confidence import Evidence, confidence_of, gaps, path_probability
from soundwave.inference.results import Speech, Word
from soundwave.inference.word_edges import word_edges
from soundwave.inference_config import ConfidenceOptions, TimingOptions


class WordTimer:
    """Finds the times of words.

    Args:
        pieces: the text of each CTC class in small letters; a leading space begins a word.
        blank: class of the CTC blank.
        timing: how far a word's edges lie from its CTC frames.
        confidence: what makes a word's evidence a probability; None: it stays the CTC path's own.
    """

    def __init__(
        self, pieces: Sequence[str], blank: int, timing: TimingOptions, confidence: ConfidenceOptions | None = None
    ):
        self.blank, self._timing, self._calibration = blank, timing, confidence
        spelling = [*pieces, *[""] * (blank + 1 - len(pieces))]
        spelling[blank] = ""
        self._speller = Speller(spelling)

    def words(self, text: str, speech: Speech, texts: Sequence[tuple[str, float]] = ()) -> list[Word]:
        """The words of a text that is said in a recording; none where its log-probabilities were not kept.

        Args:
            text: the words.
            speech: the recording.
            texts: those that were weighed, with their scores in nats, this one among them; none: only this is known.
        """
        written = text.split()
        tokens = self.aligned(written, speech) if written else None
        if tokens is None:
            return []
        if all(tokens):
            times = word_edges(tokens, speech.seconds_per_frame, speech.duration, self._timing, speech.loudness)
        else:
            times = shared_out(written, speech.duration)
        found = gaps(written, [(other.split(), score) for other, score in texts]) if texts else [None] * len(written)
        return [
            Word(word, round(start, 3), round(end, 3), self.confidence(pieces, gap))
            for word, (start, end), pieces, gap in zip(written, times, tokens, found, strict=True)
        ]

    def confidence(self, pieces: Sequence[Token], gap: float | None) -> float | None:
        """How sure a word is; None where CTC cannot spell it."""
        if any(piece.ctc_class == WILDCARD for piece in pieces):
            return None
        return round(confidence_of(Evidence(path_probability(pieces), gap), self._calibration), 3)

    def aligned(self, words: Sequence[str], speech: Speech) -> list[list[Token]] | None:
        """The tokens of each word, none where the recording is too short for the text."""
        lattice = self._speller.lattice(words)
        if speech.ctc_logprobs is not None:
            logprobs = speech.ctc_logprobs.cpu().numpy()
            emissions, blank = emissions_of(logprobs, lattice), logprobs[:, self.blank]
        elif speech.ctc_likely is not None:
            emissions, blank = emissions_of(speech.ctc_likely, lattice), speech.ctc_likely.blank
        else:
            return None
        return align(emissions, blank.astype(np.float64), lattice) or [[] for _ in words]


def shared_out(words: Sequence[str], duration: float) -> list[tuple[float, float]]:
    """A recording shared by words: each has as much of it as it has letters."""
    bounds = np.cumsum([0, *map(len, words)]) * (duration / max(1, sum(map(len, words))))
    return list(pairwise(bounds.tolist()))
