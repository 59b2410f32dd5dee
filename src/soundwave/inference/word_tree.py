"""Which known words a recording could hold in a given place: a tree of spellings, searched by what CTC heard.

Words that begin alike are scored together, and a beginning that the recording does not bear out is left at once: the
lexicon tree of speech recognisers (Ney et al. 1992), here for one place in a text of which the rest stands.
"""

# N nodes, F frames, C CTC classes

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from soundwave.inference.ctc_prefix import Prefixes, Rest, extend

NODES = 200  # beginnings that are followed at once


class WordTree:
    """Words by the CTC classes that spell them.

    Args:
        words: the most common first; of several with one spelling the first is kept.
        spellings: classes of each.
    """

    def __init__(self, words: Sequence[str], spellings: Sequence[Sequence[int]]):
        children: list[dict[int, int]] = [{}]
        ends = [""]
        for word, classes in zip(words, spellings, strict=True):
            node = 0
            for one in classes:
                after = children[node].get(one)
                if after is None:
                    after = children[node][one] = len(children)
                    children.append({})
                    ends.append("")
                node = after
            if node and not ends[node]:
                ends[node] = word
        leaf: tuple[list[int], list[int]] = ([], [])
        self.children = [(list(found), list(found.values())) if found else leaf for found in children]
        self.ends = ends

    def words_between(
        self, scores: Tensor, before: Prefixes, after: Sequence[Rest], first_classes: Sequence[int], blank: int,
        worse: float,
    ) -> list[list[tuple[float, str]]]:
        """Words that could stand between a prefix and each of several rests.

        Args:
            scores: (F, C) log-probabilities in float64, of the frames around the place.
            before: the prefix (N = 1) in these frames.
            after: what may follow, in these frames and the one after them.
            first_classes: the first class of each rest, -1 for none.
            blank: class of the blank.
            worse: nats that a beginning may lie below the best one of its length.

        Returns:
            Per rest each word with the log-probability of prefix, word and rest together, in no order.
        """
        found: list[list[tuple[float, str]]] = [[] for _ in after]
        follows = [(rest.any()[1:], rest.blank[1:]) for rest in after]
        nodes, prefixes = [0], before
        while nodes:
            owners = [row for row, node in enumerate(nodes) for _ in self.children[node][0]]
            classes = [one for node in nodes for one in self.children[node][0]]
            below = [one for node in nodes for one in self.children[node][1]]
            if not classes:
                break
            longer = extend(scores, prefixes.pick(torch.tensor(owners)), torch.tensor(classes), blank)
            best = longer.begins.topk(min(NODES, len(classes)))
            rows = best.indices[best.values > best.values[0] - worse]
            prefixes, nodes = longer.pick(rows), [below[row] for row in rows.tolist()]
            ended = [row for row, node in enumerate(nodes) if self.ends[node]]
            if not ended:
                continue
            tokens, lasts = prefixes.token[ended], prefixes.last[ended]
            for words, (following, paused), first in zip(found, follows, first_classes, strict=True):
                # after the same class only a blank tells two apart
                joined = torch.where((lasts == first)[:, None], paused, following)
                totals = torch.logsumexp(tokens + joined, dim=1).tolist()
                words += [(total, self.ends[nodes[row]]) for total, row in zip(totals, ended, strict=True)]
        return found
