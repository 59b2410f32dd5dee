"""Shrinking as pure functions: CTC decisions to runs, runs to kept frames (paper section 3.2).

A run is a maximal stretch of valid frames with the same CTC decision. Frames beyond a clip's end (`valid` False) are
in no run. Nothing here knows modules, weights or text.
"""

# B clips, T frames, S kept positions, D width, C classes

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from soundwave.configuration import BlankHandling, RunPooling

Merges = dict[tuple[int, int], tuple[int, int]]  # (left, right) LLM tokens to (rank, merged token)


@dataclass(frozen=True)
class Runs:
    """The runs that are kept, padded to the longest clip of the batch.

    Attributes:
        classes: (B, S) the CTC class of each kept run.
        start: (B, S) first frame of the run; for the pooled blank the first blank frame.
        end: (B, S) one past its last frame.
        mask: (B, S) True where the position exists.
        of_frame: (B, T) the kept position that each frame belongs to, -1 where its run was dropped.
    """

    classes: Tensor
    start: Tensor
    end: Tensor
    mask: Tensor
    of_frame: Tensor


def keep_first(path: Tensor, valid: Tensor) -> Tensor:
    """(B, T) True on the first frame of every run: where the decision differs from the frame before."""
    changed = torch.ones_like(valid)
    changed[:, 1:] = path[:, 1:] != path[:, :-1]
    return changed & valid


def find_runs(path: Tensor, valid: Tensor, blank: int, blanks: BlankHandling) -> Runs:
    """Splits greedy CTC decisions into kept runs.

    Args:
        path: (B, T) class per frame.
        valid: (B, T) True for frames of the clip; valid frames come first.
        blank: class of the blank.
        blanks: `one_per_run`, `drop`, or `pool` (one position for all blanks, after the tokens; a clip without any
            blank frame has none).
    """
    first = keep_first(path, valid)
    run_of_frame = torch.where(valid, first.cumsum(1) - 1, -1)  # (B, T)
    is_blank = (path == blank) & valid
    if blanks == "one_per_run":
        position = run_of_frame
    else:
        token_first = first & ~is_blank
        position = torch.where(is_blank | ~valid, -1, token_first.cumsum(1) - 1)
        if blanks == "pool":
            after_tokens = token_first.sum(1, keepdim=True).expand_as(position)
            position = torch.where(is_blank, after_tokens, position)
    return _runs_of_positions(path, position)


def _runs_of_positions(path: Tensor, position: Tensor, at_least: int = 0) -> Runs:
    batch, frames = path.shape
    count = position.max(1).values + 1 if frames else torch.zeros(batch, dtype=torch.long, device=path.device)
    longest = max(at_least, int(count.max()) if batch else 0)
    slot = torch.where(position < 0, longest, position)  # frames of dropped runs go to a slot that is cut off
    index = torch.arange(frames, device=path.device).expand_as(path)
    empty = path.new_zeros(batch, longest + 1)
    start = (empty + frames).scatter_reduce(1, slot, index, "amin")[:, :longest]
    end = empty.scatter_reduce(1, slot, index + 1, "amax")[:, :longest]
    classes = empty.scatter_reduce(1, slot, path, "amax", include_self=False)[:, :longest]
    mask = torch.arange(longest, device=path.device).expand(batch, -1) < count[:, None]
    return Runs(classes, torch.where(mask, start, 0), torch.where(mask, end, 0), mask, position)


