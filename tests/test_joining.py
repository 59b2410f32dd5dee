"""Calls that are decoded together: what each gets is what it gets alone, and none waits for another's end."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoder_contract import GREEDY, PROMPTS, SAMPLED, VOCABULARY, answers, ids, prompt, torch_decoder
from test_torch_decoder import LONG, language_model
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, PreTrainedModel

from soundwave.inference.backends.batch import Batch
from soundwave.inference.backends.protocol import Prompt
from soundwave.inference.backends.torch import TorchDecoder
from soundwave.inference.options import GenerationOptions


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> tuple[TorchDecoder, list[int]]:
    """A decoder whose answers have no end, and how many rows the LLM read, call by call."""
    model, rows = language_model(eos_token_id=None), []
    watch(monkeypatch, model, lambda inputs: rows.append(len(next(iter(given_of(inputs))))))
    return TorchDecoder(model), rows


def given_of(inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None]


def watch(monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel, see: Callable[[dict[str, Any]], Any]) -> None:
    """Calls `see` with the inputs of each pass of an LLM, before it."""
    forward = model.forward

    def watched(*args: Any, **inputs: Any) -> Any:
        see(inputs)
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", watched)


def test_a_step_makes_a_token_of_every_call_that_is_there(steps: tuple[TorchDecoder, list[int]]) -> None:
    decoder, rows = steps
    assert decoder.info.concurrent
    streams = [decoder.generate(PROMPTS[:2], LONG), decoder.generate([PROMPTS[4]], LONG)]
    for stream in streams:
        for _ in range(4):
            next(stream)
    rows.clear()
    rest = list(streams[0])
    assert rows[0] == 3  # both
    assert len(rows) <= len(rest) // 2
    rows.clear()
    assert len(list(streams[1])) == 36  # most were made while the other was read
    assert len(rows) < 4


def test_six_calls_take_hardly_more_steps_than_one(steps: tuple[TorchDecoder, list[int]]) -> None:
    decoder, rows = steps
    list(zip(*(decoder.generate([one], LONG) for one in PROMPTS), strict=True))
    assert len(rows) < 40 + 2 * len(PROMPTS)  # one after the other: 240


def test_a_closed_call_leaves_before_the_next_step(steps: tuple[TorchDecoder, list[int]]) -> None:
    decoder, rows = steps
    streams = [decoder.generate([one], LONG) for one in PROMPTS[:3]]
    for _ in range(3):
        for stream in streams:
            next(stream)
    streams[1].close()  # type: ignore[attr-defined]
    rows.clear()
    list(streams[0])
    assert set(rows) == {2}


def test_a_single_stream_is_never_computed_ahead(steps: tuple[TorchDecoder, list[int]]) -> None:
    decoder, rows = steps
    stream = decoder.generate([PROMPTS[0]], LONG)
    for count in range(1, 6):
        next(stream)
        assert len(rows) == count


ALONE: dict[tuple[int, bool, bool], list[int]] = {}


def alone(decoder: TorchDecoder, number: int, greedy: bool, lora: bool) -> list[int]:
    key = (number, greedy, lora)
    if key not in ALONE:
        ALONE[key] = ids(answers(decoder, [PROMPTS[number]], GREEDY if greedy else SAMPLED))[0]
    return ALONE[key]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "LoRA"])
def decoder(request: pytest.FixtureRequest) -> tuple[TorchDecoder, bool]:
    return torch_decoder(request.param), request.param


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_in_any_order_of_reading_joining_and_closing_each_call_gets_what_it_gets_alone(
    decoder: tuple[TorchDecoder, bool], data: st.DataObject
) -> None:
    llm, lora = decoder
    number = st.integers(0, len(PROMPTS) - 1)
    running: list[tuple[Any, list[list[int]], list[list[int]]]] = []  # stream, expected, so far
    for _ in range(data.draw(st.integers(5, 40))):
        if not running or data.draw(st.integers(0, 4)) == 0:
            rows, greedy = data.draw(st.lists(number, min_size=1, max_size=3)), data.draw(st.booleans())
            expected = [alone(llm, row, greedy, lora) for row in rows]
            drafts = None
            if data.draw(st.integers(0, 3)) == 0:
                wrong = data.draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=4))
                drafts = [[*row[: len(row) // 2], *wrong, *row[len(row) // 2 :]] for row in expected]
            stream = llm.generate([PROMPTS[row] for row in rows], GREEDY if greedy else SAMPLED, drafts)
            running.append((stream, expected, [[] for _ in rows]))
            continue
        stream, expected, found = chosen = data.draw(st.sampled_from(running))
        if data.draw(st.integers(0, 9)) == 0:
            stream.close()
            running.remove(chosen)
            continue
        for _ in range(data.draw(st.integers(1, 9))):
            if (token := next(stream, None)) is not None:
                found[token.row].append(token.id)
        assert all(row[: len(some)] == some for row, some in zip(expected, found, strict=True))
    for stream, expected, found in running:
        for token in stream:
            found[token.row].append(token.id)
        assert found == expected


def test_threads_that_answer_score_and_close_all_at_once_get_what_they_get_alone() -> None:
    llm = torch_decoder(lora=True)
    expected = {number: alone(llm, number, True, True) for number in range(len(PROMPTS))}
    scored = {number: llm.score(one, [[5, 6, 7], [8]]) for number, one in enumerate(PROMPTS)}
    wrong: list[Any] = []
    together = threading.Barrier(8)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        together.wait(60)
        for _ in range(6):
            number = draw.randrange(len(PROMPTS))
            if draw.random() < 0.25:
                if llm.score(PROMPTS[number], [[5, 6, 7], [8]]) != pytest.approx(scored[number], abs=1e-3):
                    wrong.append(("score", number))
                continue
            draft = expected[number][:7] if draw.random() < 0.3 else []
            stream = llm.generate([PROMPTS[number]], GREEDY, [draft])
            most = draw.choice([3, 100, 100])
            found = [token.id for _, token in zip(range(most), stream, strict=False)]
            stream.close()  # type: ignore[attr-defined]
            if found != expected[number][:most]:
                wrong.append((number, found))

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_long_prompt_holds_no_other_call_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, go_on, reading = language_model(eos_token_id=None), threading.Event(), threading.Event()

    def see(inputs: dict[str, Any]) -> None:
        if next(iter(given_of(inputs))).shape[1] == 50:
            reading.set()
            assert go_on.wait(60)

    watch(monkeypatch, model, see)
    decoder = TorchDecoder(model)
    late: list[int] = []
    worker = threading.Thread(
        target=lambda: late.extend(ids(answers(decoder, [prompt(50)], GREEDY))[0]), daemon=True
    )
    stream = decoder.generate([PROMPTS[0]], LONG)
    next(stream)
    worker.start()
    assert reading.wait(60)
    assert len(list(stream)) == 39
    go_on.set()
    worker.join(60)
    assert len(late) == 20


def test_a_step_that_fails_fails_all_it_was_made_for_and_nothing_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, broken = language_model(eos_token_id=None), threading.Event()

    def see(_: dict[str, Any]) -> None:
        if broken.is_set():
            raise MemoryError("no room")

    watch(monkeypatch, model, see)
    decoder = TorchDecoder(model)
    expected = ids(answers(decoder, [PROMPTS[0]], GREEDY))
    streams = [decoder.generate([one], GREEDY) for one in PROMPTS[:2]]
    for _ in range(3):
        for stream in streams:
            next(stream)
    broken.set()
    with pytest.raises(MemoryError, match="no room"):
        list(streams[0])
    broken.clear()
    with pytest.raises(RuntimeError, match="several calls failed"):
        list(streams[1])
    assert ids(answers(decoder, [PROMPTS[0]], GREEDY)) == expected


def test_what_joined_frees_its_keys_and_values_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[DynamicCache]] = []

    class Watched(DynamicCache):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            held.append(weakref.ref(self))

    monkeypatch.setattr("soundwave.inference.backends.batch.DynamicCache", Watched)
    decoder = TorchDecoder(language_model())
    streams = [decoder.generate([one], LONG) for one in PROMPTS[:3]]
    for _ in range(3):
        for stream in streams:
            next(stream)
    gc.collect()
    assert sum(one() is not None for one in held) == 1  # those that joined hold theirs no more
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    gc.collect()
    assert all(one() is None for one in held)


@torch.no_grad()
def test_positions_that_no_row_has_any_more_are_left_out() -> None:
    model = language_model()
    long, short = Batch(model, [prompt(40)]), Batch(model, [prompt(9)])
    for batch in (long, short):
        batch.keep([0], [0])
    expected = Batch(model, [prompt(9)])
    expected.keep([0], [0])
    for batch in (long, short, expected):
        batch.step([5], [[]])
        batch.keep([0], [0])
    long.join(short)
    long.step([6, 6], [[], []])
    long.keep([1], [0])
    expected.step([6], [[]])
    torch.testing.assert_close(long.scores[1:], expected.scores, atol=1e-5, rtol=1e-5)
    (cache,) = long._cache.values()
    assert cache.get_seq_length() == 9 + 2
    assert long._mask is None


def test_an_llm_whose_rows_cannot_join_answers_all_the_same() -> None:
    config = MistralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCABULARY, sliding_window=8, max_position_embeddings=96, bos_token_id=1, eos_token_id=2,
    )
    model = MistralForCausalLM(config)
    tiny.randomise(model, 3)
    decoder = TorchDecoder(model.eval().requires_grad_(False))
    expected = [ids(answers(decoder, [one], GREEDY))[0] for one in PROMPTS]
    streams = [decoder.generate([one], GREEDY) for one in PROMPTS]
    found: list[list[int]] = [[] for _ in PROMPTS]
    for _ in range(20):
        for stream, row in zip(streams, found, strict=True):
            row += [token.id for token in [next(stream, None)] if token]
    assert found == expected


def test_prompts_of_embeddings_and_of_tokens_join() -> None:
    decoder = TorchDecoder(language_model(eos_token_id=None))
    draw = np.random.default_rng(0)
    spoken = Prompt((draw.standard_normal((12, tiny.LLM_WIDTH)).astype(np.float32), [5, 6]))
    options = GenerationOptions(temperature=0.8, seed=4, max_new_tokens=15)
    expected = [ids(answers(decoder, [one], options))[0] for one in (spoken, PROMPTS[1])]
    pairs = list(zip(*(decoder.generate([one], options) for one in (spoken, PROMPTS[1])), strict=True))
    assert [[token.id for token in row] for row in zip(*pairs, strict=True)] == expected
