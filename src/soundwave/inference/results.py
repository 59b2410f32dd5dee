"""What the engine gives back, as plain typed values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

Source = Literal["ctc", "ctc+llm", "llm"]


@dataclass(frozen=True)
class Usage:
    """What an answer cost: seconds of audio, prompt tokens (audio positions included), audio positions, new tokens."""

    audio_seconds: float
    prompt_tokens: int
    audio_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Timings:
    """Seconds spent: decoding the file, the speech encoder, until the first token, and in all."""

    load_audio: float
    encode: float
    first_token: float
    total: float


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        text: without special tokens.
        token_ids: all new tokens, the end token included.
        finish_reason: `stop`, or `length` where `max_new_tokens` or the LLM's context ended it.
        usage: what it cost in tokens.
        timings: what it cost in seconds.
        via: what the LLM read: the `audio` itself, the `transcript` of it, or a typed `text` alone.
        transcript: the words that were found in the recording, where the LLM read those.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    usage: Usage
    timings: Timings
    via: Literal["audio", "transcript", "text"] = "audio"
    transcript: str | None = None


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer as it is made; the last one carries the finish reason and the whole reply."""

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    reply: Reply | None = None


@dataclass(frozen=True)
class Speech:
    """What the speech encoder makes of a recording.

    Attributes:
        embeddings: (S, D) what the LLM reads in place of the audio.
        ctc_token_ids: the LLM tokens of the greedy CTC path, blanks removed.
        token_times: (start, end) of each of these tokens, in seconds.
        ctc_text: the tokens as text: lower-case words in newly trained models.
        joined_token_ids: the tokens that the LLM reads: those of CTC, joined where the LLM's own BPE would.
        joined_token_times: (start, end) of each of these, in seconds.
        duration: of the recording, in seconds.
        ctc_logprobs: (F, C) natural log-probabilities of the CTC classes in each frame; None where they were not kept.
        seconds_per_frame: of those frames.
    """

    embeddings: Tensor
    ctc_token_ids: list[int]
    token_times: list[tuple[float, float]]
    ctc_text: str
    joined_token_ids: list[int]
    joined_token_times: list[tuple[float, float]]
    duration: float
    ctc_logprobs: Tensor | None
    seconds_per_frame: float


@dataclass(frozen=True)
class Word:
    """A word of a transcript, with its start and end in seconds and how sure of it the model is, from 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of a transcript, with its start and end in seconds, and who speaks where that is known."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()
    speaker: str | None = None


@dataclass(frozen=True)
class Transcript:
    """What a person says.

    Attributes:
        text: the words.
        ctc_text: what the greedy CTC path spells.
        duration: of the recording, in seconds.
        language: of the words, where it is known.
        segments: the text with times; none where nothing is said.
        source: `ctc`: no LLM ran; `ctc+llm`: the LLM chose among CTC's n best; `llm`: the LLM wrote it.
    """

    text: str
    ctc_text: str
    duration: float
    language: str | None = None
    segments: list[Segment] = field(default_factory=list)
    source: Literal["ctc", "ctc+llm", "llm"] = "llm"


def later(transcript: Transcript, seconds: float) -> Transcript:
    """A transcript of a cut with the times of the whole recording, which begins `seconds` earlier."""
    segments = [
        replace(
            one, start=round(one.start + seconds, 3), end=round(one.end + seconds, 3),
            words=tuple(replace(word, start=word.start + seconds, end=word.end + seconds) for word in one.words),
        )
        for one in transcript.segments
    ]
    return replace(transcript, segments=segments)


def transcript_of(text: str, speech: Speech, source: Literal["ctc", "ctc+llm", "llm"]) -> Transcript:
    """A transcript as one segment, from the first token of the CTC path to the last; none where nothing is said."""
    segments = []
    if text:
        times = speech.token_times or [(0.0, speech.duration)]
        segments.append(Segment(text, times[0][0], times[-1][1]))
    return Transcript(text, speech.ctc_text, round(speech.duration, 3), None, segments, source)
