"""What every decoder promises (`inference/backends/protocol.py`): each test runs on all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soundwave.checkpoints.lora import attach_lora
from soundwave.errors import ConfigurationError
from soundwave.inference.backends.fake import FakeDecoder
from soundwave.inference.backends.protocol import Decoder, Prompt, PromptSegment, Token
from soundwave.inference.backends.torch import TorchDecoder
from soundwave.inference.options import GenerationOptions

CONTEXT, WIDTH = 96, tiny.LLM_WIDTH
VOCABULARY = len(tiny.chat_tokenizer())
GREEDY = GenerationOptions(temperature=0, max_new_tokens=20)
SAMPLED = GenerationOptions(temperature=1.5, top_p=0.9, max_new_tokens=20, seed=3)


def torch_decoder(lora: bool) -> TorchDecoder:
    model = tiny.model(tiny.config(text_config=tiny.llama_config(max_position_embeddings=CONTEXT)))
    if lora:
        attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
        draw = torch.Generator().manual_seed(9)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = 0.4 * torch.randn(parameter.shape, generator=draw)
    return TorchDecoder(model.eval().requires_grad_(False).language_model)


DECODERS: dict[str, Callable[[], Decoder]] = {
    "torch": lambda: torch_decoder(lora=False), "torch with LoRA": lambda: torch_decoder(lora=True),
    "fake": lambda: FakeDecoder(VOCABULARY, WIDTH, [2], CONTEXT),
}


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return DECODERS[request.param]()


def prompt(*lengths: int, seed: int = 0, adapted: bool = True) -> Prompt:
    """Segments of these lengths: token ids and, where a length is negative, embeddings."""
    draw = np.random.default_rng([seed, *map(abs, lengths)])
    segments: list[PromptSegment] = [
        draw.integers(3, VOCABULARY, n).tolist() if n > 0 else draw.standard_normal((-n, WIDTH)).astype(np.float32)
        for n in lengths
    ]
    return Prompt(tuple(segments), adapted)


PROMPTS = [
    prompt(4, -6, 3), prompt(9), prompt(2, -17, 5, adapted=False), prompt(7, adapted=False), prompt(-3, 1),
    prompt(4, -6, 3, seed=1),
]


def answers(decoder: Decoder, prompts: Sequence[Prompt], options: GenerationOptions, **more: Any) -> list[list[Token]]:
    """Each row's tokens."""
    rows: list[list[Token]] = [[] for _ in prompts]
    for token in decoder.generate(prompts, options, **more):
        rows[token.row].append(token)
    return rows


def ids(rows: Sequence[Sequence[Token]]) -> list[list[int]]:
    return [[token.id for token in row] for row in rows]


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_answers_as_single_calls_do(decoder: Decoder, options: GenerationOptions) -> None:
    batch = answers(decoder, PROMPTS, options)
    singles = [answers(decoder, [one], options)[0] for one in PROMPTS]
    assert ids(batch) == ids(singles)
    assert len(set(map(tuple, ids(batch)))) == len(PROMPTS)  # prompts matter, audio too
    for together, alone in zip(batch, singles, strict=True):
        assert [t.logprob for t in together] == pytest.approx([t.logprob for t in alone], abs=1e-4)


def test_an_answer_ends_at_its_first_end_token_or_at_its_length(decoder: Decoder) -> None:
    for row in ids(answers(decoder, PROMPTS * 2, GenerationOptions(1.0, 1.0, 7))):
        assert 1 <= len(row) <= 7
        assert not decoder.info.eos_ids & set(row[:-1])
        assert len(row) == 7 or row[-1] in decoder.info.eos_ids


def test_a_seed_decides_a_sampled_answer_and_none_gives_new_ones(decoder: Decoder) -> None:
    again = [ids(answers(decoder, PROMPTS[:2], SAMPLED)) for _ in range(2)]
    assert again[0] == again[1]
    free = GenerationOptions(temperature=2.5, top_p=1.0, max_new_tokens=12)
    state = torch.get_rng_state()
    assert len({tuple(ids(answers(decoder, [PROMPTS[0]], free))[0]) for _ in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), state)  # the caller's own generator is left alone


