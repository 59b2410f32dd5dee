"""An engine without a model: what the tests of the command line run instead of seconds of loading.

It has the shape of `soundwave.inference.engine.Engine`, finds in a recording what the file's name says, and keeps what
it was asked.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundwave.errors import AudioError, SoundwaveError, SoundwaveWarning
from soundwave.inference.longform import Part, joined
from soundwave.inference.options import TranscribeOptions
from soundwave.inference.results import Segment, Transcript
from soundwave.inference.stretches import Listening, Mark


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
    via: str = "audio"
    transcript: str | None = None


@dataclass
class Chunk:
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    reply: Reply | None = None


class FakeEngine:
    """Answers "The answer is blue." in three pieces; a file's transcript is its name."""

    default_prompt = "the model's own prompt"
    folder = None

    def __init__(
        self, finish_reason: str = "stop", gate: Path | None = None, end: str = "", text: str = "", prints: str = "",
        warns: str = "",
    ) -> None:
        self.finish_reason = finish_reason
        self.gate = gate  # the second piece is held back until this file exists
        self.end = end  # "interrupt": Ctrl-C comes after the first piece
        self.text = text  # of every transcript; default: the recording's name
        self.prints = prints  # to standard output, as a library might, from Python and from below it
        self.warns = warns
        self.asked: list[tuple[Any, str | None, dict[str, Any]]] = []
        self.batches: list[tuple[list[Any], dict[str, Any]]] = []

    def stream(self, audio: Any, prompt: str | None = None, *, via: str = "auto", **options: Any) -> Iterator[Chunk]:
        self.asked.append((audio, prompt, {"via": via, **options}))
        words = None if audio is None else words_of(audio)
        taken = "text" if words is None else "transcript" if via == "auto" else via
        self._print()
        yield Chunk("The answer", [1])
        while self.gate and not self.gate.exists():
            time.sleep(0.01)
        if self.end == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        yield Chunk(" is", [2])
        reply = Reply("The answer is blue.", [1, 2, 3], self.finish_reason, via=taken)
        reply.transcript = words if taken == "transcript" else None
        yield Chunk(" blue.", [3], self.finish_reason, reply)

    def ask(
        self, audio: Any, prompt: str | None = None, on_chunk: Callable[[Chunk], None] | None = None, **options: Any
    ) -> Reply:
        for chunk in self.stream(audio, prompt, **options):
            if on_chunk is not None:
                on_chunk(chunk)
        assert chunk.reply is not None
        return chunk.reply

    def transcribe(self, audio: Any, *, llm: bool | None = None) -> Transcript:
        return joined(self.transcribe_parts([Listening(audio)], TranscribeOptions(llm)), "ctc+llm")

    def transcribe_parts(self, recordings: Sequence[Listening], options: TranscribeOptions) -> Iterator[Part]:
        """Each recording in one part."""
        self.batches.append((list(recordings), {"llm": options.llm, "hotwords": options.hotwords}))
        self._print()
        for number, listening in enumerate(recordings):
            try:
                words = self.text or words_of(listening.audio)
            except SoundwaveError as problem:
                yield Part(number, error=problem)
                continue
            said = f"ctc: {words}" if options.llm is False else words
            segments = (Segment(said, 0.5, 1.5),) if said else ()
            mark = Mark(0, 32_000, 32_000)
            yield Part(number, 0, said, words.lower(), segments, "ctc+llm", 2.0, mark, ending=True)
            yield Part(number, seconds=2.0, whole=True)

    def source(self, options: TranscribeOptions) -> str:
        return "ctc" if options.llm is False else "ctc+llm"

    def describe(self) -> dict[str, Any]:
        return {"device": "cpu", "dtype": "float32", "audio_tower_dtype": "float32", "backend": "torch"}

    def _print(self) -> None:
        if self.warns:
            warnings.warn(self.warns, SoundwaveWarning, stacklevel=2)
        if self.prints:
            print(self.prints)
            os.write(1, self.prints.encode())


def words_of(audio: Any) -> str:
    if isinstance(audio, tuple):
        samples, rate = audio
        return f"{len(samples) / rate:g} s"
    if hasattr(audio, "read"):
        return f"{len(audio.read())} bytes"
    if "bad" in str(audio):
        raise AudioError(f"{audio} is not a recording: FFmpeg\nfinds no sound in it")
    return f"Words of {Path(audio).stem}"
