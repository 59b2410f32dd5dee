"""CTC prefix scores against every path written out, and against torch's own CTC loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from soundwave.inference.ctc_prefix import Prefixes, empty_prefix, extend, next_begins
from soundwave.model.shrink import collapse

FRAMES, CLASSES = 5, 4
BLANK = 3


def scores() -> torch.Tensor:
    drawn = torch.randn(FRAMES, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (2 * drawn).log_softmax(-1)


def after(tokens: list[int]) -> Prefixes:
    prefixes = empty_prefix(scores(), BLANK)
    for token in tokens:
        prefixes = extend(scores(), prefixes, torch.tensor([token]), BLANK)
    return prefixes


def written_out(tokens: list[int], whole: bool) -> float:
    """The probability of all paths that say the tokens, and nothing more where `whole`."""
    total = 0.0
    for path in itertools.product(range(CLASSES), repeat=FRAMES):
        said = collapse(list(path), BLANK)
        if said == tokens if whole else said[: len(tokens)] == tokens:
            total += math.exp(sum(scores()[frame, one].item() for frame, one in enumerate(path)))
    return math.log(total) if total else -math.inf


@pytest.mark.parametrize("tokens", [[], [0], [2], [0, 1], [1, 1], [0, 0, 0], [2, 1, 2, 1]])
def test_a_prefix_has_the_probability_of_all_its_paths(tokens: list[int]) -> None:
    prefixes = after(tokens)
    assert prefixes.begins.item() == pytest.approx(written_out(tokens, whole=False), abs=1e-9)
    assert prefixes.whole().item() == pytest.approx(written_out(tokens, whole=True), abs=1e-9)


def test_the_whole_is_torchs_ctc_loss() -> None:
    tokens = [2, 0, 2]
    loss = F.ctc_loss(
        scores()[:, None], torch.tensor(tokens), torch.tensor([FRAMES]), torch.tensor([3]), blank=BLANK, reduction="sum"
    )
    assert after(tokens).whole().item() == pytest.approx(-loss.item(), abs=1e-9)


def test_what_does_not_fit_the_frames_is_as_good_as_impossible() -> None:
    assert after([0, 0, 0, 0]).whole().item() < -1e20  # it needs a blank between each: seven frames


def test_prefixes_grow_together_as_they_do_alone() -> None:
    together = extend(scores(), after([0]).pick(torch.tensor([0, 0, 0])), torch.tensor([0, 1, 2]), BLANK)
    for i in range(3):
        assert together.begins[i].item() == pytest.approx(after([0, i]).begins.item(), abs=1e-12)


def test_the_next_classes_are_scored_without_growing_the_prefix() -> None:
    following = next_begins(scores(), after([1]))[0]
    for token in (0, 2):
        assert following[token].item() == pytest.approx(after([1, token]).begins.item(), abs=1e-9)
    assert following[1].item() >= after([1, 1]).begins.item()  # a bound where a blank must lie between


def test_long_recordings_stay_finite() -> None:
    long = torch.randn(750, 251, generator=torch.Generator().manual_seed(1), dtype=torch.float64).mul(8).log_softmax(-1)
    prefixes = empty_prefix(long, 250)
    for token in [3, 3, 7, 200, 3]:
        prefixes = extend(long, prefixes, torch.tensor([token]), 250)
    assert torch.isfinite(prefixes.begins).all()
    assert not torch.isnan(prefixes.token).any()
