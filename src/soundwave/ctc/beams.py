"""The beams of one recording: arrays with one entry a beam, moved on frame by frame.

A beam is a text so far, the words said and a node of the lexicon's trie within the word under way, together with the
log-probability of its CTC paths that end in a blank and of those that end in its last class. Only `History` knows words;
here they are records. A beam whose node ends a word has that word's record ready (`finish`): a next word may begin there.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from soundwave.ctc.history import Costs, Floats, History, Ints, mixed

_UNLISTED_WORD = re.compile(r"[^\W\d_][^\W\d_']+")  # what a word of no list may look like: letters, at least two


class Spellings:
    """Nodes beyond the lexicon's trie, for spellings of no list, and the text of any node. They live for one recording."""

    def __init__(self, costs: Costs):
        self._lexicon = costs.lexicon
        self._first = len(costs.lexicon.parents)
        self._numbers: dict[tuple[int, int], int] = {}
        self.classes: list[int] = []
        self.depths: list[int] = []
        self._texts: dict[int, str] = {0: ""}

    def child(self, node: int, spelt: int) -> int:
        """The node behind another one by a class."""
        number = self._numbers.get((node, spelt))
        if number is None:
            number = self._first + len(self._numbers)
            self._numbers[node, spelt] = number
            self.depths.append(self.depth(node) + 1)
            self._texts[number] = self.text(node) + self._lexicon.letters[spelt]
        return number

    def depth(self, node: int) -> int:
        """Classes from the root to a node."""
        return int(self._lexicon.depths[node]) if node < self._first else self.depths[node - self._first]

    def text(self, node: int) -> str:
        """The letters from the root to a node."""
        text = self._texts.get(node)
        if text is None:  # a node of the trie
            parent, spelt = int(self._lexicon.parents[node]), int(self._lexicon.classes[node])
            text = self._texts[node] = self.text(parent) + self._lexicon.letters[spelt]
        return text


