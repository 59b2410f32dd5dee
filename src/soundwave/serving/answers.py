"""What the server answers, as its own description states it; nothing is checked by these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ErrorObject(BaseModel):
    """What is wrong with a request."""

    message: str = Field(description="What was wrong, the value given, what is allowed, what to do.")
    type: str
    param: str | None = Field(description="The field that is wrong, such as messages[0].content.")
    code: str | None = Field(description="A word for programs.")


class ErrorAnswer(BaseModel):
    """An answer that says why there is none."""

    error: ErrorObject


class PromptDetails(BaseModel):
    """What was read."""

    audio_tokens: int
    cached_tokens: Literal[0]


class CompletionDetails(BaseModel):
    """What was written."""

    reasoning_tokens: Literal[0]
    audio_tokens: Literal[0]


class ChatUsage(BaseModel):
    """What an answer cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    audio_seconds: float = Field(description="Of the recordings in the request; a field of this server's own.")


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """The one answer."""

    index: Literal[0]
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None


class ChatCompletion(BaseModel):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage


class Model(BaseModel):
    """A name that the model is served by."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class State(BaseModel):
    """How the server is."""

    status: str
