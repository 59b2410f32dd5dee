"""The CTC's spelling: the LLM's own tokens, but only those that it was told to use."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from soundwave.errors import ConfigurationError
from soundwave.text.ctc_tokenizer import CtcTokenizer, build_vocabulary

LETTERS = 28  # a to z, the apostrophe and the space
TEXTS = ["the cat", "the son", "a person"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.chat_tokenizer()


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


@pytest.mark.parametrize(
    ("texts", "size", "merged"),
    [
        (["the cat"], 100, ["th", "the", "Ġthe", "at", "cat", "Ġcat"]),  # what occurs, and what it is merged from
        (["a son"], 100, ["on", "Ġa"]),  # the LLM merges `on` before `so`, so it never says `son`
        (TEXTS, LETTERS + 3, ["th", "the", "Ġthe"]),  # the LLM's earliest merges first
        (["b"], 100, []),
        ([], 100, []),
    ],
)
def test_a_vocabulary_is_letters_and_the_merges_that_occur(
    tokenizer: Any, texts: list[str], size: int, merged: list[str]
) -> None:
    vocabulary = build_vocabulary(tokenizer, texts, size)
    assert vocabulary == sorted(set(vocabulary))
    chosen = set(pieces(tokenizer, vocabulary))
    assert len(chosen & {"Ġ", "'", *"abcdefghijklmnopqrstuvwxyz"}) == LETTERS
    assert {piece for piece in chosen if len(piece) > 1} == set(merged)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("the cat", ["Ġthe", "Ġcat"]),  # a first word is spelt like any other
        ("zat", ["Ġ", "z", "at"]),  # never heard, yet spelt
        ("don't", ["Ġ", "d", "on", "'", "t"]),
        ("the café", ["Ġthe", "Ġ", "c", "a", "f"]),  # outside the vocabulary: left out
        ("7", ["Ġ"]),
    ],
)
def test_words_are_spelt_with_the_llms_merges_that_are_allowed(tokenizer: Any, text: str, spelling: list[str]) -> None:
    allowed = ["Ġ", "'", *"abcdefghijklmnopqrstuvwxyz", "at", "on", "th", "the", "Ġthe", "cat", "Ġcat"]
    vocabulary = sorted(tokenizer.convert_tokens_to_ids(allowed))
    ctc = CtcTokenizer(tokenizer, vocabulary)
    classes = ctc.encode(text)
    assert pieces(tokenizer, [vocabulary[c] for c in classes]) == spelling


def test_a_merge_whose_parts_are_not_allowed_is_not_used(tokenizer: Any) -> None:
    allowed = ["Ġ", *"abcdefghijklmnopqrstuvwxyz", "the", "Ġthe"]  # but not `th`
    vocabulary = sorted(tokenizer.convert_tokens_to_ids(allowed))
    ctc = CtcTokenizer(tokenizer, vocabulary)
    assert pieces(tokenizer, [vocabulary[c] for c in ctc.encode("the")]) == ["Ġ", "t", "h", "e"]


@pytest.mark.parametrize("text", ["the cat", "a person's son", "zyx", "o'neil", ""])
@pytest.mark.parametrize("restricted", [True, False])
def test_what_was_spelt_is_read_back(tokenizer: Any, text: str, restricted: bool) -> None:
    ctc = CtcTokenizer(tokenizer, build_vocabulary(tokenizer, TEXTS, 100) if restricted else None)
    assert ctc.decode(ctc.encode(text)) == text


def test_the_whole_vocabulary_is_the_llms_own_tokens(tokenizer: Any) -> None:
    ctc = CtcTokenizer(tokenizer)
    assert ctc.encode("The cat, 7.") == tokenizer("The cat, 7.", add_special_tokens=False).input_ids
    assert CtcTokenizer(tiny.released_tokenizer()).encode("a") == [64]  # no BOS in a CTC target


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"), "WordLevel; use the whole vocabulary"),
        (models.BPE({"a": 0, "▁": 1}, []), "BPE over characters; use the whole vocabulary"),
    ],
)
def test_a_restricted_vocabulary_needs_a_byte_level_bpe(model: Any, complaint: str) -> None:
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    for restrict in (lambda: CtcTokenizer(other, [0]), lambda: build_vocabulary(other, ["a"], 10)):
        with pytest.raises(ConfigurationError, match=f"needs a byte-level BPE tokenizer, but this one is {complaint}"):
            restrict()
