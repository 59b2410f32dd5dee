"""The beams of one recording: arrays with one entry a beam, moved on frame by frame.

A beam is a text so far, with the log-probability of those of its CTC paths that end in a blank and of those that end in
one class. The text is the words said, here a record of `History`, and a node of the lexicon within the word under way.
Where the node ends a word, that word's record lies ready (`finish`): a next word may begin there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soundwave.ctc.history import Costs, Floats, History, Ints, mixed

Candidates = tuple[Ints, Ints, Ints, Ints, Floats]  # the beam they come from, record, node, class, hope


class Beams:
    """The texts that are still likely after some frames; at first only the empty one.

    Args:
        costs: what words are worth.
        after: words that were said before; of them only the n-gram knows.
    """

    def __init__(self, costs: Costs, after: Sequence[str] = ()):
        self._costs, self._options = costs, costs.options
        self._open = costs.options.unknown_word is not None
        self._history = History(costs)
        self._history.begin_after(after)
        self.records, self.finish = np.zeros((2, 1), np.int64)
        self.nodes = np.full(1, costs.outside)  # numbers above `outside` are spellings of no list
        self.letters = np.zeros(1, np.int64)  # of the word under way
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
        within = self._within_words(tried)
        parts = [within, self._first_classes(tried)]
        if self._open:
            tried = frame >= likely - self._options.open_width
            parts += [self._outside_the_list(tried, within), self._first_classes_outside(tried)]
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

    def _within_words(self, tried: NDArray[np.bool_]) -> Candidates:
        """The word under way goes on in the lexicon."""
        costs = self._costs
        nodes = np.minimum(self.nodes, costs.outside)
        counts = costs.steps[nodes]
        source = np.repeat(np.arange(len(nodes)), counts)
        steps = np.arange(len(source)) + np.repeat(costs.first_step[nodes] - np.cumsum(counts) + counts, counts)
        kept = np.flatnonzero(tried[costs.step_classes[steps]])
        source, steps = source[kept], steps[kept]
        records, targets = self.records[source], costs.step_targets[steps]
        return source, records, targets, costs.step_classes[steps], self._history.total[records] + costs.ahead[targets]

    def _first_classes(self, tried: NDArray[np.bool_]) -> Candidates:
        """The word under way ends, and the next one begins."""
        costs = self._costs
        ended = np.flatnonzero(self.finish >= 0)
        classes = np.flatnonzero((costs.begins >= 0) & tried[:-1])
        source, classes = np.repeat(ended, len(classes)), np.tile(classes, len(ended))
        targets = costs.begins[classes]
        records = self.finish[source]
        return source, records, targets, classes, self._history.total[records] + costs.ahead[targets]

    def _outside_the_list(self, tried: NDArray[np.bool_], listed: Candidates) -> Candidates:
        """The word under way goes on as no word of the lexicon does."""
        costs = self._costs
        inner = np.flatnonzero(costs.inner & tried[:-1])
        column = np.full(len(tried), -1)
        column[inner] = np.arange(len(inner))
        pairs = np.repeat((self.nodes != costs.outside)[:, None], len(inner), 1)
        known = column[listed[3]] >= 0
        pairs[listed[0][known], column[listed[3][known]]] = False
        source, classes = np.nonzero(pairs)
        classes = inner[classes]
        return self._unlisted(source, self.records[source], self.nodes[source], self.letters[source], classes)

    def _first_classes_outside(self, tried: NDArray[np.bool_]) -> Candidates:
        """The word under way ends, and the next one begins as no word of the lexicon does."""
        ended = np.flatnonzero(self.finish >= 0)
        begun = np.flatnonzero(self._costs.unlisted_begins & tried[:-1])
        source, classes = np.repeat(ended, len(begun)), np.tile(begun, len(ended))
        before = np.full(len(source), self._costs.outside)
        return self._unlisted(source, self.finish[source], before, np.zeros_like(source), classes)

    def _unlisted(self, source: Ints, records: Ints, before: Ints, letters: Ints, classes: Ints) -> Candidates:
        """Candidates of no list. In place of their node stands the one before, as -1 - node."""
        letters = letters + self._costs.lengths[classes]
        hope = self._history.total[records] + self._costs.unknown - self._options.unknown_letter * letters
        return source, records, -1 - before, classes, hope

    def _interned(self, nodes: Ints, classes: Ints) -> Ints:
        """Nodes for the candidates of no list."""
        for i in np.flatnonzero(nodes < 0):
            nodes[i] = self._history.spellings.child(int(-1 - nodes[i]), int(classes[i]))
        return nodes

    def _merge(self, records: Ints, nodes: Ints, last: Ints, hope: Floats, stay_blank: Floats, mass: Floats) -> None:
        """Adds up equal texts, keeps the best, and looks up the words that end in the new ones.

        The first `len(stay_blank)` candidates are the beams of the frame before.
        """
        keys = mixed(mixed(self._history.hashes[records], nodes), last)
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
        self.letters = np.append(self.letters, 0)[np.minimum(lead, len(stay_blank))]
        new = np.flatnonzero(lead >= len(stay_blank))
        if len(new):
            self._finish(new)

    def _finish(self, new: Ints) -> None:
        """Makes the records of the words that end at the nodes of new beams."""
        costs = self._costs
        nodes, records = np.minimum(self.nodes[new], costs.outside), self.records[new]
        words, extra = costs.word_of[nodes], np.zeros(len(new))
        if self._open:
            readable, letters = costs.readable[nodes], costs.depths[nodes]
            for i in np.flatnonzero(nodes == costs.outside):
                readable[i], letters[i] = self._history.spellings.described(int(self.nodes[new[i]]))
            self.letters[new] = letters
            unlisted = readable & (words < 0)
            words[unlisted] = len(costs.written) + self.nodes[new[unlisted]]
            extra[unlisted] = -costs.unlisted - self._options.unknown_letter * letters[unlisted]
        ends = np.flatnonzero(words >= 0)
        finish = np.full(len(new), -1)
        finish[ends] = self._history.add(records[ends], words[ends], extra[ends])
        spaces = costs.depths[nodes] == 0  # a word begun without a letter: it need not come
        finish[spaces] = records[spaces]
        self.finish[new] = finish
        hope = self._history.total[records] + costs.below[nodes]
        hope[ends] = np.maximum(hope[ends], self._history.total[finish[ends]])
        outside = nodes == costs.outside
        self.hope[new] = np.where(outside, np.maximum(self.hope[new], hope), hope)

    def texts(self, nbest: int, whole: bool = True) -> list[tuple[tuple[str, ...], float, float, float]]:
        """The best texts: words, acoustic and language log-probability, score. A word under way is left out.

        Args:
            nbest: how many at most.
            whole: whether the sentence ends here; else more words are to come.
        """
        ended = np.flatnonzero(self.finish >= 0)
        records = self.finish[ended] if len(ended) else self.records
        acoustic = np.logaddexp(self.blank, self.other)
        acoustic = acoustic[ended] if len(ended) else acoustic
        _, first, group = np.unique(self._history.hashes[records], return_index=True, return_inverse=True)
        sums = np.full(len(first), -np.inf)
        np.logaddexp.at(sums, group, acoustic)
        records = records[first]
        history = self._history
        total, language = history.ended(records) if whole else (history.total[records], history.language[records])
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
