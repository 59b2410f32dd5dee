"""Several continuations of one prompt as a tree: what they begin with alike is read once.

An n best list of 24 transcripts so has about a third of the tokens of its texts.
"""

# N nodes that are read

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

SCORES_AT_ONCE = 32  # positions whose vocabulary is summed in float32 at once


class ContinuationTree:
    """A tree of tokens under a prompt.

    Attributes:
        tokens, parents, depths: of each node; a parent comes before its children, and -1 is the prompt's end.
        paths: the nodes of each continuation, by its number.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.paths: dict[int, list[int]] = {}
        self._children: dict[tuple[int, int], int] = {}

    @property
    def read(self) -> list[int]:
        """Nodes that have children: only these does the LLM read."""
        return sorted(set(self.parents) - {-1})

    @property
    def is_chain(self) -> bool:
        """Whether every node has one child at most."""
        return len(set(self.parents)) == len(self.parents)

    def add(self, number: int, continuation: Sequence[int]) -> None:
        """Adds a continuation; its number is its own."""
        parent, path = -1, []
        for depth, token in enumerate(continuation):
            node = self._children.setdefault((parent, token), len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
            path.append(node)
            parent = node
        self.paths[number] = path

    def missing(self, continuation: Sequence[int]) -> int:
        """Nodes that `add` would make."""
        parent = -1
        for depth, token in enumerate(continuation):
            if (parent, token) not in self._children:
                return len(continuation) - depth
            parent = self._children[parent, token]
        return 0

    def ancestors(self) -> np.ndarray:
        """(N, N) True where a node that is read sees another: itself and those above it."""
        place = {node: i for i, node in enumerate(self.read)}
        sees = np.eye(len(place), dtype=bool)
        for node, i in place.items():
            if self.parents[node] != -1:
                sees[i] |= sees[place[self.parents[node]]]
        return sees

    def fill(self, logprobs: np.ndarray, scores: Tensor, parents: Sequence[int]) -> None:
        """Writes the log-probability of each node under these parents.

        Args:
            logprobs: (nodes,) written to.
            scores: (parents, V) logits of what follows each parent.
            parents: nodes, or -1.
        """
        place = {parent: i for i, parent in enumerate(parents)}
        nodes = [node for node, parent in enumerate(self.parents) if parent in place]
        rows = torch.tensor([place[self.parents[node]] for node in nodes], device=scores.device)
        tokens = torch.tensor([self.tokens[node] for node in nodes], device=scores.device)
        sums = torch.cat([part.float().logsumexp(-1) for part in scores.split(SCORES_AT_ONCE)])
        if nodes:
            logprobs[nodes] = (scores[rows, tokens].float() - sums[rows]).cpu().numpy()

    def totals(self, logprobs: np.ndarray) -> dict[int, float]:
        """The log-probability of each continuation, by its number."""
        return {number: float(logprobs[path].sum()) for number, path in self.paths.items()}


def trees(continuations: Sequence[list[int]], most: int) -> Iterator[ContinuationTree]:
    """Trees of all continuations, those that begin alike together.

    Args:
        continuations: token ids.
        most: nodes of one tree; a continuation that is longer has a tree of its own; 0: each has.
    """
    tree = ContinuationTree()
    for number in sorted(range(len(continuations)), key=lambda i: continuations[i]):
        if tree.paths and len(tree.tokens) + tree.missing(continuations[number]) > most:
            yield tree
            tree = ContinuationTree()
        tree.add(number, continuations[number])
    if tree.paths:
        yield tree
