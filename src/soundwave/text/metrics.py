"""How replies are judged: word errors, right answers, invented words. Pure functions of strings.

Both sides pass Whisper's English normaliser first, as on the Open ASR leaderboard: case, punctuation, spelling variants
and the way numbers are written do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

NORMALISER = "whisper_normalizer.english.EnglishTextNormalizer"


@dataclass(frozen=True)
class WordErrors:
    """Counts over a whole corpus: long clips weigh more than short ones."""

    words: int  # of the references
    substitutions: int
    insertions: int
    deletions: int

    @property
    def rate(self) -> float:
        """Errors for each word of the references; above 1 where more is invented than said."""
        return (self.substitutions + self.insertions + self.deletions) / max(1, self.words)


def normalise(text: str) -> str:
    """Lower-case words as Whisper's English normaliser writes them."""
    return _normaliser()(text).strip()


def word_errors(references: Sequence[str], replies: Sequence[str]) -> WordErrors:
    """Word errors of replies against references, summed over all pairs.

    An empty reference is allowed: each word of its reply is an insertion.

    Example:
        >>> word_errors(["The cat sat."], ["the bat sat down"])
        WordErrors(words=3, substitutions=1, insertions=1, deletions=0)
    """
    said, heard = [normalise(text) for text in references], [normalise(text) for text in replies]
    found = jiwer.process_words(said, heard)
    words = found.hits + found.substitutions + found.deletions
    return WordErrors(words, found.substitutions, found.insertions, found.deletions)


def is_answered(reply: str, answers: Iterable[str]) -> bool:
    """Whether any of the answers occurs in the reply as whole words.

    Example:
        >>> is_answered("It is Paris.", ["paris"]), is_answered("In comparison, no.", ["Paris"])
        (True, False)
    """
    padded = f" {normalise(reply)} "
    wanted = (normalise(answer) for answer in answers)
    return any(answer and f" {answer} " in padded for answer in wanted)


def is_silent(reply: str) -> bool:
    """Whether a reply has no letter and no digit. Not normalised: an invented "um" is invented."""
    return not any(character.isalnum() for character in reply)


@cache
def _normaliser() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()
