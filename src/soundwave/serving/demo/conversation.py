"""A visitor's conversation: what the model reads of it, and what the page shows of it.

By way of the transcript the model reads the words that stand on the page, which are not looked for a second time.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from soundwave.errors import SoundwaveError
from soundwave.inference.engine import Engine
from soundwave.inference.results import Reply
from soundwave.serving.demo.visits import Visit

SHOWN_EVERY = 0.1  # seconds between two looks at an answer that grows
SPOKEN = ""  # in place of a question that nobody typed
QUOTED = 300  # characters of a recording that is itself the question


@dataclass(frozen=True)
class Asked:
    """What one question comes with.

    Attributes:
        text: the question; "" where what is said is itself the question.
        via, temperature, max_new_tokens: as for `Engine.chat_stream`.
    """

    text: str
    via: Literal["auto", "audio", "transcript"] = "auto"
    temperature: float = 0.2
    max_new_tokens: int = 256


def answers(engine: Engine, visit: Visit, asked: Asked) -> Generator[Reply | None, None, None]:
    """Answers a question while the visit's messages grow; what is given last is the reply, None before.

    A conversation is about one recording, which stands in its first message. Of an answer that is stopped, what there
    is of it stays; a question without any answer leaves the conversation as it was.

    Raises:
        SoundwaveError: there is nothing to answer, or the engine refuses it.
    """
    _check(visit, asked)
    way = engine.inference.via if asked.via == "auto" else asked.via
    visit.stopped.clear()
    latest, looked = {"role": "assistant", "content": ""}, 0.0
    visit.messages += [{"role": "user", "content": asked.text}, latest]
    chunks = engine.chat_stream(
        read_by_model(visit, way), via=way, temperature=asked.temperature, max_new_tokens=asked.max_new_tokens
    )
    try:
        yield None
        with closing(chunks):
            for chunk in chunks:
                latest["content"] += chunk.text
                if visit.stopped.is_set():
                    return
                if chunk.reply is not None:
                    yield chunk.reply
                elif time.monotonic() - looked >= SHOWN_EVERY:
                    looked = time.monotonic()
                    yield None
    finally:
        if not latest["content"] and visit.messages[-1:] == [latest]:
            del visit.messages[-2:]


def _check(visit: Visit, asked: Asked) -> None:
    """Refuses what cannot be answered, before the model is troubled."""
    if not asked.text and visit.recording is None:
        raise SoundwaveError("there is no question; type one, or give a recording that asks one.")
    if not asked.text and visit.messages:
        raise SoundwaveError("what is said stands above already; type a further question, or clear the conversation.")
    silent = visit.transcript is not None and not visit.transcript.text
    if not visit.messages and silent and asked.via != "audio":
        raise SoundwaveError("nobody speaks in this recording, so there is nothing to answer; give another one.")


def shown(visit: Visit) -> list[dict[str, Any]]:
    """The visit's messages for the page: a question that was only spoken is quoted, an answer to come left out."""
    messages = [dict(message) for message in visit.messages]
    if messages and messages[0]["content"] == SPOKEN and visit.transcript is not None:
        text = visit.transcript.text
        messages[0]["content"] = f"“{text}”" if len(text) <= QUOTED else f"“{text[:QUOTED]} …”"
    return messages if messages and messages[-1]["content"] else messages[:-1]


def read_by_model(visit: Visit, way: Literal["audio", "transcript"]) -> list[dict[str, Any]]:
    """The visit's messages without the answer that is to come; the first has the recording, or its words."""
    first, *others = visit.messages[:-1]
    asked = [] if first["content"] == SPOKEN else [first["content"]]
    if visit.recording is None or visit.transcript is None:
        return [first, *others]
    if way == "audio":
        parts: list[dict[str, Any]] = [{"type": "audio", "audio": visit.recording.sound}]
        return [{"role": "user", "content": parts + [{"type": "text", "text": text} for text in asked]}, *others]
    return [{"role": "user", "content": "\n\n".join([visit.transcript.text, *asked])}, *others]
