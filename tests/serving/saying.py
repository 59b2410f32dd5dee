"""An engine that finds the same words in every recording, part by part as long as it is let."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from running import ScriptedEngine

from soundwave.audio import SAMPLE_RATE
from soundwave.inference.captions import Event, Final, Partial
from soundwave.inference.longform import Part
from soundwave.inference.options import ListenOptions, TranscribeOptions
from soundwave.inference.results import Chunk, Segment, Transcript, Word
from soundwave.inference.stretches import Listening
from soundwave.inference_config import InferenceConfig

SAID = ("hello world", "a second sentence", "the end")


def segment(text: str, start: float) -> Segment:
    """Half a second for each word."""
    words = [Word(word, start + 0.5 * i, start + 0.5 * i + 0.4, 0.9) for i, word in enumerate(text.split())]
    return Segment(text, words[0].start, words[-1].end, tuple(words))


class SayingSession:
    """Hears a word in each second of sound, and a sentence of three in three of them."""

    def __init__(self, engine: SayingEngine, options: ListenOptions, sampling_rate: int):
        self.engine, self.options, self.sampling_rate = engine, options, sampling_rate
        self.seconds, self.heard, self.behind = 0.0, 0, 0.0
        self.finished = False
        if engine.error is not None:
            raise engine.error

    def feed(self, samples: np.ndarray, behind: float = 0.0) -> list[Event]:
        assert samples.dtype == np.int16
        if self.engine.waits is not None:
            self.engine.waits.wait(20)
        self.seconds += len(samples) / self.sampling_rate
        self.behind = max(self.behind, behind)
        events: list[Event] = []
        while self.heard + 1 <= self.seconds:
            self.heard += 1
            events.append(self._final() if self.heard % 3 == 0 else self._partial())
        return events

    def finish(self) -> list[Event]:
        self.finished = True
        return [self._final()] if self.heard % 3 else []

    def _words(self) -> Segment:
        first = (self.heard - 1) // 3 * 3
        return segment(" ".join(f"w{number}" for number in range(first, self.heard)), float(first))

    def _partial(self) -> Event:
        said = self._words()
        return Partial(said.text, said.words, len(said.words) - 1, said.start, said.end)

    def _final(self) -> Event:
        said = self._words()
        return Final(said.text, Transcript(said.text, said.text, 3.0, None, [said], "ctc"), said.start, said.end)


@dataclass
class SayingEngine(ScriptedEngine):
    """Says a sentence for each part of a recording, 10 s apart.

    Attributes:
        said: the sentences.
        inference: languages and prompts.
        parts: how many were made, of all recordings together.
        options: of the last recording.
        waits: before each part but the first, and before each sound of a live session.
        sessions: the live ones.
    """

    said: Sequence[str] = SAID
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    parts: int = 0
    options: TranscribeOptions | None = None
    waits: threading.Event | None = None
    sessions: list[SayingSession] = field(default_factory=list)

    def transcribe(self, audio: Any, **options: Any) -> Transcript:
        """What a server asks for once, before it is ready: it neither waits nor counts."""
        return Transcript("", "", 1.0, None, [], "ctc")

    def transcribe_parts(
        self, recordings: Sequence[Listening], options: TranscribeOptions
    ) -> Generator[Part, None, None]:
        self.options = options
        (listening,) = recordings
        samples, rate = listening.audio  # type: ignore[misc]
        assert rate == SAMPLE_RATE
        for number, text in enumerate(self.said):
            if number and self.waits is not None:
                self.waits.wait(20)
            self.parts += 1
            try:
                yield Part(0, 0, text, text, (segment(text, 10.0 * number),), "ctc", 10.0 * number + 5)
            except GeneratorExit:
                self.closed += 1
                raise
        yield Part(0, seconds=len(samples) / rate, whole=True)

    def listen(self, options: ListenOptions, *, sampling_rate: int) -> SayingSession:
        self.sessions.append(SayingSession(self, options, sampling_rate))
        return self.sessions[-1]

    def stream(self, audio: Any, prompt: str | None, **options: Any) -> Generator[Chunk, None, None]:
        self.asked.append((prompt, options))
        return self._answer([], options)

    def source(self, options: TranscribeOptions) -> Any:
        return "ctc"
