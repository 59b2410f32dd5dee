"""Conversations: one recording and one text get what `ask` answers; in several turns each stands in its place."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tiny
from test_answering import OTHER, SOUND, adapted_model
from test_long_questions import ANSWER, LONG, OPTIONS, WORDS, engine_reading, reading_words, recorder_of, text_of

from soundwave.errors import AudioError, AudioTooLongError, ConfigurationError
from soundwave.inference.conversation import READINGS_KEPT
from soundwave.inference.engine import Engine
from soundwave.inference.prompts import as_written
from soundwave.inference.results import Chunk
from soundwave.inference_config import InferenceConfig

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny.engine(model=adapted_model(), inference=InferenceConfig(via="transcript"))


def user(*parts: Any) -> dict[str, Any]:
    """A message of texts and recordings."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "audio", "audio": part} for part in parts
    ]
    return {"role": "user", "content": content}


def seen(engine: Engine, messages: list[dict[str, Any]], **options: Any) -> list[Any]:
    """What the LLM reads: texts, and the embeddings between them."""
    recorder = engine_reading(None)
    listening = Engine(engine.encoder, recorder.decoder, engine.processor, engine.inference)
    listening.chat(messages, **options)
    (prompt,) = recorder_of(listening).prompts
    decode = engine.processor.tokenizer.decode
    return [part if isinstance(part, np.ndarray) else decode(part) for part in prompt.segments]


@pytest.mark.parametrize("via", ["auto", "audio", "transcript"])
@pytest.mark.parametrize("prompt", [None, "Who speaks?"])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_one_recording_and_one_text_get_what_ask_answers(
    engine: Engine, via: Any, prompt: str | None, temperature: float
) -> None:
    options: dict[str, Any] = {"via": via, "temperature": temperature, "seed": 5, "max_new_tokens": 12}
    asked = engine.ask(SOUND, prompt, **options)
    told = engine.chat([user(SOUND, prompt) if prompt else user(SOUND)], **options)
    assert (told.text, told.token_ids, told.finish_reason) == (asked.text, asked.token_ids, asked.finish_reason)
    assert (told.usage, told.via, told.transcript) == (asked.usage, asked.via, asked.transcript)


def test_a_typed_turn_gets_what_ask_answers(engine: Engine) -> None:
    asked, told = engine.ask(None, "the cat", **GREEDY), engine.chat([{"role": "user", "content": "the cat"}], **GREEDY)
    assert (told.token_ids, told.usage, told.via, told.transcript) == (asked.token_ids, asked.usage, "text", None)


def test_the_chunks_are_the_reply(engine: Engine) -> None:
    messages = [user(SOUND, "Who?"), tiny.assistant("A son."), user("And here?", OTHER)]
    chunks = list(engine.chat_stream(messages, via="audio", **GREEDY))
    reply = engine.chat(messages, via="audio", **GREEDY)
    assert "".join(chunk.text for chunk in chunks) == reply.text
    assert [token for chunk in chunks for token in chunk.token_ids] == reply.token_ids
    assert chunks[-1].reply is not None
    assert chunks[-1].reply.token_ids == reply.token_ids


def test_embeddings_of_several_recordings_stand_in_their_places(engine: Engine) -> None:
    system = {"role": "system", "content": "Be brief."}
    messages = [system, user(SOUND, OTHER, "Same person?"), tiny.assistant("No."), user("And this?", SOUND)]
    before, first, between, second, rest, third, end = seen(engine, messages, via="audio")
    one, other = (engine.encode(sound).embeddings.numpy() for sound in (SOUND, OTHER))
    for found, expected in ((first, one), (second, other), (third, one)):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (before, between) == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n", "")
    middle = "<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n<|im_start|>user\n"
    assert (rest, end) == (f"Same person?{middle}And this?", "<|im_end|>\n<|im_start|>assistant\n")
    reply = engine.chat(messages, via="audio", **GREEDY)
    assert reply.usage.audio_tokens == 2 * len(one) + len(other)
    assert reply.usage.audio_seconds == pytest.approx(1.3 + 2.1 + 1.3)


def test_words_of_a_model_that_hears_other_languages_too_are_left_as_they_are() -> None:
    engine = tiny.engine()
    for languages, written in ((("en",), "Is it I?"), (("en", "it"), "is it i")):
        engine._prompts.inference = dataclasses.replace(engine._prompts.inference, languages=languages)  # private
        assert engine._prompts.written("is it i") == written


