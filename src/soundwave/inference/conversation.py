"""Conversations to what the LLM reads: texts and recordings of several turns in one prompt.

One recording and one text become the prompt that `ask` has for them. Nothing of a conversation is ever cut: one that
does not fit into the LLM's context is refused.
"""

# S audio positions, D LLM width

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from soundwave.audio import AudioInput
from soundwave.errors import AudioTooLongError, ConfigurationError, SoundwaveError
from soundwave.inference.backends.protocol import Decoder, Prompt
from soundwave.inference.options import AskOptions, AudioOptions, TranscribeOptions
from soundwave.inference.stretches import LONGEST_SECONDS, Listening, opened
from soundwave.inference.turns import Turn, TurnMaker, as_array
from soundwave.processing import audio_of_part
from soundwave.text.prompt import Turn as Message
from soundwave.text.prompt import turns_of

READINGS_KEPT = 32  # of up to 30 s each: for an LLM that is 4096 wide about 100 MB

Way = Literal["audio", "transcript"]


@dataclass(frozen=True, eq=False)
class Reading:
    """What the LLM reads in place of a recording.

    Attributes:
        words: what is said; by way of the audio it is CTC's text, which an answer may quote.
        seconds: its length.
        embeddings: (S, D); None by way of the transcript.
    """

    words: str
    seconds: float
    embeddings: np.ndarray | None = None


