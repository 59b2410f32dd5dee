"""Where the language model's words and the frames disagree, the frames decide; elsewhere nothing is touched."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from soundwave.inference.guard import Likelihoods, ctc_log_likelihoods, reconcile
from soundwave.model.shrink import collapse


def frames_that_heard(heard: str, nearly: Sequence[str] = ()) -> Likelihoods:
    """The heard words score 0, candidates that only put `nearly` in -5, everything else -50."""
    return lambda texts: [0.0 if t == heard else -5.0 if any(w in t.split() for w in nearly) else -50.0 for t in texts]


@pytest.mark.parametrize(
    ("said", "heard", "nearly", "expected"),
    [
        ("The cat sat.", "the cat sat", [], "The cat sat."),
        ("The cat, it sat.", "the cat it sat", [], "The cat, it sat."),  # no words differ: punctuation is the LLM's
        ("It exemplifies this.", "it expl exampleemplies this", ["exemplifies"], "It exemplifies this."),
        ("It is a dog, I think.", "it is a cat i think", [], "It is a cat, I think."),
        ("Dogs bark.", "cats bark", [], "Cats bark."),
        ("It sat. It sat. It sat.", "it sat", [], "It sat."),  # a loop
        ("He left and then he ate a cake.", "he left", [], "He left."),
        ("He left", "he left the house", [], "He left the house"),  # stopped too early
        ("He left.", "he left the house", [], "He left the house."),
        ("He left, quickly.", "he left it quickly", [], "He left it, quickly."),
        ("", "some words", [], "Some words"),
        ("Invented.", "", [], ""),
        ("I'm here.", "i'm here", [], "I'm here."),
        ("I’m here.", "i'm here", [], "I’m here."),
        ("A well-known man.", "a well known man", [], "A well-known man."),
        ("It costs 5 dollars.", "it costs five dollars", [], "It costs 5 dollars."),  # digits: said how?
    ],
)
def test_the_language_models_words_stand_unless_the_frames_speak_against_them(
    said: str, heard: str, nearly: list[str], expected: str
) -> None:
    assert reconcile(said, heard, frames_that_heard(heard, nearly)).text == expected


def test_each_place_is_decided_for_itself() -> None:
    heard = "the cat sat on a mat"
    result = reconcile("The bat sat on a hat.", heard, frames_that_heard(heard, ["hat"]))
    assert (result.text, result.replaced, result.of) == ("The cat sat on a hat.", 1, 2)


def test_a_large_slack_trusts_the_language_model() -> None:
    assert reconcile("The dog.", "the cat", frames_that_heard("the cat"), slack=100.0).text == "The dog."


def test_the_likelihood_is_the_sum_over_all_alignments() -> None:
    torch.manual_seed(3)
    frames, classes, blank = 4, 3, 2
    logits = torch.randn(frames, classes)
    scores = logits.log_softmax(-1)
    targets = [[0], [1, 0], [0, 0], []]
    for target, value in zip(targets, ctc_log_likelihoods(logits, targets, blank), strict=True):
        paths = [p for p in itertools.product(range(classes), repeat=frames) if collapse(list(p), blank) == target]
        each = torch.stack([sum(scores[i, c] for i, c in enumerate(path)) for path in paths])
        assert value == pytest.approx(each.logsumexp(0).item(), abs=1e-5)


def test_what_does_not_fit_the_frames_is_impossible() -> None:
    assert ctc_log_likelihoods(torch.zeros(2, 3), [[0, 1, 0]], 2) == [-float("inf")]
