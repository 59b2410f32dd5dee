"""Words as a trie of letters in arrays, with the steps through it that CTC classes make.

Every class is a piece of text: "ing" goes three letters down at once, " th" begins a word, " " begins one without a
letter yet. So a word may be spelt with any pieces that make it up: what a model emits for "there" is not always what its
tokenizer writes. A node ends at most one word; further words of the same letters ("bill" and "Bill") lie in a further
trie. Knows nothing about tokenizers or probabilities.
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
        words: as they are written, with the capitals of names. Words with a sign that no piece has are never said.
        pieces: the text of each class in small letters; a leading space begins a word; "" for blank.

    Attributes:
        number_of: each word without capitals and accents, with its number in `words`.
        parents: (nodes,) the node a letter before; a trie's first node, before any letter, has itself.
        letters: (nodes,) code point of the letter that leads to a node; 0 for a trie's first node.
        depths: (nodes,) letters before a node.
        word_of: (nodes,) number of the word that ends at a node, or -1.
        first_step, steps: (nodes,) where a node's steps begin, and how many it has.
        step_classes, step_targets: (steps,) the class of each step and the node where it leads.
        begins: (tries, classes) the node where a class leads that begins a word, or -1.
    """

    def __init__(self, words: Sequence[str], pieces: Sequence[str]):
        self.words = list(words)
        self.pieces = list(pieces)
        plain = [plain_word(word) for word in self.words]
        self.number_of = {word: number for number, word in reversed(list(enumerate(plain)))}
        known = {letter for piece in pieces for letter in piece.strip()}
        seen: dict[str, int] = {}
        tries: list[list[tuple[str, int]]] = []
        for number, word in enumerate(plain):
            if word and known.issuperset(word):
                place = seen[word] = seen.get(word, -1) + 1
                tries.extend([[]] * (place == len(tries)))
                tries[place].append((word, number))
        self._join([_Trie(sorted(pairs), self.pieces) for pairs in tries])

    def _join(self, tries: Sequence[_Trie]) -> None:
        """Lays tries behind each other."""
        offsets = np.cumsum([0, *(len(trie.parents) for trie in tries)])
        steps = np.cumsum([0, *(len(trie.step_classes) for trie in tries)])
        nothing = np.zeros(0, np.int64)

        def joined(name: str, shifts: Ints | None = None) -> Ints:
            arrays = [getattr(trie, name) + (0 if shifts is None else shifts[i]) for i, trie in enumerate(tries)]
            return np.concatenate([nothing, *arrays])

        self._tries = list(tries)
        self.parents, self.letters, self.depths = joined("parents", offsets), joined("letters"), joined("depths")
        self.word_of = joined("word_of")
        self.first_step, self.steps = joined("first_step", steps), joined("steps")
        self.step_classes, self.step_targets = joined("step_classes"), joined("step_targets", offsets)
        begins = [
            np.where(trie.begins >= 0, trie.begins + offset, -1) for trie, offset in zip(tries, offsets, strict=False)
        ]
        self.begins = np.stack(begins) if begins else np.full((0, len(self.pieces)), -1)

    def extended(self, words: Sequence[str]) -> Lexicon:
        """This lexicon with further words, at the cost of these words only."""
        added = Lexicon(words, self.pieces)
        shift = len(self.words)
        for trie in added._tries:
            trie.word_of = np.where(trie.word_of >= 0, trie.word_of + shift, -1)
        both = object.__new__(Lexicon)
        both.words, both.pieces = self.words + added.words, self.pieces
        both.number_of = {word: number + shift for word, number in added.number_of.items()} | self.number_of
        both._join(self._tries + added._tries)
        return both

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


class _Trie:
    """The arrays of a `Lexicon` for words of different letters, sorted."""

    def __init__(self, pairs: Sequence[tuple[str, int]], pieces: Sequence[str]):
        words = np.array([word for word, _ in pairs])
        table = words.view(np.uint32).reshape(len(words), -1).astype(np.int64)
        lengths = (table > 0).sum(1)
        numbers = np.array([number for _, number in pairs])
        node = np.zeros(len(table), np.int64)  # of each word at the depth reached so far
        new = np.append(True, np.zeros(len(table) - 1, bool))  # the word differs from the one before it
        parents, letters, word_of, depths = [np.zeros((1, 1), np.int64)[0] for _ in range(4)]
        word_of = np.full(1, -1)
        for depth in range(table.shape[1]):
            new[1:] |= table[1:, depth] != table[:-1, depth]
            here = lengths > depth
            opened = new & here
            parents, letters = np.append(parents, node[opened]), np.append(letters, table[opened, depth])
            node = len(word_of) - 1 + np.cumsum(opened)
            depths = np.append(depths, np.full(int(opened.sum()), depth + 1))
            word_of = np.append(word_of, np.full(int(opened.sum()), -1))
            done = lengths == depth + 1
            word_of[node[done]] = numbers[done]
        self.parents, self.letters, self.depths, self.word_of = parents, letters, depths, word_of
        self._add_steps(pieces)

    def _add_steps(self, pieces: Sequence[str]) -> None:
        """Finds for each class the nodes that it leads to: those whose last letters are its own."""
        by_letter = {letter: np.flatnonzero(self.letters == letter) for letter in np.unique(self.letters[1:]).tolist()}
        sources, classes, targets = [], [], []
        self.begins = np.full(len(pieces), -1)
        for spelt, piece in enumerate(pieces):
            if piece == " ":
                self.begins[spelt] = 0
            if not piece.strip():
                continue
            letters = [ord(letter) for letter in piece.strip()]
            target = by_letter.get(letters[-1], np.zeros(0, np.int64))
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
        nothing = np.zeros(0, np.int64)
        source = np.concatenate([nothing, *sources])
        order = np.argsort(source, kind="stable")
        self.step_classes = np.concatenate([nothing, *classes])[order]
        self.step_targets = np.concatenate([nothing, *targets])[order]
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
