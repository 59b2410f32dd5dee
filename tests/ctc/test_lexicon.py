"""The trie holds every word, and classes lead through it as their letters do."""

from __future__ import annotations

import numpy as np
import pytest

from soundwave.ctc.hotwords import HotWords, Progress
from soundwave.ctc.lexicon import Lexicon

PIECES = [" ", " t", " th", "t", "h", "e", "he", "the", "r", "'", "s", ""]


def spellings(lexicon: Lexicon, word: str) -> set[tuple[str, ...]]:
    """All ways to a word, found step by step."""
    begun = [((piece,), int(lexicon.begins[i])) for i, piece in enumerate(lexicon.pieces) if lexicon.begins[i] >= 0]
    found = set()
    while begun:
        pieces, node = begun.pop()
        if lexicon.word_of[node] == lexicon.words.index(word):
            found.add(pieces)
        for step in range(lexicon.first_step[node], lexicon.first_step[node] + lexicon.steps[node]):
            piece = lexicon.pieces[lexicon.step_classes[step]]
            begun.append(((*pieces, piece), int(lexicon.step_targets[step])))
    return found


def test_a_word_is_spelt_with_any_pieces_that_make_it_up() -> None:
    assert spellings(Lexicon(["the", "there"], PIECES), "the") == {
        (" ", "t", "h", "e"), (" ", "t", "he"), (" ", "the"), (" t", "h", "e"), (" t", "he"), (" th", "e"),
    }  # fmt: skip


def test_words_without_pieces_are_never_said_and_of_equal_letters_the_first_counts() -> None:
    lexicon = Lexicon(["The", "the", "42", "rêst", ""], PIECES)
    ends = lexicon.word_of[lexicon.word_of >= 0]
    assert [lexicon.words[number] for number in ends] == ["The", "rêst"]


def test_a_node_knows_its_text_and_whether_it_could_be_a_word() -> None:
    lexicon = Lexicon(["the", "he's", "4th"], [*PIECES, "4"])
    texts = {lexicon.text(node): bool(lexicon.readable[node]) for node in range(len(lexicon.parents))}
    assert {text for text, readable in texts.items() if readable} == {"th", "the", "he", "he'", "he's"}
    assert {text for text, readable in texts.items() if not readable} == {"", "t", "h", "4", "4t", "4th"}


def test_the_best_word_below_a_node() -> None:
    lexicon = Lexicon(["the", "there", "he"], PIECES)
    at, below = lexicon.best_below(np.array([-1.0, -2.0, -3.0]))
    value = {lexicon.text(node): (at[node], below[node]) for node in range(len(at))}
    assert value["th"] == (-1.0, -1.0)
    assert value["the"] == (-1.0, -2.0)
    assert value["there"] == (-2.0, -np.inf)
    assert value["h"] == (-3.0, -3.0)
    assert value[""] == (-1.0, -1.0)


def test_a_lexicon_of_no_words_has_no_steps() -> None:
    lexicon = Lexicon([], PIECES)
    assert len(lexicon.step_classes) == 0
    assert lexicon.begins.max() <= 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("in new york today", 2),
        ("New York City", 3),
        ("new new york", 2),
        ("new", 0),
        ("york new", 0),
        ("paris new york paris", 4),
        ("new york new york city", 5),
        ("a b a b a", 5),
        ("a b", 0),
    ],
)
def test_every_word_of_a_hot_phrase_counts_once(text: str, words: int) -> None:
    hot = HotWords(["New York", "new york city", "Paris", "a b a"], bonus=2.0)
    progress, total = Progress(), 0.0
    for word in text.split():
        progress, earned = hot.follow(progress, word)
        total += earned
    assert total - hot.given_back(progress) == 2.0 * words
