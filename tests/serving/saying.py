"""An engine that finds the same words in every recording, part by part as long as it is let."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from running import ScriptedEngine

from soundwave.audio import SAMPLE_RATE
from soundwave.inference.longform import Part
from soundwave.inference.options import TranscribeOptions
from soundwave.inference.results import Chunk, Segment, Word
from soundwave.inference.stretches import Listening
from soundwave.inference_config import InferenceConfig

SAID = ("hello world", "a second sentence", "the end")


def segment(text: str, start: float) -> Segment:
    """Half a second for each word."""
    words = [Word(word, start + 0.5 * i, start + 0.5 * i + 0.4, 0.9) for i, word in enumerate(text.split())]
    return Segment(text, words[0].start, words[-1].end, tuple(words))


@dataclass
class SayingEngine(ScriptedEngine):
    """Says a sentence for each part of a recording, 10 s apart.

    Attributes:
        said: the sentences.
        inference: languages and prompts.
        parts: how many were made, of all recordings together.
        options: of the last recording.
        waits: before each part but the first.
    """

    said: Sequence[str] = SAID
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    parts: int = 0
    options: TranscribeOptions | None = None
    waits: threading.Event | None = None

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

    def stream(self, audio: Any, prompt: str | None, **options: Any) -> Generator[Chunk, None, None]:
        self.asked.append((prompt, options))
        return self._answer([], options)

    def source(self, options: TranscribeOptions) -> Any:
        return "ctc"
