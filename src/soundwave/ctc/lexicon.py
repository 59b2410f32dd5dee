"""Words and how CTC classes spell them, as tries in arrays.

Knows nothing about tokenizers: it is given functions that spell. Node 0 is where every word begins. The children of a
node have consecutive numbers, so a set of nodes is expanded without a loop. A node ends at most one word: further words
of the same spelling ("bill" and "Bill") lie in a further trie with the same root.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Spell = Callable[[Sequence[str]], Sequence[Sequence[int]]]  # words in small letters to their classes; none: cannot
Write = Callable[[Sequence[int]], str]  # classes to text
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Lexicon:
    """A list of words with their spellings.

    Args:
        words: as they are written, with the capitals of names.
        spells: each gives one spelling for every word. Words that none of them can spell are left out of the search.
        write: the opposite of `spells`, for words that are in no list; without it there is no open vocabulary.

    Attributes:
        letters: the text of each class, where `write` was given.
        parents: (nodes,) the node before each node.
        classes: (nodes,) the class that leads to each node; -1 for the root.
        first_child, children: (nodes,) where a node's children begin, and how many it has.
        word_of: (nodes,) the word that ends at a node, or -1.
        roots: for each trie and class the node of a word's first class, or -1; shape (tries, classes).
    """

    def __init__(self, words: Sequence[str], spells: Sequence[Spell], write: Write | None = None):
        self.words = list(words)
        self.spells = tuple(spells)
        self._write = write
        plain = [plain_word(word) for word in self.words]
        self.number_of = {word: number for number, word in reversed(list(enumerate(plain)))}
        pairs = {
            (tuple(classes), number)
            for spell in self.spells
            for number, classes in enumerate(spell(plain) if plain else [])
            if len(classes)
        }
        tries = [_Trie(spellings) for spellings in _without_doubles(sorted(pairs))]
        self.size = 1 + max((max(classes) for classes, _ in pairs), default=0)  # classes that words are spelt with
        self.letters = None if write is None else [write([spelt]) for spelt in range(self.size)]
        self._join(tries)

    def extended(self, words: Sequence[str]) -> Lexicon:
        """This lexicon with further words, at the cost of the new words only; `number_of` knows them."""
        added = Lexicon(words, self.spells, self._write)
        joined = object.__new__(Lexicon)
        joined.words = self.words + added.words
        joined.spells, joined._write = self.spells, self._write
        joined.number_of = {plain_word(word): len(self.words) + n for n, word in enumerate(words)} | self.number_of
        joined.size = max(self.size, added.size)
        joined.letters = max(self.letters, added.letters, key=len) if self.letters and added.letters else None
        offset, shift = len(self.parents) - 1, len(self.words)

        def follow(old: Ints, new: Ints, by: int, least: int) -> Ints:
            return np.concatenate([old, np.where(new[1:] >= least, new[1:] + by, new[1:])])

        joined.parents = follow(self.parents, added.parents, offset, 1)
        joined.classes = follow(self.classes, added.classes, 0, 0)
        joined.first_child = follow(self.first_child, added.first_child, offset, 1)
        joined.children = follow(self.children, added.children, 0, 0)
        joined.word_of = follow(self.word_of, added.word_of, shift, 0)
        joined.depths = follow(self.depths, added.depths, 0, 0)
        wide = [np.pad(one.roots, ((0, 0), (0, joined.size - one.size)), constant_values=-1) for one in (self, added)]
        joined.roots = np.concatenate([wide[0], np.where(wide[1] > 0, wide[1] + offset, -1)])
        return joined

    def best_below(self, values: Floats) -> tuple[Floats, Floats]:
        """The largest value of the words at or below each node, and strictly below it; -inf where there are none.

        Args:
            values: (words,) for instance weighted log-probabilities.
        """
        own = np.where(self.word_of >= 0, np.append(values, -np.inf)[self.word_of], -np.inf)
        below = np.full(len(own), -np.inf)
        for depth in range(int(self.depths.max(initial=0)), 0, -1):
            nodes = np.flatnonzero(self.depths == depth)
            np.maximum.at(below, self.parents[nodes], np.maximum(own[nodes], below[nodes]))
        return np.maximum(own, below), below

    def spelling(self, node: int) -> list[int]:
        """The classes from the root to a node."""
        classes: list[int] = []
        while node:
            classes.append(int(self.classes[node]))
            node = int(self.parents[node])
        return classes[::-1]

    def _join(self, tries: Sequence[_Trie]) -> None:
        """Lays tries behind each other, with one root for all."""
        self.parents = np.zeros(1, np.int64)
        self.classes = np.full(1, -1)
        self.first_child, self.children, self.depths = np.zeros((3, 1), np.int64)
        self.word_of = np.full(1, -1)
        self.roots = np.full((len(tries), self.size), -1)
        for number, trie in enumerate(tries):
            offset = len(self.parents) - 1
            self.parents = np.append(self.parents, np.where(trie.parents > 0, trie.parents + offset, 0))
            self.classes = np.append(self.classes, trie.classes)
            self.word_of = np.append(self.word_of, trie.word_of)
            self.depths = np.append(self.depths, trie.depths)
            children = np.bincount(trie.parents, minlength=len(trie.parents) + 1)
            first = 1 + np.concatenate([[0], np.cumsum(children)[:-1]])
            self.children = np.append(self.children, children[1:])
            self.first_child = np.append(self.first_child, first[1:] + offset)
            begins = np.flatnonzero(trie.depths == 1)
            self.roots[number, trie.classes[begins]] = begins + 1 + offset


class _Trie:
    """The nodes of distinct spellings, without the root, by depth and in the order of their spellings."""

    def __init__(self, spellings: Sequence[tuple[tuple[int, ...], int]]):
        longest = max(len(classes) for classes, _ in spellings)
        table = np.array([(*classes, *[-1] * (longest - len(classes))) for classes, _ in spellings])
        words = np.array([word for _, word in spellings])
        lengths = (table >= 0).sum(1)
        node = np.zeros(len(table), np.int64)  # of each spelling at the depth reached so far
        new = np.zeros(len(table), bool)  # the spelling differs from the one before it
        new[0] = True
        parents, classes, word_of, depths, size = [], [], [], [], 0
        for depth in range(longest):
            new[1:] |= table[1:, depth] != table[:-1, depth]
            here = lengths > depth
            opened = new & here
            parents.append(node[opened])
            classes.append(table[opened, depth])
            node = np.where(here, size + np.cumsum(opened), 0)
            ends = np.full(int(opened.sum()), -1)
            done = lengths == depth + 1
            ends[node[done] - 1 - size] = words[done]
            word_of.append(ends)
            depths.append(np.full(len(ends), depth + 1))
            size += len(ends)
        self.parents, self.classes = np.concatenate(parents), np.concatenate(classes)
        self.word_of, self.depths = np.concatenate(word_of), np.concatenate(depths)


def plain_word(word: str) -> str:
    """A word as it is spelt: in small letters, without accents.

    Example:
        >>> plain_word("Zoë")
        'zoe'
    """
    decomposed = unicodedata.normalize("NFKD", word.replace("’", "'").lower())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _without_doubles(pairs: Sequence[tuple[tuple[int, ...], int]]) -> list[list[tuple[tuple[int, ...], int]]]:
    """Sorted (spelling, word) pairs as lists in which every spelling occurs once."""
    lists: list[list[tuple[tuple[int, ...], int]]] = []
    place, before = 0, None
    for spelling, word in pairs:
        place = place + 1 if spelling == before else 0
        before = spelling
        if place == len(lists):
            lists.append([])
        lists[place].append((spelling, word))
    return lists