def test_words_stand_in_place_of_recordings_apart_from_what_is_typed(engine: Engine) -> None:
    said = [engine.transcribe(sound).text for sound in (SOUND, OTHER)]
    one, other = map(as_written, said)
    messages = [user(SOUND, "Who?"), tiny.assistant("No."), user("And here?", OTHER, SOUND)]
    typed = [user(f"{one}\n\nWho?"), tiny.assistant("No."), user(f"And here?\n\n{other}\n\n{one}")]
    reply, expected = engine.chat(messages, **GREEDY), engine.chat(typed, **GREEDY)
    assert (reply.via, reply.transcript) == ("transcript", f"{said[1]} {said[0]}")
    assert reply.token_ids == expected.token_ids
    assert reply.usage.prompt_tokens == expected.usage.prompt_tokens
    again = engine.chat([*messages, tiny.assistant("A"), user("B")], **GREEDY)
    assert (again.via, again.transcript) == ("transcript", None)  # nothing was said in what is answered


def test_where_nobody_speaks_nothing_is_answered_but_a_later_text_is() -> None:
    silent = tiny.engine(inference=InferenceConfig(via="transcript"))
    silent.encoder.alignment.ctc_blank_bias.data.fill_(1e4)  # CTC reads blanks
    for message in (user(SOUND), user(SOUND, "Who speaks?")):
        reply = silent.chat([message], **GREEDY)
        assert (reply.text, reply.token_ids, reply.transcript, reply.finish_reason) == ("", [], "", "stop")
    assert silent.chat([user(SOUND), tiny.assistant(""), user("Well?")], **GREEDY).token_ids


def cut(engine: Engine, messages: list[dict[str, Any]], stop: Any) -> tuple[list[Chunk], str]:
    chunks = list(engine.chat_stream(messages, stop=stop, temperature=0, max_new_tokens=40))
    return chunks, "".join(chunk.text for chunk in chunks)


def test_an_answer_ends_before_the_first_stop_wherever_its_tokens_part(engine: Engine) -> None:
    messages = [user("the cat")]
    whole = engine.chat(messages, temperature=0, max_new_tokens=40)
    assert len(whole.text) > 12
    for start in range(1, len(whole.text) - 4):
        stop = whole.text[start : start + 4]
        chunks, text = cut(engine, messages, [stop, "never said"])
        expected = whole.text.split(stop)[0]
        assert text == expected
        reply = chunks[-1].reply
        assert reply is not None
        assert (reply.text, reply.finish_reason) == (expected, "stop")
        assert reply.token_ids == [token for chunk in chunks for token in chunk.token_ids]
        assert reply.token_ids == whole.token_ids[: len(reply.token_ids)]
        decode = engine.processor.tokenizer.decode
        assert stop not in decode(reply.token_ids[:-1], skip_special_tokens=True)  # it ended at once
    assert cut(engine, messages, "never said")[1] == whole.text
    assert cut(engine, messages, whole.text[-3:] + "more")[1] == whole.text  # what only begins a stop is shown at last


def test_a_stop_and_a_closed_stream_end_the_decoder_at_once() -> None:
    engine = engine_reading(None)
    decoder = recorder_of(engine)
    reply = engine.chat([user("what")], stop="e", **OPTIONS)
    assert (reply.text, reply.finish_reason, decoder.running) == ("th", "stop", 0)
    stream = engine.chat_stream([user("what")], **OPTIONS)
    next(stream)
    assert decoder.running == 1
    stream.close()
    assert decoder.running == 0


def test_a_recording_of_an_earlier_turn_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, encoded = tiny.engine(), []
    encode = engine._front_end.encode_clips
    monkeypatch.setattr(
        engine._front_end, "encode_clips", lambda clips, *more: encoded.append(len(clips)) or encode(clips, *more)
    )
    turns = [user(SOUND, "Who?"), tiny.assistant("A son."), user(OTHER)]
    for via in ("audio", "transcript"):
        engine.chat(turns[:1], via=via, **GREEDY)
        engine.chat(turns, via=via, **GREEDY)
        engine.chat(turns, via=via, **GREEDY)
    assert encoded == [1, 1, 0] * 2
    for seed in range(READINGS_KEPT + 1):
        engine._conversations._of_clips([tiny.sound(0.1, seed)], "audio")
    assert len(engine._conversations._kept) == READINGS_KEPT


