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
    via: Literal["audio", "transcript", "text"] = Field(description="What the LLM read of the recordings.")
    transcript: str | None = Field(description="The words that were found in them, where it read those.")


class TranscriptionUsage(BaseModel):
    """What a transcript cost."""

    type: Literal["duration"]
    seconds: float


class TranscriptSegment(BaseModel):
    """A stretch without a long pause; the names are Whisper's."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int] = Field(description="Empty: words are not made of such tokens.")
    temperature: float = Field(description="Always 0: words are searched, not sampled.")
    avg_logprob: float | None
    compression_ratio: float
    no_speech_prob: None


class TranscriptWord(BaseModel):
    """A word and its times in seconds."""

    word: str
    start: float
    end: float
    probability: float | None = Field(None, description="How sure the model is of it.")


class Transcription(BaseModel):
    """What is said: `text` and `usage` in json, all of it in verbose_json."""

    text: str
    usage: TranscriptionUsage
    task: Literal["transcribe"] | None = None
    language: str | None = Field(None, description="Its ISO 639-1 code, where it is known.")
    duration: float | None = None
    segments: list[TranscriptSegment] | None = None
    words: list[TranscriptWord] | None = None
    source: Literal["ctc", "ctc+llm", "llm"] | None = Field(None, description="Whether the LLM had a say.")
    ctc_text: str | None = Field(None, description="What the greedy CTC path spells.")


class Translation(BaseModel):
    """What is said, in English."""

    text: str


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
