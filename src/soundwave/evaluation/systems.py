"""What can be evaluated: an engine, or a chain of Whisper's own decoder and an engine's LLM, asked in the same words.

The chain is the anchor for everything that is asked about speech: what transcribes as well as that Whisper, and answers
the transcript as if it had been typed, gets its score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from soundwave.audio import AudioInput, load_audio
from soundwave.errors import CheckpointError
from soundwave.files import hash_file
from soundwave.inference.backends.protocol import Decoder
from soundwave.inference.engine import Engine
from soundwave.inference.options import Via
from soundwave.inference.results import Segment, Transcript
from soundwave.processing import SoundwaveProcessor


class System(Protocol):
    """What the tasks use; `Engine` says what each does."""

    decoder: Decoder | None
    processor: SoundwaveProcessor

    def ask_batch(
        self, requests: Sequence[Any], *, via: Via = ..., temperature: float = ..., max_new_tokens: int = ...
    ) -> list[Any]:
        """A `Reply` to each (audio, prompt)."""

    def transcribe_batch(self, audios: Sequence[AudioInput], *, llm: bool | None = ...) -> list[Any]:
        """A `Transcript` of each recording."""


class WhisperCascade:
    """Whisper writes recordings down, an engine's LLM answers the text.

    Args:
        engine: its LLM answers; its speech encoder is not used.
        whisper: a folder that faster-whisper reads (`recipes/mini/whisper_folder.py` makes one).
        beam_size: of Whisper's search.

    Raises:
        CheckpointError: the folder holds no such model.
    """

    def __init__(self, engine: Engine, whisper: Path, beam_size: int = 5):
        if not (whisper / "model.bin").is_file():
            raise CheckpointError(f"{whisper} holds no model.bin; make it with recipes/mini/whisper_folder.py.")
        from faster_whisper import WhisperModel

        self.engine, self.beam_size = engine, beam_size
        self.decoder, self.processor = engine.decoder, engine.processor
        self._whisper = WhisperModel(str(whisper), device="cpu", compute_type="int8")
        self.settings = {  # what decides a transcript
            "whisper": whisper.resolve().name, "sha256": hash_file(whisper / "model.bin"), "beam_size": beam_size,
        }

    def transcribe_batch(self, audios: Sequence[AudioInput], *, llm: bool | None = None) -> list[Any]:
        """What Whisper's own decoder writes, as it comes: cased, with punctuation and digits."""
        return [self._transcribed(load_audio(audio, max_seconds=None)) for audio in audios]

    def ask_batch(
        self, requests: Sequence[Any], *, via: Via = "auto", temperature: float = 0.2, max_new_tokens: int = 512
    ) -> list[Any]:
        """The LLM's answers to what Whisper wrote; a prompt follows the words."""
        transcripts = iter(self.transcribe_batch([audio for audio, _ in requests if audio is not None]))
        words = [None if audio is None else next(transcripts).text for audio, _ in requests]
        typed = [
            (None, "\n\n".join(part for part in (said, prompt) if part is not None))
            for said, (_, prompt) in zip(words, requests, strict=True)
        ]
        replies = self.engine.ask_batch(typed, temperature=temperature, max_new_tokens=max_new_tokens)
        return [
            reply if said is None else replace(reply, via="transcript", transcript=said)
            for reply, said in zip(replies, words, strict=True)
        ]

    def _transcribed(self, samples: np.ndarray) -> Transcript:
        pieces, about = self._whisper.transcribe(samples, language="en", beam_size=self.beam_size)
        segments = [Segment(piece.text.strip(), piece.start, piece.end) for piece in pieces]
        text = " ".join(segment.text for segment in segments)
        return Transcript(text, "", about.duration, "en", segments, "llm")
