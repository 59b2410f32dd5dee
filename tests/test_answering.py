"""Answers to what is said: the words are found first, and answered by the LLM as if they had been typed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from soundwave.checkpoints.lora import attach_lora
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import ConfigurationError
from soundwave.inference.engine import Engine

PROMPT = "Answer what is asked."
SOUND = (tiny.sound(1.3, seed=4), 16_000)


def config_of(**switches: Any) -> SoundwaveConfig:
    return tiny.config(joint_ctc_weight=0.5, answer_prompt=PROMPT, **switches)


@pytest.fixture
def engine() -> Engine:
    config = config_of()
    model = tiny.model(config)
    attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
    return Engine(model.eval().requires_grad_(False), tiny.processor(config))


def test_what_is_asked_aloud_gets_the_answer_that_it_gets_typed(engine: Engine) -> None:
    words = engine.transcribe(SOUND).text
    assert words
    typed, spoken = engine.ask(None, words, temperature=0), engine.ask(SOUND, PROMPT, temperature=0)
    assert spoken.heard == words
    assert spoken.token_ids == typed.token_ids
    assert (typed.heard, spoken.usage.prompt_tokens) == (None, typed.usage.prompt_tokens)
    assert spoken.usage.audio_tokens > 0
    assert "".join(chunk.text for chunk in engine.stream(SOUND, PROMPT, temperature=0)) == spoken.text


@pytest.mark.parametrize("prompt", ["answer what is asked", "  ANSWER what\n is asked!", "Answer what is asked ."])
def test_case_spaces_and_marks_make_no_other_prompt(engine: Engine, prompt: str) -> None:
    assert engine.ask(SOUND, prompt, temperature=0).token_ids == engine.ask(SOUND, PROMPT, temperature=0).token_ids
    told = engine.ask(SOUND, "what does the person say", temperature=0)
    assert told.text == engine.transcribe(SOUND).text
    typed = [engine.ask(None, one, temperature=0).usage.prompt_tokens for one in (PROMPT, PROMPT.upper())]
    assert typed[0] != typed[1], "a typed text was changed"


def test_other_prompts_and_a_model_without_that_prompt_answer_the_audio_itself(engine: Engine) -> None:
    other = engine.ask(SOUND, "Who speaks?", temperature=0)
    assert other.heard is None
    assert other.token_ids != engine.ask(SOUND, PROMPT, temperature=0).token_ids
    alone = Engine(engine.model, engine.processor, search=False)
    itself = alone.ask(SOUND, PROMPT, temperature=0)
    assert itself.heard is None
    engine.model.config.answer_prompt = None
    assert engine.ask(SOUND, PROMPT, temperature=0).token_ids == itself.token_ids


def test_in_a_batch_of_all_kinds_each_gets_its_own(engine: Engine) -> None:
    said = engine.model.config.transcribe_prompt
    other = (tiny.sound(2.1, seed=7), 16_000)
    requests = [(SOUND, PROMPT), (None, "the cat"), (other, "Who speaks?"), (SOUND, said), (other, PROMPT)]
    together = engine.ask_batch(requests, temperature=0, max_new_tokens=12)
    for request, reply in zip(requests, together, strict=True):
        single = engine.ask(*request, temperature=0, max_new_tokens=12)
        assert (reply.token_ids, reply.heard) == (single.token_ids, single.heard)


def test_where_nobody_speaks_nothing_is_answered(engine: Engine) -> None:
    engine.model.alignment.ctc_blank_bias.data.fill_(1e4)  # CTC hears blanks
    silence = (np.zeros(8000, dtype=np.float32), 16_000)
    assert engine.transcribe(silence).text == ""
    for reply in (engine.ask(silence, PROMPT), engine.ask_batch([(silence, PROMPT)])[0]):
        assert (reply.text, reply.heard, reply.finish_reason) == ("", None, "stop")


def test_it_needs_the_search_for_words() -> None:
    with pytest.raises(ConfigurationError, match=r"answer_prompt='Answer it\.' needs the search for words; set joint_"):
        tiny.config(answer_prompt="Answer it.")
