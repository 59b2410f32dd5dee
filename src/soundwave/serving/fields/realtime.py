"""What a client of the realtime WebSocket may send, message by message."""

from __future__ import annotations

import base64
import binascii
import difflib
import json
from typing import Annotated, Literal

import numpy as np
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from soundwave.audio.arrays import ALLOWED_RATES
from soundwave.errors import shown
from soundwave.inference.options import ListenOptions
from soundwave.serving.errors import ApiError
from soundwave.serving.fields.audio import Terms
from soundwave.serving.fields.chat import Body, declared

BYTES_OF_A_SAMPLE = 2

Model = Annotated[str, Field(max_length=1000)]


class SessionOptions(Body):
    """How sound is written down; what is left out stays as it is."""

    model: Model | None = Field(None, description="One of GET /v1/models.")
    input_audio_format: Literal["pcm16"] = Field("pcm16", description="16-bit samples, little-endian, of one channel.")
    sampling_rate: int = Field(16_000, ge=ALLOWED_RATES[0], le=ALLOWED_RATES[1], description="Of the samples, in Hz.")
    language: str | None = Field(None, max_length=100, description="One that the model hears.")
    hotwords: Terms = declared(ListenOptions, "hotwords", default=[])
    llm: bool | None = declared(ListenOptions, "llm")
    step: float = declared(ListenOptions, "step", allow_inf_nan=False)
    window: float = declared(ListenOptions, "window", allow_inf_nan=False)
    stands_after: float = declared(ListenOptions, "stands_after", allow_inf_nan=False)

    def listening(self) -> ListenOptions:
        """The options of the live session.

        Raises:
            ConfigurationError: they contradict each other.
        """
        return ListenOptions(self.llm, tuple(self.hotwords), self.step, self.window, self.stands_after)


class Message(Body):
    """A message of a client."""

    event_id: Annotated[str, Field(max_length=512)] | None = Field(None, description="An error about it repeats it.")


class SessionUpdate(Message):
    """Chooses how sound is written down, before any comes."""

    type: Literal["session.update"]
    session: SessionOptions = Field(default_factory=lambda: SessionOptions.model_validate({}))
    model: Model | None = Field(None, description="The same as in the session.")


class Append(Message):
    """The next sound."""

    type: Literal["input_audio_buffer.append"]
    audio: str = Field(description="Samples in base64.")


class Commit(Message):
    """A mark in the sound."""

    type: Literal["input_audio_buffer.commit"]
    final: bool = Field(False, description="No more sound comes: what is left is written down, and the session ends.")


MESSAGES: dict[str, type[SessionUpdate] | type[Append] | type[Commit]] = {
    "session.update": SessionUpdate, "input_audio_buffer.append": Append, "input_audio_buffer.commit": Commit,
}


def message_of(text: str) -> SessionUpdate | Append | Commit:
    """A client's message.

    Raises:
        ApiError: it is no JSON, or of no known type.
        RequestValidationError: its fields are wrong.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        told = f"The message is not JSON ({error}); send an object with a type."
        raise ApiError(told, code="invalid_json") from error
    kind = values.get("type") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in MESSAGES:
        near = difflib.get_close_matches(kind, MESSAGES, 1) if isinstance(kind, str) else []
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(MESSAGES)}."
        raise ApiError(f"type is {shown(kind)}; {hint}", param="type", code="unknown_type")
    try:
        return MESSAGES[kind].model_validate(values)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("message", *one["loc"])} for one in error.errors()]) from error


def event_id_of(text: str) -> str | None:
    """The id that a client gave its message, wrong as that may be."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = values.get("event_id") if isinstance(values, dict) else None
    return name[:512] if isinstance(name, str) else None


def samples_of(message: Append) -> np.ndarray:
    """The (T,) int16 samples of a message.

    Raises:
        ApiError: it is not base64, or half a sample is left over.
    """
    try:
        data = base64.b64decode(message.audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(f"audio {shown(message.audio[:200])} is not base64 ({error}).", param="audio",
                       code="invalid_audio") from error
    if len(data) % BYTES_OF_A_SAMPLE:
        raise ApiError(f"audio has {len(data)} bytes; 16-bit samples have two bytes each: send whole ones.",
                       param="audio", code="invalid_audio")
    return np.frombuffer(data, "<i2").astype(np.int16, copy=False)
