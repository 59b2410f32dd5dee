"""From requests to what the LLM reads: a recording's embeddings, its words, or a typed text alone.

A recording of any length becomes one turn, whole, or an error that says how much of it fits; nothing is ever cut. Where
the words of a long one do not fit, parts of them are asked first, and their answers then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np

from soundwave.audio import AudioInput
from soundwave.errors import AudioTooLongError, ConfigurationError, SoundwaveError
from soundwave.inference.backends.protocol import Decoder, Prompt
from soundwave.inference.longform import LongTranscriber, Part, joined
from soundwave.inference.options import AskOptions, AudioOptions, TranscribeOptions
from soundwave.inference.prompts import PromptBuilder
from soundwave.inference.results import Speech
from soundwave.inference.speech import SpeechFrontEnd
from soundwave.inference.stretches import Ended, Failed, Listening, events_of, opened, unshared
from soundwave.inference.transcription import Transcriber


@dataclass(frozen=True)
class Request:
    """One question: an audio (or None) and a prompt (None: the model's own)."""

    audio: AudioInput | None
    prompt: str | None = None


@dataclass(frozen=True)
class Turn:
    """What becomes of one request.

    Attributes:
        prompt: what the LLM reads; None: nothing was said, and nothing is answered.
        via: what stands in it for the recording.
        transcript: the words that do.
        duration: of the recording in seconds; 0 where there is none.
        audio_tokens: positions of its embeddings in the prompt.
        loading, encoding: seconds that it took; of a long recording all is `encoding`.
        draft: what is said, for an answer that quotes it.
    """

    prompt: Prompt | None
    via: Literal["audio", "transcript", "text"]
    transcript: str | None = None
    duration: float = 0.0
    audio_tokens: int = 0
    loading: float = 0.0
    encoding: float = 0.0
    draft: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Clip:
    """The samples of a recording that fits the encoder, and the seconds it took to load them."""

    samples: np.ndarray
    loading: float


class TurnMaker:
    """Makes turns for one model.

    Args:
        front_end: encodes recordings.
        transcriber: finds the words of short ones.
        long_transcriber: finds the words of long ones.
        prompts: makes prompts for the LLM.
        default_prompt: where a request with audio brings none.
    """

    def __init__(
        self, front_end: SpeechFrontEnd, transcriber: Transcriber, long_transcriber: LongTranscriber,
        prompts: PromptBuilder, default_prompt: str,
    ):
        self.front_end, self.transcriber, self.long_transcriber = front_end, transcriber, long_transcriber
        self.prompts, self.default_prompt = prompts, default_prompt

    def turns(
        self, requests: Sequence[Request], via: Literal["audio", "transcript"], options: AskOptions,
        sound: AudioOptions, decoder: Decoder,
    ) -> list[Turn | SoundwaveError]:
        """What the LLM is to read for each request; the error of one that cannot be used stands in its place."""
        if sound.channels == "each":
            raise ConfigurationError("channels is 'each', which is for transcripts; ask about mix or one channel.")
        results: dict[int, Turn | SoundwaveError] = {}
        clips: dict[int, _Clip] = {}
        for i, request in enumerate(requests):
            try:
                if request.audio is None:
                    results[i] = Turn(self.prompts.text(request.prompt or self.default_prompt), "text")
                    continue
                started = time.perf_counter()
                whole, blocks = opened(request.audio, sound)
                if whole is not None:
                    clips[i] = _Clip(whole[0], time.perf_counter() - started)
                else:
                    listening = Listening(request.audio, sound, opened=(whole, blocks))
                    results[i] = self._long(request, listening, via, options, decoder)
            except SoundwaveError as error:
                results[i] = error
        results |= self._short(requests, clips, via)
        return [results[i] for i in range(len(requests))]

    def _short(
        self, requests: Sequence[Request], clips: dict[int, _Clip], via: Literal["audio", "transcript"]
    ) -> dict[int, Turn | SoundwaveError]:
        """The turns of recordings that fit the encoder whole, all encoded together."""
        started = time.perf_counter()
        wants_words = via == "transcript" and self.transcriber.has_words
        speeches = self.front_end.encode_clips([clip.samples for clip in clips.values()], wants_words)
        encoding = (time.perf_counter() - started) / max(1, len(clips))
        words: list[str | None] = [None] * len(clips)
        if via == "transcript" and speeches:
            words = [one.text for one in self.transcriber.transcribe(speeches, TranscribeOptions())]
        return {
            i: self._turn(requests[i], speech, said, clip.loading, encoding)
            for (i, clip), speech, said in zip(clips.items(), speeches, words, strict=True)
        }

    def _turn(
        self, request: Request, speech: Speech, words: str | None, loading: float, encoding: float
    ) -> Turn | SoundwaveError:
        try:
            if words is None:
                embeddings = as_array(speech)
                prompt = self.prompts.audio(request.prompt or self.default_prompt, embeddings)
                draft = self.prompts.draft(speech.ctc_text)
                return Turn(prompt, "audio", None, speech.duration, len(embeddings), loading, encoding, draft)
            # where nobody speaks nothing is asked, and nothing is answered
            asked = self.prompts.transcript(self.prompts.written(words), request.prompt) if words else None
            draft = self.prompts.draft(words) if request.prompt else []  # else it is a question, which no answer quotes
            return Turn(asked, "transcript", words, speech.duration, 0, loading, encoding, draft)
        except SoundwaveError as error:
            return error

    def _long(
        self, request: Request, listening: Listening, via: Literal["audio", "transcript"], options: AskOptions,
        decoder: Decoder,
    ) -> Turn:
        started = time.perf_counter()
        if via == "audio":
            empty = np.zeros((0, decoder.info.width), np.float32)
            asked = request.prompt or self.default_prompt
            room = self.room(self.prompts.audio(asked, empty), options, decoder)
            embeddings, duration = self.embeddings(listening, room, options, decoder)
            prompt = self.prompts.audio(asked, embeddings)
            return Turn(prompt, "audio", None, duration, len(embeddings), 0.0, time.perf_counter() - started)
        words, duration = self.words(listening)
        spent = time.perf_counter() - started
        if not words:
            return Turn(None, "transcript", "", duration, 0, 0.0, spent)
        fitting = self.fitting(self.prompts.written(words), request.prompt, options, decoder, duration)
        return Turn(fitting, "transcript", words, duration, 0, 0.0, spent)

    def words(self, listening: Listening) -> tuple[str, float]:
        """What is said in a recording of any length, and its length in seconds."""
        parts: list[Part] = []
        for part in self.long_transcriber.parts([listening], TranscribeOptions()):
            if part.error is not None:
                raise part.error
            parts.append(part)
        transcript = joined(parts, "ctc")
        return transcript.text, transcript.duration

    def embeddings(
        self, listening: Listening, room: int, options: AskOptions, decoder: Decoder
    ) -> tuple[np.ndarray, float]:
        """(S, D) of all stretches of a recording, and its length in seconds.

        Raises:
            AudioTooLongError: they are more than `room`; it is said as soon as that is known.
        """
        empty = np.zeros((0, decoder.info.width), np.float32)
        found, count, seconds = [empty], 0, 0.0
        with closing(events_of([listening], self.long_transcriber.new_cutter)) as events:  # type: ignore[type-var]
            for sound in unshared(events):
                if isinstance(sound, Failed):
                    raise sound.error
                if isinstance(sound, Ended):
                    return np.concatenate(found), sound.seconds
                (speech,) = self.front_end.encode_clips([sound])
                found.append(as_array(speech))
                count, seconds = count + len(found[-1]), seconds + speech.duration
                if count > room:
                    raise _too_long(seconds, count, room, options, decoder)
        raise AssertionError("a recording ends or fails")

    def room(self, prompt: Prompt, options: AskOptions, decoder: Decoder) -> int:
        """Positions that are left in the LLM's context beside a prompt and the longest answer."""
        context = decoder.info.context_length
        return 2**62 if context is None else context - options.max_new_tokens - len(prompt)

    def fitting(
        self, words: str, prompt: str | None, options: AskOptions, decoder: Decoder, duration: float
    ) -> Prompt:
        """A turn with all the words; where they are too many, with the answers that parts of them got.

        Raises:
            AudioTooLongError: the words themselves are the turn, and too many.
            ConfigurationError: answers may be so long that they are no shorter than the words.
        """
        whole = self.prompts.transcript(words, prompt)
        if self.room(whole, options, decoder) >= 0:
            return whole
        if prompt is None:
            fits = duration * (len(whole) + self.room(whole, options, decoder)) / len(whole)
            raise AudioTooLongError(
                f"The words of {duration / 60:.1f} minutes take {len(whole)} positions; this model reads "
                f"{decoder.info.context_length} in all, of which {options.max_new_tokens} are kept for the answer: "
                f"about {max(0.0, fits) / 60:.1f} minutes fit. Give a prompt, which long transcripts are asked in "
                "parts; or a part of the recording (start, end).", duration, max(0.0, fits),
            )  # fmt: skip
        asked = [self.prompts.transcript(part, prompt) for part in self._parts(words, prompt, options, decoder)]
        answers: list[list[int]] = [[] for _ in asked]
        for row, one in enumerate(asked):  # one by one: together their caches could be larger than the memory
            answers[row] = [token.id for token in decoder.generate([one], options)]
        tokenizer = self.prompts.processor.tokenizer
        told = "\n".join(tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers)
        if len(told) >= len(words):
            raise ConfigurationError(
                f"max_new_tokens is {options.max_new_tokens}: the answers about {len(asked)} parts of the transcript "
                "are together no shorter than it; give a lower one."
            )
        return self.fitting(told, prompt, options, decoder, duration)

    def _parts(self, words: str, prompt: str, options: AskOptions, decoder: Decoder) -> list[str]:
        """The words in as few parts of about equal length as fit."""
        said = words.split(" ")
        if self.room(self.prompts.transcript(said[0], prompt), options, decoder) < 0:
            raise ConfigurationError(
                f"The prompt and max_new_tokens={options.max_new_tokens} leave no room for a transcript; this model "
                f"reads {decoder.info.context_length} positions in all. Shorten them."
            )
        count = 2
        while True:
            bounds = [round(i * len(said) / count) for i in range(count + 1)]
            parts = [" ".join(said[first:last]) for first, last in pairwise(bounds) if last > first]
            rooms = [self.room(self.prompts.transcript(part, prompt), options, decoder) for part in parts]
            if min(rooms) >= 0 or len(parts) == len(said):
                return parts
            count += max(1, count // 4)


def as_array(speech: Speech) -> np.ndarray:
    """(S, D) a recording's embeddings, as decoders read them."""
    return speech.embeddings.float().cpu().numpy()


def _too_long(seconds: float, count: int, room: int, options: AskOptions, decoder: Decoder) -> AudioTooLongError:
    """How much would fit, by what this recording's own sound takes."""
    fits = max(0.0, seconds * room / count)
    return AudioTooLongError(
        f"The first {seconds / 60:.1f} minutes of speech in the recording take {count} positions; this model reads "
        f"{decoder.info.context_length} in all, of which {options.max_new_tokens} are kept for the answer: about "
        f"{fits / 60:.1f} minutes of its speech fit. Ask by way of its words (via='transcript', on the command line "
        "--via transcript), or about a part of it (start, end).", None, fits,
    )  # fmt: skip
