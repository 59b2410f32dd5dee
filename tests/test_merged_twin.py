"""Spoken turns run through a merged twin of the LLM: the answers stay the same, and so does the plain LLM."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import tiny
import torch

from soundwave.audio import SAMPLE_RATE
from soundwave.checkpoints.lora import attach_lora, lora_state, merge_lora, merged_twin, unmerge_lora, use_lora
from soundwave.inference.engine import Engine
from soundwave.model.lora import add_lora, switch_lora

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 24}
CLIPS = [(tiny.sound(seconds, seed), SAMPLE_RATE) for seed, seconds in enumerate((0.6, 1.4, 2.3))]


def randomise_lora(model: Any, seed: int, name: str = "default") -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key and f".{name}." in key:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=draw))


def engine_with_lora(tied: bool = False, **switches: Any) -> Engine:
    config = tiny.config(tied, **switches)
    model = tiny.model(config)
    attach_lora(model, 4, 8, 0.0, TARGETS)
    randomise_lora(model, 9)
    return Engine(model.eval().requires_grad_(False), tiny.processor(config))


def unmerged_answer(engine: Engine, clip: Any, prompt: str, new_tokens: int = 24) -> list[int]:
    """By the model's own LLM, LoRA computed beside its weights."""
    audio = [engine.encode(clip).embeddings] if clip is not None else []
    options = {"do_sample": False, "max_new_tokens": new_tokens}
    return engine.model.generate(engine._prompt(bool(audio), prompt), audio_embeddings=audio, **options)[0].tolist()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_merged_answers_are_the_unmerged_ones_token_by_token(tied: bool) -> None:
    engine = engine_with_lora(tied)
    for clip in CLIPS:
        merged = engine.ask(clip, "the cat", **GREEDY).token_ids
        assert merged == unmerged_answer(engine, clip, "the cat")
    without = Engine(tiny.model(engine.model.config), engine.processor)
    assert without.ask(CLIPS[0], "the cat", **GREEDY).token_ids != unmerged_answer(engine, CLIPS[0], "the cat")


def test_the_twin_computes_what_lora_beside_the_weights_computes() -> None:
    engine = engine_with_lora()
    language_model = engine.model.language_model
    twin = merged_twin(language_model)
    assert twin is not None
    ids = torch.arange(20, 40)[None]
    torch.testing.assert_close(twin(ids).logits, language_model(ids).logits, atol=1e-4, rtol=1e-4)
    assert not any("lora_" in name for name, _ in twin.named_parameters())


def test_the_twin_shares_every_tensor_but_those_that_lora_changes() -> None:
    language_model = engine_with_lora(tied=True).model.language_model
    before = {name: value.clone() for name, value in language_model.state_dict().items()}
    twin = merged_twin(language_model)
    assert twin is not None
    own = {name.replace(".base_layer", ""): p for name, p in language_model.named_parameters(remove_duplicate=False)}
    apart = {name for name, p in twin.named_parameters(remove_duplicate=False) if p is not own[name]}
    assert apart == {name for name in own if name.endswith(tuple(f"{target}.weight" for target in TARGETS))}
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    assert all(torch.equal(value, before[name]) for name, value in language_model.state_dict().items())
    assert twin.generation_config is language_model.generation_config


def test_typed_turns_are_the_plain_llms_before_and_after_spoken_ones() -> None:
    engine = engine_with_lora()
    plain = Engine(tiny.model(engine.model.config), engine.processor)
    expected = plain.ask(None, "the cat", **GREEDY).token_ids
    for _ in range(2):
        assert engine.ask(None, "the cat", **GREEDY).token_ids == expected
        assert engine.ask(CLIPS[1], "the cat", **GREEDY).token_ids == unmerged_answer(engine, CLIPS[1], "the cat")
    mixed = engine.ask_batch([(CLIPS[0], "so"), (None, "the cat"), (CLIPS[2], "the cat")], **GREEDY)
    assert mixed[1].token_ids == expected
    assert mixed[2].token_ids == unmerged_answer(engine, CLIPS[2], "the cat")


def test_a_typed_turn_alone_makes_no_twin_and_an_adapted_one_does() -> None:
    engine = engine_with_lora()
    engine.ask(None, "the cat", **GREEDY)
    assert engine.backend._twin is None
    engine.model.config.text_only = "adapted"
    assert engine.ask(None, "the cat", **GREEDY).token_ids == unmerged_answer(engine, None, "the cat")
    assert engine.backend._twin is not None


def test_a_lora_that_changes_is_merged_anew() -> None:
    engine = engine_with_lora()
    model = engine.model
    first = engine.ask(CLIPS[1], "the cat", **GREEDY).token_ids
    twin = engine.backend._twin
    assert engine.ask(CLIPS[1], "the cat", **GREEDY).token_ids == first
    assert engine.backend._twin is twin  # nothing changed: nothing is merged again
    randomise_lora(model, 10)
    second = engine.ask(CLIPS[1], "the cat", **GREEDY).token_ids
    assert second == unmerged_answer(engine, CLIPS[1], "the cat") != first
    add_lora(model.language_model, model.language_model.peft_config["default"], "other")
    randomise_lora(model, 11, "other")
    use_lora(model, "other")
    third = engine.ask(CLIPS[1], "the cat", **GREEDY).token_ids
    assert third == unmerged_answer(engine, CLIPS[1], "the cat") != second
    use_lora(model, "default", "other")  # their changes add up
    assert engine.ask(CLIPS[1], "the cat", **GREEDY).token_ids == unmerged_answer(engine, CLIPS[1], "the cat")
    switch_lora(model.language_model, False)
    assert engine.ask(CLIPS[1], "the cat", **GREEDY).token_ids == unmerged_answer(engine, CLIPS[1], "the cat")


def test_a_lora_that_the_user_merged_is_not_merged_twice() -> None:
    engine = engine_with_lora()
    expected = unmerged_answer(engine, CLIPS[2], "so")
    state = lora_state(engine.model.language_model)
    merge_lora(engine.model)
    assert engine.ask(CLIPS[2], "so", **GREEDY).token_ids == expected
    unmerge_lora(engine.model)
    assert lora_state(engine.model.language_model) != state  # weights that were rounded are other weights
    assert engine.ask(CLIPS[2], "so", **GREEDY).token_ids == expected


def test_the_generation_defaults_of_the_model_hold_for_its_twin() -> None:
    engine = engine_with_lora()
    engine.ask(CLIPS[0], "the", **GREEDY)
    changed = engine.model.language_model.generation_config.from_dict(
        engine.model.language_model.generation_config.to_dict() | {"min_new_tokens": 24}
    )
    engine.model.language_model.generation_config = changed
    assert len(engine.ask(CLIPS[0], "the", **GREEDY).token_ids) == 24


def test_threads_of_spoken_and_typed_questions_do_not_meet() -> None:
    engine = engine_with_lora()
    questions = [(CLIPS[0], "the"), (None, "the cat"), (CLIPS[1], "so"), (None, "person")] * 2
    expected = [engine_with_lora().ask(*question, **GREEDY).token_ids for question in questions[:4]] * 2
    got: dict[int, list[int]] = {}

    def work(i: int) -> None:
        got[i] = engine.ask(*questions[i], **GREEDY).token_ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got[i] for i in range(len(questions))] == expected


def test_quantised_matrices_and_a_model_without_lora_have_no_twin() -> None:
    assert merged_twin(tiny.model().language_model) is None
    language_model = engine_with_lora().model.language_model
    layer = language_model.model.layers[0].self_attn.q_proj.base_layer
    layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.uint8), requires_grad=False)
    assert merged_twin(language_model) is None
