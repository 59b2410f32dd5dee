"""How sure a word is: its path, the texts that lack it, and the model's numbers that make a probability of both."""

from __future__ import annotations

import math

import pytest

from soundwave.ctc.align import Token
from soundwave.ctc.confidence import SUREST, WIDEST_GAP, Evidence, confidence_of, gaps, path_probability
from soundwave.inference_config import ConfidenceOptions, InferenceConfig


def token(*probabilities: float) -> Token:
    return Token(0, 1, 0, len(probabilities), tuple(math.log(one) for one in probabilities))


def test_a_path_is_the_mean_of_its_pieces_where_each_is_likeliest() -> None:
    assert path_probability([token(0.2, 0.9), token(0.4)]) == pytest.approx(0.6)
    assert path_probability([]) == 0.0


def test_a_gap_is_to_the_best_text_that_lacks_the_word() -> None:
    texts = [(["the", "cat", "sat"], -1.0), (["the", "cat", "sad"], -2.5), (["a", "cat", "sat"], -4.0)]
    assert gaps(texts[0][0], texts) == [3.0, WIDEST_GAP, 1.5]


def test_a_gap_is_negative_where_the_better_text_was_not_chosen() -> None:
    assert gaps(["so"], [(["so"], -3.0), (["sow"], -2.0)]) == [-1.0]


def test_a_word_elsewhere_in_the_other_text_is_not_the_same_word() -> None:
    assert gaps(["a", "b"], [(["a", "b"], 0.0), (["b", "a"], -2.0)]).count(2.0) == 1


def test_the_models_numbers_make_a_probability_of_both() -> None:
    options = ConfidenceOptions(bias=-1.0, path=0.5, gap=0.25)
    odds = -1.0 + 0.5 * math.log(0.8 / 0.2) + 0.25 * 2.0
    assert confidence_of(Evidence(0.8, 2.0), options) == pytest.approx(1 / (1 + math.exp(-odds)))
    assert confidence_of(Evidence(1.0, 2.0), options) == confidence_of(Evidence(1 - SUREST, 2.0), options) < 1


def test_without_numbers_or_other_texts_it_is_the_path() -> None:
    assert confidence_of(Evidence(0.8, 2.0), None) == 0.8
    assert confidence_of(Evidence(0.8), ConfidenceOptions(bias=-1.0)) == 0.8


def test_a_models_file_may_have_the_numbers_or_none() -> None:
    assert InferenceConfig.of({"transcribe": {"confidence": None}}).transcribe.confidence is None
    own = InferenceConfig.of({"transcribe": {"confidence": {"bias": 0.5, "gap": 0.1}}}).transcribe.confidence
    assert own == ConfidenceOptions(bias=0.5, gap=0.1)
