"""Forced alignment: the likeliest path through all spellings of a text, as by trying every path."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundwave.ctc.align import WILDCARD, WILDCARD_COST, LikelyClasses, Speller, Token, align, emissions_of

PIECES = [" ", "a", "l", " a", "al", "ll", " al", "b", "'", ""]
BLANK = PIECES.index("")


def logprobs_of(frames: int, seed: int, classes: int = len(PIECES)) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, classes)) * 3
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def aligned(words: list[str], logprobs: np.ndarray) -> list[list[Token]] | None:
    lattice = Speller(PIECES).lattice(words)
    return align(emissions_of(logprobs, lattice), logprobs[:, BLANK], lattice)


def spellings(text: str) -> list[list[int]]:
    """All ways to make up a text, "" being nothing, from the pieces."""
    if not text:
        return [[]]
    return [
        [number, *rest]
        for number, piece in enumerate(PIECES) if piece and text.startswith(piece)
        for rest in spellings(text[len(piece) :])
    ]


def collapsed(path: tuple[int, ...]) -> list[int]:
    kept = [one for i, one in enumerate(path) if i == 0 or one != path[i - 1]]
    return [one for one in kept if one != BLANK]


def best_of_every_path(words: list[str], logprobs: np.ndarray) -> float:
    """The log-probability of the likeliest of all paths that spell the words, whatever they are."""
    text = " ".join(words)
    wanted = spellings(" " + text) + spellings(text)
    return max(
        (
            float(logprobs[range(len(logprobs)), path].sum())
            for path in product(range(len(PIECES)), repeat=len(logprobs)) if collapsed(path) in wanted
        ),
        default=-np.inf,
    )


def best_by_plain_sums(words: list[str], logprobs: np.ndarray) -> float:
    """The same, spelling by spelling with CTC's own lattice of blanks and classes."""
    text = " ".join(words)
    best = -np.inf
    for classes in spellings(" " + text) + spellings(text):
        states = [BLANK, *(state for one in classes for state in (one, BLANK))]
        scores = [0.0] + [-np.inf] * (len(states) - 1)  # before the first frame
        entered = False
        for frame in logprobs:
            new = []
            for i, state in enumerate(states):
                ways = [scores[i]] if entered or i == 0 else []
                ways += [scores[i - 1]] if i >= 1 else []
                ways += [scores[i - 2]] if i >= 2 and state not in (BLANK, states[i - 2]) else []
                new.append(max(ways, default=-np.inf) + frame[state])
            scores, entered = new, True
        best = max(best, *scores[-2:])
    return best


def score_of(tokens: list[list[Token]], logprobs: np.ndarray) -> float:
    flat = [token for word in tokens for token in word]
    said = {frame for token in flat for frame in range(token.first, token.last)}
    silent = sum(logprobs[frame, BLANK] for frame in range(len(logprobs)) if frame not in said)
    return float(silent + sum(sum(token.logprobs) for token in flat))


@pytest.mark.parametrize("words", [["a"], ["all"], ["a", "a"], ["al", "l"], ["b'l"]])
@pytest.mark.parametrize("frames", [3, 5])
def test_no_path_is_likelier(words: list[str], frames: int) -> None:
    logprobs = logprobs_of(frames, seed=frames)
    tokens, best = aligned(words, logprobs), best_of_every_path(words, logprobs)
    assert (tokens is None) == (best == -np.inf)
    if tokens is not None:
        assert score_of(tokens, logprobs) == pytest.approx(best)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.text("alb'", min_size=1, max_size=4), min_size=1, max_size=3), st.integers(0, 14), st.integers(0, 999)
)
def test_it_is_the_path_of_plain_sums(words: list[str], frames: int, seed: int) -> None:
    logprobs = logprobs_of(frames, seed)
    tokens, best = aligned(words, logprobs), best_by_plain_sums(words, logprobs)
    if tokens is None:
        assert best == -np.inf
        return
    assert score_of(tokens, logprobs) == pytest.approx(best)
    flat = [token for word in tokens for token in word]
    assert all(one.last <= other.first for one, other in pairwise(flat)), "tokens overlap"
    for word, pieces in zip(words, tokens, strict=True):
        assert "".join(PIECES[token.ctc_class] for token in pieces).strip() == word
        assert sum(token.letters for token in pieces) == len(word)
        for token in pieces:
            assert token.logprobs == pytest.approx(logprobs[token.first : token.last, token.ctc_class])


