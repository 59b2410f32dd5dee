"""Forced alignment: which frames of CTC log-probabilities say which word of a text that is known.

A word may be spelt with any pieces that make it up, as in the search (`lexicon.py`): all its spellings are one lattice,
and Viterbi finds the likeliest path through it, with CTC's blanks between (Graves et al. 2006). A word that no pieces
spell, such as a number in digits, is a wildcard: whatever is said between its neighbours.

Knows nothing about models, seconds or how sure a word is.
"""

# F frames, C CTC classes, A arcs, N nodes

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundwave.ctc.lexicon import plain_word

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Arc = tuple[int, int, int]  # letters before it, letters after it, class

WORDS_KEPT = 10_000  # whose spellings a speller remembers: some 15 MB
WILDCARD = -1  # stands where an arc has no class
WILDCARD_COST = 1.0  # nats a frame below the frame's likeliest class: known words and blanks keep what is theirs


@dataclass(frozen=True)
class LikelyClasses:
    """Log-probabilities of which only the largest of each frame are kept: all 128,000 of an LLM's would be 50 MB a
    minute in half precision, and four times that to compute with.

    Attributes:
        values: (F, K) natural log-probabilities, the largest first.
        classes: (F, K) whose they are.
        blank: (F,) the blank's, whether it is among them or not.
    """

    values: NDArray[np.float32]
    classes: Ints
    blank: NDArray[np.float32]

    def of(self, classes: Ints) -> Floats:
        """(F, A) those of some classes; one that was not kept counts as the smallest that was."""
        wanted, column = np.unique(classes, return_inverse=True)
        found = np.repeat(self.values[:, -1:].astype(np.float64), len(wanted), 1)
        if len(wanted):
            places = np.minimum(np.searchsorted(wanted, self.classes), len(wanted) - 1)
            frames, ranks = np.nonzero(wanted[places] == self.classes)
            found[frames, places[frames, ranks]] = self.values[frames, ranks]
        return found[:, column]


@dataclass(frozen=True)
class Token:
    """A piece of a word on the path.

    Attributes:
        ctc_class: its class; `WILDCARD` where the word cannot be spelt.
        letters: how many letters of the word it spells; 0 for a space alone.
        first, last: its frames, `last` not among them.
        logprobs: (last - first,) the log-probability of its class in each of them.
    """

    ctc_class: int
    letters: int
    first: int
    last: int
    logprobs: tuple[float, ...]


class Speller:
    """Makes lattices of spellings.

    Args:
        pieces: the text of each class in small letters; a leading space begins a word; "" for blank.
    """

    def __init__(self, pieces: Sequence[str]):
        self._classes: dict[str, list[int]] = {}
        for number, piece in enumerate(pieces):
            if piece and " " not in piece[1:]:  # a piece is of one word
                self._classes.setdefault(piece, []).append(number)
        self._letters = set("".join(self._classes)) - {" "}
        self._longest = max(map(len, self._classes), default=0)
        self._arcs: dict[tuple[str, bool], list[Arc]] = {}

    def lattice(self, words: Sequence[str]) -> Lattice:
        """All spellings of words that follow each other; signs that no piece has are left out."""
        arcs: list[Arc] = []
        ends, place = [], 0
        for number, word in enumerate(words):
            of_word = self._of(word, first=number == 0)
            arcs += [(place + begin, place + end, ctc_class) for begin, end, ctc_class in of_word]
            place += max(end for _, end, _ in of_word)
            ends.append(place)
        return Lattice(arcs, ends)

    def _of(self, word: str, first: bool) -> list[Arc]:
        key = (word, first)
        if len(self._arcs) > WORDS_KEPT:
            self._arcs.clear()
        if key not in self._arcs:
            plain = re.sub(r"[^\w']+|_", " ", plain_word(word)).strip()  # a hyphen may be a space, or nothing
            known = "".join(letter for letter in plain if letter in self._letters)
            self._arcs[key] = self._spelt(plain, first) or self._spelt(known, first) or [(0, 1, WILDCARD)]
        return self._arcs[key]

    def _spelt(self, letters: str, first: bool) -> list[Arc]:
        """The arcs that lie on a way from a word's begin to its end; none if there is no way or no letter.

        A text's first word need not begin with a space, nor the second part of one with a hyphen.
        """
        if not letters:
            return []
        text = " " + letters
        arcs = []
        for begin in range(len(text)):
            optional = text[begin] == " " and (begin > 0 or first)
            for end in range(begin + 1, min(len(text), begin + self._longest + optional) + 1):
                spelt = self._classes.get(text[begin:end], [])
                arcs += [(begin, end, one) for one in spelt]
                arcs += [(begin, end, one) for one in self._classes.get(text[begin + 1 : end], []) if optional]
        ahead, back = {0}, {len(text)}
        for begin, end, _ in arcs:
            if begin in ahead:
                ahead.add(end)
        for begin, end, _ in sorted(arcs, key=lambda arc: -arc[1]):
            if end in back:
                back.add(begin)
        return [arc for arc in arcs if arc[0] in ahead and arc[1] in back]


