"""Words that could stand in a place: their scores are those of the whole text, and nothing likely is left out."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from soundwave.inference import word_tree
from soundwave.inference.ctc_prefix import beginnings, log_likelihoods, rests
from soundwave.inference.word_tree import WordTree

BLANK, FRAMES = 4, 14
SPELLINGS = {"a": [0], "ab": [0, 1], "abc": [0, 1, 2], "bad": [1, 0, 3], "dad": [3, 0, 3], "cab": [2, 0, 1]}
TEXT = ["cab", "dad", "ab", "bad"]


def logits(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(FRAMES, BLANK + 1, generator=torch.Generator().manual_seed(seed))


def scores(seed: int = 0) -> torch.Tensor:
    return logits(seed).double().log_softmax(-1)


def tree() -> WordTree:
    return WordTree(list(SPELLINGS), list(SPELLINGS.values()))


def found(place: int, ends: list[int], worse: float = 1e9) -> list[dict[tuple[str, ...], float]]:
    words = [SPELLINGS[word] for word in TEXT]
    before, after = beginnings(scores(), words, BLANK), rests(scores(), words, BLANK)
    firsts = [words[end][0] if end < len(words) else -1 for end in ends]
    several = tree().words_between(scores(), before[place], [after[end] for end in ends], firsts, BLANK, worse)
    assert all(len(some) == len({words for _, words in some}) for some in several)
    return [{words: score for score, words in some} for some in several]


@pytest.mark.parametrize("place", range(len(TEXT)))
def test_each_word_and_pair_of_words_has_the_likelihood_of_the_text_with_it(place: int) -> None:
    ends = [end for end in (place + 1, place + 2) if end <= len(TEXT)]
    for end, some in zip(ends, found(place, ends), strict=True):
        for words in (*product(SPELLINGS, repeat=1), *product(SPELLINGS, repeat=2)):
            text = [*TEXT[:place], *words, *TEXT[end:]]
            (expected,) = log_likelihoods(logits(), [[one for each in text for one in SPELLINGS[each]]], BLANK)
            fits = expected > -torch.inf  # else there are too few frames
            score = some.get(words, -1e30)
            assert score == pytest.approx(expected, abs=1e-4) if fits else score < -1e20


def test_a_beginning_that_the_recording_does_not_bear_out_is_left() -> None:
    (everything,), (few,) = found(1, [2]), found(1, [2], worse=1.0)
    assert 0 < len(few) < len(everything)
    assert few.items() <= everything.items()


def test_no_more_beginnings_are_followed_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tree, "BEGINNINGS", 1)
    (few,) = found(1, [2])
    assert len({words[0][0] for words in few}) == 1


def test_of_words_spelt_alike_the_first_is_kept_and_what_cannot_be_spelt_is_nowhere() -> None:
    alike = WordTree(["two", "too", "2"], [[0], [0], []])
    assert [alike.words[end] for end in alike.ends.tolist() if end != word_tree.NONE] == ["two"]


def test_a_tree_without_words_proposes_none() -> None:
    words = [SPELLINGS[word] for word in TEXT]
    before, after = beginnings(scores(), words, BLANK), rests(scores(), words, BLANK)
    assert WordTree([], []).words_between(scores(), before[0], after[1:2], [3], BLANK, 9.0) == [[]]
