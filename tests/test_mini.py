"""soundwave-mini does what its card says, on recordings that this project made. Skipped where its weights are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import soundwave
from soundwave.audio import SAMPLE_RATE
from soundwave.checkpoints.catalog import resolve_model
from soundwave.errors import CheckpointError
from soundwave.evaluation.replies import is_repetition
from soundwave.evaluation.tasks import plain_reply
from soundwave.inference.devices import has_fast_bfloat16
from soundwave.text.metrics import normalise, word_errors

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SPOKEN = {
    "question.wav": "How many days are there in a week?",
    "statement.flac": (
        "I left my umbrella on the train this morning. Luckily, a kind neighbor lent me hers for the walk home."
    ),
    "flite.ogg": "Please close the window before you leave the room.",
    "espeak.mp3": "The library opens at nine o'clock on Monday.",
}


@pytest.fixture(scope="module")
def mini() -> soundwave.Engine:
    try:
        resolve_model("mini")
    except CheckpointError as problem:
        pytest.skip(f"mini's weights are not in this tree: {problem}")
    return soundwave.load("mini", device="cpu", dtype="float32")


def nothing_said(seconds: float = 5.0) -> dict[str, np.ndarray]:
    """Five seconds in which nobody speaks, each with an amplitude that a microphone gives."""
    draw = np.random.default_rng(7)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    white = draw.standard_normal(len(time))
    return {
        "digital silence": np.zeros(len(time)),
        "hiss": 0.003 * white,
        "loud white noise": 0.2 * white,
        "rumble": 0.05 * np.convolve(white, np.ones(80) / 80, "same") * 9,
        "mains hum": 0.1 * np.sin(2 * np.pi * 50 * time) + 0.05 * np.sin(2 * np.pi * 150 * time),
        "clicks": 0.5 * (draw.random(len(time)) < 1e-4),
    }


@pytest.mark.parametrize("name", list(nothing_said()))
def test_where_nobody_speaks_nothing_is_written(mini: soundwave.Engine, name: str) -> None:
    samples = nothing_said()[name].astype(np.float32)
    assert mini.transcribe((samples, SAMPLE_RATE)).text == ""


def test_it_writes_down_what_is_said(mini: soundwave.Engine) -> None:
    texts = [transcript.text for transcript in mini.transcribe_batch([EXAMPLES / name for name in SPOKEN])]
    assert word_errors(list(SPOKEN.values()), texts).rate <= 0.35, texts


def test_a_batch_of_ragged_clips_gives_what_single_calls_give(mini: soundwave.Engine) -> None:
    paths = [EXAMPLES / name for name in SPOKEN]
    assert [one.text for one in mini.transcribe_batch(paths)] == [mini.transcribe(path).text for path in paths]
    asked = [(path, "What does the person say?") for path in paths]
    together = mini.ask_batch(asked, temperature=0, max_new_tokens=40)
    alone = [mini.ask(path, prompt, temperature=0, max_new_tokens=40) for path, prompt in asked]
    assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]


def test_a_spoken_question_gets_an_answer_and_not_a_transcript(mini: soundwave.Engine) -> None:
    reply = mini.ask(EXAMPLES / "question.wav", temperature=0)
    assert reply.via == "transcript"
    assert reply.transcript == mini.transcribe(EXAMPLES / "question.wav").text
    assert reply.transcript is not None
    assert normalise(reply.transcript) == normalise(SPOKEN["question.wav"])
    assert not is_repetition(reply.text, SPOKEN["question.wav"])
    assert "7 days" in reply.text or "seven days" in reply.text
    assert reply.text == mini.ask(None, reply.transcript, temperature=0).text


@pytest.mark.parametrize("name", list(nothing_said()))
def test_where_nobody_asks_nothing_is_answered(mini: soundwave.Engine, name: str) -> None:
    assert mini.ask((nothing_said()[name].astype(np.float32), SAMPLE_RATE)).text == ""


@pytest.mark.parametrize("question", ["What is the capital of France?", "Name three colours.", "Who wrote Hamlet?"])
def test_a_typed_question_gets_the_plain_language_models_answer(mini: soundwave.Engine, question: str) -> None:
    assert mini.ask(None, question, temperature=0, max_new_tokens=40).text == plain_reply(mini, question, 40)


def test_its_weights_are_small_and_its_card_says_what_they_cost(mini: soundwave.Engine) -> None:
    assert mini.folder is not None
    assert sum(file.stat().st_size for file in mini.folder.rglob("*.safetensors")) <= 25_000_000
    card = (mini.folder / "README.md").read_text(encoding="utf-8")
    for words in ("hours of", "minutes", "word error rate", "licen"):
        assert words in card.lower(), f"the card does not say {words!r}"
    assert not json.loads((mini.folder / "config.json").read_text())["language_model_source"].startswith("/")


def test_whispers_encoder_computes_in_bfloat16_where_the_processor_does_and_a_dtype_that_is_asked_for_stays() -> None:
    tower = soundwave.load("mini", device="cpu", backend="none").encoder.audio_tower
    expected = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    assert next(tower.parameters()).dtype is expected
    tower = soundwave.load("mini", device="cpu", dtype="float32", backend="none").encoder.audio_tower
    assert next(tower.parameters()).dtype is torch.float32
