"""Questions by way of the transcript: the words are found first, and the LLM reads them as if they had been typed."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from soundwave.checkpoints.lora import attach_lora
from soundwave.inference.engine import Engine
from soundwave.inference_config import InferenceConfig

SOUND = (tiny.sound(1.3, seed=4), 16_000)
OTHER = (tiny.sound(2.1, seed=7), 16_000)


def adapted_model() -> object:
    model = tiny.model()
    attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
    return model.eval().requires_grad_(False)


@pytest.fixture
def engine() -> Engine:
    return tiny.engine(model=adapted_model(), inference=InferenceConfig(via="transcript"))


def test_what_is_asked_aloud_gets_the_answer_that_it_gets_typed(engine: Engine) -> None:
    words = engine.transcribe(SOUND).text
    assert words
    typed, spoken = engine.ask(None, words, temperature=0), engine.ask(SOUND, temperature=0)
    assert (spoken.via, spoken.transcript) == ("transcript", words)
    assert spoken.token_ids == typed.token_ids
    assert (typed.via, typed.transcript) == ("text", None)
    assert spoken.usage.prompt_tokens == typed.usage.prompt_tokens
    assert spoken.usage.audio_seconds == pytest.approx(1.3)
    assert "".join(chunk.text for chunk in engine.stream(SOUND, temperature=0)) == spoken.text


def test_a_prompt_follows_the_words(engine: Engine) -> None:
    words = engine.transcribe(SOUND).text
    typed = engine.ask(None, f"{words}\n\nWho speaks?", temperature=0)
    assert engine.ask(SOUND, "Who speaks?", temperature=0).token_ids == typed.token_ids


def test_the_caller_chooses_the_way_and_the_model_its_default(engine: Engine) -> None:
    itself = engine.ask(SOUND, "Who speaks?", via="audio", temperature=0)
    assert (itself.via, itself.transcript) == ("audio", None)
    assert itself.usage.audio_tokens > 0
    assert itself.token_ids != engine.ask(SOUND, "Who speaks?", temperature=0).token_ids
    other = tiny.engine(model=adapted_model(), inference=InferenceConfig(via="audio"))
    assert other.ask(SOUND, "Who speaks?", temperature=0).token_ids == itself.token_ids
    assert other.ask(SOUND, "Who speaks?", via="transcript", temperature=0).via == "transcript"


@pytest.mark.parametrize("via", ["auto", "audio", "transcript"])
def test_in_a_batch_each_gets_what_it_gets_alone(engine: Engine, via: str) -> None:
    requests = [(SOUND, None), (None, "the cat"), (OTHER, "Who speaks?"), (SOUND, "the son"), (OTHER, None)]
    together = engine.ask_batch(requests, via=via, temperature=0, max_new_tokens=12)
    for request, reply in zip(requests, together, strict=True):
        single = engine.ask(*request, via=via, temperature=0, max_new_tokens=12)
        assert (reply.token_ids, reply.transcript, reply.via) == (single.token_ids, single.transcript, single.via)


def test_where_nobody_speaks_nothing_is_answered(engine: Engine) -> None:
    engine.encoder.alignment.ctc_blank_bias.data.fill_(1e4)  # CTC reads blanks
    silence = (np.zeros(8000, dtype=np.float32), 16_000)
    assert engine.transcribe(silence).text == ""
    for reply in (engine.ask(silence), engine.ask_batch([(silence, "Who speaks?")])[0]):
        assert (reply.text, reply.token_ids, reply.transcript, reply.finish_reason) == ("", [], "", "stop")
