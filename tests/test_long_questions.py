"""Asking about long audio: all of it is read, or an error says how much fits; a long transcript is asked in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from coded_words import coded, cutter, reader
from coded_words import text_of as text_of_words
from test_longform import LETTERS, chords, run_of_words

from soundwave.audio import SAMPLE_RATE
from soundwave.errors import AudioTooLongError, ConfigurationError
from soundwave.inference.backends.fake import FakeDecoder
from soundwave.inference.backends.protocol import Prompt
from soundwave.inference.engine import Engine
from soundwave.inference.prompts import as_written
from soundwave.inference.stretches import Ended, Failed, Listening, events_of, unshared

ANSWER = "the cat"


class Recorder(FakeDecoder):
    """Answers each prompt with the same words, and keeps the prompts."""

    def __init__(self, engine: Engine, context: int | None):
        tokenizer = engine.processor.tokenizer
        ids = tokenizer(ANSWER, add_special_tokens=False).input_ids
        super().__init__(len(tokenizer), tiny.LLM_WIDTH, {tokenizer.eos_token_id}, context, lambda prompt: ids)
        self.prompts: list[Prompt] = []

    def generate(self, prompts: Any, options: Any, drafts: Any = None) -> Any:
        self.prompts += prompts
        return super().generate(prompts, options, drafts)


def engine_reading(context: int | None) -> Engine:
    """A tiny engine whose LLM reads so many positions."""
    ids = sorted(tiny.chat_tokenizer().convert_tokens_to_ids(list(LETTERS)))
    whole = tiny.engine(tiny.config(ctc_vocabulary=ids))
    engine = Engine(whole.encoder, Recorder(whole, context), whole.processor, whole.inference, "tiny")
    engine._long.new_cutter = cutter  # private: what is loud is speech
    return engine


def recorder_of(engine: Engine) -> Recorder:
    assert isinstance(engine.decoder, Recorder)
    return engine.decoder


def text_of(engine: Engine, prompt: Prompt) -> str:
    return engine.processor.tokenizer.decode([token for segment in prompt.segments for token in segment])


LONG = (chords(70.0, 8), SAMPLE_RATE)
OPTIONS = {"temperature": 0, "max_new_tokens": 8}


def test_all_of_a_long_recording_is_in_one_prompt() -> None:
    engine = engine_reading(None)
    reply = engine.ask(LONG, "what", via="audio", **OPTIONS)
    stretches = [
        one for one in unshared(events_of([Listening(LONG)], cutter)) if not isinstance(one, Ended | Failed)
    ]
    assert len(stretches) > 2
    expected = np.concatenate([engine.encode((one, SAMPLE_RATE)).embeddings.numpy() for one in stretches])
    ((read, *others),) = [
        [segment for segment in prompt.segments if isinstance(segment, np.ndarray)]
        for prompt in recorder_of(engine).prompts
    ]
    assert others == []
    np.testing.assert_allclose(read, expected, atol=1e-5)
    assert (reply.text, reply.usage.audio_seconds, reply.usage.audio_tokens) == (ANSWER, 70.0, len(expected))


def test_more_than_the_llm_reads_is_refused_with_how_much_fits() -> None:
    whole = engine_reading(None).ask(LONG, "what", via="audio", **OPTIONS).usage
    context = whole.prompt_tokens - whole.audio_tokens // 2 + 8
    match = rf"reads {context} in all, of which 8 are kept.*--via transcript"
    with pytest.raises(AudioTooLongError, match=match) as told:
        engine_reading(context).ask(LONG, "what", via="audio", **OPTIONS)
    fits = told.value.limit
    assert 10 < fits < 60
    reply = engine_reading(context).ask(LONG, "what", via="audio", end=fits * 0.8, **OPTIONS)
    assert reply.usage.audio_seconds == pytest.approx(fits * 0.8, abs=0.01)
    assert engine_reading(whole.prompt_tokens + 8).ask(LONG, "what", via="audio", **OPTIONS).text == ANSWER


def test_one_that_is_too_long_does_not_stop_the_others() -> None:
    whole = engine_reading(None).ask(LONG, "what", via="audio", **OPTIONS).usage
    engine = engine_reading(whole.prompt_tokens)
    short = (tiny.sound(0.1), SAMPLE_RATE)
    results = engine.ask_batch([(LONG, "what"), (short, "what")], via="audio", return_errors=True, **OPTIONS)
    assert [type(one).__name__ for one in results] == ["AudioTooLongError", "Reply"]


def reading_words(context: int | None) -> Engine:
    """An engine that finds coded words."""
    engine = engine_reading(context)
    engine._turn_maker.long_transcriber = reader()
    return engine


SPOKEN = run_of_words(60.0, 0, pause=0.5)
WORDS = (coded(SPOKEN), SAMPLE_RATE)
LENGTH = len(engine_reading(None)._prompts.transcript(as_written(text_of_words(SPOKEN)), "what"))


def test_by_way_of_the_transcript_all_its_words_are_read() -> None:
    engine = reading_words(LENGTH + 8)
    reply = engine.ask(WORDS, "what", via="transcript", **OPTIONS)
    assert (reply.transcript, reply.via, reply.text) == (text_of_words(SPOKEN), "transcript", ANSWER)
    (prompt,) = recorder_of(engine).prompts
    assert f"{as_written(text_of_words(SPOKEN))}\n\nwhat" in text_of(engine, prompt)


@pytest.mark.parametrize("context", [LENGTH + 7, LENGTH // 2, LENGTH // 3])
def test_a_transcript_that_is_too_long_is_asked_in_parts_and_their_answers_then(context: int) -> None:
    engine = reading_words(context)
    assert engine.ask(WORDS, "what", via="transcript", **OPTIONS).text == ANSWER
    *parts, last = recorder_of(engine).prompts
    assert len(parts) >= 2
    said = [text_of(engine, prompt).split("user\n")[-1].split("\n\nwhat")[0] for prompt in parts]
    assert " ".join(said) == as_written(text_of_words(SPOKEN))
    assert all(len(prompt) + 8 <= context for prompt in (*parts, last))
    assert "\n".join([ANSWER] * len(parts)) + "\n\nwhat" in text_of(engine, last)


def test_words_that_are_the_question_themselves_are_refused_where_they_are_too_many() -> None:
    with pytest.raises(AudioTooLongError, match=r"about 0\.\d minutes fit\. Give a prompt"):
        reading_words(LENGTH // 2).ask(WORDS, None, via="transcript", **OPTIONS)


def test_what_leaves_no_room_for_words_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="leave no room for a transcript"):
        reading_words(40).ask(WORDS, "what", via="transcript", **OPTIONS)


def test_channels_one_by_one_are_for_transcripts() -> None:
    with pytest.raises(ConfigurationError, match="channels is 'each', which is for transcripts"):
        engine_reading(None).ask(LONG, "what", channels="each")
