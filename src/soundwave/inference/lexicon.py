"""Words for what was spelt by ear: "resistence" becomes "resistance" where the recording allows it.

CTC spells with small pieces and knows no words. The language model's vocabulary does: many of its tokens are whole
words, and the earlier a token's number, the more common its word. A spelling that is none of them gives way to the word
that the recording bears out best. A spelling stays where every word near it is much less likely: a name, perhaps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from soundwave.ctc_text import SPACE_BYTE
from soundwave.inference.joint import WORD

Likelihoods = Callable[[list[str]], list[float]]  # log-likelihoods of spoken words on a recording
WORD_TOKEN = re.compile(rf"{SPACE_BYTE}([A-Za-z][a-z']+)")
NEAREST = 24  # words that are compared with one spelling
LEAST_SIMILARITY = 0.4  # of letters, by edit distance
COMMON = 0.5  # nats for a word that is e times as common
SLACK = 6.0  # nats that a word may cost against the spelling


class Lexicon:
    """The whole words of a language model's vocabulary.

    Args:
        tokenizer: byte-level BPE; of another kind the lexicon is empty, and nothing is changed.
    """

    def __init__(self, tokenizer: Any):
        self.bonus: dict[str, float] = {}
        size = len(tokenizer)
        for token, number in tokenizer.get_vocab().items():
            match = WORD_TOKEN.fullmatch(token)
            if match:
                word = match[1].lower()
                self.bonus[word] = max(self.bonus.get(word, 0.0), COMMON * math.log(size / (number + 1)))
        self.words = sorted(self.bonus)

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
            others = [_with(text, match, word, one) for one in near]
            base, *scores = likelihoods([text, *others])
            best, chosen = max(
                (score - base + self.bonus[one], other) for score, one, other in zip(scores, near, others, strict=True)
            )
            if best > -SLACK:
                text = chosen
        return text

    def _is_odd(self, word: str) -> bool:
        return len(word) > 1 and word.isalpha() and word not in self.bonus

    def _nearest(self, word: str) -> list[str]:
        scorer = Levenshtein.normalized_similarity
        found = process.extract(word, self.words, scorer=scorer, limit=NEAREST, score_cutoff=LEAST_SIMILARITY)
        return [near for near, _, _ in found]


def _with(text: str, match: re.Match[str], word: str, other: str) -> str:
    """The text with another word in the place of a match, as large as it was."""
    written = other.capitalize() if word[:1].isupper() else other
    return text[: match.start()] + match.group().replace(word, written) + text[match.end() :]
