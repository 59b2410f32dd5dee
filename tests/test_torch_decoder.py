"""The torch decoder's own loop, held against transformers' `generate`, and what it leaves behind."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_decoder_contract import GREEDY, PROMPTS, WIDTH, answers, ids, prompt
from torch import nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from soundwave.inference.backends.batch import embedded
from soundwave.inference.backends.protocol import Prompt
from soundwave.inference.backends.sampling import sample
from soundwave.inference.backends.speculative import AFTER_REFUSAL, LONGEST_RUN
from soundwave.inference.backends.torch import TorchDecoder
from soundwave.inference.options import GenerationOptions

LONG = GenerationOptions(temperature=0, max_new_tokens=40)


def language_model(seed: int = 0, **defaults: Any) -> PreTrainedModel:
    """A tiny LLM; defaults are of its generation configuration."""
    model = tiny.model(seed=seed).language_model
    model.generation_config = GenerationConfig(**model.generation_config.to_dict() | defaults)
    return model


@torch.no_grad()
def reference(model: PreTrainedModel, prompts: list[Prompt], **options: Any) -> list[list[int]]:
    """The answers of transformers' `generate`, each up to its end token."""
    rows = [embedded(model, prompt) for prompt in prompts]
    inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
    mask = nn.utils.rnn.pad_sequence(
        [torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True, padding_side="left"
    )
    made = model.generate(inputs_embeds=inputs, attention_mask=mask, **options).tolist()
    end = model.generation_config.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in made]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("place", [0, 5, 30])
def test_greedy_answers_are_those_of_generate(seed: int, place: int) -> None:
    without = ids(answers(TorchDecoder(language_model(seed, eos_token_id=None)), PROMPTS, LONG))
    model = language_model(seed, eos_token_id=without[0][place])  # so that rows leave the batch at different steps
    made = ids(answers(TorchDecoder(model), PROMPTS, LONG))
    assert made == reference(model, PROMPTS, do_sample=False, max_new_tokens=40)
    assert len(made[0]) <= place + 1 < len(without[0])


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_as_its_own_draft_is_read_in_one_pass(counted: tuple[PreTrainedModel, list[int]], seed: int) -> None:
    model, read = counted
    decoder = TorchDecoder(model)
    (answer,) = ids(answers(decoder, [prompt(7, seed=seed)], GREEDY))
    read.clear()
    answers(decoder, [prompt(7, seed=seed)], GREEDY, drafts=[answer])
    assert read == [7 + len(answer) - 1]
    read.clear()
    answers(decoder, [prompt(7, seed=seed)], GREEDY, drafts=[[*answer[:5], 99, *answer[5:]]])
    assert len(read) <= 3  # up to what is too much, over it, and on


def test_a_wrong_draft_costs_few_positions(counted: tuple[PreTrainedModel, list[int]]) -> None:
    model, read = counted
    decoder, wrong = TorchDecoder(model), [7] * 40
    (answer,) = ids(answers(decoder, [prompt(7)], LONG))
    read.clear()
    answers(decoder, [prompt(7)], LONG, drafts=[wrong])
    assert 7 not in answer
    assert len(read) == len(answer)
    assert read[0] == 7 + LONGEST_RUN
    assert sum(read[1:]) <= len(answer) + 2 * AFTER_REFUSAL


@pytest.mark.parametrize("end", [3, 8])
def test_what_penalties_ask_for_is_done_with_drafts_of_any_length(end: int) -> None:
    model = language_model(1, repetition_penalty=1.7, no_repeat_ngram_size=2, min_new_tokens=5)
    plain = ids(answers(TorchDecoder(model), PROMPTS, LONG))
    drafts = [row[: end * i] for i, row in enumerate(plain)]
    assert ids(answers(TorchDecoder(model), PROMPTS, LONG, drafts=drafts)) == plain


