"""Known words for what was spelt by ear: which words give way, and when they stay."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from rapidfuzz.distance.Levenshtein import distance

from soundwave.configuration import WORD_LISTS
from soundwave.errors import ConfigurationError
from soundwave.inference.lexicon import FOLDER, SLACK, Lexicon
from soundwave.inference.search import TranscriptSearch
from soundwave.text.ctc_tokenizer import CtcTokenizer

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


def test_without_words_every_spelling_stays() -> None:
    assert Lexicon.named("none", tokenizer()).respelt("The resistence.", costs()) == "The resistence."


@pytest.mark.parametrize("text", ["the cat", "a", "zyxwv", "42nd", "can't", ""])
def test_known_words_letters_numbers_and_what_is_like_no_word_stay(text: str) -> None:
    assert Lexicon.of_vocabulary(tokenizer()).respelt(text, costs()) == text


def test_words_come_from_the_language_models_own_tokenizer() -> None:
    assert Lexicon.of_vocabulary(tiny.chat_tokenizer()).respelt("zebra persom", costs()) == "zebra person"


def test_the_packages_list_knows_words_that_the_vocabulary_holds_in_pieces_only() -> None:
    lexicon = Lexicon.of_list("english")
    assert {"shrubbery", "hospitable", "the", "a", "i", "can't"} <= set(lexicon.words)
    assert not {"h", "clo", "paintfully"} & set(lexicon.words)
    assert lexicon.bonus["the"] > lexicon.bonus["tower"] > lexicon.bonus["shrubbery"] >= 0
    said = "Painfully hospitable."
    spoken = lambda texts: [-5.0 * distance(one, said) for one in texts]  # noqa: E731
    assert lexicon.respelt("Paintfully hospitible.", spoken) == said


@pytest.mark.parametrize("name", WORD_LISTS)
def test_a_list_is_words_each_once(name: str) -> None:
    words = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert len({word.lower() for word in words}) == len(words) > 30_000
    assert all(word == word.strip("'") and word for word in words)
    assert {"the", "France", "Paris", "I", "I'm"} < set(words)


def test_a_name_takes_its_capital_with_it() -> None:
    lexicon = Lexicon({"the": 0, "paris": 1, "tower": 2}, 3, names={"paris": "Paris"})
    assert lexicon.respelt("The towr of pariz.", costs()) == "The tower of Paris."
    assert [lexicon.written(word, begins=True) for word in ("paris", "tower")] == ["Paris", "Tower"]
    assert [lexicon.written(word, begins=False) for word in ("paris", "tower")] == ["Paris", "tower"]
    assert lexicon.by_rank() == ["the", "paris", "tower"]


def test_the_search_takes_the_list_that_the_configuration_names() -> None:
    tokenizer = tiny.chat_tokenizer()
    known = {}
    for name in (None, "english", "none"):
        config = tiny.config(word_list=name, joint_ctc_weight=0.5)
        known[name] = TranscriptSearch(config, tokenizer, CtcTokenizer(tokenizer, None), {1}, None).lexicon.words
    assert known["english"] == Lexicon.of_list("english").words
    assert known["none"] == []
    assert known[None] == Lexicon.of_vocabulary(tokenizer).words


def test_an_unknown_list_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="word_list='german' is not known; choose english, none, or null"):
        tiny.config(word_list="german")
