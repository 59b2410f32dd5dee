"""Shrinking by hand: `_` is the blank, letters are decisions, one character a frame of 40 ms."""

from __future__ import annotations

import pytest
import torch

from soundwave.model.shrink import Runs, collapse, find_runs, keep_first, pool_runs

BLANK = 0


def path_of(text: str) -> list[int]:
    return [BLANK if letter == "_" else ord(letter) - ord("a") + 1 for letter in text]


def text_of(classes: list[int]) -> str:
    return "".join("_" if c == BLANK else chr(ord("a") + c - 1) for c in classes)


def batch_of(*texts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) decisions and which of them are real; what lies beyond a clip's end is a misleading `b`."""
    longest = max(len(text) for text in texts)
    path = torch.tensor([path_of(text.ljust(longest, "b")) for text in texts])
    valid = torch.tensor([[i < len(text) for i in range(longest)] for text in texts])
    return path, valid


def runs_of(text: str, blanks: str) -> Runs:
    return find_runs(*batch_of(text), BLANK, blanks)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("aab", "x.x"),
        ("_", "x"),
        ("a", "x"),
        ("aaaa", "x..."),
        ("abab", "xxxx"),
        ("__aa__", "x.x.x."),
        ("a_a", "xxx"),  # the blank parts two equal tokens
        ("_ab_", "xxxx"),
    ],
)
def test_the_first_frame_of_every_run_is_kept(path: str, kept: str) -> None:
    assert ["x" if k else "." for k in keep_first(*batch_of(path))[0]] == list(kept)


@pytest.mark.parametrize(
    ("path", "blanks", "classes", "spans"),
    [
        ("__aab_", "one_per_run", "_ab_", [(0, 2), (2, 4), (4, 5), (5, 6)]),
        ("__aab_", "drop", "ab", [(2, 4), (4, 5)]),
        ("__aab_", "pool", "ab_", [(2, 4), (4, 5), (0, 6)]),  # one position for all blanks, after the tokens
        ("a_a", "one_per_run", "a_a", [(0, 1), (1, 2), (2, 3)]),
        ("a_a", "drop", "aa", [(0, 1), (2, 3)]),
        ("a_a", "pool", "aa_", [(0, 1), (2, 3), (1, 2)]),
        ("aa", "pool", "a", [(0, 2)]),  # no blank frame, no blank position
        ("___", "one_per_run", "_", [(0, 3)]),
        ("___", "drop", "", []),
        ("___", "pool", "_", [(0, 3)]),
    ],
)
def test_runs_and_what_happens_to_blanks(path: str, blanks: str, classes: str, spans: list[tuple[int, int]]) -> None:
    runs = runs_of(path, blanks)
    assert runs.mask.all()
    assert text_of(runs.classes[0].tolist()) == classes
    assert list(zip(runs.start[0].tolist(), runs.end[0].tolist(), strict=True)) == spans


@pytest.mark.parametrize(
    ("path", "blanks", "of_frame"),
    [
        ("__aab_", "one_per_run", [0, 0, 1, 1, 2, 3]),
        ("__aab_", "drop", [-1, -1, 0, 0, 1, -1]),
        ("__aab_", "pool", [2, 2, 0, 0, 1, 2]),
    ],
)
def test_every_frame_knows_its_position(path: str, blanks: str, of_frame: list[int]) -> None:
    assert runs_of(path, blanks).of_frame[0].tolist() == of_frame


# Frame values 10, 20, ... and each frame's own score; `peak` takes the best frame of the run, the first of equals.
SCORES = [0.1, 0.9, 0.3, 0.3, 0.2, 0.5]


@pytest.mark.parametrize(
    ("pooling", "blanks", "values"),
    [
        ("first", "one_per_run", [10, 30, 50, 60]),
        ("peak", "one_per_run", [20, 30, 50, 60]),
        ("mean", "one_per_run", [15, 35, 50, 60]),
        ("first", "drop", [30, 50]),
        ("peak", "drop", [30, 50]),
        ("mean", "drop", [35, 50]),
        ("first", "pool", [30, 50, 10]),
        ("peak", "pool", [30, 50, 20]),
        ("mean", "pool", [35, 50, 30]),  # blanks at 10, 20 and 60
    ],
)
def test_what_stands_for_a_run(pooling: str, blanks: str, values: list[float]) -> None:
    runs = runs_of("__aab_", blanks)
    frames = torch.arange(10.0, 70.0, 10.0)[None, :, None]
    pooled = pool_runs(frames, torch.tensor([SCORES]), runs, pooling)
    assert pooled[0, :, 0].tolist() == values


CLIPS = ["__aab_", "", "bbbb", "_", "ab_b_baa"]


@pytest.mark.parametrize("blanks", ["one_per_run", "drop", "pool"])
@pytest.mark.parametrize("pooling", ["first", "peak", "mean"])
def test_a_ragged_batch_gives_what_each_clip_gives_alone(blanks: str, pooling: str) -> None:
    path, valid = batch_of(*CLIPS)
    draw = torch.Generator().manual_seed(0)
    values, score = torch.randn(*path.shape, 3, generator=draw), torch.randn(path.shape, generator=draw)
    runs = find_runs(path, valid, BLANK, blanks)
    pooled = pool_runs(values, score, runs, pooling)
    for i, clip in enumerate(CLIPS):
        n = len(clip)
        alone = find_runs(path[i : i + 1, :n], valid[i : i + 1, :n], BLANK, blanks)
        count = int(runs.mask[i].sum())
        assert alone.classes[0].tolist() == runs.classes[i, :count].tolist()
        assert alone.start[0].tolist() == runs.start[i, :count].tolist()
        assert alone.end[0].tolist() == runs.end[i, :count].tolist()
        expected = pool_runs(values[i : i + 1, :n], score[i : i + 1, :n], alone, pooling)
        assert torch.allclose(pooled[i, :count], expected[0])
        assert not pooled[i, count:].any()


@pytest.mark.parametrize(("batch", "frames"), [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("blanks", ["one_per_run", "drop", "pool"])
def test_nothing_gives_nothing(batch: int, frames: int, blanks: str) -> None:
    path = torch.zeros(batch, frames, dtype=torch.long)
    runs = find_runs(path, path.bool(), BLANK, blanks)
    assert runs.mask.shape == (batch, 0)
    assert pool_runs(torch.zeros(batch, frames, 4), path.float(), runs, "mean").shape == (batch, 0, 4)


@pytest.mark.parametrize(
    ("path", "tokens"), [("__aab_", "ab"), ("a_a", "aa"), ("___", ""), ("", ""), ("abba", "aba")]
)
def test_greedy_ctc_merges_runs_and_leaves_blanks_out(path: str, tokens: str) -> None:
    assert text_of(collapse(path_of(path), BLANK)) == tokens
    if path:
        runs = runs_of(path, "drop")  # the fast path to the same tokens
        assert text_of(runs.classes[0].tolist()) == tokens
