"""What requests about one recording may hold, field by field: forms, with names that are OpenAI's."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import Field

from soundwave.inference.options import TranscribeOptions
from soundwave.serving.schema import Body, Empty, Text, Zero, declared, unsupported

LONGEST_TERMS = 10_000  # characters
MOST_TERMS = 200

SEARCHED = "Words are searched, not sampled."
CONFIDENCE = "Log-probabilities are not given; the words of verbose_json have a confidence."
CUT = "Recordings are cut at pauses by the server's own rule."
NO_SPEAKERS = "Speakers are not told apart."

Terms = Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=MOST_TERMS)]


class TranscriptionRequest(Body):
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
    temperature: Zero | None = unsupported(SEARCHED)
    include: Empty = Field([], alias="include[]", description=CONFIDENCE)
    chunking_strategy: Literal["auto"] | None = unsupported(CUT)
    known_speaker_names: Empty = Field([], alias="known_speaker_names[]", description=NO_SPEAKERS)
    known_speaker_references: Empty = Field([], alias="known_speaker_references[]", description=NO_SPEAKERS)


class TranslationRequest(Body):
    """A recording whose words are wanted in English."""

    file: UploadFile = Field(description="The recording, in any format that FFmpeg reads.")
    model: str = Field(max_length=1000, description="One of GET /v1/models.")
    response_format: Literal["json", "text"] = Field("json", description="A translation has no times.")
    prompt: Annotated[str, Field(max_length=0)] | None = unsupported("The model is told to translate, and no more.")
    temperature: Zero | None = unsupported("The likeliest translation is given.")
