"""Answers that are sent while they are made: server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from soundwave.errors import SoundwaveError
from soundwave.serving.errors import ApiError, api_error, error_body

DONE = b"data: [DONE]\n\n"
READER_SECONDS = 30.0  # that an event may wait for its reader; who stops reading has gone


class EventStream(Response):
    """Objects as server-sent events.

    The first one is made before the answer begins, so that what is refused late still has its HTTP status; what goes
    wrong after that is an event with an error object, the last one.

    Args:
        events: what is sent, each as JSON.
        held: what must be left when all is sent, or nobody reads it any more: the slot.
        done: sent at the end; nothing where it is empty.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any], None], held: AsyncExitStack, done: bytes = DONE):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]  # nobody knows it yet
        self.events, self.held, self.done = events, held, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; leaves what is held, however it ends."""
        async with self.held, aclosing(self.events) as events:
            first = await anext(events, None)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                if first is not None:
                    await _send(_written(first), send)
                async for event in events:
                    await _send(_written(event), send)
                ending = self.done
            except SoundwaveError as error:
                told = api_error(error)
                if told.status == 499:
                    return
                ending = _written(error_body(told)) + self.done
            await _send(ending, send, more=False)


async def _send(data: bytes, send: Send, more: bool = True) -> None:
    """Sends a piece.

    Raises:
        ApiError: nobody reads it.
    """
    message = {"type": "http.response.body", "body": data, "more_body": more}
    try:
        await asyncio.wait_for(send(message), READER_SECONDS)
    except asyncio.TimeoutError as error:
        raise ApiError("The client does not read.", 499, code="client_gone") from error


def _written(event: dict[str, Any]) -> bytes:
    """An event as it goes over the line; OpenAI names its transcription events by `type` within the JSON alone."""
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode("utf-8", "backslashreplace")