class Lattice:
    """The spellings of a text as arcs between its letters.

    Args:
        arcs: begin, end and class of each; a node is the place before a letter, a space being one.
        ends: the node after each word.

    Attributes:
        begins, targets, classes: (A,) of the arcs, in the order of `targets`.
        first, last: (N,) the arcs that lead to a node: `first` to `last`, the latter left out.
        ends: (words,) the node after each word.
        repeated: (R,) arcs that an arc of the same class may come right before; a blank must part the two.
        others: (R, P) the arcs of other classes that may come right before those; A where there are fewer.
    """

    def __init__(self, arcs: Sequence[Arc], ends: Sequence[int]):
        table = np.array(sorted(arcs, key=lambda arc: (arc[1], arc[0], arc[2])), np.int64).reshape(-1, 3)
        self.begins, self.targets, self.classes = (np.ascontiguousarray(column) for column in table.T)
        self.ends = np.array(ends, np.int64)
        nodes = np.arange(1 + (int(self.ends[-1]) if len(ends) else 0))
        self.first, self.last = (np.searchsorted(self.targets, nodes, side) for side in ("left", "right"))
        repeated, others = [], []
        for arc, (begin, spelt) in enumerate(zip(self.begins, self.classes, strict=True)):
            before = np.arange(self.first[begin], self.last[begin])
            other = before[self.classes[before] != spelt]
            if len(other) < len(before) and spelt != WILDCARD:
                repeated.append(arc)
                others.append(other.tolist())
        width = max(map(len, others), default=0)
        self.repeated = np.array(repeated, np.int64)
        self.others = np.array([row + [len(table)] * (width + 1 - len(row)) for row in others], np.int64)

    def word_of(self, arc: int) -> int:
        """The number of the word that an arc is a piece of."""
        return int(np.searchsorted(self.ends, self.begins[arc], "right"))

    def letters_of(self, arc: int) -> int:
        """How many letters an arc spells, without a space."""
        word = self.word_of(arc)
        begin = max(self.begins[arc], 1 + (self.ends[word - 1] if word else 0))
        return max(0, int(self.targets[arc] - begin))


def align(emissions: Floats, blank: Floats, lattice: Lattice) -> list[list[Token]] | None:
    """The tokens of each word on the likeliest path; None where there are too few frames for the text.

    Args:
        emissions: (F, A) log-probability of each arc's class in each frame: `emissions_of`.
        blank: (F,) that of the blank.
        lattice: the text's.
    """
    path = _best_path(emissions, blank, lattice)
    if path is None:
        return None
    words: list[list[Token]] = [[] for _ in lattice.ends]
    frame = 0
    while frame < len(path):
        arc, first = path[frame], frame
        while frame < len(path) and path[frame] == arc:
            frame += 1
        if arc >= 0:
            words[lattice.word_of(arc)].append(
                Token(
                    int(lattice.classes[arc]), lattice.letters_of(arc), first, frame,
                    tuple(emissions[first:frame, arc].tolist()),
                )
            )
    return words


def emissions_of(logprobs: NDArray[np.floating] | LikelyClasses, lattice: Lattice) -> Floats:
    """(F, A) what `align` needs of all classes' log-probabilities, (F, C)."""
    if isinstance(logprobs, LikelyClasses):
        emissions, likeliest = logprobs.of(lattice.classes), logprobs.values[:, 0]
    else:
        emissions = logprobs[:, lattice.classes].astype(np.float64)
        likeliest = logprobs.max(-1, initial=-np.inf)
    emissions[:, lattice.classes == WILDCARD] = likeliest[:, None] - WILDCARD_COST
    return emissions


def _best_path(emissions: Floats, blank: Floats, lattice: Lattice) -> list[int] | None:
    """The arc of each frame, -1 for blank: Viterbi, all arcs and nodes of a frame at once.

    What led to a score is found again on the way back from the scores themselves: cheaper than to keep it for all.
    """
    frames, arcs = emissions.shape
    nodes = len(lattice.first)
    if not arcs:
        return [-1] * frames
    spoken = np.full((frames + 1, arcs + 1), -np.inf)  # the best path that ends in an arc, after each frame; no arc
    silent = np.full((frames + 1, nodes), -np.inf)  # or in a blank at a node
    silent[0, 0] = 0.0
    reached = np.flatnonzero(lattice.last > lattice.first)
    bounds, repeated = lattice.first[reached], lattice.repeated
    for frame in range(frames):
        before, waiting = spoken[frame], silent[frame]
        best = waiting.copy()
        best[reached] = np.maximum(best[reached], np.maximum.reduceat(before, bounds))
        entering = best[lattice.begins]
        if len(repeated):
            entering[repeated] = np.maximum(waiting[lattice.begins[repeated]], before[lattice.others].max(1))
        np.maximum(before[:-1], entering, out=entering)
        np.add(entering, emissions[frame], out=spoken[frame + 1, :-1])
        np.add(best, blank[frame], out=silent[frame + 1])
    return _traced(spoken, silent, lattice)


def _traced(spoken: Floats, silent: Floats, lattice: Lattice) -> list[int] | None:
    """The path back from the end of the text after the last frame."""
    path: list[int] = []
    node = len(lattice.first) - 1
    arc, score = _best_arrival(spoken[-1], silent[-1], lattice, node)
    if score == -np.inf:
        return None
    for frame in range(len(spoken) - 2, -1, -1):
        path.append(arc)
        if arc >= 0:
            node = int(lattice.begins[arc])
            other, score = _best_arrival(spoken[frame], silent[frame], lattice, node, int(lattice.classes[arc]))
            arc = arc if spoken[frame, arc] >= score else other
        else:
            arc, _ = _best_arrival(spoken[frame], silent[frame], lattice, node)
    return path[::-1]


def _best_arrival(
    spoken: Floats, silent: Floats, lattice: Lattice, node: int, following: int = WILDCARD
) -> tuple[int, float]:
    """The arc, or -1 for blank, by which a node is best reached before a class follows, and its score."""
    arc, score = -1, float(silent[node])
    for other in range(int(lattice.first[node]), int(lattice.last[node])):
        if spoken[other] > score and (following == WILDCARD or lattice.classes[other] != following):
            arc, score = other, float(spoken[other])
    return arc, score