@pytest.fixture(scope="module")
def shared() -> dict[str, Decoder]:
    return {name: make() for name, make in DECODERS.items()}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_drafts_of_any_content_change_nothing(
    shared: dict[str, Decoder], name: str, options: GenerationOptions, data: st.DataObject
) -> None:
    decoder = shared[name]
    rows = data.draw(st.lists(st.integers(0, len(PROMPTS) - 1), min_size=1, max_size=6))
    plain = answers(decoder, [PROMPTS[row] for row in rows], options)
    token = st.integers(0, VOCABULARY - 1)
    drafts = []
    for row in ids(plain):
        start, end = (data.draw(st.integers(0, len(row))) for _ in range(2))
        wrong = data.draw(st.lists(token, max_size=4))
        drafts.append(data.draw(st.sampled_from([row, [], wrong, row * 5, row[:start] + wrong + row[end:]])))
    drafted = answers(decoder, [PROMPTS[row] for row in rows], options, drafts=drafts)
    assert ids(drafted) == ids(plain)
    for with_draft, without in zip(drafted, plain, strict=True):
        assert [t.logprob for t in with_draft] == pytest.approx([t.logprob for t in without], abs=1e-4)


def test_a_draft_goes_no_further_than_the_answers_length_and_the_context(decoder: Decoder) -> None:
    long = prompt(40, -50)
    for options in (GREEDY, GenerationOptions(temperature=0, max_new_tokens=3), SAMPLED):
        expected = ids(answers(decoder, [long, PROMPTS[1]], options))
        for drafts in (expected, [[*row, *([5] * 200)] for row in expected], [[2] * 9] * 2):  # 2 ends an answer
            assert ids(answers(decoder, [long, PROMPTS[1]], options, drafts=drafts)) == expected


def test_a_stream_with_a_draft_can_be_closed_within_it(decoder: Decoder) -> None:
    expected = ids(answers(decoder, PROMPTS[:2], GREEDY))
    stream = decoder.generate(PROMPTS[:2], GREEDY, expected)
    assert next(stream).id == expected[0][0]
    stream.close()  # type: ignore[attr-defined]
    assert next(stream, None) is None
    assert ids(answers(decoder, PROMPTS[:2], GREEDY)) == expected


@pytest.mark.parametrize("chosen", PROMPTS[:4], ids=["audio", "typed", "audio, plain", "typed, plain"])
def test_a_score_is_the_sum_of_the_log_probabilities_along_its_path(decoder: Decoder, chosen: Prompt) -> None:
    for options in (GREEDY, SAMPLED):
        (tokens,) = answers(decoder, [chosen], options)
        path = [token.id for token in tokens]
        sums = [sum(token.logprob for token in tokens[:n]) for n in range(len(tokens) + 1)]
        prefixes = [path[:n] for n in range(len(path) + 1)]
        assert decoder.score(chosen, prefixes) == pytest.approx(sums, abs=1e-3)


def test_scores_of_many_continuations_are_those_of_each_alone(decoder: Decoder) -> None:
    draw = np.random.default_rng(4)
    stem, *ends = (draw.integers(3, VOCABULARY, n).tolist() for n in (12, *draw.integers(6, size=40)))
    texts = [stem[: int(draw.integers(13))] + end for end in ends]
    texts += [[], stem, stem, texts[0]]
    alone = [decoder.score(PROMPTS[0], [text])[0] for text in texts]
    assert decoder.score(PROMPTS[0], texts) == pytest.approx(alone, abs=1e-3)
    assert decoder.score(PROMPTS[0], []) == []
    assert decoder.score(PROMPTS[0], [[]]) == [0.0]


def test_log_probabilities_are_those_of_a_distribution(decoder: Decoder) -> None:
    logprobs = decoder.score(PROMPTS[1], [[token] for token in range(VOCABULARY)])
    assert np.exp(logprobs).sum() == pytest.approx(1.0, abs=1e-4)


