"""How replies are judged: word or character errors, right answers, invented words. Pure functions of strings.

The language decides. English passes Whisper's English normaliser first, as on the Open ASR leaderboard: case,
punctuation, spelling variants and the way numbers are written do not count. Every other language passes its basic one,
with combining marks kept, which it would otherwise take for symbols. Where words are not written apart, characters are
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from soundwave.text.normalizer import language_code

ENGLISH = "en"
WITHOUT_SPACES = frozenset(["zh", "ja", "th", "lo", "km", "my", "yue"])
NORMALISERS = {
    True: "whisper_normalizer.english.EnglishTextNormalizer",
    False: "whisper_normalizer.basic.BasicTextNormalizer(preserve_marks=True)",
}  # by whether the language is English
NORMALISER = NORMALISERS[True]


@dataclass(frozen=True)
class WordErrors:
    """Counts over a whole corpus: long clips weigh more than short ones. Characters, where words are not apart."""

    words: int  # of the references
    substitutions: int
    insertions: int
    deletions: int

    @property
    def rate(self) -> float:
        """Errors for each word of the references; above 1 where more is invented than said."""
        return (self.substitutions + self.insertions + self.deletions) / max(1, self.words)

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.words + other.words, self.substitutions + other.substitutions, self.insertions + other.insertions,
            self.deletions + other.deletions,
        )


def normalise(text: str, language: str | None = None) -> str:
    """Lower-case words as Whisper's normaliser for the language writes them; None is English.

    Example:
        >>> normalise("Über 21 Straßen!", "de")
        'über 21 straßen'
    """
    return _normaliser(_is_english(language))(text).strip()


def normaliser_name(languages: Iterable[str | None]) -> str:
    """What texts of these languages pass first; several are divided by ` | `."""
    return " | ".join(dict.fromkeys(NORMALISERS[_is_english(language)] for language in languages)) or NORMALISER


def error_measure(languages: Iterable[str | None]) -> str:
    """What is counted for these languages: "word error rate", "character error rate", or both.

    Example:
        >>> error_measure(["ja", "yue-HK"])
        'character error rate'
    """
    units = dict.fromkeys("character" if has_no_spaces(language) else "word" for language in languages)
    return f"{' and '.join(units) or 'word'} error rate"


def has_no_spaces(language: str | None) -> bool:
    """Whether the language is written without spaces between words."""
    return language_code(language) in WITHOUT_SPACES


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], languages: Sequence[str | None] = (None,)
) -> WordErrors:
    """Errors of hypotheses against references, summed over all pairs.

    An empty reference is allowed: each word of its hypothesis is an insertion.

    Args:
        references, hypotheses: as they were written.
        languages: of each pair, or one for all.

    Example:
        >>> word_errors(["The cat sat."], ["the bat sat down"])
        WordErrors(words=3, substitutions=1, insertions=1, deletions=0)
        >>> word_errors(["東京に行く"], ["東京へ行く"], ["ja"])
        WordErrors(words=5, substitutions=1, insertions=0, deletions=0)
    """
    each = languages if len(languages) > 1 else [*languages] * len(references)
    pairs: dict[bool, tuple[list[str], list[str]]] = {}
    for reference, hypothesis, language in zip(references, hypotheses, each, strict=True):
        by_character = has_no_spaces(language)
        for texts, text in zip(pairs.setdefault(by_character, ([], [])), (reference, hypothesis), strict=True):
            plain = normalise(text, language)
            texts.append(" ".join(plain.replace(" ", "")) if by_character else plain)
    total = WordErrors(0, 0, 0, 0)
    for said, written in pairs.values():
        counts = jiwer.process_words(said, written)
        words = counts.hits + counts.substitutions + counts.deletions
        total += WordErrors(words, counts.substitutions, counts.insertions, counts.deletions)
    return total


def is_answered(reply: str, answers: Iterable[str], language: str | None = None) -> bool:
    """Whether any of the answers occurs in the reply, as whole words where the language has them apart.

    Example:
        >>> is_answered("It is Paris.", ["paris"]), is_answered("In comparison, no.", ["Paris"])
        (True, False)
    """
    apart = "" if has_no_spaces(language) else " "
    padded = f"{apart}{normalise(reply, language)}{apart}"
    wanted = (normalise(answer, language) for answer in answers)
    return any(answer and f"{apart}{answer}{apart}" in padded for answer in wanted)


def is_silent(reply: str) -> bool:
    """Whether a reply has no letter and no digit. Not normalised: an invented "um" is invented."""
    return not any(character.isalnum() for character in reply)


def _is_english(language: str | None) -> bool:
    return language_code(language) in (None, ENGLISH)


@cache
def _normaliser(english: bool) -> Callable[[str], str]:
    return EnglishTextNormalizer() if english else BasicTextNormalizer(preserve_marks=True)
