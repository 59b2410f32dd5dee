"""The whole model: a batch gives what single calls give, and nothing of a request stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoConfig

from soundwave.checkpoints.lora import attach_lora
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import ConfigurationError
from soundwave.model.whisper import encode_window
from soundwave.text.ctc_tokenizer import merge_table

NEW_TOKENS = 8
GREEDY: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False}

SHORT, MIDDLE, LONG = tiny.sound(0.4, 1), tiny.sound(1.7, 2), tiny.sound(3.2, 3)
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [tiny.user("What does the person say?", MIDDLE)],
    [tiny.user("Hi")],  # no audio
    [tiny.user("Which of the two is the cat?", LONG, SHORT)],  # two audios
    [tiny.user("The cat", SHORT), tiny.assistant("the person"), tiny.user("And?"), tiny.assistant("son"),
     tiny.user("Again.", MIDDLE)],  # several turns
    [{"role": "system", "content": "Be brief."}, tiny.user("", LONG)],
    [tiny.user("What is the cat?"), tiny.assistant("A cat."), tiny.user("Is it on the person?")],
    [{"role": "user", "content": [{"type": "text", "text": "First the text, then "},
                                  {"type": "audio", "audio": (SHORT, 16_000)}]}],
]
SPELLING = sorted(tiny.chat_tokenizer().convert_tokens_to_ids(["Ġ", "t", "h", "e", "a", "c"]))
MERGES = merge_table(tiny.chat_tokenizer(), SPELLING)
SWITCHES: dict[str, dict[str, Any]] = {
    "as new models are": {},
    "as the released model is": {
        "alignment_attention": "frame", "ctc_head": "projection", "run_pooling": "first", "encoder_window": "padded",
        "blank_handling": "one_per_run", "look_back_over": "kept", "audio_embedding": "look_back",
    },
    "peaks, no blanks": {"run_pooling": "peak", "blank_handling": "drop", "look_back_over": "kept"},
    "a small CTC vocabulary": {"ctc_vocabulary": list(range(40, 90)), "alignment_layers": 2, "frames_per_group": 4},
    "words joined": {"ctc_vocabulary": SPELLING, "ctc_merges": len(MERGES)},
    "look-back only, tied embeddings": {"audio_embedding": "look_back", "tied": True},
    "projection and posterior": {"ctc_head": "projection", "audio_embedding": "posterior", "frames_per_group": 1},
}


@pytest.fixture(scope="module", params=SWITCHES)
def made(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    config = tiny.config(**SWITCHES[request.param])
    model = tiny.model(config)
    if config.ctc_merges:
        join_words(model, tiny.processor(config).features([LONG]))
        model.double()  # frames beside their mean are small: what float32 rounds away, otherwise on each CPU, is not
    return model, tiny.processor(config)


def join_words(model: Any, features: Any) -> None:
    """Gives a model its merges, and frames that differ enough for its few classes to take turns."""
    model.shrinking.merges.copy_(torch.tensor(MERGES))
    model.alignment.norm.bias.sub_(model.encode_speech(**features).aligned.mean((0, 1)))
    speech = model.encode_speech(**features)
    assert speech.positions.mask.sum() < speech.runs.mask.sum()


@pytest.fixture(scope="module")
def new() -> tuple[Any, Any]:
    return tiny.model(), tiny.processor()


def with_lora() -> tuple[Any, Any]:
    """A model whose LoRA changes answers."""
    model = tiny.model()
    attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
    draw = torch.Generator().manual_seed(9)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=draw))
    return model.eval().requires_grad_(False), tiny.processor()


def answer(model: Any, processor: Any, conversation: list[dict[str, Any]], **options: Any) -> list[int]:
    return model.generate(**processor.apply_chat_template(conversation), **GREEDY, **options)[0].tolist()


def until_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


# A batch gives what single calls give


def test_a_ragged_batch_answers_token_by_token_as_single_calls_do(made: tuple[Any, Any]) -> None:
    model, processor = made
    end = processor.tokenizer.eos_token_id
    together = model.generate(**processor.apply_chat_template(CONVERSATIONS), **GREEDY).tolist()
    alone = [answer(model, processor, conversation) for conversation in CONVERSATIONS]
    assert [until_end(tokens, end) for tokens in together] == [until_end(tokens, end) for tokens in alone]
    assert len({tuple(tokens) for tokens in alone}) > len(alone) // 2  # the model is no constant


def test_a_ragged_batchs_logits_are_those_of_single_calls(made: tuple[Any, Any]) -> None:
    model, processor = made
    together = model(**processor.apply_chat_template(CONVERSATIONS)).logits
    for row, conversation in zip(together, CONVERSATIONS, strict=True):
        alone = model(**processor.apply_chat_template(conversation)).logits[0]
        assert torch.allclose(row[: len(alone)], alone, atol=1e-4)


def test_a_ragged_batch_of_audio_is_encoded_as_single_clips(made: tuple[Any, Any]) -> None:
    model, processor = made
    clips = [MIDDLE, SHORT, LONG]
    together = model.encode_speech(**processor.features(clips))
    for i, clip in enumerate(clips):
        alone = model.encode_speech(**processor.features([clip]))
        frames = int(alone.valid.sum())
        assert together.valid[i].sum() == frames
        assert together.ctc_logits[i, :frames].argmax(-1).tolist() == alone.ctc_logits[0].argmax(-1).tolist()
        assert torch.allclose(together.kept()[i], alone.kept()[0], atol=1e-4)


def test_what_is_trained_on_is_the_same_alone_and_in_a_batch(new: tuple[Any, Any]) -> None:
    model, processor = new
    batch = processor.apply_chat_template(CONVERSATIONS[:4])
    draw = torch.Generator().manual_seed(0)
    labels = torch.where(torch.rand(batch["input_ids"].shape, generator=draw) < 0.3, batch["input_ids"], -100)
    labels[batch["input_ids"] == model.config.audio_token_id] = -100
    labels[batch["attention_mask"] == 0] = -100
    together = model(**batch, labels=labels)
    audio = iter([MIDDLE, LONG, SHORT, SHORT, MIDDLE])
    for row, mask in enumerate(batch["attention_mask"].bool()):
        ids, row_labels = batch["input_ids"][row, mask][None], labels[row, mask][None]
        clips = [next(audio) for _ in range(int((ids == model.config.audio_token_id).sum()))]
        features = processor.features(clips) if clips else {}
        alone = model(ids, None, **features, labels=row_labels)
        chosen = together.rows == row
        assert together.targets[chosen].tolist() == alone.targets.tolist()
        assert torch.allclose(together.logits[chosen], alone.logits, atol=1e-4)


# Padding


def test_garbage_in_the_padding_changes_nothing(made: tuple[Any, Any]) -> None:
    model, processor = made
    batch = processor.apply_chat_template(CONVERSATIONS)
    expected = model(**batch).logits
    batch["input_ids"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 77)
    beyond = ~batch["feature_attention_mask"][:, None, :].expand_as(batch["input_features"])
    batch["input_features"] = batch["input_features"].masked_fill(beyond, float("nan"))
    assert torch.equal(model(**batch).logits, expected)


def test_a_placeholder_in_the_padding_is_no_audio(new: tuple[Any, Any]) -> None:
    model, processor = new
    batch = processor.apply_chat_template(CONVERSATIONS)
    expected = model(**batch).logits
    batch["input_ids"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], model.config.audio_token_id)
    assert torch.equal(model(**batch).logits, expected)


# LoRA and text without audio


def plain_answer(model: Any, ids: list[int]) -> list[int]:
    """Of the untouched LLM, by transformers alone."""
    untouched = tiny.model(model.config).language_model  # the same seed, so the same weights
    tokens = untouched.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **GREEDY)
    return tokens[0, len(ids) :].tolist()


@pytest.mark.parametrize("text_only", ["plain", "adapted"])
def test_text_without_audio_is_answered_by_the_untouched_llm_where_that_is_asked_for(text_only: str) -> None:
    model, processor = with_lora()
    end = processor.tokenizer.eos_token_id
    batch = processor.apply_chat_template(CONVERSATIONS)
    together = model.generate(**batch, text_only=text_only, **GREEDY).tolist()
    for conversation in (CONVERSATIONS[1], CONVERSATIONS[5]):
        expected = until_end(plain_answer(model, processor.tokenize(conversation).ids), end)
        alone = until_end(answer(model, processor, conversation, text_only=text_only), end)
        assert (alone == expected) == (text_only == "plain")
        assert until_end(together[CONVERSATIONS.index(conversation)], end) == alone


def test_a_mixed_batch_with_lora_answers_as_single_calls_do() -> None:
    model, processor = with_lora()
    end = processor.tokenizer.eos_token_id
    together = model.generate(**processor.apply_chat_template(CONVERSATIONS), **GREEDY).tolist()
    alone = [answer(model, processor, conversation) for conversation in CONVERSATIONS]
    assert [until_end(tokens, end) for tokens in together] == [until_end(tokens, end) for tokens in alone]
    without = tiny.model(model.config)
    assert answer(without, processor, CONVERSATIONS[0]) != alone[0]  # with audio, LoRA speaks
    assert answer(model, processor, CONVERSATIONS[0]) == alone[0]  # and is on again after text


# Decoding


def slow_greedy(model: Any, batch: dict[str, Tensor], end: int) -> list[int]:
    """The most likely token again and again, everything computed anew."""
    ids, said = batch["input_ids"], []
    while len(said) < NEW_TOKENS and (not said or said[-1] != end):
        longer = torch.cat([ids, torch.tensor([said], dtype=torch.long)], dim=1)
        logits = model(**{**batch, "input_ids": longer, "attention_mask": torch.ones_like(longer)}).logits
        said.append(int(logits[0, -1].argmax()))
    return said


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_generate_is_the_slow_loop(new: tuple[Any, Any], conversation: list[dict[str, Any]]) -> None:
    model, processor = new
    end = processor.tokenizer.eos_token_id
    batch = dict(processor.apply_chat_template(conversation))
    assert answer(model, processor, conversation) == slow_greedy(model, batch, end)


def test_embeddings_that_were_computed_earlier_are_as_good_as_audio(new: tuple[Any, Any]) -> None:
    model, processor = new
    batch = processor.apply_chat_template(CONVERSATIONS[2])
    audio = model.get_audio_features(batch["input_features"], batch["feature_attention_mask"])
    tokens = model.generate(batch["input_ids"], batch["attention_mask"], audio_embeddings=audio, **GREEDY)
    assert tokens[0].tolist() == answer(model, processor, CONVERSATIONS[2])


def test_stored_encoder_frames_are_as_good_as_features(new: tuple[Any, Any]) -> None:
    model, processor = new
    features = processor.features([MIDDLE, SHORT])
    mask = features["feature_attention_mask"]
    frames = encode_window(model.audio_tower, features["input_features"], mask)
    stored = model.encode_speech(encoder_frames=frames, frame_mask=mask[:, ::4])
    direct = model.encode_speech(**features)
    assert torch.equal(stored.embeddings, direct.embeddings)
    assert torch.equal(stored.valid, direct.valid)


def test_more_than_1024_positions_are_no_limit(new: tuple[Any, Any]) -> None:
    model, processor = new
    many = [tiny.user("the cat " * 600, LONG, MIDDLE)]
    batch = dict(processor.apply_chat_template(many))
    assert model(**batch).logits.shape[1] > 1024
    assert answer(model, processor, many) == slow_greedy(model, batch, processor.tokenizer.eos_token_id)


# No request state


def attributes(model: Any) -> Iterator[tuple[str, str, Any]]:
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if not key.startswith("_") or key == "_buffers":
                yield name, key, {k: v.clone() for k, v in value.items()} if key == "_buffers" else repr(value)


def test_a_request_leaves_nothing_in_the_modules(new: tuple[Any, Any]) -> None:
    model, processor = new
    before = [(name, key, str(value)) for name, key, value in attributes(model)]
    for conversation in (CONVERSATIONS[2], CONVERSATIONS[0]):
        answer(model, processor, conversation)
    assert [(name, key, str(value)) for name, key, value in attributes(model)] == before


def test_two_interleaved_requests_do_not_meet(new: tuple[Any, Any]) -> None:
    model, processor = new
    first, second = (processor.apply_chat_template(CONVERSATIONS[i]) for i in (0, 4))
    expected = [answer(model, processor, CONVERSATIONS[i]) for i in (0, 4)]
    speech_of_first = model.get_audio_features(first["input_features"])
    speech_of_second = model.get_audio_features(second["input_features"])
    said_second = model.generate(second["input_ids"], audio_embeddings=speech_of_second, **GREEDY)[0].tolist()
    said_first = model.generate(first["input_ids"], audio_embeddings=speech_of_first, **GREEDY)[0].tolist()
    assert [said_first, said_second] == expected


# Mistakes, and other language models


@pytest.mark.parametrize(("clips", "given"), [([], 0), ([SHORT, LONG], 2)])
def test_placeholders_and_audios_must_be_as_many(new: tuple[Any, Any], clips: list[np.ndarray], given: int) -> None:
    model, processor = new
    ids = processor.apply_chat_template(CONVERSATIONS[0])["input_ids"]
    features = dict(processor.features(clips)) if clips else {}
    message = rf"The prompts hold 1 audio placeholders \(token 273\), but {given} audios were given"
    with pytest.raises(ConfigurationError, match=message):
        model(ids, **features)
    with pytest.raises(ConfigurationError, match=message):
        model.generate(ids, **features)


@pytest.mark.parametrize("kind", ["qwen2", "gpt_neox", "gemma"])
def test_any_causal_language_model_of_transformers_will_do(kind: str) -> None:
    text = AutoConfig.for_model(
        kind, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        head_dim=8, vocab_size=len(tiny.chat_tokenizer()), pad_token_id=2, eos_token_id=2, bos_token_id=1,
        tie_word_embeddings=False,
    )
    config = SoundwaveConfig(
        audio_config=tiny.whisper_config(), text_config=text, alignment_heads=4, look_back_heads=4, alignment_ffn_dim=40
    )
    model, processor = tiny.model(config), tiny.processor(config)
    batch = dict(processor.apply_chat_template(CONVERSATIONS[0]))
    assert answer(model, processor, CONVERSATIONS[0]) == slow_greedy(model, batch, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_through(dtype: torch.dtype) -> None:
    model, processor = tiny.model().to(dtype), tiny.processor()
    batch = processor.apply_chat_template(CONVERSATIONS)
    assert torch.isfinite(model(**batch).logits.float()).all()
    assert model.generate(**batch, **GREEDY).shape[0] == len(CONVERSATIONS)
