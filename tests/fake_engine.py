"""An engine without a model: what the tests of the command line run instead of seconds of loading.

It has the shape of `soundwave.inference.engine.Engine`, hears what a file's name says, and keeps what it was asked.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundwave.errors import AudioError


@dataclass
class Usage:
    audio_seconds: float = 2.0
    prompt_tokens: int = 30
    audio_tokens: int = 12
    completion_tokens: int = 3


@dataclass
class Timings:
    load_audio: float = 0.01
    encode: float = 0.1
    first_token: float = 0.2
    total: float = 0.4


@dataclass
class Reply:
    text: str
    token_ids: list[int]
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    heard: str | None = "What colour is it?"


@dataclass
class Chunk:
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    reply: Reply | None = None


@dataclass
class Transcript:
    text: str
    ctc_text: str
    duration: float = 2.0
    language: str | None = "en"
    segments: list[dict[str, Any]] = field(default_factory=list)


class FakeEngine:
    """Answers "The answer is blue." in three pieces; a file's transcript is its name."""

    default_prompt = "the model's own prompt"

    def __init__(self, finish_reason: str = "stop", gate: Path | None = None, end: str = "") -> None:
        self.finish_reason = finish_reason
        self.gate = gate  # the second piece is held back until this file exists
        self.end = end  # "interrupt": Ctrl-C comes after the first piece
        self.asked: list[tuple[Any, str, dict[str, Any]]] = []

    def stream(self, audio: Any, prompt: str, **options: Any) -> Iterator[Chunk]:
        self.asked.append((audio, prompt, options))
        hear(audio)
        yield Chunk("The answer", [1])
        while self.gate and not self.gate.exists():
            time.sleep(0.01)
        if self.end == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        yield Chunk(" is", [2])
        yield Chunk(" blue.", [3], self.finish_reason, Reply("The answer is blue.", [1, 2, 3], self.finish_reason))

    def ask(self, audio: Any, prompt: str, on_chunk: Callable[[Chunk], None] | None = None, **options: Any) -> Reply:
        for chunk in self.stream(audio, prompt, **options):
            if on_chunk is not None:
                on_chunk(chunk)
        assert chunk.reply is not None
        return chunk.reply

    def transcribe(self, audio: Any) -> Transcript:
        heard = hear(audio)
        return Transcript(heard, heard.lower())

    def read(self, audio: Any) -> Transcript:
        return Transcript(f"ctc: {hear(audio)}", "")


def hear(audio: Any) -> str:
    if isinstance(audio, bytes):
        return f"{len(audio)} bytes"
    if "bad" in audio:
        raise AudioError(f"{audio} is not a recording: FFmpeg\nfinds no sound in it")
    return f"Words of {Path(audio).stem}"
