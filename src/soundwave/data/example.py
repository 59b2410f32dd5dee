"""One example of training data in the form that every manifest format is turned into, and the checks on its values.

Knows nothing about files or formats; those are in `manifests.py` and `data.py`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import Any

from soundwave.errors import DataError

DEFAULT_PROMPT = "What does the person say?"  # the paper's prompt for speech recognition
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
PLACEHOLDER = "<audio>"  # ms-swift and LLaMA-Factory mark each audio in the text with it
AUDIO_PART = {"type": "audio"}
WRITTEN = "text:"  # before words that are to be said with a bank of units: there is no recording
INSIDE = ("data:", WRITTEN)  # how an audio begins that is no file
HALF_A_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class AudioSpan:
    """Where the sound is: a whole file, or its part from `start` to `end` in seconds.

    `path` is absolute, or a `data:audio/…;base64,…` text when the manifest holds the sound itself, or `text:…`
    with what is to be said where there is none.
    """

    path: str
    start: float | None = None
    end: float | None = None

    @property
    def words(self) -> str | None:
        """What is to be said, of a `text:`; None of a sound."""
        return self.path.removeprefix(WRITTEN) if self.path.startswith(WRITTEN) else None


@dataclass(frozen=True)
class Example:
    """One conversation to learn from.

    Attributes:
        messages: `{"role", "content": [parts]}`, parts `{"type": "audio"}` or `{"type": "text", "text"}`; the last
            message is the assistant's.
        audios: the sound of each audio part, in order; empty for a text-only example.
        transcript: the CTC target, normalised; None where it is not known, and then the CTC term is left out. Of a
            `text:` its words.
        duration: seconds of all the audio together, as the manifest says; None where it does not.
        task: the manifest's name for the kind of example, for weighted mixing.
        language: as in the manifest, "en".
        id: the manifest's own id, or file name and line.
        where: file and line, for messages about this example.
        spoken: the transcript as it was written, before it was normalised; None where it is not known.
    """

    messages: list[dict[str, Any]]
    audios: tuple[AudioSpan, ...]
    transcript: str | None = None
    duration: float | None = None
    task: str | None = None
    language: str | None = None
    id: str = field(default="", compare=False)
    where: str = field(default="", compare=False)
    spoken: str | None = field(default=None, compare=False)

    @property
    def reply(self) -> str:
        """What the assistant says last."""
        return "".join(part["text"] for part in self.messages[-1]["content"])


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def parts_of(text: str, where: str) -> list[dict[str, Any]]:
    """A text with `<audio>` marks as content parts. Line breaks and blanks around a mark are layout and dropped."""
    require_text(text, "a message's content", where)
    pieces = text.split(PLACEHOLDER)
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        piece = piece.strip() if len(pieces) > 1 else piece
        parts += [AUDIO_PART] * (number > 0) + ([text_part(piece)] if piece else [])
    return parts or [text_part("")]


def role_of(name: Any, where: str) -> str:
    """The role in our words ("human" is "user").

    Raises:
        DataError: no such role.
    """
    if not isinstance(name, str) or name not in ROLES:
        raise DataError(f"{where}: the role is {name!r}; allowed are {', '.join(ROLES)}. Correct this line.")
    return ROLES[name]


def require_text(value: Any, name: str, where: str) -> str:
    """The value, if it is a text.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {value!r}; it must be a text in quotes. Correct or remove this line.")
    return value


def check_characters(row: Any, where: str) -> None:
    """Every text in the row, however deep, is made of whole characters, so that it can be written and tokenized.

    Raises:
        DataError: half of a surrogate pair, as JSON's "\\ud800" gives one.
    """
    waiting = [row]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and not value.isascii() and (half := HALF_A_PAIR.search(value)):
            raise DataError(
                f"{where}: a text has {half[0]!r}, half of a surrogate pair and no character; write the pair, as in "
                '"\\ud83d\\ude00", or the character itself.'
            )


def seconds_of(row: dict[str, Any], name: str, where: str) -> float | None:
    """A time in seconds from the row; None where it has none.

    Raises:
        DataError: not a number, or negative.
    """
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise DataError(f"{where}: {name} is {value!r}; it must be a number of seconds, 0 or more.")
    return float(value)


def check_conversation(messages: list[dict[str, Any]], audios: int, where: str) -> None:
    """Every audio has its place and there is a reply to learn.

    Raises:
        DataError: as many `<audio>` marks as audios are needed; the last message is not the assistant's; the assistant
            is given audio.
    """
    marks = sum(part["type"] == "audio" for message in messages for part in message["content"])
    if marks != audios:
        raise DataError(
            f"{where}: {marks} {PLACEHOLDER} marks in the messages, but {audios} audio files; "
            f"write one {PLACEHOLDER} where each file belongs, before the instruction."
        )
    if not messages or messages[-1]["role"] != "assistant":
        last = messages[-1]["role"] if messages else "missing"
        raise DataError(f"{where}: the last message is {last}; it must be the assistant's, the reply to learn.")
    if any(part["type"] == "audio" for part in messages[-1]["content"]):
        raise DataError(
            f"{where}: the assistant's reply contains audio; replies are text, move it to the user's message."
        )
