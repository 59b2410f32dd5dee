"""What the engine gives back, as plain typed values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from soundwave.ctc.align import LikelyClasses

Source = Literal["ctc", "ctc+llm", "llm"]

PAUSE = 0.6  # seconds between words, from which a new segment begins
LONGEST_SEGMENT = 12.0  # seconds; a longer one is parted at its longest pause, if that is at least
SHORT_PAUSE = 0.1
NO_SENTENCE_END = ("mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "no.", "vs.")


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
        ctc_likely: the likeliest classes of each frame, where not all log-probabilities were kept.
        loudness: of the recording, a hundred values a second, in decibels.
        voice: (W,) how likely somebody speaks, for each 32 ms.
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
    ctc_likely: LikelyClasses | None = None
    loudness: NDArray[np.float32] | None = None
    voice: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Word:
    """A word of a transcript.

    Attributes:
        text: as it is written, with the signs that belong to it.
        start, end: in seconds.
        confidence: how sure of it the model is, from 0 to 1; None where CTC cannot spell it, as a number in digits.
    """

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of a transcript without a long pause, with its start and end in seconds, and its speaker if known.

    The texts of its words, joined by spaces, are its text; those of the segments are the transcript's.
    """

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
    source: Source = "llm"


T = TypeVar("T", Word, Segment)


def later(transcript: Transcript, seconds: float) -> Transcript:
    """A transcript of a cut with the times of the whole recording, which begins `seconds` earlier."""
    segments = [
        replace(_moved(one, seconds), words=tuple(_moved(word, seconds) for word in one.words))
        for one in transcript.segments
    ]
    return replace(transcript, segments=segments)


def _moved(timed: T, seconds: float) -> T:
    return replace(timed, start=round(timed.start + seconds, 3), end=round(timed.end + seconds, 3))


def transcript_of(
    text: str, speech: Speech, source: Source, words: Sequence[Word] = ()
) -> Transcript:
    """A transcript in segments.

    Args:
        text: its words, joined by spaces.
        speech: where they were found.
        source: how.
        words: those of the text with their times; none: it is one segment, from the first CTC token to the last.
    """
    segments = segments_of(words)
    if text and not segments:
        times = speech.token_times or [(0.0, speech.duration)]
        segments = [Segment(text, times[0][0], times[-1][1])]
    return Transcript(text, speech.ctc_text, round(speech.duration, 3), None, segments, source)


def segments_of(words: Sequence[Word]) -> list[Segment]:
    """Words that follow each other as segments: parted at pauses, after sentences, and where they get too long."""
    segments: list[Segment] = []
    first = 0
    for after in range(1, len(words) + 1):
        if after == len(words) or _parts(words[after - 1], words[after]):
            segments += _short_segments(tuple(words[first:after]))
            first = after
    return segments


def _parts(word: Word, following: Word) -> bool:
    """Whether a segment ends between two words."""
    ends = word.text.rstrip("\"')”’").endswith((".", "?", "!")) and word.text.lower() not in NO_SENTENCE_END
    return following.start - word.end >= PAUSE or (ends and not following.text[:1].islower())


def _short_segments(words: tuple[Word, ...]) -> list[Segment]:
    """One segment, or several where a longer one has a place to breathe: the longest pause parts it."""
    gaps = [after.start - before.end for before, after in pairwise(words)]
    if words[-1].end - words[0].start > LONGEST_SEGMENT and max(gaps, default=0.0) >= SHORT_PAUSE:
        after = 1 + gaps.index(max(gaps))
        return _short_segments(words[:after]) + _short_segments(words[after:])
    return [Segment(" ".join(word.text for word in words), words[0].start, words[-1].end, words)]
