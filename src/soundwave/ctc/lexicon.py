"""Words as a trie of letters in arrays, with the steps through it that CTC classes make.

Every class is a piece of text: "ing" goes three letters down at once, " th" begins a word, " " begins one without a
letter yet. So a word may be spelt with any pieces that make it up: what a model emits for "there" is not always what
its tokenizer writes. Knows nothing about tokenizers or probabilities.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Lexicon:
    """A list of words and how classes spell them.

    Args:
        words: as they are written, with the capitals of names; of several with the same letters the first counts.
            Words with a sign that no piece has are never said.
        pieces: the text of each class in small letters; a leading space begins a word; "" for blank.

    Attributes:
        number_of: each word without capitals and accents, with its number in `words`.
        parents: (nodes,) the node a letter before; that of node 0, before any letter, is itself.
        letters: (nodes,) code point of the letter that leads to a node.
        depths: (nodes,) letters before a node.
        readable: (nodes,) whether the letters to a node could be a word: two at least, no digits, no sign in front.
        word_of: (nodes,) number of the word that ends at a node, or -1.
        first_step, steps: (nodes,) where a node's steps begin, and how many it has.
        step_classes, step_targets: (steps,) the class of each step and the node where it leads.
        begins: (classes,) the node where a class leads that begins a word, or -1.
    """

    def __init__(self, words: Sequence[str], pieces: Sequence[str]):
        self.words = list(words)
        self.pieces = list(pieces)
        self.number_of: dict[str, int] = {}
        for number, word in enumerate(self.words):
            self.number_of.setdefault(plain_word(word), number)
        known = {letter for piece in pieces for letter in piece.strip()}
        spelt = sorted(word for word in self.number_of if word and known.issuperset(word))
        self._add_nodes(spelt)
        self._add_steps()

    def extended(self, words: Sequence[str]) -> Lexicon:
        """A lexicon with further words."""
        return Lexicon([*self.words, *words], self.pieces)

    def best_below(self, values: Floats) -> tuple[Floats, Floats]:
        """The largest value of the words at or below each node, and strictly below it; -inf where there are none.

        Args:
            values: (words,) for instance weighted log-probabilities.
        """
        own = np.append(values, -np.inf)[self.word_of]
        below = np.full(len(own), -np.inf)
        for depth in range(int(self.depths.max(initial=0)), 0, -1):
            nodes = np.flatnonzero(self.depths == depth)
            np.maximum.at(below, self.parents[nodes], np.maximum(own[nodes], below[nodes]))
        return np.maximum(own, below), below

    def text(self, node: int) -> str:
        """The letters from the first node to this one."""
        letters = []
        while self.letters[node]:
            letters.append(chr(self.letters[node]))
            node = int(self.parents[node])
        return "".join(reversed(letters))

    def _add_nodes(self, words: Sequence[str]) -> None:
        """Makes a node for every beginning of the sorted words, by depth and in their order."""
        longest = max(map(len, words), default=0)
        table = np.array(words, dtype=f"U{max(longest, 1)}").view(np.uint32).reshape(len(words), max(longest, 1))
        table = table.astype(np.int64)
        lengths = (table > 0).sum(1)
        numbers = np.array([self.number_of[word] for word in words], np.int64)
        node = np.zeros(len(table), np.int64)  # of each word at the depth reached so far
        new = np.arange(len(table)) == 0  # the word differs from the one before it
        columns = [(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), np.full(1, -1))]
        size = 1
        for depth in range(table.shape[1]):
            new[1:] |= table[1:, depth] != table[:-1, depth]
            opened = new & (lengths > depth)
            count = int(opened.sum())
            parents, node = node[opened], size - 1 + np.cumsum(opened)
            done = lengths == depth + 1
            word_of = np.full(count, -1)
            word_of[node[done] - size] = numbers[done]
            columns.append((parents, table[opened, depth], np.full(count, depth + 1), word_of))
            size += count
        self.parents, self.letters, self.depths, self.word_of = (
            np.concatenate(parts) for parts in zip(*columns, strict=True)
        )

        letter = np.array([False, *(chr(code).isalpha() for code in self.letters[1:].tolist())])
        self.readable = letter | ((self.letters == ord("'")) & (self.depths > 1))
        for depth in range(2, table.shape[1] + 1):
            nodes = self.depths == depth
            self.readable[nodes] &= self.readable[self.parents[nodes]]
        self.readable &= self.depths > 1

    def _add_steps(self) -> None:
        """Finds for each class the nodes that it leads to: those whose last letters are its own."""
        nothing = np.zeros(0, np.int64)
        by_letter = {letter: np.flatnonzero(self.letters == letter) for letter in np.unique(self.letters[1:]).tolist()}
        sources, classes, targets = [nothing], [nothing], [nothing]
        self.begins = np.full(len(self.pieces), -1)
        for spelt, piece in enumerate(self.pieces):
            if piece == " ":
                self.begins[spelt] = 0
            if not piece.strip():
                continue
            letters = [ord(letter) for letter in piece.strip()]
            target = by_letter.get(letters[-1], nothing)
            source = self.parents[target]
            for letter in reversed(letters[:-1]):
                fits = self.letters[source] == letter
                target, source = target[fits], self.parents[source[fits]]
            if piece.startswith(" "):
                self.begins[spelt] = target[source == 0].max(initial=-1)
                continue
            sources.append(source)
            classes.append(np.full(len(source), spelt))
            targets.append(target)
        source = np.concatenate(sources)
        order = np.argsort(source, kind="stable")
        self.step_classes = np.concatenate(classes)[order]
        self.step_targets = np.concatenate(targets)[order]
        self.steps = np.bincount(source, minlength=len(self.parents))
        self.first_step = np.cumsum(self.steps) - self.steps


def plain_word(word: str) -> str:
    """A word as it is spelt: in small letters, without accents.

    Example:
        >>> plain_word("Zoë")
        'zoe'
    """
    word = word.replace("’", "'").lower()
    if word.isascii():
        return word
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(character for character in decomposed if not unicodedata.combining(character))
