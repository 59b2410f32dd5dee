"""POST /v1/chat/completions: a conversation with recordings in it, and the model's next turn."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from soundwave.inference.options import LARGEST_SEED, GenerationOptions
from soundwave.inference.results import Chunk, Reply
from soundwave.serving.entrance.sources import AudioSources
from soundwave.serving.errors import ApiError
from soundwave.serving.fields.chat import ChatRequest
from soundwave.serving.routes.answers import ChatCompletion
from soundwave.serving.routes.streams import EventStream
from soundwave.serving.service import Service, note
from soundwave.serving.slots import Slot

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer, or its events."}
}


def router(service: Service) -> APIRouter:
    """The address of conversations."""
    made = APIRouter(tags=["chat"])
    sources = AudioSources(service.options)

    @made.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAM)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """The model's next turn in a conversation; with `stream`, in events while it is made."""
        service.check_model(body.model)
        arguments = arguments_of(body, service.options.max_answer_tokens)
        messages, places = messages_of(body)
        files = [await sources.from_part(part, place) for place, part in places]
        async with AsyncExitStack() as held:
            slot = await held.enter_async_context(service.admit(request))
            for (place, part), data in zip(places, files, strict=True):
                clip = await service.recording(request, slot, data, place)
                part.clear()
                part.update(type="audio", audio=clip)
            answer = _Answer(service, request, slot, body, messages, arguments)
            if body.stream:
                return EventStream(answer.events(), held.pop_all())
            return JSONResponse(await answer.whole())

    return made


def arguments_of(body: ChatRequest, most_tokens: int) -> dict[str, Any]:
    """The arguments of `Engine.chat`; a field that is null has its default.

    Raises:
        ApiError: more tokens are asked for than a request may.
    """
    given: dict[str, Any] = {"via": body.via}
    if body.stream_options is not None and not body.stream:
        raise ApiError("stream_options is given, but stream is not true; leave one out.", param="stream_options",
                       code="invalid_value")
    for name in ("temperature", "top_p"):
        if (value := getattr(body, name)) is not None:
            given[name] = value
    field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    most = getattr(body, field)
    if most is not None and most > most_tokens:
        raise ApiError(f"{field} is {most}; this server gives at most {most_tokens} tokens.", param=field,
                       code="invalid_value")
    given["max_new_tokens"] = min(GenerationOptions.max_new_tokens, most_tokens) if most is None else most
    if body.seed is not None:
        given["seed"] = body.seed & LARGEST_SEED  # OpenAI's may be negative
    if body.stop:
        given["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    return given


def messages_of(body: ChatRequest) -> tuple[list[dict[str, Any]], list[tuple[str, dict[str, Any]]]]:
    """The messages as `Engine.chat` takes them, and their audio parts, each with its place in the request."""
    messages: list[dict[str, Any]] = []
    places: list[tuple[str, dict[str, Any]]] = []
    for i, message in enumerate(body.messages):
        role, content = "system" if message.role == "developer" else message.role, message.content
        if isinstance(content, str):
            messages.append({"role": role, "content": content})
            continue
        parts = [part.model_dump() for part in content]
        places += [(f"messages[{i}].content[{k}]", part) for k, part in enumerate(parts) if part["type"] != "text"]
        messages.append({"role": role, "content": parts})
    return messages, places


class _Answer:
    """One answer, in OpenAI's shape, whole or in events."""

    def __init__(
        self, service: Service, request: Request, slot: Slot, body: ChatRequest, messages: list[dict[str, Any]],
        arguments: dict[str, Any],
    ):
        self.service, self.request, self.slot, self.body = service, request, slot, body
        self.messages, self.arguments = messages, arguments
        self.id, self.created, self._began = "chatcmpl-" + uuid.uuid4().hex, int(time.time()), time.perf_counter()

    async def whole(self) -> dict[str, Any]:
        """The answer once it is whole."""
        reply = None
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                reply = chunk.reply or reply
        assert reply is not None
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        return {
            **self._head("chat.completion"), "usage": usage_of(reply), "via": reply.via, "transcript": reply.transcript,
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}],
        }

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """The answer while it is made."""
        wants_usage = self.body.stream_options is not None and self.body.stream_options.include_usage
        more = {"usage": None} if wants_usage else {}
        reply, speaker = None, {"role": "assistant"}  # told once
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield {**self._event({**speaker, "content": chunk.text}, None), **more}
                    speaker = {}
                reply = chunk.reply or reply
        assert reply is not None
        yield {**self._event(speaker, reply.finish_reason), **more}
        if wants_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": usage_of(reply)}

    async def _chunks(self) -> AsyncGenerator[Chunk, None]:
        engine, metrics = self.service.engine, self.service.metrics
        written: list[str] = []
        made = self.slot.iterate(lambda: engine.chat_stream(self.messages, **self.arguments))
        with metrics.answers.track_inprogress():
            async with aclosing(made) as chunks:
                async for chunk in chunks:
                    if not written:
                        metrics.first_token.observe(time.perf_counter() - self._began)
                    written.append(chunk.text)
                    if chunk.reply is not None:
                        self._count(chunk.reply, "".join(written))
                    yield chunk

    def _count(self, reply: Reply, text: str) -> None:
        usage, metrics = reply.usage, self.service.metrics
        metrics.prompt_tokens.inc(usage.prompt_tokens)
        metrics.completion_tokens.inc(usage.completion_tokens)
        note(self.request, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, via=reply.via)
        if self.service.options.log_text:
            note(self.request, transcript=reply.transcript, answer=text)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.body.model}

    def _event(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def usage_of(reply: Reply) -> dict[str, Any]:
    """What an answer cost; `audio_seconds` is ours, the rest OpenAI's."""
    usage = reply.usage
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"audio_tokens": usage.audio_tokens, "cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        "audio_seconds": round(usage.audio_seconds, 3),
    }
