"""The words that beams have said so far, as a growing tree of records, and what the n-gram and hot words make of them.

Knows nothing about sounds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from soundwave.ctc.hotwords import HotWords, Progress
from soundwave.ctc.lexicon import Lexicon, plain_word
from soundwave.ctc.ngram import Ngram

if TYPE_CHECKING:
    from soundwave.inference_config import BeamSearchOptions

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]
_READABLE = re.compile(r"[^\W\d_][^\W\d_']+")  # a word of no list has letters, two at least
_SPREAD, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)  # of splitmix64


def mixed(hashes: Hashes, numbers: Ints) -> Hashes:
    """A 64-bit hash of each pair of a hash and a number."""
    hashes = (hashes + numbers.astype(np.uint64) + np.uint64(1)) * _SPREAD
    return (hashes ^ (hashes >> np.uint64(29))) * _MIX


class Costs:
    """What words are worth: fixed while a set of recordings is decoded.

    Args:
        lexicon: the words.
        ngram: their probabilities, or None.
        options: weights.
        hot: hot words, or None.

    Attributes:
        outside: number of the node that stands for all spellings outside the lexicon; the last of the arrays below.
        ahead: (nodes,) the most that a word at or below a node can be worth, whatever comes before it.
        below: the same for the words strictly below.
        written: each word as it is to be shown.
        word_of, depths, readable, steps, first_step: (nodes,) as in `Lexicon`.
        inner: (classes,) those that go on within a word.
        unlisted_begins: (classes,) those that begin a word, but none of the lexicon.
        lengths: (classes,) their letters.
        unlisted: nats that a word of no list costs beside the n-gram's.
        unknown: what such a word is worth, whatever comes before it, before its letters are counted.
    """

    def __init__(self, lexicon: Lexicon, ngram: Ngram | None, options: BeamSearchOptions, hot: HotWords | None = None):
        self.lexicon, self.ngram, self.options, self.hot = lexicon, ngram, options, hot
        values = np.full(len(lexicon.words), float(options.word_bonus))
        self.unlisted = options.unknown_word or 0.0
        self.unknown = options.word_bonus - self.unlisted
        self.numbers = np.zeros(len(lexicon.words) + 1, np.int64)  # of the n-gram; the last one: a word of no list
        if ngram is not None:
            unigrams = options.language_weight * ngram.unigrams()
            self.numbers[:-1] = ngram.ids(lexicon.words)
            lost = np.flatnonzero(self.numbers[:-1] == 0)
            self.numbers[lost] = ngram.ids(plain_word(lexicon.words[i]) for i in lost)
            values += unigrams[self.numbers[:-1]]
            self.unknown += unigrams[0]
        self.written = list(lexicon.words)
        if hot is not None:
            for word, written in hot.written.items():
                values[lexicon.number_of[word]] += hot.bonus
                self.written[lexicon.number_of[word]] = written  # as the caller writes it
        ahead, below = lexicon.best_below(values)
        self.ahead, self.below = np.append(ahead, -np.inf), np.append(below, -np.inf)
        self.outside = len(lexicon.parents)
        self.word_of, self.depths = np.append(lexicon.word_of, -1), np.append(lexicon.depths, 1)
        self.steps, self.first_step = np.append(lexicon.steps, 0), np.append(lexicon.first_step, 0)
        self.readable = np.append(lexicon.readable, False)
        self.step_classes, self.step_targets = lexicon.step_classes, lexicon.step_targets
        self.begins = lexicon.begins
        first = np.array([piece.startswith(" ") for piece in lexicon.pieces])
        self.inner = ~first & (np.array(lexicon.pieces) != "")
        self.unlisted_begins = first & (self.begins < 0)
        self.lengths = np.array([len(piece.strip()) for piece in lexicon.pieces])


class Spellings:
    """Nodes beyond the lexicon for spellings of no list: one for every text. They live for one recording."""

    def __init__(self, costs: Costs):
        self._lexicon = costs.lexicon
        self._outside = costs.outside
        self._nodes: dict[str, int] = {}
        self._texts: list[str] = []

    def child(self, node: int, piece: int) -> int:
        """The node behind another one by a class that leads out of the lexicon."""
        text = self.text(node) + self._lexicon.pieces[piece].strip()
        number = self._nodes.setdefault(text, self._outside + 1 + len(self._nodes))
        if len(self._nodes) > len(self._texts):
            self._texts.append(text)
        return number

    def text(self, node: int) -> str:
        """The letters of the word that is under way at a node of any kind."""
        if node < self._outside:
            return self._lexicon.text(node)
        return self._texts[node - self._outside - 1] if node > self._outside else ""

    def described(self, node: int) -> tuple[bool, int]:
        """Whether the letters to a node beyond the lexicon could be a word, and how many they are."""
        text = self.text(node)
        return bool(_READABLE.fullmatch(text)), len(text)


class History:
    """Texts as records: record 0 is the empty one, each other one adds a word to an earlier record.

    Attributes:
        hashes: of the words from the first to the record's own; equal texts have equal hashes.
        total: weighted score of the words beside the acoustic one.
        language: log-probability of the words by the n-gram.
    """

    def __init__(self, costs: Costs):
        self._costs = costs
        self._size = 1
        self.hashes = np.ones(256, np.uint64)
        self.total, self.language = np.zeros((2, 256))
        self._parents, self._words, self._states = np.zeros((3, 256), np.int64)
        self._states[0] = costs.ngram.start if costs.ngram is not None else 0
        self._progress = [Progress()]
        self.spellings = Spellings(costs)

    def begin_after(self, words: Sequence[str]) -> None:
        """What the n-gram expects of the empty record, once these words were said before it."""
        ngram = self._costs.ngram
        if ngram is not None:
            for word in words:
                number = next((n for n in ngram.ids([word, plain_word(word)]) if n), 0)
                _, self._states[:1] = ngram.score(self._states[:1], np.array([number]))

    def add(self, records: Ints, words: Ints, extra: Floats | float = 0.0) -> Ints:
        """New records: each a word more than an earlier one.

        Args:
            records: (N,) what came before.
            words: (N,) numbers of words.
            extra: (N,) nats beside language weight, word bonus and hot words.

        Returns:
            (N,) the new records.
        """
        costs, first = self._costs, self._size
        self._size += len(records)
        self._grow()
        new = np.arange(first, self._size)
        self._parents[new], self._words[new] = records, words
        self.hashes[new] = mixed(self.hashes[records], words)
        gain = np.full(len(records), costs.options.word_bonus) + extra
        self.language[new] = self.language[records]
        if costs.ngram is not None:
            numbers = costs.numbers[np.minimum(words, len(costs.numbers) - 1)]
            logprobs, self._states[new] = costs.ngram.score(self._states[records], numbers)
            self.language[new] += logprobs
            gain += costs.options.language_weight * logprobs
        if costs.hot is not None:
            for i, (record, word) in enumerate(zip(records.tolist(), words.tolist(), strict=True)):
                progress, earned = costs.hot.follow(self._progress[record], self.word(word))
                self._progress.append(progress)
                gain[i] += earned
        self.total[new] = self.total[records] + gain
        return new

    def word(self, number: int) -> str:
        """A word by its number; beyond the lexicon's words, the numbers are those of nodes."""
        words = self._costs.written
        return words[number] if number < len(words) else self.spellings.text(number - len(words))

    def ended(self, records: Ints) -> tuple[Floats, Floats]:
        """Weighted score and language log-probability of each record's text as a whole, with its end."""
        total, language = self.total[records], self.language[records]
        costs = self._costs
        if costs.ngram is not None:
            end, _ = costs.ngram.score(self._states[records], np.full(len(records), costs.ngram.end))
            language = language + end
            total = total + costs.options.language_weight * end
        if costs.hot is not None:
            total = total - np.array([costs.hot.given_back(self._progress[record]) for record in records])
        return total, language

    def words(self, record: int) -> tuple[str, ...]:
        """The words of a record's text."""
        words = []
        while record:
            words.append(self.word(int(self._words[record])))
            record = int(self._parents[record])
        return tuple(reversed(words))

    def _grow(self) -> None:
        if self._size > len(self.total):
            room = 2 * self._size
            for name in ("hashes", "total", "language", "_parents", "_words", "_states"):
                old = getattr(self, name)
                new = np.zeros(room, old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)
