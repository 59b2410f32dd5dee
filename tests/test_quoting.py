"""What a reply quotes of a recording is searched; the language model goes on after it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from soundwave.inference.engine import Engine, Request
from soundwave.inference.quoting import FIRST_TOKENS, opens, tokens_before

SOUND = (tiny.sound(1.3, seed=4), 16_000)


@pytest.mark.parametrize(("text", "quotes"), [
    ('You are asking "', True), ("Your question is “", True), ("You are asking", False), ('"', False),
    ('"The cat"', False), ('You are asking "The', False), ("x" * 61 + '"', False),
])  # fmt: skip
def test_a_quotation_begins_after_a_few_words(text: str, quotes: bool) -> None:
    assert opens(text) is quotes


def test_the_tokens_before_a_quotation_are_counted() -> None:
    pieces = ["You", " ask", ' "', "The", " cat", '"']
    text_of = lambda ids: "".join(pieces[i] for i in ids)  # noqa: E731 - shown beside what it reads
    assert tokens_before(list(range(6)), text_of) == 3
    assert tokens_before([0, 1], text_of) is None
    assert tokens_before([5, 0], text_of) is None  # a reply that begins with the mark quotes no one
    assert tokens_before([1] * FIRST_TOKENS + [2], text_of) is None


class Quoter:
    """An engine whose language model begins each reply with a quotation; it records what it was asked to go on from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, said: str = "The cat?"):
        config = tiny.config(joint_ctc_weight=0.5)
        self.engine = Engine(tiny.model(config), tiny.processor(config))
        self.tokens: Any = self.engine.processor.tokenizer
        self.begun: list[str] = []
        opening, answer = self.ids('the "'), self.ids(" a son")
        end = min(self.engine.backend.end_ids)

        def go_on(prompt: list[int]) -> list[int]:
            self.begun.append(self.tokens.decode(prompt))
            return [*answer, end] if self.begun[-1].endswith('"') else [*opening, *answer, end]

        def batch(input_ids: Any, mask: Any, audio: Any, sampling: Any, scorer: Any = None, *more: Any) -> Any:
            stops, _ = more
            rows = [go_on([i for i, k in zip(r, m, strict=True) if k]) for r, m in zip(input_ids, mask, strict=True)]
            made, begun = [row[: sampling.max_new_tokens] for row in rows], len(opening)
            return [row[:begun] if stops is not None and stops(row[:begun]) else row for row in made]

        monkeypatch.setattr(self.engine.backend, "batch", batch)
        monkeypatch.setattr(
            self.engine.backend, "stream",
            lambda ids, audio, sampling: iter(go_on(ids[0].tolist())[: sampling.max_new_tokens]),
        )
        monkeypatch.setattr(self.engine, "_words", lambda begun, heard, quoting=False: [said for _ in heard])

    def ids(self, text: str) -> list[int]:
        return self.tokens(text, add_special_tokens=False).input_ids


def test_the_quoted_words_are_those_that_were_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    quoter = Quoter(monkeypatch)
    reply = quoter.engine.ask(SOUND, "What is the cat?", temperature=0)
    assert reply.text == 'the "The cat?" a son'
    assert quoter.begun[-1].endswith('the "The cat?"')  # the language model went on from there
    assert reply.finish_reason == "stop"


def test_a_batch_quotes_as_single_calls_do(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Quoter(monkeypatch).engine
    prompts = ["What is the cat?", "Who?"]
    together = engine.ask_batch([Request(SOUND, prompt) for prompt in prompts], temperature=0)
    assert [one.token_ids for one in together] == [engine.ask(SOUND, p, temperature=0).token_ids for p in prompts]


@pytest.mark.parametrize("most", [1, 3, 5, 7, 50])
def test_the_bound_on_new_tokens_counts_what_is_quoted(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    engine = Quoter(monkeypatch).engine
    alone = engine.ask(SOUND, "What?", temperature=0, max_new_tokens=most)
    (together,) = engine.ask_batch([Request(SOUND, "What?")], temperature=0, max_new_tokens=most)
    assert alone.token_ids == together.token_ids
    assert len(alone.token_ids) <= most


def test_where_nothing_was_said_the_language_model_goes_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    quoter = Quoter(monkeypatch, said="")
    assert quoter.engine.ask(SOUND, "What is the cat?", temperature=0).text == 'the " a son'


def test_typed_turns_and_engines_without_a_search_quote_as_the_language_model_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quoter = Quoter(monkeypatch)
    assert quoter.engine.ask(None, "What is the cat?", temperature=0).text == 'the " a son'
    quoter.engine.search = False
    assert quoter.engine.ask(SOUND, "What is the cat?", temperature=0).text == 'the " a son'


def test_asked_for_the_words_the_engine_gives_its_transcript() -> None:
    config = tiny.config(joint_ctc_weight=0.5)
    engine = Engine(tiny.model(config), tiny.processor(config))
    prompt = config.transcribe_prompt
    written = engine.transcribe(SOUND).text
    assert written
    assert engine.ask(SOUND, prompt, temperature=0).text == written
    assert engine.ask_batch([Request(SOUND, prompt)], temperature=0)[0].text == written
    assert "".join(chunk.text for chunk in engine.stream(SOUND, prompt)) == written