class ConversationReader:
    """Makes the turn that a conversation comes to.

    The recordings of earlier turns come again with each turn, so the latest readings are kept.

    Args:
        turn_maker: of the same model.
    """

    def __init__(self, turn_maker: TurnMaker):
        self.turn_maker, self.prompts = turn_maker, turn_maker.prompts
        self._kept: OrderedDict[tuple[Way, bytes], Reading] = OrderedDict()
        self._lock = threading.Lock()  # of what is kept

    def turn(self, conversation: Sequence[dict[str, Any]], via: Way, options: AskOptions, decoder: Decoder) -> Turn:
        """What the LLM is to read.

        Args:
            conversation: messages, as `turns_of` takes them; the last is not the assistant's.
            via: what stands in place of recordings.
            options: how the answer is made.
            decoder: which will make it.

        Raises:
            AudioError: a recording cannot be used, or all of them do not fit.
            ConfigurationError: a message is not allowed.
        """
        messages, parts = turns_of(conversation)
        _check(messages)
        if not parts:
            return Turn(self.prompts.conversation(messages), "text")
        started = time.perf_counter()
        readings = self._readings([audio_of_part(part) for part in parts], messages, via, options, decoder)
        seconds = sum(reading.seconds for reading in readings)
        heard = readings[len(readings) - messages[-1].parts.count(None) :]  # in the message that is answered
        words = " ".join(reading.words for reading in heard if reading.words)
        transcript = words if via == "transcript" and heard else None
        if transcript == "":  # where nobody speaks nothing is asked, and nothing is answered
            return Turn(None, via, transcript, seconds, encoding=time.perf_counter() - started)
        prompt = self._prompt(messages, readings, via, options, decoder)
        count = sum(0 if reading.embeddings is None else len(reading.embeddings) for reading in readings)
        # a question that is only heard is quoted by no answer
        draft = self.prompts.draft(words) if via == "audio" or any(messages[-1].parts) else []
        return Turn(prompt, via, transcript, seconds, count, 0.0, time.perf_counter() - started, draft)

    def _prompt(
        self, messages: Sequence[Message], readings: Sequence[Reading], via: Way, options: AskOptions, decoder: Decoder
    ) -> Prompt:
        if via == "audio":
            embeddings = [reading.embeddings for reading in readings if reading.embeddings is not None]
            prompt = self.prompts.conversation(self._asking(messages), embeddings)
        else:
            said = [self.prompts.written(reading.words) for reading in readings]
            prompt = self.prompts.conversation(_with_words(messages, said))
        seconds = sum(reading.seconds for reading in readings)
        room = self.turn_maker.room(prompt, options, decoder)
        if all(reading.seconds <= LONGEST_SECONDS for reading in readings):
            room += options.max_new_tokens - 1  # as in `ask`, such answers may be ended by the context
        if room >= 0:
            return prompt
        (first, *others), *more = (message.parts for message in messages)
        if via == "transcript" and not more and first is None and len(others) <= 1 and len(readings) == 1:
            text = others[0] if others and others[0] else None
            return self.turn_maker.fitting(self.prompts.written(readings[0].words), text, options, decoder, seconds)
        fits = max(0.0, seconds * (len(prompt) + room) / len(prompt))
        raise AudioTooLongError(
            f"The conversation takes {len(prompt)} positions, with {seconds / 60:.1f} minutes of recordings; this "
            f"model reads {decoder.info.context_length} in all, the answer included: about {fits / 60:.1f} minutes "
            "fit. Leave out turns or recordings, or give parts of them.", seconds, fits,
        )  # fmt: skip

    def _asking(self, messages: Sequence[Message]) -> list[Message]:
        """What `ask` does where a recording comes without a text: it is asked the model's own question."""
        asked = self.turn_maker.default_prompt
        return [
            message if any(message.parts) or None not in message.parts
            else replace(message, parts=(*(part for part in message.parts if part is None), asked))
            for message in messages
        ]

    def _readings(
        self, audios: Sequence[AudioInput], messages: Sequence[Message], via: Way, options: AskOptions,
        decoder: Decoder,
    ) -> list[Reading]:
        """What stands for each recording; the error of one says which it was, from 0, where there are several."""
        clips: dict[int, np.ndarray] = {}
        long: dict[int, Listening] = {}
        for i, audio in enumerate(audios):
            with _numbered(i, len(audios)):
                whole, blocks = opened(audio, AudioOptions())
                if whole is not None:
                    clips[i] = whole[0]
                else:
                    long[i] = Listening(audio, opened=(whole, blocks))
        readings = dict(zip(clips, self._of_clips(list(clips.values()), via), strict=True))
        for i, listening in long.items():
            with _numbered(i, len(audios)):
                if via == "transcript":
                    readings[i] = Reading(*self.turn_maker.words(listening))
                    continue
                known = [
                    np.zeros((0, decoder.info.width), np.float32) if one is None or one.embeddings is None
                    else one.embeddings
                    for one in map(readings.get, range(len(audios)))
                ]
                room = self.turn_maker.room(self.prompts.conversation(self._asking(messages), known), options, decoder)
                embeddings, seconds = self.turn_maker.embeddings(listening, room, options, decoder)
                readings[i] = Reading("", seconds, embeddings)
        return [readings[i] for i in range(len(audios))]

    def _of_clips(self, clips: Sequence[np.ndarray], via: Way) -> list[Reading]:
        """Readings of (T,) samples of up to 30 s each; those that are not known are made together."""
        keys = [(via, hashlib.blake2b(clip.tobytes()).digest()) for clip in clips]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: clip for key, clip in zip(keys, clips, strict=True) if key not in known}
        maker = self.turn_maker
        speeches = maker.front_end.encode_clips(list(new.values()), via == "transcript" and maker.transcriber.has_words)
        if via == "transcript":
            transcripts = maker.transcriber.transcribe(speeches, TranscribeOptions()) if speeches else []
            made = [Reading(one.text, one.duration) for one in transcripts]
        else:
            made = [Reading(one.ctc_text, one.duration, as_array(one)) for one in speeches]
        known |= zip(new, made, strict=True)
        with self._lock:
            for key in keys:
                self._kept[key] = known[key]
                self._kept.move_to_end(key)
            while len(self._kept) > READINGS_KEPT:
                self._kept.popitem(last=False)
        return [known[key] for key in keys]


def _check(messages: Sequence[Message]) -> None:
    """Refuses what nothing can be answered to, and recordings that no user sent."""
    if not messages or messages[-1].role == "assistant":
        told = "The last message is the assistant's" if messages else "A conversation has no messages"
        raise ConfigurationError(f"{told}; end with a message of the user, which is answered.")
    wrong = next((message.role for message in messages if message.role != "user" and None in message.parts), None)
    if wrong is not None:
        raise ConfigurationError(f"A message of the role {wrong!r} has a recording; only the user's may have some.")


def _with_words(messages: Sequence[Message], said: Sequence[str]) -> list[Message]:
    """The messages with the words of recordings in their places, apart from what is typed by an empty line."""
    words = iter(said)
    spoken = [[next(words) if part is None else part for part in message.parts] for message in messages]
    return [
        replace(message, parts=("\n\n".join(filter(None, parts)),))
        for message, parts in zip(messages, spoken, strict=True)
    ]


@contextmanager
def _numbered(number: int, count: int) -> Iterator[None]:
    """Says in an error which of several recordings it is about, from 0."""
    try:
        yield
    except SoundwaveError as error:
        if count > 1:
            error.args = (f"recording {number}: {error}",)
        raise