def merge_runs(runs: Runs, tokens: Tensor, merges: Merges) -> tuple[Runs, Tensor, Tensor]:
    """Joins neighbouring runs whose tokens the LLM's own BPE would merge: " know" and "n" become " known".

    Args:
        runs: without blanks between tokens (`drop` or `pool`).
        tokens: (B, S) the LLM token of each run, -1 for the pooled blank.
        merges: (left, right) token ids to (rank, merged id).

    Returns:
        The joined runs, their tokens (B, S'), and how many runs each was made of (B, S').
    """
    rows = [
        merge_tokens([token for token, exists in zip(row, mask, strict=True) if exists], merges)
        for row, mask in zip(tokens.tolist(), runs.mask.tolist(), strict=True)
    ]
    longest = max((len(row) for row in rows), default=0)
    if not any(count > 1 for row in rows for _, count in row):
        return runs, tokens, runs.mask.long()
    position, joined, size = [], [], []
    for row in rows:
        blanks = longest - len(row)
        position.append([new for new, (_, count) in enumerate(row) for _ in range(count)])
        joined.append([token for token, _ in row] + [-1] * blanks)
        size.append([count for _, count in row] + [0] * blanks)
    old = [row + [-1] * (runs.mask.shape[1] + 1 - len(row)) for row in position]  # one more: frames of no run
    device = tokens.device
    of_frame = torch.tensor(old, device=device).gather(1, runs.of_frame.remainder(runs.mask.shape[1] + 1))
    merged = _runs_of_positions(torch.zeros_like(of_frame), of_frame, longest)
    return merged, torch.tensor(joined, device=device), torch.tensor(size, device=device)


def merge_tokens(tokens: list[int], merges: Merges) -> list[tuple[int, int]]:
    """BPE that goes on from tokens: (token, how many it was made of); the lowest rank first, from the left.

    >>> merge_tokens([5, 6, 7], {(5, 6): (0, 8), (8, 7): (1, 9)})
    [(9, 3)]
    """
    row = [(token, 1) for token in tokens]
    while True:
        pairs = [merges.get((left, right)) for (left, _), (right, _) in itertools.pairwise(row)]
        best = min((pair for pair in pairs if pair is not None), default=None)
        if best is None:
            return row
        at = pairs.index(best)
        row[at : at + 2] = [(best[1], row[at][1] + row[at + 1][1])]


def pool_runs(values: Tensor, path_score: Tensor, runs: Runs, pooling: RunPooling) -> Tensor:
    """(B, T, D) values to one row per kept run, (B, S, D); zeros where the mask is False.

    Args:
        values: per-frame vectors.
        path_score: (B, T) the score of each frame's own decision; `peak` takes the frame where it is highest.
        runs: from `find_runs`.
        pooling: `first`, `peak` or `mean`.
    """
    longest = runs.mask.shape[1]
    slot = torch.where(runs.of_frame < 0, longest, runs.of_frame)
    if pooling == "mean":
        total = values.new_zeros(values.shape[0], longest + 1, values.shape[2])
        total = total.scatter_add(1, slot[:, :, None].expand_as(values), values)[:, :longest]
        size = torch.zeros_like(slot, dtype=values.dtype).new_zeros(values.shape[0], longest + 1)
        size = size.scatter_add(1, slot, torch.ones_like(slot, dtype=values.dtype))[:, :longest]
        return total / size.clamp(min=1)[:, :, None]
    frame = runs.start if pooling == "first" else _peak_frames(path_score, runs, slot)
    picked = values.gather(1, frame[:, :, None].expand(-1, -1, values.shape[2]))
    return picked * runs.mask[:, :, None]


def _peak_frames(score: Tensor, runs: Runs, slot: Tensor) -> Tensor:
    longest = runs.mask.shape[1]
    best = score.new_full((score.shape[0], longest + 1), -torch.inf).scatter_reduce(1, slot, score, "amax")
    is_best = score == best.gather(1, slot)
    index = torch.arange(score.shape[1], device=score.device).expand_as(slot)
    index = torch.where(is_best, index, score.shape[1])  # ties: the first
    first_best = index.new_full((score.shape[0], longest + 1), score.shape[1]).scatter_reduce(1, slot, index, "amin")
    return torch.where(runs.mask, first_best[:, :longest], 0)


def collapse(path: list[int], blank: int) -> list[int]:
    """Greedy CTC: equal neighbours merged, blanks removed. The slow, obvious reference for token runs."""
    return [token for i, token in enumerate(path) if token != blank and (i == 0 or token != path[i - 1])]