def test_streams_that_are_read_in_turns_do_not_meet(decoder: Decoder) -> None:
    expected = ids(answers(decoder, PROMPTS[:3], GREEDY))
    streams = [decoder.generate([one], GREEDY) for one in PROMPTS[:3]]
    read: list[list[int]] = [[] for _ in streams]
    for _ in range(GREEDY.max_new_tokens):
        for stream, row in zip(streams, read, strict=True):
            row += [token.id for token in [next(stream, None)] if token]
        decoder.score(PROMPTS[3], [[5, 6]])  # nor does a score between them
    assert read == expected


def test_a_stream_that_is_not_read_on_blocks_no_other_thread(decoder: Decoder) -> None:
    waiting = decoder.generate([PROMPTS[0]], GREEDY)
    next(waiting)
    got: list[list[list[int]]] = []
    worker = threading.Thread(target=lambda: got.append(ids(answers(decoder, PROMPTS[:2], GREEDY))), daemon=True)
    worker.start()
    worker.join(60)
    assert got
    assert got[0][0][1:] == [token.id for token in waiting]


def test_threads_get_their_own_answers(decoder: Decoder) -> None:
    expected = ids(answers(decoder, PROMPTS, GREEDY))
    got: dict[int, list[int]] = {}

    def work(i: int) -> None:
        got[i] = ids(answers(decoder, [PROMPTS[i]], GREEDY))[0]

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got.get(i) for i in range(len(PROMPTS))] == expected


def test_a_closed_stream_is_over_and_the_next_call_is_as_before(decoder: Decoder) -> None:
    expected = ids(answers(decoder, PROMPTS[:2], GREEDY))
    for _ in range(20):
        stream = decoder.generate(PROMPTS, GREEDY)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert next(stream, None) is None
    assert ids(answers(decoder, PROMPTS[:2], GREEDY)) == expected


def test_a_prompt_that_fills_the_context_is_refused_before_anything_is_computed(decoder: Decoder) -> None:
    assert decoder.info.context_length == CONTEXT
    with pytest.raises(ConfigurationError, match=rf"(?s){CONTEXT}.*{CONTEXT}"):
        decoder.generate([prompt(4), prompt(6, -80, 10)], GREEDY)
    with pytest.raises(ConfigurationError, match=rf"(?s)90.*10.*{CONTEXT}"):
        decoder.score(prompt(90), [[5] * 10])
    assert decoder.score(prompt(90), [[5] * 6])[0] < 0


def test_an_answer_ends_with_the_context(decoder: Decoder) -> None:
    long, short = prompt(40, -50), prompt(5)
    options = GenerationOptions(temperature=3.0, top_p=1.0, max_new_tokens=50, seed=1)
    rows = answers(decoder, [long, short], options)
    if not decoder.info.eos_ids & set(ids(rows)[0]):
        assert len(rows[0]) == 6
    assert ids(rows) == [ids(answers(decoder, [one], options))[0] for one in (long, short)]
    filled = answers(decoder, [prompt(CONTEXT - 1)], options)[0]
    assert len(filled) == 1


@pytest.mark.parametrize(
    ("wrong", "told"), [(Prompt(()), "at least one"), (Prompt(([4], np.zeros((2, 5), np.float32))), "5"),
                        (Prompt(([4], np.zeros(WIDTH, np.float32))), str(WIDTH))],
    ids=["empty", "another width", "one axis"],
)
def test_prompts_of_a_wrong_form_are_refused(decoder: Decoder, wrong: Prompt, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        decoder.generate([wrong], GREEDY)
    with pytest.raises(ConfigurationError, match=told):
        decoder.score(wrong, [[5]])


def test_a_decoder_says_what_it_is_and_what_it_is_not_after_it_is_closed(decoder: Decoder) -> None:
    info = decoder.info
    assert (info.width, info.eos_ids, info.name) == (WIDTH, frozenset([2]), info.name.lower())
    stream = decoder.generate(PROMPTS, GREEDY)
    next(stream)
    decoder.close()
    with pytest.raises(ConfigurationError, match="closed"):
        list(stream)
    with pytest.raises(ConfigurationError, match="closed"):
        decoder.generate(PROMPTS, GREEDY)
    with pytest.raises(ConfigurationError, match="closed"):
        decoder.score(PROMPTS[0], [[5]])
