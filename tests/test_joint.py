"""Joint decoding over a real tokenizer's words: what CTC adds to the language model's choices."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from soundwave.errors import ConfigurationError
from soundwave.inference.engine import Engine
from soundwave.inference.joint import JointScorer, _split
from soundwave.inference.search import TranscriptSearch
from soundwave.text.ctc_tokenizer import CtcTokenizer, build_vocabulary


@pytest.fixture(scope="module")
def spelling() -> tuple[Any, CtcTokenizer]:
    tokenizer = tiny.chat_tokenizer()
    return tokenizer, CtcTokenizer(tokenizer, build_vocabulary(tokenizer, ["the cat", "a son", "person"], 100))


def heard(ctc: CtcTokenizer, text: str, certainty: float = 8.0) -> Tensor:
    """(F, C) scores of frames that say a text: each class for two frames, a blank before each."""
    assert ctc.vocabulary is not None
    blank = len(ctc.vocabulary)
    path = [frame for one in ctc.encode(text) for frame in (blank, one, one)] + [blank]
    return torch.nn.functional.one_hot(torch.tensor(path), blank + 1).float() * certainty


def scorer(spelling: tuple[Any, CtcTokenizer], texts: list[str], **options: Any) -> JointScorer:
    tokenizer, ctc = spelling
    assert ctc.vocabulary is not None
    logits = [heard(ctc, text) for text in texts]
    return JointScorer(logits, ctc, tokenizer, len(ctc.vocabulary), {tokenizer.eos_token_id}, **options)


def chosen(spelling: tuple[Any, CtcTokenizer], joint: JointScorer, before: str, likely: dict[str, float]) -> str:
    """What is best after a text, where the language model has these scores for the tokens that begin these words."""
    tokenizer, _ = spelling
    ids = tokenizer(before, add_special_tokens=False).input_ids if before else []
    for end in range(len(ids)):  # the scorer follows a text from its beginning
        step = torch.full((1, len(tokenizer)), -9.0)
        step[0, ids[end]] = 0.0
        joint(torch.tensor([ids[:end]], dtype=torch.long).reshape(1, end), step)
    scores = torch.full((1, len(tokenizer)), -30.0)
    for word, score in likely.items():
        token = tokenizer.eos_token_id if word == "END" else tokenizer(word, add_special_tokens=False).input_ids[0]
        scores[0, token] = score
    best = joint(torch.tensor([ids], dtype=torch.long).reshape(1, len(ids)), scores)[0].argmax().item()
    return "END" if best == tokenizer.eos_token_id else tokenizer.decode([best])


def test_words_are_finished_by_what_follows_them() -> None:
    assert _split(" The cat", end=False) == (["The"], "cat")
    assert _split(" The cat", end=True) == (["The", "cat"], "")
    assert _split(" The cat.", end=False) == (["The", "cat"], "")
    assert _split(" don'", end=False) == ([], "don'")
    assert _split(" ...", end=False) == ([], "")


def test_a_word_that_was_heard_beats_one_that_is_likelier_in_writing(spelling: tuple[Any, CtcTokenizer]) -> None:
    likely = {" a": 0.0, " cat": -2.0}
    assert chosen(spelling, scorer(spelling, ["the cat"], weight=0.0), " the", likely) == " a"
    assert chosen(spelling, scorer(spelling, ["the cat"], weight=1.0), " the", likely) == " cat"


def test_the_text_ends_when_everything_heard_is_written(spelling: tuple[Any, CtcTokenizer]) -> None:
    likely = {"END": -1.0, " cat": 0.0}
    assert chosen(spelling, scorer(spelling, ["the cat"], weight=1.0), " the cat", likely) == "END"
    assert chosen(spelling, scorer(spelling, ["the cat"], weight=1.0), " the", {"END": 0.0, " cat": -3.0}) != "END"


def test_what_was_heard_can_be_written_though_the_language_model_proposes_other_things(
    spelling: tuple[Any, CtcTokenizer],
) -> None:
    tokenizer, _ = spelling
    joint = scorer(spelling, ["the cat"], weight=1.0)
    scores = torch.linspace(0, -30, len(tokenizer))[None]
    first = tokenizer(" the", add_special_tokens=False).input_ids[0]
    scores[0, first] = -40.0  # the least likely of all
    allowed = torch.isfinite(joint(torch.zeros(1, 0, dtype=torch.long), scores)[0])
    assert allowed[first] or any(tokenizer.decode([i]).strip() in ("t", "th", "the") for i in allowed.nonzero())


def test_each_recordings_rows_are_held_against_its_own_frames(spelling: tuple[Any, CtcTokenizer]) -> None:
    tokenizer, _ = spelling
    both = scorer(spelling, ["the cat", "a son"], weight=1.0)
    scores = torch.zeros(4, len(tokenizer))  # two beams of each
    together = both(torch.zeros(4, 0, dtype=torch.long), scores)
    for clip, text in enumerate(["the cat", "a son"]):
        alone = scorer(spelling, [text], weight=1.0)(torch.zeros(2, 0, dtype=torch.long), scores[:2])
        assert torch.equal(together[2 * clip : 2 * clip + 2], alone)


def test_a_batch_of_transcripts_gives_what_single_calls_give() -> None:
    config = tiny.config(joint_ctc_weight=0.5)
    engine = Engine(tiny.model(config), tiny.processor(config))
    clips = [(tiny.sound(seconds, seed=seed), 16_000) for seed, seconds in enumerate((1.0, 2.3, 0.7))]
    together = engine.transcribe_batch(clips)
    assert [one.text for one in together] == [engine.transcribe(clip).text for clip in clips]
    assert all(one.source == ("llm+ctc" if one.text else "llm") for one in together)


def test_the_text_may_end_at_any_step_though_the_language_model_goes_on(spelling: tuple[Any, CtcTokenizer]) -> None:
    tokenizer, _ = spelling
    scores = torch.linspace(0, -30, len(tokenizer))[None]
    scores[0, tokenizer.eos_token_id] = -50.0
    joint = scorer(spelling, ["the cat"], weight=1.0)(torch.zeros(1, 0, dtype=torch.long), scores)
    assert torch.isfinite(joint[0, tokenizer.eos_token_id])


@pytest.mark.parametrize(("searched", "kept"), [(-10.0, True), (-200.0, False)])
def test_a_search_that_lost_the_recording_gives_way_to_what_ctc_heard(
    monkeypatch: pytest.MonkeyPatch, searched: float, kept: bool
) -> None:
    config = tiny.config(joint_ctc_weight=0.5)
    tokenizer = tiny.processor(config).tokenizer
    search = TranscriptSearch(config, tokenizer, CtcTokenizer(tokenizer), {tokenizer.eos_token_id}, None)
    monkeypatch.setattr("soundwave.inference.search.log_likelihoods", lambda logits, targets, blank: [searched, 0.0])
    monkeypatch.setattr("soundwave.inference.search.Lexicon.respelt", lambda self, text, likelihoods: text)
    found = search.respelt("al-a-al-a", torch.zeros(1, 1), "the cat")
    assert found == ("al-a-al-a" if kept else "The cat")


def test_a_weight_below_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"joint_ctc_weight=-1\.0 is below 0; give 0 for the LLM alone"):
        tiny.config(joint_ctc_weight=-1.0)


def test_a_text_that_cannot_win_any_more_may_only_end(spelling: tuple[Any, CtcTokenizer]) -> None:
    tokenizer, _ = spelling
    joint = scorer(spelling, ["the cat"], weight=0.0)
    (first,) = tokenizer(" the", add_special_tokens=False).input_ids[:1]
    scores = torch.full((1, len(tokenizer)), -9.0)
    scores[0, tokenizer.eos_token_id] = 20.0  # ends at once, almost certainly
    joint(torch.zeros(1, 0, dtype=torch.long), scores)
    following = joint(torch.tensor([[first]]), torch.zeros(1, len(tokenizer)))[0]
    assert following.isfinite().nonzero().flatten().tolist() == [tokenizer.eos_token_id]


def test_giving_up_what_cannot_win_changes_no_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(joint_ctc_weight=0.5)
    clips = [(tiny.sound(seconds, seed=seed), 16_000) for seed, seconds in enumerate((1.0, 2.3, 0.7, 1.6))]
    soon = [one.text for one in Engine(tiny.model(config), tiny.processor(config)).transcribe_batch(clips)]
    monkeypatch.setattr("soundwave.inference.joint.HOPELESS", 1e9)
    late = [one.text for one in Engine(tiny.model(config), tiny.processor(config)).transcribe_batch(clips)]
    assert soon == late


def test_a_prompt_is_read_once_for_all_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(joint_ctc_weight=0.5)
    clips = [(tiny.sound(seconds, seed=seed), 16_000) for seed, seconds in enumerate((1.0, 2.3, 0.7))]
    once = [one.text for one in Engine(tiny.model(config), tiny.processor(config)).transcribe_batch(clips)]
    monkeypatch.setattr("soundwave.model.soundwave.read_once", lambda *_: {})
    assert [one.text for one in Engine(tiny.model(config), tiny.processor(config)).transcribe_batch(clips)] == once


def test_asked_for_the_words_the_engine_gives_its_transcript() -> None:
    config = tiny.config(joint_ctc_weight=0.5)
    engine = Engine(tiny.model(config), tiny.processor(config))
    sound, prompt = (tiny.sound(1.3, seed=4), 16_000), config.transcribe_prompt
    written = engine.transcribe(sound).text
    assert written
    assert engine.ask(sound, prompt, temperature=0).text == written
    assert engine.ask_batch([(sound, prompt), (sound, "Who?")], temperature=0)[0].text == written
    assert "".join(chunk.text for chunk in engine.stream(sound, prompt)) == written
    assert len(engine.ask(sound, prompt, max_new_tokens=3).token_ids) == 3


def test_without_the_search_the_language_model_writes_alone() -> None:
    config = tiny.config(joint_ctc_weight=0.5)
    engine = Engine(tiny.model(config), tiny.processor(config), search=False)
    plain = Engine(tiny.model(tiny.config()), tiny.processor(tiny.config()))
    sound = (tiny.sound(1.3, seed=4), 16_000)
    assert engine.transcribe(sound).text == plain.transcribe(sound).text
    assert engine.transcribe(sound).source == "llm"


def test_no_prompt_is_the_models_default_and_an_empty_one_asks_for_nothing() -> None:
    config = tiny.config(joint_ctc_weight=0.5)
    config.default_prompt = config.transcribe_prompt
    engine = Engine(tiny.model(config), tiny.processor(config))
    sound = (tiny.sound(1.3, seed=4), 16_000)
    assert engine.ask(sound).text == engine.transcribe(sound).text
    alone = Engine(tiny.model(config), tiny.processor(config), search=False)
    assert engine.ask(sound, "", temperature=0).text == alone.ask(sound, "", temperature=0).text
