"""Speculative decoding: a draft of the answer proposes runs of tokens, which the LLM checks many at a time.

What is proposed decides the speed only: a decoder chooses every token as it would without a draft, and goes on within a
run only where the run has the same. Knows token ids, and nothing of the LLM that checks them.
"""

# D tokens of a draft

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LONGEST_RUN = 32  # tokens proposed at once
AFTER_REFUSAL = 8  # at most so many after a run of which nothing was right, half of it after the next such run, …
AGREED_MOST = 3  # tokens of agreement that count for a place
FOLLOWS_SOON = 3  # tokens
SKIPPED = 0.4  # edits that a token of the draft costs which the LLM leaves out: CTC spells a misheard word in pieces


class Drafter:
    """Says what is likely to come next in one answer, given a draft of all of it.

    Where the answer leaves the draft, the draft is aligned with it anew: of its beginnings, that one is behind which is
    nearest to the answer so far, by edit distance, and whose last tokens are the answer's. What the LLM said of the
    rest of a run, behind a word that it did not write, mends the draft there before it is proposed again (as guesses
    become proposals in Jacobi decoding, Santilli et al. 2023).

    Args:
        draft: the likely answer, with its end token; it may be empty.
    """

    def __init__(self, draft: Sequence[int]):
        self._answer: list[int] = []
        self._place = 0  # in the draft, of the run that was proposed
        self._longest = LONGEST_RUN
        self._align(draft)

    def propose(self, most: int) -> list[int]:
        """The run to check next, of `most` tokens at most; empty where nothing is likely."""
        self._place = int(np.argmin(self._edits - np.minimum(self._agreed, AGREED_MOST)))
        longest = self._longest or int(self._agreed[self._place] > 0)  # after many refusals: where both agree again
        return self._draft[self._place : self._place + max(0, min(most, longest))].tolist()

    def checked(self, run: Sequence[int], written: Sequence[int], likely: Sequence[int]) -> None:
        """Tells what became of a run.

        Args:
            run: as proposed.
            written: what the LLM wrote; all but its last token are the beginning of the run.
            likely: the token that the LLM finds likeliest in the place of each of the run, after those before it.
        """
        if len(written) > 1 or (run and written[0] == run[0]):
            self._longest = min(LONGEST_RUN, max(AFTER_REFUSAL, 2 * self._longest))
        elif run:
            self._longest = min(self._longest, 2 * AFTER_REFUSAL) // 2
        self._answer += written
        wrong = len(written) - 1  # place in the run of the first token that is
        rest = _mended(run[wrong + 1 :], likely[wrong + 1 :])
        if rest == list(run[wrong + 1 :]):
            for token in written:
                self._follow(token)
        else:
            start, end = self._place + wrong, self._place + len(run)
            self._align([*self._draft[:start], *_before(written[-1], run[wrong], rest), *self._draft[end:]])

    def _align(self, draft: Sequence[int]) -> None:
        self._draft = np.array(draft, dtype=np.int64)  # (D,)
        self._skipping = SKIPPED * np.arange(len(draft) + 1)  # (D + 1,)
        self._edits = self._skipping.copy()  # (D + 1,) from each beginning of the draft to the answer so far
        self._agreed = np.zeros(len(draft) + 1, dtype=np.int64)  # tokens in which both end alike
        for token in self._answer:
            self._follow(token)

    def _follow(self, token: int) -> None:
        same = self._draft == token
        edits = self._edits + 1
        edits[1:] = np.minimum(edits[1:], self._edits[:-1] + ~same)
        self._edits = np.minimum.accumulate(edits - self._skipping) + self._skipping
        self._agreed[1:] = np.where(same, self._agreed[:-1] + 1, 0)
        self._agreed[0] = 0


def _mended(run: Sequence[int], likely: Sequence[int]) -> list[int]:
    """The rest of a run behind a wrong word, with what the LLM would change from where it agrees again.

    Where it agrees with less than four fifths of the rest, its guesses follow from the wrong word: it stays.
    """
    agreeing = [i for i, token in enumerate(run) if likely[i] == token]
    if 5 * len(agreeing) < 4 * len(run) or not agreeing:
        return list(run)
    start = agreeing[0]
    mended = list(run[start:])
    for i in reversed(range(start, len(run))):
        if run[i] != likely[i]:
            mended[i - start :] = _before(likely[i], run[i], mended[i - start + 1 :])
    return [*run[:start], *mended]


def _before(token: int, other: int, rest: list[int]) -> list[int]:
    """A token put before another and what follows it; where it follows soon, what lies between is left out."""
    soon = rest[:FOLLOWS_SOON]
    return rest[soon.index(token) :] if token in soon else [token, other, *rest]
