"""Words for what was spelt by ear: "resistence" becomes "resistance" where the recording allows it.

CTC spells with small pieces and knows no words. A list does, the most common first: the package's own of a language, or
the whole words of the language model's vocabulary. A spelling that is none of them gives way to the word that the
recording bears out best. A spelling stays where every word near it is much less likely: a name, perhaps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from soundwave.configuration import NO_WORDS
from soundwave.inference.joint import WORD
from soundwave.text.ctc_tokenizer import SPACE_BYTE

FOLDER = Path(__file__).parent / "words"  # of `recipes/mini/word_list.py`
Likelihoods = Callable[[list[str]], list[float]]  # log-likelihoods of spoken words on a recording
WORD_TOKEN = re.compile(rf"{SPACE_BYTE}([A-Za-z][a-z']+)")
NEAREST = 24  # words that are compared with one spelling
LEAST_SIMILARITY = 0.4  # of letters, by edit distance
COMMON = 0.5  # nats for a word that is e times as common
SLACK = 6.0  # nats that a word may cost against the spelling


class Lexicon:
    """Known words.

    Args:
        ranks: each word, in small letters, with its place among all: 0 is the most common.
        size: how many places there are.
        names: how those are written that mostly have capitals.
    """

    def __init__(self, ranks: Mapping[str, int], size: int, names: Mapping[str, str] | None = None):
        self.names = dict(names or {})
        self.bonus = {word: COMMON * math.log(size / (rank + 1)) for word, rank in ranks.items()}
        self.words = sorted(self.bonus)

    @classmethod
    def named(cls, name: str | None, tokenizer: Any) -> Lexicon:
        """What a configuration's `word_list` stands for."""
        if name == NO_WORDS:
            return cls({}, 1)
        return cls.of_vocabulary(tokenizer) if name is None else cls.of_list(name)

    @classmethod
    def of_list(cls, name: str) -> Lexicon:
        """The package's list of that name, one of `configuration.WORD_LISTS`."""
        words = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").split()
        names = {word.lower(): word for word in words if word != word.lower()}
        return cls({word.lower(): rank for rank, word in enumerate(words)}, len(words), names)

    @classmethod
    def of_vocabulary(cls, tokenizer: Any) -> Lexicon:
        """The whole words of a byte-level BPE; of another kind the lexicon is empty, and nothing is changed."""
        ranks: dict[str, int] = {}
        for token, number in tokenizer.get_vocab().items():
            match = WORD_TOKEN.fullmatch(token)
            if match:
                word = match[1].lower()
                ranks[word] = min(ranks.get(word, number), number)
        return cls(ranks, len(tokenizer))

    def respelt(self, text: str, likelihoods: Likelihoods) -> str:
        """A transcript in which each word is known, or unlike every known one; the rest of it stays as it is.

        Args:
            text: with capitals and punctuation.
            likelihoods: scores texts on the recording.
        """
        for i in range(len(WORD.findall(text))):
            match = list(WORD.finditer(text))[i]
            word = match.group().strip("'’")
            near = self._nearest(word.lower()) if self._is_odd(word.lower()) else []
            if not near:
                continue
            others = [_with(text, match, word, self.written(one, begins=word[:1].isupper())) for one in near]
            base, *scores = likelihoods([text, *others])
            best, chosen = max(
                (score - base + self.bonus[one], other) for score, one, other in zip(scores, near, others, strict=True)
            )
            if best > -SLACK:
                text = chosen
        return text

    def by_rank(self) -> list[str]:
        """All words in small letters, the most common first."""
        return sorted(self.bonus, key=lambda word: -self.bonus[word])

    def written(self, word: str, begins: bool) -> str:
        """A word of the list as it is written, also where a sentence begins."""
        usual = self.names.get(word, word)
        return usual[:1].upper() + usual[1:] if begins else usual

    def _is_odd(self, word: str) -> bool:
        return len(word) > 1 and word.isalpha() and word not in self.bonus

    def _nearest(self, word: str) -> list[str]:
        scorer = Levenshtein.normalized_similarity
        found = process.extract(word, self.words, scorer=scorer, limit=NEAREST, score_cutoff=LEAST_SIMILARITY)
        return [near for near, _, _ in found]


def _with(text: str, match: re.Match[str], word: str, other: str) -> str:
    """The text with another word in the place of a match."""
    return text[: match.start()] + match.group().replace(word, other) + text[match.end() :]
