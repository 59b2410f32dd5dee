"""Continuations as a tree, by hand."""

from __future__ import annotations

import numpy as np
import torch

from soundwave.inference.backends.continuation_tree import ContinuationTree, trees

TEXTS = [[5, 6, 7], [5, 6, 8], [5], [], [9, 6], [5, 6, 7]]


def tree_of(texts: list[list[int]]) -> ContinuationTree:
    tree = ContinuationTree()
    for number, text in enumerate(texts):
        tree.add(number, text)
    return tree


def test_what_texts_begin_with_is_one_path() -> None:
    tree = tree_of(TEXTS)
    assert tree.tokens == [5, 6, 7, 8, 9, 6]
    assert tree.parents == [-1, 0, 1, 1, -1, 4]
    assert tree.depths == [0, 1, 2, 2, 0, 1]
    assert tree.paths == {0: [0, 1, 2], 1: [0, 1, 3], 2: [0], 3: [], 4: [4, 5], 5: [0, 1, 2]}
    assert tree.read == [0, 1, 4]  # nothing follows the others
    assert tree.ancestors().tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    assert not tree.is_chain
    assert tree_of([[5, 6, 7], [5, 6]]).is_chain


def test_totals_add_up_what_each_parent_says_of_its_children() -> None:
    tree, logprobs = tree_of(TEXTS), np.zeros(6)
    after_prompt, after_5, after_6, after_9 = (torch.full((12,), -9.0) for _ in range(4))
    shares = [(after_prompt, 5, 1 / 2), (after_prompt, 9, 1 / 4), (after_5, 6, 1 / 2), (after_6, 7, 1 / 8)]
    for scores, token, share in [*shares, (after_6, 8, 1 / 4), (after_9, 6, 1 / 16)]:
        scores[token] = np.log(share)
    for scores in (after_prompt, after_5, after_6, after_9):
        scores[0] = (1 - (scores.exp().sum() - scores[0].exp())).log()  # the rest: a distribution
    tree.fill(logprobs, after_prompt[None], [-1])
    tree.fill(logprobs, torch.stack([after_5, after_6, after_9]), tree.read)
    totals = {number: round(float(np.exp(total)), 6) for number, total in tree.totals(logprobs).items()}
    assert totals == {0: 1 / 32, 1: 1 / 16, 2: 0.5, 3: 1.0, 4: 1 / 64, 5: 1 / 32}


def test_trees_are_bounded_and_hold_every_text_once() -> None:
    for most, count in ((100, 1), (4, 2), (3, 3), (0, 6)):
        made = list(trees(TEXTS, most))
        assert sorted(number for tree in made for number in tree.paths) == list(range(6))
        assert len(made) == count
        assert all(tree.is_chain if not most else len(tree.tokens) <= most for tree in made)
    assert list(trees([], 100)) == []