def test_long_recordings_are_whole_or_refused() -> None:
    engine = engine_reading(None)
    whole = engine.chat([user(LONG, "what"), tiny.assistant("A"), user(SOUND, LONG, "and")], via="audio", **OPTIONS)
    asked = engine.ask(LONG, "what", via="audio", **OPTIONS).usage
    assert whole.usage.audio_seconds == pytest.approx(70 + 1.3 + 70)
    assert whole.usage.audio_tokens == 2 * asked.audio_tokens + len(engine.encode(SOUND).embeddings)
    fitting = [user(LONG, "what"), tiny.assistant("A"), user("and")]
    needed = engine.chat(fitting, via="audio", **OPTIONS).usage.prompt_tokens + 8
    assert engine_reading(needed).chat(fitting, via="audio", **OPTIONS).text == ANSWER
    with pytest.raises(AudioTooLongError, match=f"reads {needed - 1} in all"):
        engine_reading(needed - 1).chat(fitting, via="audio", **OPTIONS)


def test_a_long_transcript_alone_is_asked_in_parts_as_by_ask_and_in_a_conversation_refused() -> None:
    length = reading_words(None).chat([user(WORDS, "what")], via="transcript", **OPTIONS).usage.prompt_tokens
    for context in (length + 8, length // 2):
        asking, chatting = reading_words(context), reading_words(context)
        reply = chatting.chat([user(WORDS, "what")], via="transcript", **OPTIONS)
        assert reply.transcript == asking.ask(WORDS, "what", via="transcript", **OPTIONS).transcript
        texts = [[text_of(one, prompt) for prompt in recorder_of(one).prompts] for one in (asking, chatting)]
        assert texts[0] == texts[1]
    with pytest.raises(AudioTooLongError, match=rf"1\.0 minutes.*reads {length // 2} in all"):
        reading_words(length // 2).chat(
            [user("Listen."), tiny.assistant("Yes."), user(WORDS, "what")], via="transcript", **OPTIONS
        )


@pytest.mark.parametrize("via", ["audio", "transcript"])
def test_many_turns_that_do_not_fit_are_refused_before_anything_is_made(via: Any) -> None:
    engine = engine_reading(None)
    short = (tiny.sound(0.3), 16_000)
    messages = [user(short, "what"), tiny.assistant("A"), user(short, "and")]
    length = engine.chat(messages, via=via, **OPTIONS).usage.prompt_tokens
    assert engine_reading(length + 1).chat(messages, via=via, **OPTIONS).finish_reason == "length"
    for turns in (messages, [user("what " * length)]):
        refusing = engine_reading(length)
        with pytest.raises((AudioTooLongError, ConfigurationError), match=f"reads at most {length}|reads {length} in"):
            refusing.chat(turns, via=via, **OPTIONS)
        assert recorder_of(refusing).running == 0


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "no messages"), ([user("a"), tiny.assistant("b")], "last message is the assistant's"),
        ([{"role": "robot", "content": "a"}], "'robot'; allowed are system, user, assistant"),
        ([{"role": "system", "content": [{"type": "audio", "audio": SOUND}]}, user("a")], "'system' has a recording"),
        ([user("a"), {"role": "user", "content": [{"type": "image"}]}], "'image'; allowed are text, audio"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "holds no audio"), ("hello", "message is 'h'"),
    ],
)
def test_messages_that_cannot_be_answered_are_refused(engine: Engine, messages: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        engine.chat(messages)


def test_of_several_recordings_the_one_is_named_that_cannot_be_used(engine: Engine) -> None:
    with pytest.raises(AudioError, match="recording 1: "):
        engine.chat([user(SOUND, b"no sound", "Who?")])
    with pytest.raises(AudioError, match=r"^(?!recording)"):
        engine.chat([user(b"no sound", "Who?")])


@pytest.mark.parametrize("stop", [[""], [5], ("a", "")])
def test_stops_that_are_no_texts_are_refused(engine: Engine, stop: Any) -> None:
    with pytest.raises(ConfigurationError, match="stop"):
        engine.chat([user("the cat")], stop=stop)


def test_without_an_llm_nothing_is_answered() -> None:
    with pytest.raises(ConfigurationError, match="No LLM is loaded"):
        tiny.engine(llm=False).chat([user("the cat")])
