"""Whatever is wrong with a request, the answer is a 4xx in OpenAI's shape that names what is wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from running import Running, ScriptedEngine, input_audio, running, wav

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
GOOD: dict[str, Any] = {"model": "tiny", "messages": HELLO}


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    limits = {"max_upload_mb": 1, "max_audio_seconds": 5, "upload_seconds": 1, "max_answer_tokens": 100}
    with running(ScriptedEngine(), **limits) as server:
        yield server


@pytest.fixture(scope="module")
def http(served: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.address, timeout=20) as client:
        yield client


def refused(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which must be one of a client's."""
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 1200
    assert answer.headers["x-request-id"].startswith("req-")
    return error


def with_part(part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


def with_message(**message: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello", **message}]}


def audio(data: Any, form: Any = "wav") -> dict[str, Any]:
    return with_part({"type": "input_audio", "input_audio": {"data": data, "format": form}})


def url(address: Any) -> dict[str, Any]:
    return with_part({"type": "audio_url", "audio_url": {"url": address}})


DATA = base64.b64encode(wav()).decode()
CONTENT = "messages[0].content"

# what is changed of a good request, and the field that the answer must name
FIELDS: list[tuple[dict[str, Any], str]] = [
    # unknown names
    ({"temprature": 0.5}, "temprature"),
    ({"max_token": 5}, "max_token"),
    ({"": 1}, ""),
    ({"\ud800": 1}, ""),
    ({"a" * 3000: 1}, "a" * 20),
    ({"best_of": 1}, "best_of"),
    ({"prompt": "Hello"}, "prompt"),
    # model
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"model": ["tiny"]}, "model"),
    ({"model": "gpt-4o"}, "model"),
    ({"model": ""}, "model"),
    ({"model": "../tiny"}, "model"),
    ({"model": "x" * 2000}, "model"),
    # numbers
    *[({"temperature": value}, "temperature") for value in (-1, "0.5", [], {}, True, 1e9, float("nan"), float("inf"))],
    *[({"top_p": value}, "top_p") for value in (0, -0.1, 1.1, "1", True, float("nan"), 10**400)],
    *[({"max_tokens": value}, "max_tokens") for value in (0, -1, 1.5, "5", True, 101, 10**30)],
    *[({"max_completion_tokens": value}, "max_completion_tokens") for value in (0, -5, 2.5, "9", [1], 1000)],
    *[({"seed": value}, "seed") for value in (1.5, "1", 2**64, -(2**64), True, [0])],
    # stop
    *[({"stop": value}, "stop") for value in ("", [""], ["a", 5], 5, {}, ["a"] * 5, "x" * 2000, True)],
    # what OpenAI has and this server has not
    *[({"n": value}, "n") for value in (0, 2, -1, "1", [1])],
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": -0.5}, "frequency_penalty"),
    ({"logit_bias": {"5": 100}}, "logit_bias"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ({"prediction": {"type": "content", "content": "a"}}, "prediction"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"verbosity": "low"}, "verbosity"),
    ({"store": True}, "store"),
    ({"metadata": {"a": "b"}}, "metadata"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"user": 5}, "user"),
    ({"user": "x" * 1001}, "user"),
    # streams
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"include_use": True}}, "stream_options.include_use"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    # the way
    ({"via": "telepathy"}, "via"),
    ({"via": None}, "via"),
    # messages
    *[({"messages": value}, "messages") for value in (None, [], {}, "Hello", 5, HELLO * 1001)],
    *[({"messages": [value]}, "messages[0]") for value in (None, [], "Hello", 5)],
    ({"messages": [*HELLO, {}]}, "messages[1].role"),
    ({"messages": [{"role": "user"}]}, CONTENT),
    ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
    *[(with_message(role=value), "messages[0].role") for value in ("tool", "function", "User", "", None, 5, [])],
    *[(with_message(content=value), CONTENT) for value in (None, [], {}, 5, True, "\ud800")],
    (with_message(name="Ann"), "messages[0].name"),
    (with_message(tool_calls=[{"id": "1"}]), "messages[0].tool_calls"),
    (with_message(tool_call_id="1"), "messages[0].tool_call_id"),
    (with_message(function_call={"name": "f"}), "messages[0].function_call"),
    (with_message(audio={"id": "1"}), "messages[0].audio"),
    (with_message(refusal="no"), "messages[0].refusal"),
    (with_message(rolle="user"), "messages[0].rolle"),
    # parts
    *[(with_part(value), f"{CONTENT}[0]") for value in (None, 5, "Hello", [], {}, {"text": "Hello"})],
    *[
        (with_part({"type": kind, kind: {"url": "https://example.org/a"}}), f"{CONTENT}[0].type")
        for kind in ("image_url", "file", "refusal", "video_url", "audio", "", "TEXT")
    ],
    (with_part({"type": ["text"], "text": "a"}), f"{CONTENT}[0].type"),
    (with_part({"type": "text"}), f"{CONTENT}[0].text"),
    (with_part({"type": "text", "text": None}), f"{CONTENT}[0].text"),
    (with_part({"type": "text", "text": ["a"]}), f"{CONTENT}[0].text"),
    (with_part({"type": "text", "text": "a", "cache_control": {}}), f"{CONTENT}[0].cache_control"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 101}]}, CONTENT),
    # recordings
    (with_part({"type": "input_audio"}), f"{CONTENT}[0].input_audio"),
    (with_part({"type": "input_audio", "input_audio": None}), f"{CONTENT}[0].input_audio"),
    (with_part({"type": "input_audio", "input_audio": DATA}), f"{CONTENT}[0].input_audio"),
    (with_part({"type": "input_audio", "input_audio": {}}), f"{CONTENT}[0].input_audio.data"),
    (with_part({"type": "input_audio", "input_audio": {"data": DATA, "rate": 5}}), f"{CONTENT}[0].input_audio.rate"),
    *[
        (audio(data), f"{CONTENT}[0].input_audio.data")
        for data in (None, 5, [], "", "=", "not base64!", DATA[:-1] + "\u00e9", DATA[:101], "/etc/passwd")
    ],
    *[(audio(DATA, form), f"{CONTENT}[0].input_audio.format") for form in (5, "exe", "", "w" * 100, ["wav"])],
    *[
        (audio(base64.b64encode(data).decode()), f"{CONTENT}[0]")
        for data in (
            b"hello, this is no audio at all", b"\0" * 5000, b"RIFF\xff\xff\xff\xffWAVEfmt ", wav()[:50], wav(6.0),
            wav(0.001), b"#EXTM3U\nhttp://127.0.0.1/a.wav\n", b"ffconcat version 1.0\nfile /etc/passwd\n",
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n",
            b"PK\x03\x04" + b"\0" * 100, b"\x7fELF" + b"\0" * 100, wav()[44:],
        )
    ],
    *[
        (url(address), f"{CONTENT}[0].audio_url.url")
        for address in (
            None, 5, "", "data:", "data:audio/wav", "data:audio/wav,abc", "data:audio/wav;base64,???",
            "file:///etc/passwd", "/etc/passwd", "http://example.org/a.wav", "https://example.org/a.wav",
            "https://127.0.0.1/a.wav", "https://169.254.169.254/latest/meta-data", "ftp://example.org/a.wav",
            "https://", "https://[::1", "gopher://example.org", "concat:a|b", "\u0000", "x" * 5000,
        )
    ],
    (with_part({"type": "audio_url", "audio_url": "https://example.org/a.wav"}), f"{CONTENT}[0].audio_url"),
    (with_part({"type": "audio_url"}), f"{CONTENT}[0].audio_url"),
    (with_part({"type": "audio_url", "audio_url": {"uri": "a"}}), f"{CONTENT}[0].audio_url"),
]