class Beams:
    """The texts that are still likely after some frames; at first only the empty one.

    Args:
        costs: what words are worth.
    """

    def __init__(self, costs: Costs):
        self._costs, self._options = costs, costs.options
        self._open = costs.options.unknown_word is not None and costs.lexicon.letters is not None
        self._outside = len(costs.lexicon.parents)  # first node beyond the trie
        self._history = History(costs)
        self._spellings = Spellings(costs)
        none = np.zeros(1, np.int64)
        self.records, self.finish, self.nodes = none, none, none
        self.last = np.full(1, -1)  # class that a beam's text ends with
        self.hope = np.zeros(1)  # the best that a beam's words can be worth with the one under way
        self.blank, self.other = np.zeros(1), np.full(1, -np.inf)  # log-probabilities by the end of the path

    def wait(self, silence: float) -> None:
        """Frames that are surely blank.

        Args:
            silence: the sum of their blank log-probabilities.
        """
        if silence:
            self.blank = np.logaddexp(self.blank, self.other) + silence
            self.other = np.full(len(self.blank), -np.inf)

    def advance(self, frame: Floats, blank: float) -> None:
        """One frame.

        Args:
            frame: (classes,) log-probabilities, that of blank replaced by -inf, with another -inf behind them.
            blank: log-probability of blank.
        """
        total = np.logaddexp(self.blank, self.other)
        stay_blank, stay_other = total + blank, self.other + frame[self.last]
        best = float((np.logaddexp(stay_blank, stay_other) + self.hope).max())
        likely = frame.max()
        tried = frame >= likely - self._options.class_width
        parts = [self._within_words(tried), self._first_classes(tried)]
        if self._open:
            parts.append(self._outside_the_list(frame >= likely - self._options.open_width, parts[0]))
        source, records, nodes, classes, hope = (np.concatenate(column) for column in zip(*parts, strict=True))
        mass = np.where(classes == self.last[source], self.blank[source], total[source]) + frame[classes]
        score = mass + hope
        best = max(best, float(score.max(initial=-np.inf)))
        kept = np.flatnonzero(score >= best - self._options.beam_width)
        nodes = self._interned(nodes[kept], classes[kept])
        self._merge(
            np.concatenate([self.records, records[kept]]),
            np.concatenate([self.nodes, nodes]),
            np.concatenate([self.last, classes[kept]]),
            np.concatenate([self.hope, hope[kept]]),
            stay_blank,
            np.concatenate([stay_other, mass[kept]]),
        )

    # Each of the next three gives candidates as columns: the beam they come from, record, node, class, hope.

    def _within_words(self, tried: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints, Ints, Floats]:
        """The word under way goes on in the lexicon."""
        costs = self._costs
        nodes = np.minimum(self.nodes, self._outside)
        counts = costs.children[nodes]
        source = np.repeat(np.arange(len(nodes)), counts)
        place = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        children = costs.first_child[nodes][source] + place
        kept = np.flatnonzero(tried[costs.classes[children]])
        source, children = source[kept], children[kept]
        records = self.records[source]
        return source, records, children, costs.classes[children], self._history.total[records] + costs.ahead[children]

    def _first_classes(self, tried: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints, Ints, Floats]:
        """The word under way ends, and the next one begins."""
        costs = self._costs
        ended = np.flatnonzero(self.finish >= 0)
        begun = costs.roots[:, tried[: costs.roots.shape[1]]].ravel()
        begun = begun[begun >= 0]
        source, children = np.repeat(ended, len(begun)), np.tile(begun, len(ended))
        records = self.finish[source]
        return source, records, children, costs.classes[children], self._history.total[records] + costs.ahead[children]

    def _outside_the_list(
        self, tried: NDArray[np.bool_], listed: tuple[Ints, ...]
    ) -> tuple[Ints, Ints, Ints, Ints, Floats]:
        """The word under way goes on as no word of the lexicon does. The node given is that before, as -1 - node."""
        costs = self._costs
        possible = tried.copy()
        possible[: len(costs.begins)] &= ~costs.begins
        possible[len(costs.begins) :] = False
        pairs = np.repeat((self.nodes > 0)[:, None], len(tried), 1) & possible
        pairs[listed[0], listed[3]] = False
        source, classes = np.nonzero(pairs)
        records = self.records[source]
        hope = (
            self._history.total[records] + costs.unknown - self._options.unknown_letter * (self._depths()[source] + 1)
        )
        return source, records, -1 - self.nodes[source], classes, hope

    def _depths(self) -> Ints:
        inside = self._costs.lexicon.depths[np.minimum(self.nodes, self._outside - 1)]
        if not self._spellings.depths:
            return inside
        depths = np.array(self._spellings.depths)
        return np.where(self.nodes < self._outside, inside, depths[np.maximum(self.nodes - self._outside, 0)])

    def _interned(self, nodes: Ints, classes: Ints) -> Ints:
        """Nodes for the candidates of no list."""
        for i in np.flatnonzero(nodes < 0):
            nodes[i] = self._spellings.child(int(-1 - nodes[i]), int(classes[i]))
        return nodes

    def _merge(self, records: Ints, nodes: Ints, last: Ints, hope: Floats, stay_blank: Floats, mass: Floats) -> None:
        """Adds up equal texts, keeps the best, and looks up the words that end in the new ones.

        The first `len(stay_blank)` candidates are the beams of the frame before.
        """
        keys = mixed(self._history.hashes[records], nodes)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        lead = order[first]
        other = np.logaddexp.reduceat(mass[order], first)
        blank = np.append(stay_blank, -np.inf)[np.minimum(lead, len(stay_blank))]
        score = np.logaddexp(blank, other) + hope[lead]
        kept = _best(score, self._options.beams, self._options.beam_width)
        lead = lead[kept]
        finish = np.append(self.finish, -1)[np.minimum(lead, len(stay_blank))]
        self.records, self.nodes, self.last, self.hope = records[lead], nodes[lead], last[lead], hope[lead]
        self.blank, self.other, self.finish = blank[kept], other[kept], finish
        new = np.flatnonzero(lead >= len(stay_blank))
        if len(new):
            self._finish(new)

    def _finish(self, new: Ints) -> None:
        """Makes the records of the words that end at the nodes of new beams."""
        costs = self._costs
        nodes, records = np.minimum(self.nodes[new], self._outside), self.records[new]
        words, extra = costs.word_of[nodes], np.zeros(len(new))
        if self._open:
            for i in np.flatnonzero(words < 0):
                node = int(self.nodes[new[i]])
                words[i] = costs.lexicon.number_of.get(text := self._spellings.text(node), -1)
                if words[i] < 0 and _UNLISTED_WORD.fullmatch(text):
                    words[i] = self._history.unlisted(text)
                    extra[i] = -self._options.unknown_word - self._options.unknown_letter * self._spellings.depth(node)
        ends = np.flatnonzero(words >= 0)
        finish = np.full(len(new), -1)
        finish[ends] = self._history.add(records[ends], words[ends], extra[ends])
        self.finish[new] = finish
        hope = self._history.total[records] + costs.below[nodes]
        hope[ends] = np.maximum(hope[ends], self._history.total[finish[ends]])
        outside = nodes == self._outside
        self.hope[new] = np.where(outside, np.maximum(self.hope[new], hope), hope)

    def texts(self, nbest: int) -> list[tuple[tuple[str, ...], float, float, float]]:
        """The best texts: words, acoustic and language log-probability, score. A word under way is left out."""
        ended = np.flatnonzero(self.finish >= 0)
        records = self.finish[ended] if len(ended) else self.records
        acoustic = np.logaddexp(self.blank, self.other)
        acoustic = acoustic[ended] if len(ended) else acoustic
        _, first, group = np.unique(self._history.hashes[records], return_index=True, return_inverse=True)
        sums = np.full(len(first), -np.inf)
        np.logaddexp.at(sums, group, acoustic)
        records = records[first]
        total, language = self._history.ended(records)
        best = np.argsort(-(sums + total), kind="stable")[:nbest]
        return [
            (self._history.words(int(records[i])), float(sums[i]), float(language[i]), float(sums[i] + total[i]))
            for i in best
        ]


def _best(scores: Floats, count: int, width: float) -> Ints:
    """Places of the best scores: at most `count`, none more than `width` behind the best; the first of equal ones."""
    least = scores.max() - width
    if len(scores) > count:
        least = max(least, float(np.partition(scores, -count)[-count]))
    kept = np.flatnonzero(scores >= least)
    if len(kept) > count:  # several are equal to the last one
        above = np.flatnonzero(scores > least)
        kept = np.sort(np.append(above, np.flatnonzero(scores == least)[: count - len(above)]))
    return kept
