"""The known words that a recording may go on with: a beam through a tree of their spellings, scored by CTC.

In a search of language model and CTC together, the language model proposes words that fit the text, and CTC spells on
in small pieces. A word that was heard plainly, but that the language model did not expect, would have to be written
piece by piece, each unlikely in writing. Here it is proposed as the one token that the language model knows it by.
"""

# N prefixes, F frames, C CTC classes

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from soundwave.ctc_text import SPACE_BYTE
from soundwave.inference.ctc_prefix import Prefixes, extend, next_begins

WORD_TOKEN = re.compile(rf"({SPACE_BYTE}?)([A-Za-z][a-z]*(?:'[a-z]+)?)")
LIVE = 16  # beginnings of words that are spelt on at once
HOPE = 7.0  # nats below the best beginning at which another one is given up


@dataclass
class _Node:
    """A beginning of words in CTC classes."""

    following: dict[int, _Node] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


class WordTree:
    """The words that are one token of the language model, by their spelling in CTC classes.

    Args:
        tokenizer: the LLM's, of byte-level BPE; of another kind there are no words.
        spell: a lower-case word to CTC classes.
        starts_word: (C,) True for classes that begin a word.
    """

    def __init__(self, tokenizer: Any, spell: Callable[[str], list[int]], starts_word: Tensor):
        self.starts_word = starts_word
        self._inside: dict[str, list[int]] = {}  # after a space
        self._first: dict[str, list[int]] = {}  # at the very beginning of a text
        for token, number in tokenizer.get_vocab().items():
            match = WORD_TOKEN.fullmatch(token)
            if match:
                (self._inside if match[1] else self._first).setdefault(match[2].lower(), []).append(number)
        self._root = _Node()
        for word in self._inside:
            node = self._root
            for one in spell(word):
                node = node.following.setdefault(one, _Node())
            if node is not self._root:
                node.words.append(word)

    def tokens(self, word: str, first: bool) -> list[int]:
        """The LLM tokens of a word, lower-case and capital; `first`: those that begin a text."""
        return (self._first if first else self._inside).get(word, [])

    def search(self, scores: Tensor, prefixes: Prefixes, blank: int, count: int) -> list[str]:
        """The words that a recording most likely goes on with.

        Args:
            scores: (F, C) log-probabilities in float64.
            prefixes: what is said before (N = 1).
            blank: class of the blank.
            count: how many words at most.
        """
        found: list[tuple[float, str]] = []
        nodes = [self._root]
        while nodes:
            begins = next_begins(scores, prefixes)  # (N, C)
            begins[:, blank] = -torch.inf
            if nodes != [self._root]:
                ended = torch.logaddexp(begins[:, self.starts_word].logsumexp(1), prefixes.whole()).tolist()
                found += [(ended[i], word) for i, node in enumerate(nodes) for word in node.words]
            steps = [(i, one) for i, node in enumerate(nodes) for one in node.following]
            if not steps:
                break
            rows, classes = (torch.tensor(column) for column in zip(*steps, strict=True))
            values, order = begins[rows, classes].topk(min(LIVE, len(steps)))
            best = max([value for value, _ in found], default=-torch.inf)
            order = order[values > max(best, float(values[0])) - HOPE]
            nodes = [nodes[steps[i][0]].following[steps[i][1]] for i in order.tolist()]
            if len(order):
                prefixes = extend(scores, prefixes.pick(rows[order]), classes[order], blank)
        return [word for _, word in sorted(found, reverse=True)[:count]]
