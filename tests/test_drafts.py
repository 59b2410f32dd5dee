"""Drafts: what an LLM says behind a wrong word mends them, and no more passes are needed than tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundwave.inference.backends.speculative import Drafter

END, MARK = 0, 1


def passes(draft: Sequence[int], answer: list[int], likely_after: Callable[[list[int]], int]) -> int:
    """How often an LLM is called that writes `answer`, and would write `likely_after` behind anything else."""
    drafter, written, count = Drafter(draft), [], 0
    while written != answer:
        run = drafter.propose(len(answer) - len(written) - 1)
        likely = [likely_after([*written, *run[:i]]) for i in range(len(run) + 1)]
        right = next((i for i, token in enumerate(run) if token != answer[len(written) + i]), len(run))
        drafter.checked(run, answer[len(written) : len(written) + right + 1], likely)
        written = answer[: len(written) + right + 1]
        count += 1
    return count


def with_marks(words: Sequence[int], every: int) -> list[int]:
    made: list[int] = []
    for i, word in enumerate(words):
        made += [MARK, word] if i and i % every == 0 else [word]
    return [*made, END]


def marking(every: int, words: Sequence[int]) -> Callable[[list[int]], int]:
    """An LLM that writes words with marks between, and knows its place by the words before it."""
    def likely(before: list[int]) -> int:
        said = [token for token in before if token != MARK]
        if len(said) >= len(words):
            return END
        wants_mark = bool(said) and len(said) % every == 0 and before[-1] != MARK
        return MARK if wants_mark else words[len(said)]

    return likely


def test_one_pass_shows_where_all_the_marks_are_missing() -> None:
    words = list(range(10, 34))
    assert passes([*words, END], with_marks(words, 4), marking(4, words)) == 2


def test_a_right_draft_takes_one_pass_and_none_takes_one_a_token() -> None:
    words = list(range(10, 30))
    assert passes(with_marks(words, 5), with_marks(words, 5), marking(5, words)) == 1
    assert passes([], with_marks(words, 5), marking(5, words)) == len(with_marks(words, 5))


def test_words_that_the_llm_leaves_out_further_on_are_not_proposed_again() -> None:
    words = list(range(10, 30))
    draft = [10, 11, 99, *words[2:8], 98, 97, *words[8:], END]
    # behind a word that it did not write, this LLM goes on as if it had not been there
    likely = marking(100, words)
    assert passes(draft, [*words, END], lambda before: likely([token for token in before if token < 90])) == 2


@given(st.lists(st.integers(2, 6), max_size=12), st.lists(st.integers(2, 6), max_size=12), st.randoms())
@pytest.mark.timeout(60)
def test_each_pass_brings_a_token_whatever_the_guesses(draft: list[int], words: list[int], random: Any) -> None:
    answer = [*words, END]
    assert passes(draft, answer, lambda before: random.randint(0, 6)) <= len(answer)