@pytest.mark.filterwarnings("ignore:Passing:UserWarning")  # penalties see an answer only, not its prompt: as is meant
@pytest.mark.parametrize(
    "defaults",
    [{"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 30},
     {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3, "min_new_tokens": 5}],
    ids=lambda defaults: " ".join(defaults),
)
def test_what_the_checkpoints_generation_configuration_asks_for_is_done(defaults: dict[str, Any]) -> None:
    end = ids(answers(TorchDecoder(language_model(1)), PROMPTS, LONG))[0][3]
    model = language_model(1, eos_token_id=end, **defaults)
    made = ids(answers(TorchDecoder(model), PROMPTS, LONG))
    # one by one: in a padded batch `generate` lets as many new tokens go free as there is padding
    options = {"do_sample": False, "max_new_tokens": 40}
    assert made == [reference(model, [one], **options)[0] for one in PROMPTS]
    assert made != ids(answers(TorchDecoder(language_model(1, eos_token_id=end)), PROMPTS, LONG))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.2, 50, 0.9), (1.0, 5, 1.0), (1.0, 0, 0.5), (2.0, 7, 0.8), (1.0, 0, 1e-6)]
)
def test_tokens_are_drawn_from_the_distribution_of_generate(temperature: float, top_k: int, top_p: float) -> None:
    scores = 3 * torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])
    if top_k:
        warpers.insert(1, TopKLogitsWarper(top_k))
    expected = warpers(torch.zeros(2, 0, dtype=torch.long), scores.clone()).softmax(-1)
    draws = (torch.arange(4000) + 0.5) / 4000  # as even as draws can be: shares are exact to 1 / 4000
    for row in range(2):
        tokens = sample(scores[row].expand(4000, -1) / temperature, draws, top_k, top_p)
        shares = torch.bincount(tokens, minlength=60) / 4000
        torch.testing.assert_close(shares, expected[row], atol=2.6e-4, rtol=0)


def test_a_checkpoint_without_top_k_has_transformers_own_and_its_number_counts() -> None:
    wild = GenerationOptions(temperature=30.0, top_p=1.0, max_new_tokens=40)
    seen = {}
    for top_k in (None, 1, 4, 0):
        made = ids(answers(TorchDecoder(language_model(top_k=top_k)), [prompt(5)] * 30, wild))
        seen[top_k] = len({row[0] for row in made})
    assert seen[1] == 1 < seen[4] <= 4 < seen[0]
    greedy = ids(answers(TorchDecoder(language_model()), [prompt(5)], GREEDY))
    assert ids(answers(TorchDecoder(language_model(top_k=1)), [prompt(5)], wild))[0][:20] == greedy[0]


def test_a_draw_takes_the_token_in_whose_share_it_falls() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.4]]).log()
    draws = {0.0: 0, 0.49: 0, 0.51: 2, 0.89: 2, 0.91: 1, 0.999: 1}
    assert {draw: sample(scores, torch.tensor([draw]), 0, 1.0).item() for draw in draws} == draws
    assert sample(scores, torch.tensor([0.999]), 0, 0.6).item() == 2  # 0.5 is not enough, so 0.4 is in, and 0.1 is not


def test_log_probabilities_are_the_models_before_temperature_and_penalties() -> None:
    model = language_model(repetition_penalty=1.5)
    (tokens,) = answers(TorchDecoder(model), PROMPTS[:1], GenerationOptions(1.7, 0.8, 12, 5))
    read = torch.cat([embedded(model, PROMPTS[0]), model.get_input_embeddings()(torch.tensor(ids([tokens])[0]))])
    logprobs = model(inputs_embeds=read[None]).logits[0].log_softmax(-1)
    start = len(PROMPTS[0]) - 1
    expected = [logprobs[start + i, token.id].item() for i, token in enumerate(tokens)]
    assert [token.logprob for token in tokens] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scores_are_those_of_reading_each_text_whole(attention: str, dtype: torch.dtype) -> None:
    model = language_model().to(dtype)
    model.set_attn_implementation(attention)
    draw = np.random.default_rng(0)
    stem = draw.integers(3, 90, 30).tolist()
    texts = [stem[: int(draw.integers(31))] + draw.integers(3, 90, 3).tolist() for _ in range(30)]  # several trees
    expected = []
    for text in texts:
        read = torch.cat([embedded(model, PROMPTS[0]), model.get_input_embeddings()(torch.tensor(text))])
        logprobs = model(inputs_embeds=read[None]).logits[0, len(PROMPTS[0]) - 1 : -1].float().log_softmax(-1)
        expected.append(logprobs.gather(-1, torch.tensor(text)[:, None]).sum().item())
    close = {torch.float32: {"abs": 1e-3}, torch.bfloat16: {"rel": 0.03}}[dtype]
    assert TorchDecoder(model).score(PROMPTS[0], texts) == pytest.approx(expected, **close)
    model.config._attn_implementation = "flash_attention_2"  # one of those that take no mask: text by text
    monkey = pytest.MonkeyPatch()
    monkey.setattr(model.config, "_attn_implementation_internal", attention)
    assert TorchDecoder(model).score(PROMPTS[0], texts) == pytest.approx(expected, **close)
    monkey.undo()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[PreTrainedModel, list[int]]:
    """An LLM, and the positions of each row that it has read, call by call."""
    model, read = language_model(), []
    forward = model.forward

    def counting(*args: Any, **inputs: Any) -> Any:
        given = inputs.get("input_ids")
        read.append((inputs["inputs_embeds"] if given is None else given).shape[1])
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", counting)
    return model, read


