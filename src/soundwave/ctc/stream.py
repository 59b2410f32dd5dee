"""Which words of an utterance under way stand for good, and from which frame on the others are still to be found.

A window of sound is read again and again as it moves on, and its last words change as what follows them is heard. A
word stands once it is old enough and two readings in a row agree on it. What comes after the words that stand is all
that is searched anew, so that no word is ever said twice or lost at the edge of a window.

Pure: frames are numbers on one grid for the whole recording; knows no models and no seconds.
"""

# F frames, C CTC classes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AFTER_A_WORD = 5  # frames at most that are left out behind the last word that stands: its class may come a little later


@dataclass(frozen=True)
class HeardWord:
    """A word and its frames, `last` not among them."""

    text: str
    first: int
    last: int


class StandingWords:
    """The words of one utterance that stand, and the last reading of those that follow.

    Args:
        first: frame at which the utterance begins.
        age: frames after its end from which a word may stand.

    Attributes:
        words: those that stand; they never change.
        frontier: the frame from which on the words after them are to be found.
    """

    def __init__(self, first: int, age: int):
        self.age, self.frontier = age, first
        self.words: list[HeardWord] = []
        self._before: list[str] = []

    def hear(self, words: Sequence[HeardWord], now: int) -> list[HeardWord]:
        """Takes in a reading of what follows the frontier, and moves the frontier on where words come to stand.

        A word stands when all before it do, it ended `age` frames ago, and the reading before had it in the same
        place; or when it ended twice as long ago, whatever the reading before had.

        Args:
            words: in their order, none before the frontier.
            now: the frame at which the window ends.

        Returns:
            The words that may still change.
        """
        count = 0
        for place, word in enumerate(words):
            agreed = place < len(self._before) and self._before[place] == word.text
            if now - word.last < (self.age if agreed else 2 * self.age):
                break
            count += 1
        changing = list(words[count:])
        self._before = [word.text for word in changing]
        if count:
            self.words += words[:count]
            end, following = words[count - 1].last, changing[0].first if changing else now
            self.frontier = max(end, min((end + following) // 2, end + AFTER_A_WORD))
        return changing


def greedy_words(logprobs: NDArray[np.floating], begins: NDArray[np.bool_], blank: int) -> list[list[tuple[int, int]]]:
    """The classes of each word on the greedy path and the frame at which each begins.

    Args:
        logprobs: (F, C) log-probabilities, or scores of any scale.
        begins: (C,) True for classes that begin a word.
        blank: class of the CTC blank.

    >>> scores = np.eye(4)[[0, 0, 3, 1, 2, 3]]  # classes by frame; 0 and 2 begin words, 3 is blank
    >>> greedy_words(scores, np.array([True, False, True, False]), 3)
    [[(0, 0), (1, 3)], [(2, 4)]]
    """
    best = logprobs.argmax(-1) if len(logprobs) else np.zeros(0, np.int64)
    new = np.append(True, best[1:] != best[:-1])[: len(best)] & (best != blank)
    words: list[list[tuple[int, int]]] = []
    for frame in np.flatnonzero(new).tolist():
        if not words or begins[best[frame]]:
            words.append([])
        words[-1].append((int(best[frame]), frame))
    return words
