"""Words for what the CTC path spelt by ear: "resistence" becomes "resistance" where the recording allows it.

CTC spells with small pieces and knows no words. The language model's vocabulary does: many of its tokens are whole
words, and the earlier a token's number, the more common its word. A spelling that is none of them gives way to the word
that the recording bears out best. A spelling stays where every word near it is much less likely: a name, perhaps.
"""

from __future__ import annotations

import math
import re
from typing import Any

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from soundwave.ctc_text import SPACE_BYTE
from soundwave.inference.guard import Likelihoods

WORD_TOKEN = re.compile(rf"{SPACE_BYTE}([A-Za-z][a-z']+)")
NEAREST = 24  # words that are compared with one spelling
LEAST_SIMILARITY = 0.4  # of letters, by edit distance
COMMON = 0.5  # nats for a word that is e times as common
SLACK = 18.0  # nats that a word may cost against the spelling


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

    def spelt(self, heard: str, likelihoods: Likelihoods) -> str:
        """The CTC path's words, each known or unlike every known one.

        Args:
            heard: the words as CTC spells them.
            likelihoods: scores texts on the recording.
        """
        words = heard.split()
        for i, word in enumerate(words):
            if word in self.bonus or len(word) == 1:
                continue
            near = self._nearest(word)
            if not near:
                continue
            base, *scores = likelihoods([" ".join(words), *(" ".join([*words[:i], n, *words[i + 1 :]]) for n in near)])
            best, chosen = max((score - base + self.bonus[n], n) for score, n in zip(scores, near, strict=True))
            if best > -SLACK:
                words[i] = chosen
        return " ".join(words)

    def _nearest(self, word: str) -> list[str]:
        scorer = Levenshtein.normalized_similarity
        found = process.extract(word, self.words, scorer=scorer, limit=NEAREST, score_cutoff=LEAST_SIMILARITY)
        return [near for near, _, _ in found]