def test_there_are_many_of_them() -> None:
    assert len(FIELDS) > 200


@pytest.mark.parametrize(("change", "field"), FIELDS, ids=lambda value: ascii(value)[:60])
def test_the_field_that_is_wrong_is_named(http: httpx.Client, change: dict[str, Any], field: str) -> None:
    body = json.dumps(GOOD | change)  # httpx's own would refuse NaN
    error = refused(http.post(CHAT, content=body, headers={"Content-Type": "application/json"}))
    assert (error["param"] or "").startswith(field), error


BODIES = [
    b"", b"{", b"[]", b"null", b"5", b'"text"', b"{'model': 'tiny'}", b"\xff\xfe", b'{"model": "tiny"', b"\0",
    b"model=tiny", b"[" * 100_000, b'{"a":' * 50_000, b'{"model": "tiny", "messages": ' + b"[" * 20_000,
    b"1" * 10_000, b'{"temperature": 1e999999}', b'{"model": "tiny"}{"model": "tiny"}', "ä".encode("latin-1"),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: ascii(body[:30]))
def test_a_body_that_is_no_request_is_refused(http: httpx.Client, body: bytes) -> None:
    refused(http.post(CHAT, content=body, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "audio/wav", "", "x"]
)
def test_a_body_of_another_kind_is_refused(http: httpx.Client, kind: str) -> None:
    answer = http.post(CHAT, content=json.dumps(GOOD), headers={"Content-Type": kind})
    assert refused(answer)["code"] == "unsupported_media_type"
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/docs", 404), ("POST", "/v1/completions", 404), ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/models/gpt-4o", 404), ("GET", "/v1/models/%2e%2e%2fetc", 404), ("GET", "/v1/../etc/passwd", 404),
        ("GET", CHAT, 405), ("DELETE", "/v1/models", 405), ("PUT", CHAT, 405), ("POST", "/health", 405),
        ("OPTIONS", CHAT, 405), ("HEAD", CHAT, 405), ("POST", CHAT + "/", 404), ("GET", "/" + "a" * 5000, 404),
    ],
)
def test_an_address_or_method_that_is_none_is_refused(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    if method != "HEAD":
        refused(answer)


def test_the_nearest_name_is_told(http: httpx.Client) -> None:
    assert "temperature" in refused(http.post(CHAT, json=GOOD | {"temprature": 1}))["message"]
    assert "did you mean" not in refused(http.post(CHAT, json=GOOD | {"zzzzzz": 1}))["message"]


def test_what_asks_for_nothing_is_accepted(http: httpx.Client) -> None:
    neutral = {
        "n": 1, "logprobs": False, "top_logprobs": None, "presence_penalty": 0, "frequency_penalty": 0.0,
        "logit_bias": {}, "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
        "modalities": ["text"], "store": False, "user": "Ann", "stop": None, "seed": -5, "temperature": None,
        "stream": None, "max_tokens": None, "service_tier": "auto", "parallel_tool_calls": True,
    }
    history = {"role": "assistant", "content": "Hi", "refusal": None, "audio": None, "tool_calls": None,
               "function_call": None, "annotations": []}
    messages = [{"role": "developer", "content": "Be kind."}, *HELLO, history, *HELLO]
    answer = http.post(CHAT, json=GOOD | neutral | {"messages": messages})
    assert answer.status_code == 200, answer.text


def test_a_recording_that_is_allowed_is_heard(http: httpx.Client) -> None:
    for part in (input_audio(), {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{DATA}"}}):
        answer = http.post(CHAT, json=GOOD | with_part(part))
        assert answer.json()["usage"]["audio_seconds"] == 0.5
