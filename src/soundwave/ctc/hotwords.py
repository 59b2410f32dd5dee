"""Hot words: words and phrases that a caller expects, each worth a bonus where it is said.

A phrase earns its bonus word by word and gives it back where it is not said to its end, so that the search keeps it
while it is under way. Knows nothing about sounds or spellings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from soundwave.ctc.lexicon import plain_word


class Progress(NamedTuple):
    """The last words of a text that begin a hot phrase, and which of them have earned their bonus for good."""

    words: tuple[str, ...] = ()
    kept: tuple[bool, ...] = ()

    @property
    def pending(self) -> int:
        """How many words' bonus is given back unless the phrase goes on."""
        return self.kept.count(False)


class HotWords:
    """Phrases, matched without regard to capitals, and what they are worth.

    Args:
        phrases: one or more words each.
        bonus: nats for each word of a phrase.
    """

    def __init__(self, phrases: Sequence[str], bonus: float):
        self.bonus = bonus
        self.written = {plain_word(word): word for phrase in phrases for word in phrase.split()}
        self._phrases = {tuple(plain_word(word) for word in phrase.split()) for phrase in phrases} - {()}
        self._beginnings = {phrase[:n] for phrase in self._phrases for n in range(1, len(phrase))}

    def follow(self, before: Progress, word: str) -> tuple[Progress, float]:
        """What a further word makes of the progress, and the nats that it earns or gives back."""
        words = (*before.words, plain_word(word))
        kept = (*before.kept, False)
        earned = 0
        for length in range(len(words), 0, -1):
            if words[-length:] in self._phrases:
                earned = kept[-length:].count(False)
                kept = (*kept[:-length], *[True] * length)
                break
        length = next((n for n in range(len(words), 0, -1) if words[-n:] in self._beginnings), 0)
        after = Progress(words[len(words) - length :], kept[len(kept) - length :])
        return after, self.bonus * (earned + after.pending - before.pending)

    def given_back(self, progress: Progress) -> float:
        """Nats that a text loses that ends within a phrase."""
        return self.bonus * progress.pending
