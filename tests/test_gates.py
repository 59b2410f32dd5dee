"""No invention: a text needs speech and evidence, what the LLM wrote must agree with CTC, and loops are seen."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import soundwave
from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.audio.vad import speech_probabilities
from soundwave.checkpoints.catalog import resolve_model
from soundwave.ctc.align import LikelyClasses
from soundwave.errors import CheckpointError
from soundwave.inference.engine import Engine
from soundwave.inference.gates import Gates, disagreement, evidence, loops
from soundwave.inference.results import Speech
from soundwave.inference_config import GateOptions

ROOT = Path(__file__).parents[1]
BLANK = 3
WORDS = st.lists(st.sampled_from(["so", "it", "was", "not", "the", "end"]), max_size=12).map(" ".join)


def speech(voice: list[float], posteriors: list[float], classes: list[int], ctc_text: str = "the cat sat") -> Speech:
    """What is known of a recording of so many windows and so many frames."""
    likely = LikelyClasses(
        np.log(np.array(posteriors, np.float32))[:, None], np.array(classes)[:, None], np.zeros(len(classes))
    )
    return Speech(
        torch.zeros(0, 4), [], [], ctc_text, [], [], len(voice) * 0.032, None, 0.04, likely,
        voice=np.array(voice, np.float32),
    )


def sure(ctc_text: str = "the cat sat") -> Speech:
    return speech([1.0] * 8, [1.0] * 4, [0, BLANK, 1, BLANK], ctc_text)


def slow_disagreement(first: str, second: str) -> float:
    """Levenshtein's recursion as a table of a table."""
    one, other = ("".join(text.split()) for text in (first, second))
    table = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            changed = table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            table[i][j] = min(changed, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1] / max(1, len(one), len(other))


def test_nothing_is_written_where_the_detector_finds_no_speech() -> None:
    silent = speech([0.1] * 8, [1.0] * 4, [0, BLANK, 1, BLANK])
    clicks = speech([0.9, 0.1, 0.9, 0.1], [1.0] * 4, [0, BLANK, 1, BLANK])
    gates, none = Gates(GateOptions(), BLANK), Gates(GateOptions(speech=False), BLANK)
    assert gates.passed("the cat", silent, "ctc") == gates.passed("the cat", clicks, "ctc") == ("", "ctc")
    assert none.passed("the cat", silent, "ctc") == gates.passed("the cat", sure(), "ctc") == ("the cat", "ctc")


@pytest.mark.parametrize(
    ("voice", "posteriors", "classes", "value"),
    [
        ([1.0, 1.0], [1.0, 1.0], [0, BLANK], 1.0),
        ([0.5, 0.5], [1.0, 1.0], [0, BLANK], 0.25),  # the detector's doubt, squared
        ([1.0, 0.0], [0.6, 0.8], [0, 1], 0.7),  # CTC's doubt; pauses do not count
        ([1.0, 1.0], [1.0] * 16, [0] + [BLANK] * 15, 0.5),  # a quarter of the tokens that speech has
        ([1.0, 1.0], [1.0, 1.0], [BLANK, BLANK], 0.0),
        ([0.2, 0.2], [1.0, 1.0], [0, 1], 0.0),
    ],
)
def test_evidence_is_of_voice_posteriors_and_tokens(
    voice: list[float], posteriors: list[float], classes: list[int], value: float
) -> None:
    assert evidence(speech(voice, posteriors, classes), BLANK) == pytest.approx(value, rel=1e-5)


def test_a_text_without_evidence_is_kept_back() -> None:
    doubtful = speech([0.6] * 8, [0.5] * 4, [0, BLANK, BLANK, BLANK])
    assert Gates(GateOptions(evidence=0.3), BLANK).passed("a man", doubtful, "ctc") == ("", "ctc")
    assert Gates(GateOptions(evidence=0.3), BLANK).passed("a man", sure(), "ctc") == ("a man", "ctc")


@pytest.mark.parametrize(
    ("written", "stands"),
    [
        ("The cat sat.", ("The cat sat.", "llm")),
        ("A cat has sat down.", ("A cat has sat down.", "llm")),
        ("Thank you for watching this video!", ("the cat sat", "ctc")),
        ("The cat sat. " * 9, ("the cat sat", "ctc")),
    ],
)
def test_ctcs_text_stands_where_the_llm_wrote_something_else(written: str, stands: tuple[str, str]) -> None:
    assert Gates(GateOptions(), BLANK).passed(written, sure(), "llm") == stands


def test_who_says_the_same_again_and_again_is_believed() -> None:
    said = "no no no no no no"
    assert Gates(GateOptions(), BLANK).passed("No, no, no, no, no, no!", sure(said), "llm")[1] == "llm"


@settings(max_examples=60)
@given(WORDS, WORDS)
def test_disagreement_is_the_share_of_letters_that_are_changed(first: str, second: str) -> None:
    assert disagreement(first, second) == pytest.approx(slow_disagreement(first, second))


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        ([], 0), (["and on and on and on"], 0), (["and on and on and on and on"], 1),
        (["yes, yes,", "Yes. YES!"], 1),  # over the edges of segments
        (["a b c a b c a b c a b c", "d", "x x x x x"], 2),
    ],
)
def test_loops_are_phrases_said_four_times_in_a_row(texts: list[str], count: int) -> None:
    assert loops(texts, 4) == count


def test_an_engine_asks_its_gates() -> None:
    sound = (tiny.sound(1.0), SAMPLE_RATE)
    assert tiny.engine().transcribe(sound, llm=False).text
    assert tiny.engine(gates=True).transcribe(sound, llm=False).text == ""
    assert tiny.engine(gates=True).transcribe(sound, llm=True).segments == []


@pytest.fixture(scope="module")
def mini() -> Engine:
    try:
        resolve_model("mini")
    except CheckpointError as problem:
        pytest.skip(f"mini's weights are not in this tree: {problem}")
    return soundwave.load("mini", device="cpu", dtype="float32", backend="none")


def test_mini_writes_nothing_of_made_sounds_and_everything_that_is_said(mini: Engine) -> None:
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("the benchmarks are not part of this copy")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import no_invention
    import nothing_said

    for number, kind in enumerate(nothing_said.KINDS):
        made = nothing_said.clip(kind, np.random.default_rng([3, number]), 2.0)
        assert mini.transcribe((made.samples, SAMPLE_RATE)).text == "", kind
    question = load_audio(ROOT / "examples" / "question.wav")
    for kind in no_invention.NOISES:
        noisy = no_invention.in_noise(question, kind, 0)
        assert "days" in mini.transcribe((noisy, SAMPLE_RATE)).text, kind
        spoken, kept = no_invention.kept_time(question, noisy)
        assert kept >= 0.99 * spoken > 1


def test_a_babble_is_speech_to_the_detector_but_too_little_evidence_for_words(mini: Engine) -> None:
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("the benchmarks are not part of this copy")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import no_invention
    import nothing_said

    made = [nothing_said.clip("babble", np.random.default_rng([5, number]), 3.0).samples for number in range(8)]
    heard = [one for one in made if (speech_probabilities(one) > 0.5).sum() >= 3]
    free = no_invention.ungated(mini)
    assert any(free.transcribe((one, SAMPLE_RATE)).text for one in heard)
    assert not any(mini.transcribe((one, SAMPLE_RATE)).text for one in heard)
