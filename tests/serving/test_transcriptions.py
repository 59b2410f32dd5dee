"""POST /v1/audio/transcriptions, asked by the official client over real HTTP: the words of the Python API."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tiny
from recordings import encoded, wav
from running import Running, running
from saying import SAID, SayingEngine

from soundwave.audio import SAMPLE_RATE
from soundwave.inference.engine import Engine
from soundwave.inference_config import InferenceConfig
from soundwave.serving.routes.context_words import expected_in

CLIP = wav((tiny.sound(2.0) * 32_767).astype(np.int16), SAMPLE_RATE)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny.engine(llm=False)


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(engine, max_audio_seconds=60.0, max_upload_mb=2) as made:
        yield made


@pytest.fixture(scope="module")
def saying() -> Iterator[Running]:
    with running(SayingEngine()) as made:
        yield made


def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.api, api_key="none", max_retries=0)


def transcribed(server: Running, data: bytes = CLIP, **fields: Any) -> Any:
    return client(server).audio.transcriptions.create(model="tiny", file=("clip.wav", data), **fields)


def posted(server: Running, fields: dict[str, Any], data: bytes = CLIP, path: str = "transcriptions") -> httpx.Response:
    files = {"file": ("clip.wav", data)}
    return httpx.post(f"{server.api}/audio/{path}", data={"model": "tiny", **fields}, files=files, timeout=60)


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# --- the words -------------------------------------------------------------------------------------------------------


def test_the_words_are_those_of_the_python_api(server: Running, engine: Engine) -> None:
    expected = engine.transcribe(CLIP)
    assert expected.text
    answer = transcribed(server)
    assert answer.text == expected.text
    assert (answer.usage.type, answer.usage.seconds) == ("duration", 2.0)


@pytest.mark.parametrize(("container", "codec"), [("mp3", "libmp3lame"), ("ogg", "libopus")])
def test_so_they_are_of_every_format_and_of_long_recordings(
    server: Running, engine: Engine, container: str, codec: str
) -> None:
    data = encoded(tiny.sound(31.0)[None], SAMPLE_RATE, container, codec)
    assert transcribed(server, data).text == engine.transcribe(data).text


def test_every_word_has_the_times_of_the_python_api(server: Running, engine: Engine) -> None:
    expected = engine.transcribe(CLIP)
    answer = transcribed(server, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    words = [word for segment in expected.segments for word in segment.words]
    assert [(word.word, word.start, word.end) for word in answer.words] == [
        (word.text, round(word.start, 3), round(word.end, 3)) for word in words
    ]
    assert [one.text for one in answer.segments] == [one.text for one in expected.segments]
    assert (answer.task, answer.language, answer.duration) == ("transcribe", "en", 2.0)


def test_where_nothing_is_said_each_form_is_empty() -> None:
    with running(SayingEngine(said=())) as server:
        assert transcribed(server).text == ""
        assert transcribed(server, response_format="text") == "\n"
        assert transcribed(server, response_format="vtt") == "WEBVTT\n"
        assert transcribed(server, response_format="verbose_json").segments == []
        assert [event.type for event in transcribed(server, stream=True)] == ["transcript.text.done"]


def test_an_async_client_gets_the_same(server: Running) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=server.api, api_key="none") as asking:
            return (await asking.audio.transcriptions.create(model="tiny", file=("a.wav", CLIP))).text

    assert asyncio.run(ask()) == transcribed(server).text


# --- forms -----------------------------------------------------------------------------------------------------------


def test_each_form_is_whispers(saying: Running) -> None:
    assert transcribed(saying).text == "hello world a second sentence the end"
    assert transcribed(saying, response_format="text") == "hello world a second sentence the end\n"
    assert transcribed(saying, response_format="srt") == (
        "1\n00:00:00,000 --> 00:00:00,900\nhello world\n\n2\n00:00:10,000 --> 00:00:11,400\na second sentence\n\n"
        "3\n00:00:20,000 --> 00:00:20,900\nthe end\n"
    )
    assert transcribed(saying, response_format="vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.900\nhello wor")
    whole = transcribed(saying, response_format="verbose_json")
    assert [(one.id, one.start, one.end, one.text) for one in whole.segments] == [
        (0, 0.0, 0.9, "hello world"), (1, 10.0, 11.4, "a second sentence"), (2, 20.0, 20.9, "the end"),
    ]
    assert whole.words is None


@pytest.mark.parametrize(
    ("granularities", "present"),
    [([], {"segments"}), (["word"], {"words"}), (["word", "segment"], {"words", "segments"})],
)
def test_verbose_json_has_what_is_asked_for(saying: Running, granularities: list[str], present: set[str]) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": granularities}
    answer = posted(saying, fields).json()
    assert {"words", "segments"} & set(answer) == present
    common = {"task", "language", "duration", "text", "source", "ctc_text", "usage"}
    assert set(answer) == common | present
    if "segments" in present:
        whispers = {"id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio"}
        assert set(answer["segments"][0]) == {*whispers, "no_speech_prob"}


def test_content_types_are_those_of_the_forms(saying: Running) -> None:
    kinds = {
        form: posted(saying, {"response_format": form}).headers["content-type"]
        for form in ("json", "text", "srt", "vtt", "verbose_json")
    }
    assert kinds == {
        "json": "application/json", "text": "text/plain; charset=utf-8", "srt": "application/x-subrip; charset=utf-8",
        "vtt": "text/vtt; charset=utf-8", "verbose_json": "application/json",
    }


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_gives_the_text_as_it_is_found_and_whole_at_the_end(saying: Running) -> None:
    *deltas, done = list(transcribed(saying, stream=True))
    assert [event.delta for event in deltas] == ["hello world", " a second sentence", " the end"]
    assert (done.type, done.text) == ("transcript.text.done", "".join(event.delta for event in deltas))
    assert (done.usage.type, done.text) == ("duration", transcribed(saying).text)


def test_the_first_words_come_before_the_last_are_found() -> None:
    engine = SayingEngine(waits=threading.Event())
    with running(engine) as server:
        stream = iter(transcribed(server, stream=True))
        assert next(stream).delta == SAID[0]
        assert engine.parts == 1
        engine.waits.set()
        assert len(list(stream)) == 3


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_found_for_a_client_that_has_gone(stream: bool) -> None:
    engine = SayingEngine(waits=threading.Event())
    with running(engine, max_running=1) as server:
        sent = httpx.Request(
            "POST", f"{server.api}/audio/transcriptions", data={"model": "tiny", "stream": str(stream).lower()},
            files={"file": ("a.wav", CLIP)},
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.headers.items())
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(f"POST {sent.url.path} HTTP/1.1\r\n{head}\r\n".encode() + sent.read())
            end = time.monotonic() + 10
            while not engine.parts and time.monotonic() < end:
                time.sleep(0.02)
        end = time.monotonic() + 10
        while b'cancelled_total{reason="gone"} 1' not in server.service.metrics.text() and time.monotonic() < end:
            time.sleep(0.02)
        engine.waits.set()
        assert transcribed(server).text == " ".join(SAID)  # the slot is free
        assert engine.parts <= 2 + len(SAID)
        assert engine.closed == 1


def test_what_goes_wrong_late_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SayingEngine(waits=threading.Event())
    with running(engine, request_seconds=1.0) as server, pytest.raises(openai.APIError, match="as long as one may"):
        list(transcribed(server, stream=True))
    engine.waits.set()


# --- languages, prompts, hot words -----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "EN", "english", "en-GB", "en_US"])
def test_a_language_that_the_model_hears(saying: Running, language: str) -> None:
    assert transcribed(saying, language=language, response_format="verbose_json").language == "en"


@pytest.mark.parametrize("language", ["de", "german", "xx", "no language"])
def test_a_language_that_it_does_not_hear_is_refused(saying: Running, language: str) -> None:
    error = refused(posted(saying, {"language": language}))
    assert (error["param"], error["code"]) == ("language", "unsupported_language")
    assert f"hears en only, not {language!r}" in error["message"]
    assert refused(posted(saying, {"languages[]": [language, "fr"]}))["param"] == "languages[]"
    assert posted(saying, {"languages[]": [language, "en"]}).status_code == 200


def test_hot_words_come_from_their_field_from_keywords_and_from_names_of_the_prompt() -> None:
    engine = SayingEngine()
    with running(engine) as server:
        more = {"extra_body": {"hotwords": " Soundwave,  Zoe  Saldana,"}, "keywords": ["etcd", "Soundwave"]}
        transcribed(server, prompt="The talk is by Ada Lovelace.", **more)
        assert engine.options is not None
        assert engine.options.hotwords == ("Soundwave", "Zoe Saldana", "etcd", "Ada Lovelace")
        transcribed(server, extra_body={"llm": False})
        assert (engine.options.hotwords, engine.options.llm) == ((), False)


def test_a_model_that_takes_no_hot_words_says_so(server: Running) -> None:
    error = refused(posted(server, {"hotwords": "Soundwave"}))
    assert (error["param"], "need a model with an n-gram" in error["message"]) == ("hotwords", True)


@pytest.mark.parametrize(
    ("prompt", "words"), [
        ("", ()), ("So this is what he said", ()),
        ("Umm, let me think like, hmm... Okay, here's what I'm, like, thinking.", ()),
        ("kubernetes, etcd, Zoe Saldana", ("kubernetes", "etcd", "Zoe Saldana")), ("Soundwave", ("Soundwave",)),
        ("We talk about Soundwave. Today Zoe Saldana is here.", ("Soundwave", "Zoe Saldana")),
        ("OpenAI makes GPT-4 and DALL·E, not 2 of them; I hear that the BBC, CNN and others agree on all that.",
         ("OpenAI", "BBC", "CNN")), ("Glossary: Ada\nBabbage\n3 things\nAda", ("Babbage", "Ada")),
    ],
)
def test_what_a_prompt_says_to_expect(prompt: str, words: tuple[str, ...]) -> None:
    assert expected_in(prompt) == words


# --- what is refused -------------------------------------------------------------------------------------------------

BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model": "whisper-9"}, "model"), ({"response_format": "tsv"}, "response_format"),
    ({"response_format": "diarized_json"}, "response_format"), ({"temperature": "0.4"}, "temperature"),
    ({"temperature": "warm"}, "temperature"), ({"temperature": "nan"}, "temperature"), ({"stream": "maybe"}, "stream"),
    ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
    ({"timestamp_granularities[]": ["word"], "response_format": "srt"}, "timestamp_granularities[]"),
    ({"timestamp_granularities[]": ["letter"], "response_format": "verbose_json"}, "timestamp_granularities[]"),
    ({"stream": "true", "response_format": "srt"}, "response_format"), ({"include[]": "logprobs"}, "include[]"),
    ({"chunking_strategy": "server_vad"}, "chunking_strategy"), ({"chunking_strategy[type]": "server_vad"}, "chunking"),
    ({"known_speaker_names[]": "Ada"}, "known_speaker_names[]"), ({"llm": "perhaps"}, "llm"),
    ({"hotwords": "x" * 20_000}, "hotwords"), ({"hotwords": ",".join(map(str, range(300)))}, "hotwords"),
    ({"keywords[]": ["x"] * 300}, "keywords[]"), ({"language": "x" * 200}, "language"),
    ({"beam_size": "5"}, "beam_size"), ({"\x00": "x"}, ""), ({"Model": "tiny"}, "Model"),
    ({"prompt": ",".join(a + b for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst")}, "hotwords"),
]


@pytest.mark.parametrize(("fields", "named"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_field_that_cannot_be_kept_is_named(saying: Running, fields: dict[str, Any], named: str) -> None:
    error = refused(posted(saying, fields), 404 if "model" in fields else 400)
    assert named in str(error["param"])
    assert error["message"]


@pytest.mark.parametrize(
    ("data", "told"), [
        (b"", "is empty"), (b"RIFF", "begins like wav"), (b"x" * 1000, "is not audio"), (CLIP[:20], "begins like wav"),
        (wav(np.zeros(0, np.int16), SAMPLE_RATE), "no sound"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is not audio"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttps://127.0.0.1/a.ts\n#EXT-X-ENDLIST\n", "is not audio"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not audio"), (b"/etc/passwd", "is not audio"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n", "is not audio"),
        (b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///x</BaseURL></MPD>', "not"),
    ],
)
def test_what_is_no_recording_is_told_and_opens_no_other_file(saying: Running, data: bytes, told: str) -> None:
    error = refused(posted(saying, {}, data))
    assert (error["param"], error["code"]) == ("file", "invalid_audio")
    assert told in error["message"]


def test_hours_of_silence_in_a_small_file_are_stopped_while_they_are_decoded(server: Running) -> None:
    """A decompression bomb: two minutes of Opus in 20 kB, whose length no header states."""
    minutes = encoded(np.zeros((1, 120 * 8_000), np.float32), 8_000, "ogg", "libopus")
    assert len(minutes) < 100_000
    started = time.perf_counter()
    error = refused(posted(server, {}, minutes), 413)
    assert (error["param"], error["code"]) == ("file", "audio_too_long")
    assert time.perf_counter() - started < 10


def test_too_many_bytes_are_refused(server: Running) -> None:
    assert refused(posted(server, {}, bytes(3 * 2**20)), 413)["code"] == "body_too_large"


def test_bodies_that_are_no_forms(saying: Running) -> None:
    address = f"{saying.api}/audio/transcriptions"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    for content, headers in [
        (b"{}", {"Content-Type": "application/json"}), (b"", form), (part, form), (part + b"\r\n--x--\r\n", form),
        (b"--x\r\n\r\n", form), (b"junk", {"Content-Type": "multipart/form-data"}), (b"file=abc&model=tiny", {
            "Content-Type": "application/x-www-form-urlencoded"}), (b"", {}),
    ]:
        response = httpx.post(address, content=content, headers=headers)
        assert response.status_code in (400, 415, 422), (content, response.text)
        assert response.json()["error"]["message"]
    assert refused(httpx.post(address, data={"model": "tiny", "file": "a text"}))["param"] == "file"
    assert refused(httpx.post(address, files={"file": ("a", CLIP)}))["param"] == "model"


# --- translations ----------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_translate_says_so(saying: Running) -> None:
    error = refused(posted(saying, {}, path="translations"))
    assert (error["code"], "/v1/audio/transcriptions" in error["message"]) == ("translation_not_supported", True)


@pytest.mark.filterwarnings("ignore:deprecated")
def test_a_model_that_translates_is_told_to() -> None:
    engine = SayingEngine(inference=InferenceConfig(translate_prompt="In English, please."))
    with running(engine) as server:
        asked = client(server).audio.translations
        assert asked.create(model="tiny", file=("a.wav", io.BytesIO(CLIP))).text == "The answer is blue."
        assert asked.create(model="tiny", file=("a.wav", CLIP), response_format="text") == "The answer is blue.\n"
        assert engine.asked[-1] == ("In English, please.", {"via": "audio", "temperature": 0})
        assert refused(posted(server, {"response_format": "srt"}, path="translations"))["param"] == "response_format"