def test_what_continuations_begin_with_is_read_once(counted: tuple[PreTrainedModel, list[int]]) -> None:
    model, read = counted
    stem = list(range(10, 30))
    TorchDecoder(model).score(prompt(7), [[*stem, 5, 6, 7], [*stem, 5, 6, 8], [*stem, 9], stem, [40]])
    assert read == [7, 22]  # the prompt; then the stem, 5 and 6: what nothing follows is not read


def test_the_last_plain_prompt_is_read_once_until_the_weights_change(
    counted: tuple[PreTrainedModel, list[int]]
) -> None:
    model, read = counted
    decoder, typed, texts = TorchDecoder(model), prompt(7, adapted=False), [[5, 6], [7, 8, 9]]
    first = decoder.score(typed, texts)
    assert decoder.score(typed, texts) == first
    assert decoder.score(prompt(7, seed=1, adapted=False), texts) != first
    assert decoder.score(typed, texts) == first
    assert read == [7, 3, 3, 7, 3, 7, 3]
    model.lm_head.weight.mul_(2)
    assert decoder.score(typed, texts) != first


def test_audio_is_read_as_it_is_given() -> None:
    model = language_model()
    table = model.get_input_embeddings().weight
    as_embeddings = Prompt((table[[5, 6]].numpy(), [7], table[[8]].double().numpy()))
    assert ids(answers(TorchDecoder(model), [as_embeddings], GREEDY)) == ids(
        answers(TorchDecoder(model), [Prompt(([5, 6], [], [7, 8], np.zeros((0, WIDTH), np.float32)))], GREEDY)
    )


def test_a_closed_stream_frees_its_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[DynamicCache]] = []

    class Watched(DynamicCache):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            held.append(weakref.ref(self))

    monkeypatch.setattr("soundwave.inference.backends.batch.DynamicCache", Watched)
    decoder = TorchDecoder(language_model())
    streams = [decoder.generate(PROMPTS, LONG) for _ in range(3)]
    for stream in streams:
        next(stream)
    gc.collect()
    assert [one() is None for one in held] == [False] * 3
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    gc.collect()
    assert all(one() is None for one in held)


def test_gradients_are_as_they_were_between_the_tokens_of_a_stream() -> None:
    decoder = TorchDecoder(language_model())
    for _ in decoder.generate(PROMPTS, GREEDY):
        assert torch.is_grad_enabled()
    with torch.inference_mode():
        stream = decoder.generate(PROMPTS, GREEDY)
        expected = [next(stream) for _ in range(3)]
    assert [*expected, *stream] == list(decoder.generate(PROMPTS, GREEDY))  # begun in one mode, read on in another


def test_the_benchmark_prints_a_ratio_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.released_folder(tmp_path / "model")
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import decoding

    decoding.main(["--model", str(folder), "--tokens", "4", "--repeats", "1", "--json", str(tmp_path / "d.json")])
    assert capsys.readouterr().out.count("×") == 5
    measured = json.loads((tmp_path / "d.json").read_text())["measured"]
    assert [row["same_tokens"] for row in measured if row.get("same_tokens") is not None] == [True]


@pytest.mark.slow
def test_minis_greedy_answers_are_those_of_generate() -> None:
    from soundwave.checkpoints.catalog import resolve_model
    from soundwave.checkpoints.loading import load_checkpoint

    model, processor = load_checkpoint(resolve_model("mini"), torch.device("cpu"), torch.float32)[:2]
    asked = ["What is the capital of France?", "Write a story of a fox.", "Name three colours.", "Hi"]
    prompts = [
        Prompt((processor.tokenize([{"role": "user", "content": text}]).ids,), adapted=False) for text in asked
    ]
    decoder = TorchDecoder(model.language_model)
    with model.plain_language_model():
        expected = reference(model.language_model, prompts, do_sample=False, max_new_tokens=40)
    assert ids(answers(decoder, prompts, LONG)) == expected
