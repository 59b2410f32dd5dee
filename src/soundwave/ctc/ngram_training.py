"""Counts an n-gram on sentences: interpolated modified Kneser-Ney (Chen and Goodman 1998), then entropy pruning.

All n-grams of an order are one array; nothing loops over n-grams. Knows nothing about files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soundwave.ctc.ngram import END, NEVER, SPECIAL, START, Floats, Ints, Ngram
from soundwave.errors import ConfigurationError

MOST_ORDER = 6


@dataclass
class _Order:
    """The distinct n-grams of one order, sorted by (context, last word)."""

    contexts: Ints  # number of the n-gram without its last word, among those of the order below
    last: Ints
    shorter: Ints  # number of the n-gram without its first word, among those of the order below
    counts: Ints  # occurrences
    logprobs: Floats


def train_ngram(
    sentences: Sequence[Sequence[str]], order: int = 3, prune: float = 0.0, least: int = 2, known: Sequence[str] = ()
) -> Ngram:
    """A model of sentences.

    Args:
        sentences: their words.
        order: words of the longest n-gram.
        prune: n-grams are left out that raise the perplexity by less than this share each (Stolcke 1998); 0 keeps all.
        least: words that occur less often count as `<unk>`.
        known: words that the model has however often they occur.

    Raises:
        ConfigurationError: `order`, `prune` or `least` is out of range, or there are no sentences.
    """
    for name, value, bottom, top in (
        ("order", order, 1, MOST_ORDER),
        ("prune", prune, 0, 1),
        ("least", least, 1, 10**6),
    ):
        if not bottom <= value <= top:
            raise ConfigurationError(f"{name} is {value}; it must be from {bottom} to {top}.")
    counts = Counter(word for sentence in sentences for word in sentence)
    frequent = {word for word in counts if counts[word] >= least}
    kept = sorted(frequent | set(known), key=lambda word: (-counts[word], word))
    words = [*SPECIAL, *(word for word in kept if word not in SPECIAL)]
    if len(words) == len(SPECIAL):
        raise ConfigurationError(f"No word occurs {least} times in the texts; give more text, or a smaller `least`.")
    orders = _count(sentences, words, order)
    _smooth(orders, len(words))
    keep = _pruned(orders, prune)
    return _assembled(words, orders, keep)


def _count(sentences: Sequence[Sequence[str]], words: Sequence[str], order: int) -> list[_Order]:
    number = {word: i for i, word in enumerate(words)}
    start, end = SPECIAL.index(START), SPECIAL.index(END)
    lengths = np.fromiter((len(sentence) + 2 for sentence in sentences), np.int64)
    ids = (i for sentence in sentences for i in (start, *(number.get(word, 0) for word in sentence), end))
    tokens = np.fromiter(ids, np.int64, int(lengths.sum()))
    position = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # in its sentence
    size = len(words)
    everything = np.arange(size)
    orders = [
        _Order(
            np.zeros(size, np.int64),
            everything,
            np.zeros(size, np.int64),
            np.bincount(tokens, minlength=size),
            np.zeros(size),
        )
    ]
    ends_in = tokens  # the n-gram of the order below that ends at each token
    for n in range(2, order + 1):
        places = np.flatnonzero(position >= n - 1)
        keys, members, counts = np.unique(
            ends_in[places - 1] * size + tokens[places], return_inverse=True, return_counts=True
        )
        shorter = np.zeros(len(keys), np.int64)
        shorter[members] = ends_in[places]
        contexts, last = np.divmod(keys, size)
        orders.append(_Order(contexts, last, shorter, counts, np.zeros(len(keys))))
        ends_in = np.full(len(tokens), -1)
        ends_in[places] = members
    return orders


def _smooth(orders: Sequence[_Order], size: int) -> None:
    """Fills in the probabilities, from single words on."""
    start = SPECIAL.index(START)
    first = np.arange(size)  # the first word of each n-gram
    for n, own in enumerate(orders, 1):
        if n > 1:
            first = first[own.contexts]
        adjusted = own.counts.astype(np.float64)
        if n < len(orders):  # in how many contexts it occurs; what begins a sentence has none before it
            longer = np.bincount(orders[n].shorter, minlength=len(own.counts))
            adjusted = np.where(first == start, adjusted, longer)
        if n == 1:
            adjusted[start] = 0
        discounts = _discounts(adjusted)[np.minimum(adjusted, 3).astype(int)]
        groups = len(orders[n - 2].counts) if n > 1 else 1
        totals = np.bincount(own.contexts, adjusted, groups)[own.contexts]
        freed = np.bincount(own.contexts, discounts, groups)[own.contexts]
        lower = np.exp(orders[n - 2].logprobs[own.shorter]) if n > 1 else np.full(size, 1 / (size - 1))
        with np.errstate(divide="ignore"):
            own.logprobs[:] = np.log((adjusted - discounts + freed * lower) / totals)
        if n == 1:
            own.logprobs[start] = NEVER


def _discounts(counts: Floats) -> Floats:
    """What is taken off n-grams seen 0, 1, 2, and 3 or more times."""
    seen = [int((counts == n).sum()) for n in range(1, 5)]
    share = seen[0] / max(seen[0] + 2 * seen[1], 1)
    taken = [n - (n + 1) * share * seen[n] / max(seen[n - 1], 1) for n in (1, 2, 3)]
    return np.array([0.0, *np.clip(taken, 0.05, [0.95, 1.9, 2.85])])


def _pruned(orders: Sequence[_Order], threshold: float) -> list[np.ndarray]:
    """Which n-grams of each order stay."""
    keep = [np.ones(len(own.counts), bool) for own in orders]
    total = orders[0].counts.sum()
    for n in range(len(orders), 1, -1):
        if not threshold:
            break
        own, below = orders[n - 1], orders[n - 2]
        logprob, lower = own.logprobs, below.logprobs[own.shorter]
        size = len(below.counts)
        free = np.maximum(1 - np.bincount(own.contexts, np.exp(logprob), size), 1e-9)[own.contexts]
        room = np.maximum(1 - np.bincount(own.contexts, np.exp(lower), size), 1e-9)[own.contexts]
        before = np.log(free) - np.log(room)
        after = np.log(free + np.exp(logprob)) - np.log(room + np.exp(lower))
        loss = -(np.exp(logprob) * (lower + after - logprob) + free * (after - before))
        loss *= below.counts[own.contexts] / total
        needed = np.zeros(len(own.counts), bool)  # as the context of an n-gram that stays
        if n < len(orders):
            needed[orders[n].contexts[keep[n]]] = True
        keep[n - 1] = (np.expm1(np.minimum(loss, 50)) >= threshold) | needed
    return keep


def _assembled(words: Sequence[str], orders: Sequence[_Order], keep: Sequence[np.ndarray]) -> Ngram:
    """The model of what stays, with back-off weights by which every context's probabilities sum to 1."""
    nodes = 1 + np.arange(len(words))  # of all n-grams of the order below
    first = 1 + len(words)
    contexts, last = [], []
    for own, kept in zip(orders[1:], keep[1:], strict=True):
        contexts.append(nodes[own.contexts[kept]])
        last.append(own.last[kept])
        nodes = first - 1 + np.cumsum(kept)  # only those of kept n-grams are asked for
        first += int(kept.sum())
    logprobs = [own.logprobs[kept] for own, kept in zip(orders, keep, strict=True)]
    backoffs = [np.zeros(len(values)) for values in logprobs[:-1]]
    for n in range(2, len(orders) + 1):
        model = Ngram(words, contexts[: n - 1], last[: n - 1], logprobs[:n], backoffs[: n - 1])
        base = 1 + sum(len(values) for values in logprobs[: n - 2])
        context = contexts[n - 2]
        lower, _ = model.score(model.shorter[context], last[n - 2])
        size = len(logprobs[n - 2])
        seen = np.bincount(context - base, minlength=size)
        free = 1 - np.bincount(context - base, np.exp(logprobs[n - 1]), size)
        room = 1 - np.bincount(context - base, np.exp(lower), size)
        weight = np.log(np.maximum(free, 1e-9)) - np.log(np.maximum(room, 1e-9))
        backoffs[n - 2] = np.where(seen > 0, weight, 0.0)
    return Ngram(words, contexts, last, logprobs, backoffs)
