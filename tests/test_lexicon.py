"""What the CTC path spelt by ear becomes a word of the language model's vocabulary, where the recording allows it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from soundwave.inference.guard import Likelihoods
from soundwave.inference.lexicon import SLACK, Lexicon


class Tokenizer(SimpleNamespace):
    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon(Tokenizer(tokens=["Ġthe", "Ġresistance", "Ġresidence", "ĠParis", "ing", "Ġ12", "Ġa", "Ġof"]))


def test_whole_words_are_known_and_pieces_are_not(lexicon: Lexicon) -> None:
    assert lexicon.words == ["of", "paris", "residence", "resistance", "the"]
    assert lexicon.bonus["the"] > lexicon.bonus["paris"] >= 0  # an earlier token is a more common word


def scores(texts: dict[str, float], otherwise: float) -> Likelihoods:
    return lambda candidates: [texts.get(candidate, otherwise) for candidate in candidates]


@pytest.mark.parametrize(
    ("heard", "borne_out", "expected"),
    [
        ("the resistence", {"the resistence": 0.0, "the resistance": -4.0}, "the resistance"),
        ("the resistence", {"the resistence": 0.0, "the residence": -4.0}, "the residence"),  # the frames decide
        ("the resistance of paris", {}, "the resistance of paris"),  # words are left alone
        ("the xyzzy", {"the xyzzy": 0.0}, "the xyzzy"),  # nothing is near
        ("a resistence", {"a resistence": 0.0}, "a resistence"),  # every word is far less likely: a name, perhaps
        ("", {}, ""),
    ],
)
def test_a_spelling_gives_way_to_the_word_that_the_recording_bears_out(
    lexicon: Lexicon, heard: str, borne_out: dict[str, float], expected: str
) -> None:
    assert lexicon.spelt(heard, scores(borne_out, -2 * SLACK)) == expected


def test_each_spelling_is_judged_beside_the_words_that_were_found_before_it(lexicon: Lexicon) -> None:
    seen: list[str] = []

    def likelihoods(candidates: list[str]) -> list[float]:
        seen.append(candidates[0])
        return [0.0] * len(candidates)

    assert lexicon.spelt("resistence parys", likelihoods).split()[1] == "paris"
    assert seen[1].split()[0] in lexicon.bonus


def test_a_vocabulary_without_word_tokens_changes_nothing() -> None:
    assert Lexicon(Tokenizer(tokens=["▁the", "▁cat"])).spelt("thee catt", scores({}, 0.0)) == "thee catt"
