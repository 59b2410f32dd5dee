"""A back-off n-gram of words in sorted arrays: looked up for many (state, word) pairs at once, stored in few megabytes.

Knows nothing about speech. Reads and writes ARPA, the format of SRILM, KenLM and kaldingram; a model of its own is an
`.npz` without pickled objects in which probabilities take one byte.

Every n-gram is a node. Node 0 is the empty context, node 1 + w the single word w; longer n-grams follow by order, each
order sorted by (context node, last word). The state after some words is the node of the longest n-gram they end with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundwave.errors import CheckpointError
from soundwave.files import atomic_file

UNKNOWN, START, END = "<unk>", "<s>", "</s>"  # words 0, 1 and 2 of every model
SPECIAL = (UNKNOWN, START, END)
LEVELS = 256  # values that a probability may have in a file: one byte
FORMAT = 1  # of the .npz
NEVER = -99.0 * math.log(10)  # ARPA's way to write log 0

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Ngram:
    """A back-off model of P(word | the words before it).

    Args:
        words: the vocabulary; `SPECIAL` first.
        contexts: for each order from 2 on, the context node of every n-gram.
        last: for each order from 2 on, the last word of every n-gram.
        logprobs: for each order from 1 on, log P(last word | context), natural logarithm.
        backoffs: for each order from 1 on, what a word costs that does not follow the n-gram; none for the last order.

    Within an order, n-grams are sorted by (context, last word).
    """

    def __init__(
        self,
        words: Sequence[str],
        contexts: Sequence[NDArray[np.integer]],
        last: Sequence[NDArray[np.integer]],
        logprobs: Sequence[NDArray[np.floating]],
        backoffs: Sequence[NDArray[np.floating]],
    ):
        self.words = tuple(words)
        self.order = len(logprobs)
        self.counts = tuple(len(values) for values in logprobs)
        self.start = 1 + SPECIAL.index(START) if self.order > 1 else 0  # the state before the first word
        self.end = SPECIAL.index(END)
        size = len(self.words)
        keys = [context * np.int64(size) + word for context, word in zip(contexts, last, strict=True)]
        end = np.full(1, np.iinfo(np.int64).max)  # so that a search ends inside
        self._keys = np.concatenate([*keys, end])
        zero = np.zeros(1, np.float32)
        self._logprobs = np.concatenate([zero, *logprobs], dtype=np.float32)
        self._backoffs = np.concatenate([zero, *backoffs, zero.repeat(self.counts[-1])], dtype=np.float32)
        self._index: dict[str, int] = {}
        self._highest = 1 + sum(self.counts[:-1])  # first node of the last order
        self.shorter = np.zeros(self._highest, np.int64)  # the node of the n-gram without its first word
        first = 1 + size
        for context, word in zip(contexts[:-1], last[:-1], strict=True):
            self.shorter[first : first + len(word)] = self._longest(self.shorter[context], word.astype(np.int64))
            first += len(word)

    def ids(self, words: Iterable[str]) -> Ints:
        """The number of each word; that of `<unk>` for one that the model does not know."""
        if not self._index:
            self._index = {word: number for number, word in enumerate(self.words)}
        return np.fromiter((self._index.get(word, 0) for word in words), np.int64)

    def unigrams(self) -> Floats:
        """log P(word) without any context, for each word of the vocabulary."""
        return self._logprobs[1 : 1 + len(self.words)].astype(np.float64)

    def score(self, states: Ints, words: Ints) -> tuple[Floats, Ints]:
        """log P(word | state) and the state after the word, for each of several pairs.

        Args:
            states: (N,) nodes; `start` before the first word.
            words: (N,) numbers of words.

        Returns:
            (N,) natural log-probabilities and (N,) states.
        """
        scores = np.zeros(len(words))
        nodes = np.zeros(len(words), np.int64)
        left, at, word = np.arange(len(words)), states, words
        while len(left):
            node = self._find(at, word)
            hit = node > 0
            nodes[left[hit]] = node[hit]
            miss = ~hit
            left, at, word = left[miss], at[miss], word[miss]
            scores[left] += self._backoffs[at]
            at = self.shorter[at]
        logprobs = scores + self._logprobs[nodes]
        full = np.flatnonzero(nodes >= self._highest)  # nothing follows them: the state is a shorter n-gram
        if len(full) and self.order > 1:
            contexts = self._keys[nodes[full] - 1 - len(self.words)] // len(self.words)
            nodes[full] = self._longest(self.shorter[contexts], words[full])
        return logprobs, nodes if self.order > 1 else np.zeros_like(nodes)

    def score_sentence(self, words: Iterable[str]) -> float:
        """Natural log-probability of a sentence with its end."""
        total, state = 0.0, np.array([self.start])
        for word in [*self.ids(words), self.end]:
            logprob, state = self.score(state, np.array([word]))
            total += float(logprob[0])
        return total

    def perplexity(self, sentences: Sequence[Sequence[str]]) -> tuple[float, float]:
        """How many words the model hesitates between, over known words and ends, and the share of unknown words."""
        ids = [np.append(self.ids(sentence), self.end) for sentence in sentences]
        states = np.full(len(ids), self.start)
        total, known, unknown = 0.0, 0, 0
        for place in range(max(map(len, ids), default=0)):
            running = np.array([i for i, sentence in enumerate(ids) if place < len(sentence)])
            words = np.array([ids[i][place] for i in running])
            logprobs, states[running] = self.score(states[running], words)
            total += float(logprobs[words > 0].sum())
            known += int((words > 0).sum())
            unknown += int((words == 0).sum())
        return math.exp(-total / max(known, 1)), unknown / max(known + unknown, 1)

    def _find(self, contexts: Ints, words: Ints) -> Ints:
        """The node of each (context, word); 0 where there is none."""
        keys = contexts * len(self.words) + words
        position = np.searchsorted(self._keys, keys)
        nodes = np.where(self._keys[position] == keys, position + 1 + len(self.words), 0)
        return np.where(contexts == 0, 1 + words, nodes)

    def _longest(self, contexts: Ints, words: Ints) -> Ints:
        """The node of the longest known n-gram that ends with each word after each context."""
        nodes = self._find(contexts, words)
        while (missing := np.flatnonzero(nodes == 0)).size:
            contexts = self.shorter[contexts]
            nodes[missing] = self._find(contexts[missing], words[missing])
        return nodes

    # Files -----------------------------------------------------------------------------------------------------------

    def ngrams(self, order: int) -> Iterator[tuple[list[str], float, float]]:
        """The words, log-probability and back-off of every n-gram of an order, sorted as they are stored."""
        first = 1 + sum(self.counts[: order - 1])
        nodes = np.arange(first, first + self.counts[order - 1])
        columns: list[Ints] = []
        at = nodes
        for _ in range(order - 1):
            keys = self._keys[at - 1 - len(self.words)]
            columns.insert(0, keys % len(self.words))
            at = keys // len(self.words)
        columns.insert(0, at - 1)
        table = np.array(self.words, dtype=object)[np.stack(columns, 1)]
        yield from zip(table.tolist(), self._logprobs[nodes].tolist(), self._backoffs[nodes].tolist(), strict=True)

    def save(self, path: Path) -> None:
        """Writes ARPA where the name ends with `.arpa` or `.arpa.gz`, else `.npz` of one byte a probability.

        Raises:
            WriteError: the disk is full, or the place may not be written.
        """
        from soundwave.ctc.arpa import write_arpa

        if path.name.removesuffix(".gz").endswith(".arpa"):
            return write_arpa(self, path)
        arrays: dict[str, NDArray] = {
            "format": np.array([FORMAT, self.order]),
            "words": np.frombuffer("\n".join(self.words).encode(), np.uint8),
        }
        first = 1
        before = np.zeros(1, np.int64)  # nodes of the order before
        for order, count in enumerate(self.counts, 1):
            nodes = np.arange(first, first + count)
            arrays[f"logprobs{order}"], arrays[f"logprob_codes{order}"] = _quantised(self._logprobs[nodes])
            if order < self.order:
                arrays[f"backoffs{order}"], arrays[f"backoff_codes{order}"] = _quantised(self._backoffs[nodes])
            if order > 1:
                keys = self._keys[nodes - 1 - len(self.words)]
                contexts, words = np.divmod(keys, len(self.words))
                children = np.bincount(contexts - before[0], minlength=len(before))
                arrays[f"children{order}"] = children.astype(np.uint16 if children.max() < 65536 else np.uint32)
                arrays[f"last{order}"] = words.astype(np.uint16 if len(self.words) <= 65536 else np.uint32)
            before, first = nodes, first + count
        with atomic_file(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Ngram:
        """Reads what `save` wrote, or ARPA where the name ends with `.arpa` or `.arpa.gz`.

        Raises:
            CheckpointError: the file is missing, or is no n-gram.
        """
        from soundwave.ctc.arpa import read_arpa

        if not path.is_file():
            raise CheckpointError(f"There is no n-gram at {path}; make one with `soundwave lm train`.")
        if path.name.removesuffix(".gz").endswith(".arpa"):
            return read_arpa(path)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls._of_arrays({name: arrays[name] for name in arrays.files})
        except (ValueError, KeyError, OSError) as problem:
            raise CheckpointError(f"{path} is no n-gram of Soundwave ({problem}); give its .npz, or ARPA.") from problem

    @classmethod
    def _of_arrays(cls, arrays: dict[str, NDArray]) -> Ngram:
        version, order = arrays["format"].tolist()
        if version != FORMAT:
            raise ValueError(f"format {version} is not {FORMAT}")
        words = arrays["words"].tobytes().decode().split("\n")
        orders = range(1, order + 1)
        first, contexts = 1, []
        for n in orders[1:]:
            children = arrays[f"children{n}"]
            contexts.append(np.repeat(np.arange(first, first + len(children), dtype=np.int32), children))
            first += len(children)
        return cls(
            words,
            contexts,
            [arrays[f"last{n}"].astype(np.int32) for n in orders[1:]],
            [arrays[f"logprob_codes{n}"][arrays[f"logprobs{n}"]] for n in orders],
            [arrays[f"backoff_codes{n}"][arrays[f"backoffs{n}"]] for n in orders[:-1]],
        )


def _quantised(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Each value as a number of a table of at most 256 values, which hold equally many of them."""
    distinct = np.unique(values)
    if len(distinct) <= LEVELS:
        return np.searchsorted(distinct, values).astype(np.uint8), distinct
    order = np.argsort(values, kind="stable")
    bins = np.array_split(order, LEVELS)
    codes = np.array([values[members].mean() for members in bins], np.float32)
    numbers = np.empty(len(values), np.uint8)
    for number, members in enumerate(bins):
        numbers[members] = number
    return numbers, codes
