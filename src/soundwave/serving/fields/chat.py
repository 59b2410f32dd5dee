"""What a chat request may hold, field by field.

Names are OpenAI's; ranges and defaults of what the engine knows are the engine's own. A field that OpenAI has and this
server cannot honour is here too, with the one value that asks for nothing: so old clients work, and others are told.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from soundwave.inference.options import ChatOptions, Via

MOST_MESSAGES, MOST_PARTS, MOST_STOPS = 1000, 100, 4
LONGEST_TEXT, LONGEST_STOP = 1_000_000, 1000  # characters
NOT_HONOURED = "not honoured"  # key of a field's schema: why it is not


class Body(BaseModel):
    """A JSON object without fields that nobody knows."""

    model_config = ConfigDict(extra="forbid", strict=True)


def declared(owner: type, name: str, **more: Any) -> Any:
    """A field with the default, range and help of an option that is declared elsewhere by `setting`."""
    (option,) = [one for one in fields(owner) if one.name == name]
    data = option.metadata
    bounds = {"ge": data["least"], "le": data["most"], "gt": data["above"], "lt": data["below"]}
    given = {key: value for key, value in bounds.items() if value is not None}
    default = None if option.default is MISSING else option.default
    return Field(**{"default": default, "description": data["help"], **given, **more})


def unsupported(why: str) -> Any:
    """A field that cannot be honoured; its type says which values ask for nothing."""
    return Field(None, description=why, json_schema_extra={NOT_HONOURED: why})


def not_honoured(name: Any) -> str | None:
    """Why a field of OpenAI's is not honoured, if it is such a one."""
    for owner in (NotHonoured, Message, StreamOptions):
        extra = owner.model_fields[name].json_schema_extra if name in owner.model_fields else None
        if isinstance(extra, dict) and NOT_HONOURED in extra:
            return str(extra[NOT_HONOURED])
    return None


Zero = Annotated[float, Field(ge=0, le=0)]
Empty = Annotated[list[Any], Field(max_length=0)]
EmptyObject = Annotated[dict[str, Any], Field(max_length=0)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]

ONE_ANSWER = "A request gets one answer."
NO_TOOLS = "The model calls no tools."
NO_LOGPROBS = "Log-probabilities are not given."
TEXT_ONLY = "Answers are text."
NOTHING_KEPT = "Nothing is kept after an answer."


class TextPart(Body):
    """A text."""

    type: Literal["text"]
    text: Text


class InputAudio(Body):
    """A recording in base64, of any format that FFmpeg reads."""

    data: str = Field(description="The whole file in base64, or as data:audio/...;base64,...")
    format: str = Field("wav", max_length=20, description="What it is, such as wav or mp3; the data itself decides.")


class InputAudioPart(Body):
    """A recording that comes with the request."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioUrl(Body):
    """Where a recording is."""

    url: str = Field(description="data:audio/...;base64,... or, where the server allows its host, https://...")


class AudioUrlPart(Body):
    """A recording behind an address."""

    type: Literal["audio_url"]
    audio_url: AudioUrl


Part = Annotated[TextPart | InputAudioPart | AudioUrlPart, Field(discriminator="type")]


def _kind(content: Any) -> str:
    return "text" if isinstance(content, str) else "parts"


Parts = Annotated[list[Part], Field(min_length=1, max_length=MOST_PARTS)]
Content = Annotated[Annotated[Text, Tag("text")] | Annotated[Parts, Tag("parts")], Discriminator(_kind)]


class Message(Body):
    """What somebody said."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="developer is read as system.")
    content: Content
    name: None = unsupported("The model is not told names of speakers.")
    refusal: None = unsupported(TEXT_ONLY)
    audio: None = unsupported(TEXT_ONLY)
    annotations: Empty | None = unsupported(TEXT_ONLY)
    tool_calls: Empty | None = unsupported(NO_TOOLS)
    function_call: None = unsupported(NO_TOOLS)


class TextFormat(Body):
    """Text, and nothing else."""

    type: Literal["text"]


class StreamOptions(Body):
    """What a stream tells beside the answer."""

    include_usage: bool = Field(False, description="A last event says what the answer cost.")
    include_obfuscation: Literal[False] | None = unsupported("Events are not padded.")


class NotHonoured(Body):
    """Fields of OpenAI's that this server cannot honour, with the values that ask for nothing."""

    n: Literal[1] | None = unsupported(ONE_ANSWER)
    logprobs: Literal[False] | None = unsupported(NO_LOGPROBS)
    top_logprobs: Literal[0] | None = unsupported(NO_LOGPROBS)
    frequency_penalty: Zero | None = unsupported("Tokens are not penalised.")
    presence_penalty: Zero | None = unsupported("Tokens are not penalised.")
    logit_bias: EmptyObject | None = unsupported("Tokens are not weighed.")
    tools: Empty | None = unsupported(NO_TOOLS)
    tool_choice: Literal["none", "auto"] | None = unsupported(NO_TOOLS)
    parallel_tool_calls: bool | None = unsupported(NO_TOOLS)
    functions: Empty | None = unsupported(NO_TOOLS)
    function_call: Literal["none", "auto"] | None = unsupported(NO_TOOLS)
    response_format: TextFormat | None = unsupported("Answers are not bound to a schema.")
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = unsupported(TEXT_ONLY)
    audio: None = unsupported(TEXT_ONLY)
    prediction: None = unsupported("Predicted outputs are not used.")
    reasoning_effort: Literal["none"] | None = unsupported("The model does not reason before it answers.")
    verbosity: Literal["medium"] | None = unsupported("Ask for a short or long answer in words.")
    store: Literal[False] | None = unsupported(NOTHING_KEPT)
    metadata: EmptyObject | None = unsupported(NOTHING_KEPT)
    web_search_options: None = unsupported("The model does not search.")
    moderation: None = unsupported("Nothing is moderated.")
    service_tier: Literal["auto", "default"] | None = unsupported("There is one tier.")
    user: Annotated[str, Field(max_length=1000)] | None = Field(None, description="Accepted, and not used.")
    safety_identifier: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="Accepted, and not used."
    )
    prompt_cache_key: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="Accepted, and not used."
    )
    prompt_cache_retention: None = unsupported("Prompts are not cached.")


Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Stops = Annotated[
    Annotated[Stop, Tag("one")] | Annotated[list[Stop], Field(max_length=MOST_STOPS), Tag("several")],
    Discriminator(lambda given: "one" if isinstance(given, str) else "several"),
]


class ChatRequest(NotHonoured):
    """A conversation whose next turn is asked for."""

    model: str = Field(max_length=1000, description="One of GET /v1/models.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool | None = Field(False, description="Send the answer in events while it is made.")
    stream_options: StreamOptions | None = None
    temperature: float | None = declared(ChatOptions, "temperature", le=100, allow_inf_nan=False)
    top_p: float | None = declared(ChatOptions, "top_p", allow_inf_nan=False)
    max_completion_tokens: int | None = declared(ChatOptions, "max_new_tokens", default=None)
    max_tokens: int | None = declared(
        ChatOptions, "max_new_tokens", default=None, description="The older name of max_completion_tokens."
    )
    seed: int | None = declared(ChatOptions, "seed", ge=-(2**63), description="The same seed gives the same answer.")
    stop: Stops | None = declared(ChatOptions, "stop", default=None)
    via: Via = declared(ChatOptions, "via")
