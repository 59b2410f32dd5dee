"""Which known words a recording could hold in a given place: a tree of spellings, searched by what CTC heard.

Words that begin alike are scored together, and a beginning that the recording does not bear out is left at once: the
lexicon tree of speech recognisers (Ney et al. 1992), here for one place in a text of which the rest stands.
"""

# N nodes, E edges, F frames, C CTC classes

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from soundwave.inference.ctc_prefix import Prefixes, Rest, extend, next_begins

BEGINNINGS = 200  # that are followed at once
NONE = -1


class WordTree:
    """Words by the CTC classes that spell them.

    Args:
        words: the most common first; of several with one spelling the first is kept.
        spellings: classes of each.
    """

    def __init__(self, words: Sequence[str], spellings: Sequence[Sequence[int]]):
        children: list[dict[int, int]] = [{}]
        ends = [NONE]
        for number, classes in enumerate(spellings):
            node = 0
            for one in classes:
                after = children[node].get(one)
                if after is None:
                    after = children[node][one] = len(children)
                    children.append({})
                    ends.append(NONE)
                node = after
            if node and ends[node] == NONE:
                ends[node] = number
        self.words = list(words)
        self.ends = torch.tensor(ends)  # (N,) the word that is complete there
        edges = torch.tensor([len(found) for found in children])
        self.first_edge = torch.cat([torch.zeros(1, dtype=torch.long), edges.cumsum(0)])  # (N + 1,) of each node
        self.classes = torch.tensor([one for found in children for one in found], dtype=torch.long)  # (E,)
        self.below = torch.tensor([node for found in children for node in found.values()], dtype=torch.long)

    def words_between(
        self, scores: Tensor, before: Prefixes, after: Sequence[Rest], first_classes: Sequence[int], blank: int,
        worse: float,
    ) -> list[list[tuple[float, tuple[str, ...]]]]:
        """What could stand between a prefix and each of several rests: one word, or two.

        Args:
            scores: (F, C) log-probabilities in float64, of the frames around the place.
            before: the prefix (N = 1) in these frames.
            after: what may follow, in these frames and the one after them.
            first_classes: the first class of each rest, -1 for none.
            blank: class of the blank.
            worse: nats that a beginning may lie below the best one of its length.

        Returns:
            Per rest each word or two with the log-probability of prefix, words and rest together, in no order.
        """
        found: list[list[tuple[float, tuple[str, ...]]]] = [[] for _ in after]
        follows = [(rest.any()[1:], rest.blank[1:]) for rest in after]
        nodes, said, prefixes = torch.zeros(1, dtype=torch.long), torch.full((1,), NONE), before
        while len(nodes):
            owners, classes, nodes, said = self._longer(nodes, said)
            if not len(owners):
                break
            rows = _best(next_begins(scores, prefixes)[owners, classes], worse)
            longer = extend(scores, prefixes.pick(owners[rows]), classes[rows], blank)
            kept = _best(longer.begins, worse)
            prefixes, nodes, said = longer.pick(kept), nodes[rows][kept], said[rows][kept]
            ended = (self.ends[nodes] != NONE).nonzero()[:, 0]
            if not len(ended):
                continue
            texts = [
                (self.words[last],) if one == NONE else (self.words[one], self.words[last])
                for one, last in zip(said[ended].tolist(), self.ends[nodes[ended]].tolist(), strict=True)
            ]
            tokens, lasts = prefixes.token[ended], prefixes.last[ended]
            for some, (following, paused), first in zip(found, follows, first_classes, strict=True):
                # after the same class only a blank tells two apart
                joined = torch.where((lasts == first)[:, None], paused, following)
                some += zip(torch.logsumexp(tokens + joined, dim=1).tolist(), texts, strict=True)
        return found

    def _longer(self, nodes: Tensor, said: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All ways to go on from beginnings: the row that each comes from, its class, its node, the word before."""
        again = ((self.ends[nodes] != NONE) & (said == NONE)).nonzero()[:, 0]  # a second word may begin
        rows = torch.cat([torch.arange(len(nodes)), again])
        said = torch.cat([said, self.ends[nodes[again]]])
        nodes = torch.cat([nodes, torch.zeros_like(again)])
        first, count = self.first_edge[nodes], self.first_edge[nodes + 1] - self.first_edge[nodes]
        ends = count.cumsum(0)
        edges = torch.arange(int(ends[-1])) + (first - ends + count).repeat_interleave(count)
        return rows.repeat_interleave(count), self.classes[edges], self.below[edges], said.repeat_interleave(count)


def _best(values: Tensor, worse: float) -> Tensor:
    """The rows of the highest values, at most `BEGINNINGS`, that lie no more than `worse` below the first."""
    best = values.topk(min(BEGINNINGS, len(values)))
    return best.indices[best.values >= best.values[:1] - worse]
