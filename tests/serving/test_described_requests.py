"""Requests made from the server's own description, thousands of kinds: none of them is answered with a 5xx."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from running import Running, ScriptedEngine, running
from schemathesis.generation import GenerationMode

EXAMPLES = int(os.environ.get("SOUNDWAVE_FUZZ", "15"))  # of each address; all of them, new each time, where it is set

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4), max_leaves=12,
)
NAMES = st.sampled_from([
    "model", "messages", "temperature", "stop", "stream", "stream_options", "seed", "tools", "n", "via", "content",
    "role", "type", "text", "input_audio", "audio_url", "url", "data", "format",
])


def almost(value: Any) -> st.SearchStrategy[Any]:
    """JSON in the shape of a request, with anything in any place."""
    if isinstance(value, dict):
        right = st.fixed_dictionaries({}, optional={name: almost(part) for name, part in value.items()})
        return right | st.dictionaries(NAMES, json_values, max_size=3)
    if value and isinstance(value, list):
        return st.lists(almost(value[0]), max_size=3) | json_values
    return st.just(value) | json_values


REQUEST = {
    "model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "top_p": 0.9,
    "stop": ["a"], "seed": 1, "max_tokens": 3, "via": "audio", "n": 1, "tools": [], "logit_bias": {}, "user": "Ann",
    "messages": [{"role": "user", "content": [
        {"type": "text", "text": "Hi", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(ScriptedEngine(), upload_seconds=2, max_upload_mb=1) as server:
        yield server


def settings() -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, derandomize="SOUNDWAVE_FUZZ" not in os.environ, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@pytest.mark.slow  # schemathesis takes a second for a handful of requests
def test_requests_from_the_description_are_answered_as_it_says(served: Running) -> None:
    schema = schemathesis.openapi.from_url(served.address + "/openapi.json")
    checks = [
        schemathesis.checks.not_a_server_error, schemathesis.checks.CHECKS.get_one("status_code_conformance"),
        schemathesis.checks.CHECKS.get_one("content_type_conformance"),
        schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
    ]
    sent = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/ready":
            continue  # its 503 is no failure

        @settings()
        @hypothesis.given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        def answered(case: Any) -> None:
            nonlocal sent
            sent += 1
            case.call_and_validate(base_url=served.address, checks=checks)

        answered()
    assert sent > 30


def test_almost_right_bodies_are_refused_or_answered(served: Running) -> None:
    with httpx.Client(base_url=served.address, timeout=20) as client:

        @settings()
        @hypothesis.given(body=almost(REQUEST))
        def answered(body: Any) -> None:
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

        answered()


def test_bytes_that_are_no_request_are_refused(served: Running) -> None:
    with httpx.Client(base_url=served.address, timeout=20) as client:

        @settings()
        @hypothesis.given(body=st.binary(max_size=500), kind=st.sampled_from([
            "application/json", "multipart/form-data; boundary=b", "multipart/form-data", "text/plain",
            "application/x-www-form-urlencoded", "application/json; charset=utf-16",
        ]), path=st.sampled_from(["chat/completions", "audio/transcriptions", "audio/translations"]))
        def answered(body: bytes, kind: str, path: str) -> None:
            answer = client.post(f"/v1/{path}", content=body, headers={"Content-Type": kind})
            assert 400 <= answer.status_code < 500, answer.text
            assert answer.json()["error"]["message"]

        answered()
