"""POST /v1/chat/completions, asked by the official client over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running import Running, ScriptedEngine, input_audio, running

ASK = [{"role": "user", "content": "What colour is it?"}]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Running, ScriptedEngine]]:
    engine = ScriptedEngine()
    with running(engine) as server:
        yield server, engine


@pytest.fixture
def client(served: tuple[Running, ScriptedEngine]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served[0].api, api_key="none", max_retries=0) as made:
        yield made


def test_a_typed_question_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK)
    assert answer.choices[0].message.content == "The answer is blue."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    assert answer.id.startswith("chatcmpl-")
    assert answer._request_id.startswith("req-")


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    events = list(client.chat.completions.create(model="tiny", messages=ASK, stream=True))
    assert [event.choices[0].delta.content for event in events] == ["The", " answer", " is", " blue.", None]
    assert events[0].choices[0].delta.role == "assistant"
    assert [event.choices[0].finish_reason for event in events] == [None] * 4 + ["stop"]
    assert len({event.id for event in events}) == 1


def test_usage_counts_tokens_and_seconds_of_audio(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": [input_audio(), {"type": "text", "text": "What is said?"}]}]
    usage = client.chat.completions.create(model="tiny", messages=messages).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 4, 24)
    assert usage.prompt_tokens_details.audio_tokens == 7
    assert usage.audio_seconds == 0.5


def test_a_stream_tells_its_usage_where_it_is_asked_to(client: openai.OpenAI) -> None:
    events = list(client.chat.completions.create(
        model="tiny", messages=ASK, stream=True, stream_options={"include_usage": True}
    ))
    assert events[-1].choices == []
    assert events[-1].usage.total_tokens == 24
    assert all(event.usage is None for event in events[:-1])


def test_the_asynchronous_client_gets_the_same(served: tuple[Running, ScriptedEngine]) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=served[0].api, api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(model="tiny", messages=ASK)
            stream = await client.chat.completions.create(model="tiny", messages=ASK, stream=True)
            pieces = [event.choices[0].delta.content or "" async for event in stream]
        return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(ask()) == ("The answer is blue.",) * 2
