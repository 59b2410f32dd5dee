"""ARPA files, the text format that every n-gram tool reads and writes, to an `Ngram` and back."""

from __future__ import annotations

import gzip
import math
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from soundwave.ctc.ngram import NEVER, SPECIAL, Ints, Ngram
from soundwave.errors import CheckpointError
from soundwave.files import atomic_file

NATURAL = math.log(10)  # of ARPA's base-10 logarithms


def _open(path: Path, mode: str) -> IO[str]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    return opened(path, mode + "t", encoding="utf-8")


def write_arpa(ngram: Ngram, path: Path) -> None:
    """Writes a model as ARPA; gzip where the name ends with `.gz`."""
    with atomic_file(path) as draft, _open(draft, "w") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {order}={count}\n" for order, count in enumerate(ngram.counts, 1))
        for order in range(1, ngram.order + 1):
            file.write(f"\n\\{order}-grams:\n")
            for words, logprob, backoff in ngram.ngrams(order):
                tail = f"\t{backoff / NATURAL:.6f}" if order < ngram.order else ""
                file.write(f"{max(logprob, NEVER) / NATURAL:.6f}\t{' '.join(words)}{tail}\n")
        file.write("\n\\end\\\n")


def read_arpa(path: Path) -> Ngram:
    """Reads ARPA of any order.

    Raises:
        CheckpointError: the file is no ARPA, or an n-gram's context is not in it.
    """
    sections = _sections(path)
    if not sections:
        raise CheckpointError(f"{path} is no ARPA file: it has no \\1-grams: section.")
    listed = [words[0] for words, _, _ in sections[0]]
    words = [*SPECIAL, *(word for word in listed if word not in SPECIAL)]
    number = {word: i for i, word in enumerate(words)}
    single = {word[0]: values for word, *values in sections[0]}
    unigrams = np.array([single.get(word, (NEVER, 0.0)) for word in words])
    contexts: list[Ints] = []
    last: list[Ints] = []
    logprobs, backoffs = [unigrams[:, 0]], [unigrams[:, 1]]
    lowest = 1  # node of the order before
    for order, section in enumerate(sections[1:], 2):
        try:
            ids = np.fromiter(map(number.__getitem__, chain.from_iterable(row[0] for row in section)), np.int64)
        except KeyError as problem:
            raise CheckpointError(f"{path}: a {order}-gram has {problem}, which is no 1-gram.") from problem
        table = ids.reshape(-1, order)
        context = _nodes(table[:, :-1], contexts, last, len(words))
        if (context < lowest).any():
            lost = " ".join(words[i] for i in table[int(np.argmin(context)), :-1])
            raise CheckpointError(f"{path}: {order}-grams begin with '{lost}', which is no {order - 1}-gram.")
        lowest += len(logprobs[-1])
        rank = np.lexsort((table[:, -1], context))
        contexts.append(context[rank])
        last.append(table[rank, -1])
        values = np.array([row[1:] for row in section]).reshape(-1, 2)[rank]
        logprobs.append(values[:, 0])
        backoffs.append(values[:, 1])
    return Ngram(words, contexts, last, logprobs, backoffs[:-1])


def _nodes(table: Ints, contexts: list[Ints], last: list[Ints], size: int) -> Ints:
    """The node of each row of words; 0 or a node of a lower order where it is not there."""
    nodes = 1 + table[:, 0]
    first = 1 + size
    for column, (context, word) in enumerate(zip(contexts, last, strict=True), 1):
        keys, wanted = context * size + word, nodes * size + table[:, column]
        position = np.searchsorted(keys, wanted)
        nodes = np.where(np.append(keys, -1)[position] == wanted, first + position, 0)
        first += len(keys)
    return nodes


def _sections(path: Path) -> list[list[tuple[list[str], float, float]]]:
    """For each order its rows: the words, the natural log-probability, and the natural back-off."""
    sections: list[list[tuple[list[str], float, float]]] = []
    with _open(path, "r") as file:
        try:
            for line in file:
                if line.startswith("\\"):
                    if line.rstrip().endswith("-grams:"):
                        sections.append([])
                elif sections and line.strip():
                    logprob, *words = line.split()
                    backoff = words.pop() if len(words) > len(sections) else "0"
                    sections[-1].append((words, float(logprob) * NATURAL, float(backoff) * NATURAL))
        except (ValueError, UnicodeDecodeError, OSError) as problem:
            raise CheckpointError(f"{path} is no ARPA file: {problem}.") from problem
    return sections
