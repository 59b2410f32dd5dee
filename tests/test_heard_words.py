"""The known words that a recording goes on with, against every word scored one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from soundwave.inference.ctc_prefix import Prefixes, empty_prefix, extend
from soundwave.inference.heard_words import WordTree

LETTERS = [" ", *"abcdenrst"]  # the space begins a word
BLANK = len(LETTERS)
WORDS = ["a", "an", "and", "ant", "bad", "band", "bed", "best", "red", "rest", "sand", "stand", "trade"]


def tokenizer() -> Any:
    tokens = [*(f"Ġ{word}" for word in WORDS), "ĠBand", "band", "Best", "ing", "Ġ42", "Ġéa"]
    return SimpleNamespace(get_vocab=lambda: {token: number for number, token in enumerate(tokens)})


def spell(word: str) -> list[int]:
    return [LETTERS.index(letter) for letter in f" {word}"]


def tree() -> WordTree:
    return WordTree(tokenizer(), spell, torch.tensor([*(letter == " " for letter in LETTERS), False]))


def frames(text: str, noise: float = 0.0) -> torch.Tensor:
    """(F, C) log-probabilities of frames that say a text, a blank before each letter."""
    path = [one for letter in text for one in (BLANK, LETTERS.index(letter))] + [BLANK]
    drawn = torch.randn(len(path), BLANK + 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (4.0 * torch.nn.functional.one_hot(torch.tensor(path), BLANK + 1) + noise * drawn).log_softmax(-1)


def after(scores: torch.Tensor, words: str) -> Prefixes:
    prefixes = empty_prefix(scores, BLANK)
    for one in (LETTERS.index(letter) for letter in words):
        prefixes = extend(scores, prefixes, torch.tensor([one]), BLANK)
    return prefixes


def slowly(scores: torch.Tensor, before: str, count: int) -> list[str]:
    """Every word in turn: the probability that the recording says it next, and then begins another one or ends."""
    found = []
    for word in WORDS:
        said = after(scores, f"{before} {word}")
        ended = torch.logaddexp(extend(scores, said, torch.tensor([0]), BLANK).begins, said.whole())
        found.append((ended.item(), word))
    return [word for _, word in sorted(found, reverse=True)[:count]]


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("said", "before"), [(" a best band", ""), (" a best band", " a"), (" red sand", " red")])
def test_the_beam_finds_what_scoring_every_word_finds(
    monkeypatch: pytest.MonkeyPatch, said: str, before: str, noise: float
) -> None:
    scores = frames(said, noise)
    best = slowly(scores, before, 4)
    assert tree().search(scores, after(scores, before), BLANK, 4)[:1] == best[:1]
    monkeypatch.setattr("soundwave.inference.heard_words.HOPE", 1e9)  # then nothing is given up
    assert tree().search(scores, after(scores, before), BLANK, 4) == best


def test_the_word_that_is_said_comes_first_whatever_begins_like_it() -> None:
    for word in ("a", "an", "and", "ant", "sand", "stand"):
        scores = frames(f" {word} bed")
        assert tree().search(scores, after(scores, ""), BLANK, 1) == [word]


def test_nothing_is_found_where_nothing_more_is_said_that_a_word_begins_with() -> None:
    empty = WordTree(SimpleNamespace(get_vocab=lambda: {"ing": 0}), spell, torch.zeros(BLANK + 1, dtype=torch.bool))
    scores = frames(" a")
    assert empty.search(scores, after(scores, ""), BLANK, 3) == []


def test_a_word_has_the_tokens_that_write_it_there() -> None:
    words = tree()
    band = WORDS.index("band")
    assert words.tokens("band", first=False) == [band, len(WORDS)]  # lower-case and capital, after a space
    assert words.tokens("band", first=True) == [len(WORDS) + 1]
    assert words.tokens("rest", first=True) == []