def certain(classes: list[int]) -> np.ndarray:
    """(frames, classes) log-probabilities where each frame has one class at 0.9."""
    probabilities = np.full((len(classes), len(PIECES)), 0.1 / (len(PIECES) - 1))
    probabilities[range(len(classes)), classes] = 0.9
    return np.log(probabilities)


def test_a_word_is_where_its_pieces_are() -> None:
    a, l_, b = PIECES.index(" a"), PIECES.index("l"), PIECES.index("b")
    tokens = aligned(["all", "ab"], certain([BLANK, a, l_, BLANK, l_, BLANK, a, a, BLANK, b, BLANK]))
    assert tokens is not None
    assert [[(token.first, token.last) for token in word] for word in tokens] == [
        [(1, 2), (2, 3), (4, 5)], [(6, 8), (9, 10)]
    ]


def test_capitals_accents_and_marks_do_not_matter() -> None:
    logprobs = logprobs_of(12, seed=3)
    assert aligned(["Àll,", "“Ab!”"], logprobs) == aligned(["all", "ab"], logprobs)


def test_a_hyphen_may_be_a_pause_between_two_words_or_nothing() -> None:
    a, l_ = PIECES.index(" a"), PIECES.index("l")
    for classes in ([a, BLANK, a, l_], [a, BLANK, PIECES.index("a"), l_]):
        (tokens,) = aligned(["a-al"], certain(classes)) or [[]]
        assert [token.ctc_class for token in tokens] == [one for one in classes if one != BLANK]


def test_a_word_that_no_piece_spells_gets_what_lies_between_its_neighbours() -> None:
    a, l_, b = PIECES.index(" a"), PIECES.index(" al"), PIECES.index("b")
    tokens = aligned(["a", "42", "al"], certain([BLANK, a, BLANK, b, BLANK, b, BLANK, l_]))
    assert tokens is not None
    assert [(word[0].first, word[-1].last) for word in tokens] == [(1, 2), (3, 6), (7, 8)]
    assert tokens[1][0].ctc_class == WILDCARD
    assert tokens[1][0].logprobs == pytest.approx([np.log(0.9) - WILDCARD_COST] * 3)


def test_of_a_word_that_is_spelt_in_part_the_letters_count() -> None:
    tokens = aligned(["a2b"], certain([PIECES.index(" a"), BLANK, PIECES.index("b")]))
    assert tokens is not None
    assert [(token.first, token.letters) for token in tokens[0]] == [(0, 1), (2, 1)]


def test_too_few_frames_have_no_path() -> None:
    assert aligned(["a", "a", "a"], logprobs_of(3, seed=0)) is None, "a blank must part two equal pieces"
    assert aligned(["a"], logprobs_of(0, seed=0)) is None
    assert aligned([], logprobs_of(4, seed=0)) == []


def test_the_likeliest_classes_alone_give_the_same_path() -> None:
    words, logprobs = ["all", "a", "ball"], certain([3, 9, 2, 9, 2, 9, 3, 9, 0, 7, 4, 9, 2])
    lattice = Speller(PIECES).lattice(words)
    classes = np.argsort(-logprobs, axis=1, kind="stable")[:, :5]
    values = np.take_along_axis(logprobs, classes, 1).astype(np.float32)
    likely = LikelyClasses(values, classes, logprobs[:, BLANK].astype(np.float32))
    kept = align(emissions_of(likely, lattice), likely.blank.astype(np.float64), lattice)
    whole = aligned(words, logprobs)
    assert kept is not None
    assert whole is not None
    assert [[(t.ctc_class, t.first, t.last) for t in word] for word in kept] == [
        [(t.ctc_class, t.first, t.last) for t in word] for word in whole
    ]


def test_a_class_that_was_not_kept_counts_as_the_smallest_that_was() -> None:
    likely = LikelyClasses(
        np.array([[-0.1, -3.0], [-0.5, -1.0]], np.float32), np.array([[4, 2], [2, 0]]), np.zeros(2, np.float32)
    )
    assert likely.of(np.array([2, 7, 4])) == pytest.approx(np.array([[-3.0, -3.0, -0.1], [-0.5, -1.0, -1.0]]))
