"""How replies are judged: tables that can be checked by hand."""

from __future__ import annotations

import pytest

from soundwave.text.metrics import WordErrors, is_answered, is_silent, word_errors


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("THE CAT SAT", "The cat sat.", WordErrors(3, 0, 0, 0)),
        ("the cat sat", "the bat sat down", WordErrors(3, 1, 1, 0)),
        ("the cat sat on the mat", "cat sat the mat", WordErrors(6, 0, 0, 2)),
        ("I have twenty one colours", "I have 21 colors", WordErrors(4, 0, 0, 0)),  # "21" is one word
        ("we can't, Mr. Smith", "we can not mister smith", WordErrors(5, 0, 0, 0)),
        ("", "thank you", WordErrors(0, 0, 2, 0)),
        ("hello there", "", WordErrors(2, 0, 0, 2)),
    ],
)
def test_words_are_counted_after_whispers_normaliser(said: str, heard: str, errors: WordErrors) -> None:
    assert word_errors([said], [heard]) == errors


def test_the_error_rate_is_of_the_corpus_not_the_mean_of_its_clips() -> None:
    errors = word_errors(["one", "a b c d e f g h i"], ["wrong", "a b c d e f g h i"])
    assert errors.rate == pytest.approx(1 / 10)  # the mean of the clips would be 1/2
    assert word_errors([""], ["thank you"]).rate == 2.0


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("It is paris.", ["Paris"], True),
        ("In comparison, no.", ["Paris"], False),
        ("That's in New York City!", ["Boston", "new york"], True),
        ("New and old York", ["New York"], False),
        ("There are seven.", ["7"], True),
        ("There are 70.", ["7"], False),
        ("Thanks!", [""], False),
        ("", ["Paris"], False),
    ],
)
def test_an_answer_counts_as_whole_words(reply: str, answers: list[str], right: bool) -> None:
    assert is_answered(reply, answers) is right


@pytest.mark.parametrize(
    ("reply", "silent"), [("", True), (" \n", True), ("…", True), ("um", False), ("[noise]", False), ("5", False)]
)
def test_only_a_reply_without_a_letter_or_digit_is_empty(reply: str, silent: bool) -> None:
    assert is_silent(reply) is silent
