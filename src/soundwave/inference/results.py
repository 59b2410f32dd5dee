"""What the engine gives back, as plain typed values."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Usage:
    """What an answer cost: seconds of audio, prompt tokens (audio positions included), audio positions, new tokens."""

    audio_seconds: float
    prompt_tokens: int
    audio_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Timings:
    """Seconds spent: decoding the file, the speech front end, until the first token, and in all."""

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
        finish_reason: `stop`, or `length` where `max_new_tokens` ended it.
        usage: what it cost in tokens.
        timings: what it cost in seconds.
        heard: the words that were found in the recording first and answered as if they had been typed; None where the
            LLM answered the audio itself, or the text is those words.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    usage: Usage
    timings: Timings
    heard: str | None = None


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer as it is made; the last one carries the finish reason and the whole reply."""

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    reply: Reply | None = None


@dataclass(frozen=True)
class Speech:
    """What the front end hears in a recording.

    Attributes:
        embeddings: (S, D) what the LLM reads in place of the audio.
        ctc_token_ids: the LLM tokens of the greedy CTC path, blanks removed.
        token_times: (start, end) of each of these tokens, in seconds.
        duration: of the recording, in seconds.
        ctc_text: the tokens as text: lower-case words in newly trained models.
    """

    embeddings: Tensor
    ctc_token_ids: list[int]
    token_times: list[tuple[float, float]]
    duration: float
    ctc_text: str


@dataclass(frozen=True)
class Transcript:
    """What a person says. `segments` have start and end in seconds; `ctc_text` is what the best CTC path spells.

    `source` is `llm`, or `llm+ctc` where the language model and the CTC path were searched together
    (`inference/joint.py`), or `ctc` where no language model ran.
    """

    text: str
    ctc_text: str
    duration: float
    language: str | None = None
    segments: list[dict[str, float | str]] = field(default_factory=list)
    source: str = "llm"


def transcript_of(text: str, speech: Speech, source: str) -> Transcript:
    """A transcript as one segment, from the first token heard to the last; none where nothing is said."""
    segments: list[dict[str, float | str]] = []
    if text:
        times = speech.token_times or [(0.0, speech.duration)]
        segments.append({"start": times[0][0], "end": times[-1][1], "text": text})
    return Transcript(text, speech.ctc_text, round(speech.duration, 3), None, segments, source)
