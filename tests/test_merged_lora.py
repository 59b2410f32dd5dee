"""The LLM with its LoRA merged and the plain one stand side by side: answers stay the same, and so does the model."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import tiny
import torch
from test_decoder_contract import PROMPTS

from soundwave.checkpoints.lora import attach_lora, merge_lora, unmerge_lora, use_lora
from soundwave.inference.backends.batch import embedded
from soundwave.inference.backends.merged_lora import lora_state, merged_twin, plain_twin
from soundwave.inference.backends.protocol import Prompt
from soundwave.inference.backends.torch import TorchDecoder
from soundwave.inference.options import GenerationOptions
from soundwave.model.lora import add_lora, switch_lora
from soundwave.model.soundwave import SoundwaveForConditionalGeneration

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
GREEDY = GenerationOptions(temperature=0, max_new_tokens=24)
SPOKEN, TYPED = PROMPTS[0], Prompt(PROMPTS[1].segments, adapted=False)


def randomise_lora(model: Any, seed: int, name: str = "default") -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key and f".{name}." in key:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=draw))


def model_with_lora(tied: bool = False) -> SoundwaveForConditionalGeneration:
    model = tiny.model(tiny.config(tied))
    attach_lora(model, 4, 8, 0.0, TARGETS)
    randomise_lora(model, 9)
    return model.eval().requires_grad_(False)


def answer(decoder: TorchDecoder, prompt: Prompt) -> list[int]:
    return [token.id for token in decoder.generate([prompt], GREEDY)]


@torch.no_grad()
def unmerged_answer(model: SoundwaveForConditionalGeneration, prompt: Prompt) -> list[int]:
    """By the model's own LLM, LoRA computed beside its weights."""
    with model.plain_language_model(prompt.adapted):
        llm = model.language_model
        return llm.generate(
            inputs_embeds=embedded(llm, prompt)[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=24,
        )[0].tolist()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_merged_answers_are_the_unmerged_ones_token_by_token(tied: bool) -> None:
    model = model_with_lora(tied)
    decoder, without = TorchDecoder(model.language_model), TorchDecoder(tiny.model(model.config).language_model)
    for prompt in PROMPTS:
        assert answer(decoder, prompt) == unmerged_answer(model, prompt)
        assert (answer(without, prompt) == answer(decoder, prompt)) == (not prompt.adapted)


def test_the_twins_compute_what_the_model_computes_with_lora_and_without() -> None:
    language_model = model_with_lora().language_model
    twin, plain, ids = merged_twin(language_model), plain_twin(language_model), torch.arange(20, 40)[None]
    assert twin is not None
    torch.testing.assert_close(twin(ids).logits, language_model(ids).logits, atol=1e-4, rtol=1e-4)
    switch_lora(language_model, False)
    assert torch.equal(plain(ids).logits, language_model(ids).logits)
    assert not any("lora_" in name for one in (twin, plain) for name, _ in one.named_parameters())


def test_twins_share_every_tensor_but_those_that_lora_changes() -> None:
    language_model = model_with_lora(tied=True).language_model
    before = {name: value.clone() for name, value in language_model.state_dict().items()}
    own = {name.replace(".base_layer", ""): p for name, p in language_model.named_parameters(remove_duplicate=False)}
    changed = {name for name in own if name.endswith(tuple(f"{target}.weight" for target in TARGETS))}
    for twin, expected in ((merged_twin(language_model), changed), (plain_twin(language_model), set())):
        assert twin is not None
        apart = {name for name, p in twin.named_parameters(remove_duplicate=False) if p is not own[name]}
        assert apart == expected
        assert twin.lm_head.weight is twin.model.embed_tokens.weight
        assert twin.generation_config is language_model.generation_config
    assert all(torch.equal(value, before[name]) for name, value in language_model.state_dict().items())


def test_a_prompt_makes_only_the_twin_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name, make in (("merged_twin", merged_twin), ("plain_twin", plain_twin)):
        monkeypatch.setattr(
            f"soundwave.inference.backends.merged_lora.{name}",
            lambda llm, name=name, make=make: made.append(name) or make(llm),
        )
    decoder = TorchDecoder(model_with_lora().language_model)
    answer(decoder, TYPED)
    assert made == ["plain_twin"]
    for _ in range(2):
        answer(decoder, SPOKEN)
        answer(decoder, TYPED)
    assert made == ["plain_twin", "merged_twin"]


def test_a_lora_that_changes_is_merged_anew() -> None:
    model = model_with_lora()
    decoder, plain = TorchDecoder(model.language_model), answer(TorchDecoder(model_with_lora().language_model), TYPED)
    first = answer(decoder, SPOKEN)
    randomise_lora(model, 10)
    second = answer(decoder, SPOKEN)
    assert second == unmerged_answer(model, SPOKEN) != first
    add_lora(model.language_model, model.language_model.peft_config["default"], "other")
    randomise_lora(model, 11, "other")
    use_lora(model, "other")
    third = answer(decoder, SPOKEN)
    assert third == unmerged_answer(model, SPOKEN) != second
    use_lora(model, "default", "other")  # their changes add up
    assert answer(decoder, SPOKEN) == unmerged_answer(model, SPOKEN)
    switch_lora(model.language_model, False)
    assert answer(decoder, SPOKEN) == unmerged_answer(model, SPOKEN)
    assert answer(decoder, TYPED) == plain


def test_a_stream_goes_on_with_the_lora_that_it_began_with() -> None:
    model = model_with_lora()
    decoder = TorchDecoder(model.language_model)
    expected = answer(decoder, SPOKEN)
    stream = decoder.generate([SPOKEN], GREEDY)
    begun = [next(stream).id for _ in range(3)]
    randomise_lora(model, 10)
    assert answer(decoder, SPOKEN) != expected
    assert begun + [token.id for token in stream] == expected


def test_a_lora_that_the_user_merged_is_not_merged_twice() -> None:
    model = model_with_lora()
    decoder = TorchDecoder(model.language_model)
    spoken, typed = (unmerged_answer(model, prompt) for prompt in (SPOKEN, TYPED))
    state = lora_state(model.language_model)
    merge_lora(model)
    assert (answer(decoder, SPOKEN), answer(decoder, TYPED)) == (spoken, typed)
    unmerge_lora(model)
    assert lora_state(model.language_model) != state  # weights that were rounded are other weights
    assert (answer(decoder, SPOKEN), answer(decoder, TYPED)) == (spoken, typed)


def test_the_generation_defaults_of_the_model_hold_for_its_twins() -> None:
    language_model = model_with_lora().language_model
    decoder = TorchDecoder(language_model)
    (first, *_) = answer(decoder, SPOKEN)
    language_model.generation_config = language_model.generation_config.from_dict(
        language_model.generation_config.to_dict() | {"eos_token_id": [first, 5]}
    )
    assert answer(decoder, SPOKEN) == [first]
    assert decoder.info.eos_ids == {first, 5}
    language_model.generation_config.min_new_tokens = 24
    assert len(answer(decoder, SPOKEN)) == 24


def test_threads_of_spoken_and_typed_questions_do_not_meet() -> None:
    expected = [answer(TorchDecoder(model_with_lora().language_model), prompt) for prompt in PROMPTS[:4]] * 2
    decoder = TorchDecoder(model_with_lora().language_model)
    got: dict[int, list[int]] = {}

    def work(i: int) -> None:
        got[i] = answer(decoder, PROMPTS[i % 4])

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got.get(i) for i in range(8)] == expected


def test_quantised_matrices_and_a_model_without_lora_have_no_merged_twin() -> None:
    plain = tiny.model().language_model
    assert merged_twin(plain) is None
    assert plain_twin(plain) is plain
    language_model = model_with_lora().language_model
    layer = language_model.model.layers[0].self_attn.q_proj.base_layer
    layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.uint8), requires_grad=False)
    assert merged_twin(language_model) is None
    assert plain_twin(language_model).model.layers[0].self_attn.q_proj is not layer
