"""Choosing among what the search found: the plain LLM's say, the same in a batch as alone."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from soundwave.checkpoints.lora import attach_lora
from soundwave.errors import ConfigurationError
from soundwave.inference.backends import torch as torch_backend
from soundwave.inference.engine import Engine

PROMPT = "Write it down."


def engine_with(weight: float, lora: bool = False, **switches: Any) -> Engine:
    config = tiny.config(joint_ctc_weight=0.5, rescoring_weight=weight, transcribe_prompt=PROMPT, **switches)
    model = tiny.model(config)
    if lora:
        attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
        for name, parameter in model.language_model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
        model.eval().requires_grad_(False)
    return Engine(model, tiny.processor(config))


def clip(seconds: float, seed: int) -> tuple[Any, int]:
    return tiny.sound(seconds, seed=seed), 16_000


def each_alone(engine: Engine, text: list[int]) -> list[float]:
    """The plain LLM's log-probabilities of the tokens of a text after its first, read whole and by itself."""
    with torch.no_grad(), engine.model.plain_language_model():
        scores = engine.model.language_model(torch.tensor([text])).logits[0, :-1].log_softmax(-1)
    return scores[torch.arange(len(text) - 1), torch.tensor(text[1:])].tolist()


TEXTS = [
    ["the cat", "the son", "the cat on a son"],
    ["the", "a person on the cat"],
    ["so", "so so"],
    ["so so", "so"],
    ["the cat on a son", "the cat on a son", "the son on a cat", "a cat"],
]


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_texts_are_read_from_where_they_differ_as_if_each_were_read_whole(
    texts: list[str], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_backend, "READ_AT_ONCE", at_once)
    engine = engine_with(0.5, lora=True)
    reader = engine._transcription._reader
    read, first = reader.read(texts[0]), sum(each_alone(engine, reader.turn(texts[0])))
    assert read.likelihood == pytest.approx(first, abs=1e-4)
    expected = [sum(each_alone(engine, reader.turn(text))) - first for text in texts[1:]]
    gains = reader.gains(read, texts[1:])
    assert gains == pytest.approx(expected, abs=1e-4)
    assert reader.gains(read, texts[1:]) == gains, "what was read of the first text was changed"


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
def test_a_guess_reads_some_tokens_of_what_is_the_same_again(ahead: int) -> None:
    backend = (engine := engine_with(0.5, lora=True)).backend
    first, other = [5, 9, 11, 7, 12, 13, 8, 6], [5, 9, 14, 15, 16, 12, 13, 8, 6]  # 12, 13, 8, 6 is in both
    left_out = max(0, 4 - ahead)
    expected = sum(each_alone(engine, other[: len(other) - left_out])) - sum(
        each_alone(engine, first[: len(first) - left_out])
    )
    assert backend.gains(backend.read(first), [other], ahead) == pytest.approx([expected], abs=1e-4)


def test_texts_that_share_nothing_are_read_whole() -> None:
    backend = (engine := engine_with(0.5)).backend
    first, texts = [5, 9, 11], [[7, 9, 11, 13], [5, 8], [6, 8], [5, 9, 11]]
    expected = [sum(each_alone(engine, text)) - sum(each_alone(engine, first)) for text in texts]
    assert backend.gains(backend.read(first), texts) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("text", ["", "so", "What is the cat on?", "the cat\nand a person"])
def test_what_is_read_begins_the_turn_that_is_answered_and_ends_with_its_end(text: str) -> None:
    engine = engine_with(0.5)
    turn = engine.processor.tokenize([{"role": "user", "content": text}]).ids
    read = engine._transcription._reader.turn(text)
    assert read == turn[: len(read)]
    assert engine.processor.tokenizer.decode(read).endswith(text + engine.processor.tokenizer.decode(read[-1:]))


def found_by(engine: Engine, sound: tuple[Any, int], monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """What the engine writes, and the texts that its search found."""
    texts: list[str] = []
    search = engine.backend.search

    def spy(*arguments: Any) -> Any:
        found = search(*arguments)
        texts.extend(engine._transcription._text(ids) for ids in found[0])
        return found

    monkeypatch.setattr(engine.backend, "search", spy)
    monkeypatch.setattr(engine._transcription.searcher(), "respelt", lambda text, logits, heard: text)
    return engine.transcribe(sound).text, texts


def test_the_plain_llm_chooses_among_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(1e6, lora=True)
    written, texts = found_by(engine, clip(1.7, 3), monkeypatch)
    assert len(set(texts)) > 1
    assert written == max(texts, key=lambda text: sum(each_alone(engine, engine._transcription._reader.turn(text))))


def test_without_a_weight_the_searchs_best_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    written, texts = found_by(engine_with(0.0), clip(1.7, 3), monkeypatch)
    assert written == texts[0]


def test_a_batch_of_rescored_transcripts_gives_what_single_calls_give() -> None:
    engine = engine_with(0.5, lora=True)
    clips = [clip(seconds, seed) for seed, seconds in enumerate((1.0, 2.3, 0.7))]
    together = [one.text for one in engine.transcribe_batch(clips)]
    assert together == [engine.transcribe(one).text for one in clips]
    assert any(together)


def test_what_the_search_adds_up_is_what_each_text_is_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(0.0)
    scored: list[Any] = []
    monkeypatch.setattr(engine._transcription, "_chosen", lambda heard, found: scored.extend(found) or "")
    engine.transcribe(clip(1.7, 3))
    scores = [score for _, score in scored]
    assert len(scores) == torch_backend.BEAMS
    assert scores == sorted(scores, reverse=True)
    assert all(torch.isfinite(torch.tensor(scores)))


def test_a_weight_below_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"rescoring_weight=-1\.0 is below 0; give 0 for none"):
        tiny.config(rescoring_weight=-1.0)
