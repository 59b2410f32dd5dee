"""A visitor's conversation: what the model reads of it, and what the page shows of it.

By way of the transcript the model reads the words that stand on the page, which are not looked for a second time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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


def answers(engine: Engine, visit: Visit, asked: Asked) -> Iterator[Reply | None]:
    """Answers a question while the visit's messages grow; what is given last is the reply, None before.

    A conversation is about one recording, which stands in its first message. A question that cannot be answered leaves
    the conversation as it was; of an answer that is stopped, what there is of it stays.

    Raises:
        SoundwaveError: there is nothing to answer, or the engine refuses it.
    """
    recording, transcript = visit.recording, visit.transcript
    if not asked.text and (recording is None or visit.messages):
        raise SoundwaveError("there is no question; type one below the conversation, then select Ask.")
    if not visit.messages and transcript is not None and not transcript.text and asked.via != "audio":
        raise SoundwaveError("nobody speaks in this recording, so there is nothing to answer; give another one.")
    way = engine.inference.via if asked.via == "auto" else asked.via
    visit.stopped.clear()
    visit.messages += [{"role": "user", "content": asked.text}, {"role": "assistant", "content": ""}]
    messages, latest, shown = read_by_model(visit, way), visit.messages[-1], 0.0
    chunks = engine.chat_stream(
        messages, via=way, temperature=asked.temperature, max_new_tokens=asked.max_new_tokens
    )
    try:
        with closing(chunks):
            for chunk in chunks:
                latest["content"] += chunk.text
                if chunk.reply is not None:
                    yield chunk.reply
                elif time.monotonic() - shown >= SHOWN_EVERY:
                    shown = time.monotonic()
                    yield None
                if visit.stopped.is_set():
                    return
    except BaseException:
        if not latest["content"] and visit.messages[-1:] == [latest]:
            del visit.messages[-2:]
        raise


def shown(visit: Visit) -> list[dict[str, Any]]:
    """The visit's messages for the page: a question that was only spoken is quoted."""
    messages = [dict(message) for message in visit.messages]
    if messages and messages[0]["content"] == SPOKEN and visit.transcript is not None:
        text = visit.transcript.text
        messages[0]["content"] = f"“{text}”" if len(text) <= QUOTED else f"“{text[:QUOTED]} …”"
    return messages


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
