"""Other words in a text: taken where CTC and the plain LLM together find them better, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from soundwave.errors import ConfigurationError
from soundwave.inference import rewording
from soundwave.inference.backends.torch import Read
from soundwave.inference.ctc_prefix import log_likelihoods
from soundwave.inference.engine import Engine
from soundwave.inference.lexicon import Lexicon
from soundwave.inference.rewording import Rewording
from soundwave.inference.typed import Typed, TypedReader
from soundwave.text.ctc_tokenizer import CtcTokenizer, build_vocabulary

WORDS = ["the", "a", "cat", "cart", "hat", "sat", "on", "person", "son", "persia", "into", "in", "to"]


class Reader:
    """Finds each word as likely as it is told; knows the tokens of `tokenizer`."""

    def __init__(self, tokenizer: Any, cost: Callable[[str], float]):
        self.tokenizer, self.cost = tokenizer, cost
        self.texts: list[str] = []

    def gains(self, beside: Typed, others: list[str], ahead: int | None = None) -> list[float]:
        self.texts += others
        return [-self.cost(text) - beside.likelihood for text in others]

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def read(self, text: str) -> Typed:
        self.texts.append(text)
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        turn = Read(found.input_ids, torch.empty(0), [-self.cost(text)], {})
        return Typed(torch.zeros(len(turn.tokens), len(self.tokenizer)), turn.tokens, found.offset_mapping, turn)


@pytest.fixture(scope="module")
def ctc() -> CtcTokenizer:
    tokenizer = tiny.chat_tokenizer()
    return CtcTokenizer(tokenizer, build_vocabulary(tokenizer, [" ".join(WORDS)], 60))


def frames(ctc: CtcTokenizer, text: str, certainty: float = 4.0) -> Tensor:
    """(F, C) scores of frames that say a text, not for certain."""
    assert ctc.vocabulary is not None
    blank = len(ctc.vocabulary)
    path = [frame for one in ctc.encode(text) for frame in (one, one, blank)]
    return torch.nn.functional.one_hot(torch.tensor(path), blank + 1).float() * certainty


def rewording_of(ctc: CtcTokenizer, cost: Callable[[str], float], weight: float = 1.0, **names: str) -> Any:
    assert ctc.vocabulary is not None
    lexicon = Lexicon({word: rank for rank, word in enumerate(WORDS)}, len(WORDS), names)
    return Rewording(lexicon, ctc, Reader(ctc.tokenizer, cost), len(ctc.vocabulary), weight)  # type: ignore[arg-type]


def unlike(*wanted: str) -> Callable[[str], float]:
    """Ten nats for each word of a text that is not wanted, and for each that lacks."""

    def cost(text: str) -> float:
        words = Counter(text.lower().strip(".?").split())
        return 10.0 * ((words - Counter(wanted)).total() + (Counter(wanted) - words).total())

    return cost


def test_a_word_gives_way_to_one_that_is_written_more_often_and_was_said_as_well(ctc: CtcTokenizer) -> None:
    better = rewording_of(ctc, unlike("the", "cat", "sat"))
    assert better.reworded("The hat sat.", frames(ctc, "the cat sat")) == "The cat sat."


def test_a_word_that_was_clearly_said_stays_though_another_is_likelier(ctc: CtcTokenizer) -> None:
    better = rewording_of(ctc, unlike("the", "cat", "sat"))
    assert better.reworded("The hat sat.", frames(ctc, "the hat sat", certainty=40.0)) == "The hat sat."


def test_two_words_become_one(ctc: CtcTokenizer) -> None:
    better = rewording_of(ctc, unlike("the", "cat", "into", "person"))
    assert better.reworded("The cat in to person", frames(ctc, "the cat into person")) == "The cat into person"


def test_one_word_becomes_two(ctc: CtcTokenizer) -> None:
    better = rewording_of(ctc, unlike("the", "cat", "in", "to", "person"))
    assert better.reworded("The cat into person", frames(ctc, "the cat in to person")) == "The cat in to person"
    named = rewording_of(ctc, unlike(), persia="Persia")
    assert named._written(("on", "persia"), begins=True) == "On Persia"


def test_several_words_give_way_at_once(ctc: CtcTokenizer) -> None:
    better, said = rewording_of(ctc, unlike("a", "cat", "sat", "on", "the", "person")), "a cat sat on the person"
    assert better.reworded("A hat sat in the son?", frames(ctc, said)) == "A cat sat on the person?"


def test_a_name_has_its_capital_and_the_beginning_of_a_sentence_too(ctc: CtcTokenizer) -> None:
    better = rewording_of(ctc, unlike("a", "cat", "into", "persia"), persia="Persia")
    assert better.reworded("The cat. A cat into person.", frames(ctc, "the cat a cat into persia")).endswith("Persia.")
    assert rewording_of(ctc, unlike("cat", "sat")).reworded("Hat sat", frames(ctc, "cat sat")) == "Cat sat"


def test_what_ctc_cannot_spell_stays_and_the_rest_is_still_looked_at(ctc: CtcTokenizer) -> None:
    better = rewording_of(ctc, unlike("the", "42", "cat", "sat"))
    assert better.reworded("The 42 hat sat", frames(ctc, "the cat sat")) == "The 42 cat sat"


@pytest.mark.parametrize("text", ["", "42", "?!"])
def test_where_there_are_no_words_nothing_is_changed(ctc: CtcTokenizer, text: str) -> None:
    assert rewording_of(ctc, unlike("cat")).reworded(text, frames(ctc, "cat")) == text


def test_the_text_is_never_worse_than_it_was(ctc: CtcTokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    assert ctc.vocabulary is not None
    changed = 0
    for seed in range(10):
        cost = lambda text, seed=seed: (hash((text, seed)) % 1000) / 100  # noqa: E731
        better = rewording_of(ctc, cost)
        logits = 3 * torch.randn(40, len(ctc.vocabulary) + 1, generator=generator)

        def total(text: str, logits: Tensor = logits, cost: Callable[[str], float] = cost) -> float:
            words = ctc.encode(text.lower().strip("."))
            return log_likelihoods(logits, [words], len(ctc.vocabulary or []))[0] - cost(text)

        text = better.reworded("The cat sat on a hat.", logits)
        assert total(text) >= total("The cat sat on a hat.")
        changed += text != "The cat sat on a hat."
    assert changed


def test_no_more_texts_are_read_than_allowed(ctc: CtcTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewording, "TRIED", 2)
    monkeypatch.setattr(rewording, "ROUNDS", 1)
    better = rewording_of(ctc, lambda text: 0.0)
    better.reworded("The hat sat on a person", frames(ctc, "the cat sat on a person"))
    assert len(better.reader.texts) <= 1 + 2 + 2


def engine(weight: float) -> Engine:
    config = tiny.config(joint_ctc_weight=0.5, word_list="english", rewording_weight=weight)
    return Engine(tiny.model(config), tiny.processor(config))


def clips() -> list[tuple[Any, int]]:
    return [(tiny.sound(seconds, seed=seed), 16_000) for seed, seconds in enumerate((1.0, 2.3, 0.7))]


def test_what_the_reader_expects_in_a_text_and_of_its_end_adds_up_to_the_likelihood_of_the_turn() -> None:
    one = engine(0.6)
    reader = TypedReader(one.processor, one.backend)
    for text in ("the cat", "a son on the cat"):
        read = reader.read(text)
        first, total = read.between(0, len(text))
        before = next(i for i, (a, b) in enumerate(zip(reader.turn("a"), reader.turn("b"), strict=True)) if a != b)
        after = before + len(read.tokens)
        assert first == 0
        assert total == pytest.approx(read.turn.so_far[after - 1] - read.turn.so_far[before - 1], abs=1e-3)
        assert read.likelihood == read.turn.so_far[-1]


def test_a_batch_of_reworded_transcripts_gives_what_single_calls_give() -> None:
    one = engine(5.0)
    together = [each.text for each in one.transcribe_batch(clips())]
    assert together == [one.transcribe(clip).text for clip in clips()]
    without = engine(0.0)
    assert together != [without.transcribe(clip).text for clip in clips()]


def test_what_ctc_reads_alone_needs_no_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine(0.6)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the LLM ran")

    monkeypatch.setattr(one.model.language_model, "forward", refuse)
    read = one.read_batch(clips())
    assert [each.text for each in read] == [one.read(clip).text for clip in clips()]
    assert {each.source for each in read} == {"ctc"}
    assert all(each.text == each.text.lower() for each in read)
    assert [each.text for each in read] != [each.ctc_text for each in read]  # known words
    one.search = False
    assert [each.text for each in one.read_batch(clips())] == [each.ctc_text for each in read]


def test_a_weight_below_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"rewording_weight=-1\.0 is below 0; give 0 for none, or one such as"):
        tiny.config(rewording_weight=-1.0)
