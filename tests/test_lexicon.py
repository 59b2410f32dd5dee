"""Known words for what was spelt by ear: which words give way, and when they stay."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from soundwave.inference.lexicon import SLACK, Lexicon

WORDS = ["the", "cat", "resistance", "existence", "tower", "can't"]


def tokenizer() -> Any:
    """A vocabulary of whole words, the first the most common, among pieces of words."""
    tokens = ["ing", "Ġre", *(f"Ġ{word}" for word in WORDS), "ĠTower", "Ġ42"]

    class Tokens(SimpleNamespace):
        def __len__(self) -> int:
            return len(tokens)

    return Tokens(get_vocab=lambda: {token: number for number, token in enumerate(tokens)})


def costs(**of_words: float) -> Callable[[list[str]], list[float]]:
    """Log-likelihoods of texts: what each word in them costs, nothing where it is not named."""
    return lambda texts: [-sum(of_words.get(w.strip(".,").lower(), 0.0) for w in text.split()) for text in texts]


def test_a_spelling_gives_way_to_the_word_that_the_recording_bears_out() -> None:
    lexicon = Lexicon.of_vocabulary(tokenizer())
    assert lexicon.respelt("The resistence.", costs(existence=4.0)) == "The resistance."
    assert lexicon.respelt("The resistence.", costs(resistance=4.0, existence=1.0)) == "The existence."


def test_capitals_and_marks_stay() -> None:
    assert Lexicon.of_vocabulary(tokenizer()).respelt("Toer, the 'cat'!", costs(the=3.0)) == "Tower, the 'cat'!"


def test_a_word_that_the_recording_speaks_against_is_not_taken() -> None:
    likely = costs(resistance=SLACK + 5, existence=SLACK + 5)
    assert Lexicon.of_vocabulary(tokenizer()).respelt("the resistence", likely) == "the resistence"


@pytest.mark.parametrize("text", ["the cat", "a", "zyxwv", "42nd", "can't", ""])
def test_known_words_letters_numbers_and_what_is_like_no_word_stay(text: str) -> None:
    assert Lexicon.of_vocabulary(tokenizer()).respelt(text, costs()) == text


def test_words_come_from_the_language_models_own_tokenizer() -> None:
    assert Lexicon.of_vocabulary(tiny.chat_tokenizer()).respelt("zebra persom", costs()) == "zebra person"
