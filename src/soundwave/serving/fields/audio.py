"""What requests about one recording may hold, field by field: forms, with names that are OpenAI's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from soundwave.inference.options import TranscribeOptions
from soundwave.serving.fields.chat import NOT_HONOURED, Body, Text, declared

LONGEST_TERMS = 10_000  # characters
MOST_TERMS = 200


@dataclass(frozen=True)
class Neutral:
    """Of a field of OpenAI's that cannot be honoured: only the values that ask for nothing pass; lists where empty.

    Attributes:
        why: it is not honoured.
        values: those that pass.
    """

    why: str
    values: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), **({"enum": list(self.values)} if self.values else {"maxItems": 0})}

    def _checked(self, value: Any) -> Any:
        if value and value not in self.values:
            raise PydanticCustomError(NOT_HONOURED, self.why)
        return value


Cut = Annotated[str, Neutral("Recordings are cut at pauses by the server's own rule.", ("auto",))]
NoLogprobs = Annotated[list[str], Neutral("Log-probabilities are not given; words of verbose_json have a probability.")]
NoSpeakers = Annotated[list[str], Neutral("Speakers are not told apart.")]
NotSampled = Annotated[float, Neutral("Words are searched, not sampled.", (0.0,))]
NotPrompted = Annotated[str, Neutral("The model is told to translate, and no more.", ("",))]
Likeliest = Annotated[float, Neutral("The likeliest translation is given.", (0.0,))]
Terms = Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=MOST_TERMS)]


class AudioForm(Body):
    """A form, whose values are texts."""

    model_config = ConfigDict(strict=False)


class TranscriptionRequest(AudioForm):
    """A recording to be written down."""

    file: UploadFile = Field(description="The recording, in any format that FFmpeg reads.")
    model: str = Field(max_length=1000, description="One of GET /v1/models.")
    language: str | None = Field(
        None, max_length=100, description="What is spoken; a language that the model does not hear is refused."
    )
    languages: Terms = Field([], alias="languages[]", description="What may be spoken; the model hears one at least.")
    prompt: Text | None = Field(
        None, description="A text before, or a list of terms: names in it are hot words, nothing else of it is used."
    )
    hotwords: str | None = declared(
        TranscribeOptions, "hotwords", default=None, max_length=LONGEST_TERMS,
        description="Names and terms that are likely to be said, with commas between.",
    )
    keywords: Terms = Field([], alias="keywords[]", description="The same, each in a field of its own.")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = Field(
        "json", description="verbose_json, srt and vtt have times."
    )
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        [], alias="timestamp_granularities[]", max_length=2, description="Of verbose_json; default: segment."
    )
    stream: bool | None = Field(False, description="Send the text in events while it is found.")
    llm: bool | None = declared(TranscribeOptions, "llm")
    temperature: NotSampled = 0.0
    include: NoLogprobs = Field([], alias="include[]")
    chunking_strategy: Cut = "auto"
    chunking_strategy_type: Cut = Field("auto", alias="chunking_strategy[type]")
    known_speaker_names: NoSpeakers = Field([], alias="known_speaker_names[]")
    known_speaker_references: NoSpeakers = Field([], alias="known_speaker_references[]")


class TranslationRequest(AudioForm):
    """A recording whose words are wanted in English."""

    file: UploadFile = Field(description="The recording, in any format that FFmpeg reads.")
    model: str = Field(max_length=1000, description="One of GET /v1/models.")
    response_format: Literal["json", "text"] = Field("json", description="A translation has no times.")
    prompt: NotPrompted = ""
    temperature: Likeliest = 0.0
