"""Words of an utterance under way: which stand, and from where on the others are sought."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from soundwave.ctc.stream import AFTER_A_WORD, HeardWord, StandingWords, greedy_words


def words(*heard: tuple[str, int, int]) -> list[HeardWord]:
    return [HeardWord(*one) for one in heard]


def test_a_word_stands_when_it_is_old_and_two_readings_agree() -> None:
    standing = StandingWords(0, age=10)
    assert standing.hear(words(("the", 2, 5), ("cat", 7, 9)), now=16) == words(("the", 2, 5), ("cat", 7, 9))
    assert standing.hear(words(("the", 2, 5), ("cap", 7, 9)), now=20) == words(("cap", 7, 9))  # it was "cat" before
    assert standing.hear(words(("cap", 7, 9)), now=22) == []
    assert [word.text for word in standing.words] == ["the", "cap"]


def test_a_word_of_twice_the_age_stands_whatever_the_reading_before_had() -> None:
    standing = StandingWords(0, age=10)
    assert standing.hear(words(("the", 2, 5)), now=24) == words(("the", 2, 5))
    standing = StandingWords(0, age=10)
    assert standing.hear(words(("the", 2, 5)), now=25) == []


def test_no_word_stands_before_the_one_in_front_of_it() -> None:
    standing = StandingWords(0, age=10)
    standing.hear(words(("a", 2, 5), ("cat", 7, 9)), now=18)
    assert standing.hear(words(("the", 2, 5), ("cat", 7, 9)), now=20) == words(("the", 2, 5), ("cat", 7, 9))
    assert standing.words == []


def test_the_frontier_lies_between_what_stands_and_what_does_not() -> None:
    for following, frontier in ((9, 7), (5, 5), (30, 5 + AFTER_A_WORD)):
        standing = StandingWords(0, age=10)
        standing.hear(words(("the", 2, 5), ("cat", following, following + 2)), now=25)
        assert (len(standing.words), standing.frontier) == (1, frontier)


@given(st.lists(st.tuples(st.lists(st.sampled_from("abc"), max_size=6), st.integers(1, 9)), max_size=20))
def test_words_that_stand_never_change_and_the_frontier_never_goes_back(readings: list[tuple[list[str], int]]) -> None:
    standing, now = StandingWords(3, age=4), 3
    before: Sequence[HeardWord] = []
    for texts, passed in readings:
        now += passed
        frontier = standing.frontier
        room = np.linspace(frontier, now, 2 * len(texts) + 1).astype(int) if texts else []
        found = [HeardWord(text, int(room[2 * i]), int(room[2 * i + 1])) for i, text in enumerate(texts)]
        changing = standing.hear(found, now)
        assert standing.words[: len(before)] == before
        assert [*standing.words[len(before) :], *changing] == found
        assert frontier <= standing.frontier <= now
        before = list(standing.words)


def test_greedy_words_begin_where_their_classes_do() -> None:
    begins = np.array([True, False, True, False])
    scores = np.eye(4)[[3, 1, 1, 2, 3, 3, 1, 0]]  # 3 is blank; the first word has no class that begins one
    assert greedy_words(scores, begins, 3) == [[(1, 1)], [(2, 3), (1, 6)], [(0, 7)]]
    assert greedy_words(np.zeros((0, 4)), begins, 3) == []
