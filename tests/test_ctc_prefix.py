"""CTC prefix scores against every path written out, and against torch's own CTC loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from soundwave.inference.ctc_prefix import Prefixes, beginnings, empty_prefix, extend, next_begins, rests
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


WORDS = [[2], [0, 1], [1]]


def joined(words: list[list[int]]) -> list[int]:
    return [one for word in words for one in word]


def test_beginnings_are_the_prefixes_of_the_first_words() -> None:
    for count, prefixes in enumerate(beginnings(scores(), WORDS, BLANK)):
        assert prefixes.begins.item() == pytest.approx(after(joined(WORDS[:count])).begins.item(), abs=1e-9)


@pytest.mark.parametrize("place", range(len(WORDS) + 1))
def test_what_follows_a_frame_has_the_probability_of_all_paths_from_there_on(place: int) -> None:
    rest, wanted = rests(scores(), WORDS, BLANK)[place], joined(WORDS[place:])
    for frame in range(FRAMES + 1):
        paused = spoken = 0.0
        for path in itertools.product(range(CLASSES), repeat=FRAMES - frame):
            if collapse(list(path), BLANK) == wanted:
                chance = math.exp(sum(scores()[frame + at, one].item() for at, one in enumerate(path)))
                paused += chance if not path or path[0] == BLANK else 0.0
                spoken += chance if path and path[0] != BLANK else 0.0
        assert math.exp(rest.blank[frame].item()) == pytest.approx(paused, abs=1e-12)
        assert math.exp(rest.token[frame].item()) == pytest.approx(spoken, abs=1e-12)
        assert math.exp(rest.any()[frame].item()) == pytest.approx(paused + spoken, abs=1e-12)


def test_a_prefix_and_what_follows_it_are_the_whole_wherever_it_is_cut() -> None:
    whole = beginnings(scores(), WORDS, BLANK)[-1].whole().item()
    befores, after_them = beginnings(scores(), WORDS, BLANK)[1:], rests(scores(), WORDS, BLANK)[1:]
    for before, rest, following in zip(befores, after_them, [0, 1, -1], strict=True):
        # between two of one class there is a blank
        joined = rest.blank if before.last.item() == following else rest.any()
        assert torch.logsumexp(before.token[0] + joined[1:], 0).item() == pytest.approx(whole, abs=1e-9)


def test_in_some_frames_alone_a_prefix_forgets_what_was_said_before() -> None:
    before, rest = beginnings(scores(), WORDS, BLANK)[1], rests(scores(), WORDS, BLANK)[1]
    inner = extend(scores()[2:4], before.within(2, 4, BLANK), torch.tensor([0]), BLANK)
    assert inner.token.shape == (1, 2)
    assert inner.token[0, 0] <= torch.tensor(-1e20)  # nothing was said by the frame before the first
    outer = extend(scores()[:4], before.within(0, 4, BLANK), torch.tensor([0]), BLANK)
    assert inner.token[0, 1] < outer.token[0, 3]
    assert torch.equal(rest.within(2, 4).any(), rest.any()[2:5])
    silence = beginnings(scores(), WORDS, BLANK)[0]
    begun = extend(scores()[2:], silence.within(2, FRAMES, BLANK), torch.tensor([2]), BLANK)
    assert begun.token[0, 1].item() == pytest.approx((silence.blank[0, 2] + scores()[3, 2]).item(), abs=1e-9)
