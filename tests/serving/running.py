"""A real server on a free port, and engines whose answers tests decide: what the tests of the server run against."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
import wave
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from soundwave.audio import SAMPLE_RATE
from soundwave.errors import ConfigurationError, SoundwaveError
from soundwave.inference.longform import Part
from soundwave.inference.options import TranscribeOptions
from soundwave.inference.results import Chunk, Reply, Segment, Timings, Transcript, Usage, Word
from soundwave.inference.stretches import Listening
from soundwave.inference_config import InferenceConfig
from soundwave.serving.app import create_app
from soundwave.serving.entrance.keys import Keys
from soundwave.serving.options import ServerOptions
from soundwave.serving.server import Server, address_of, bound_socket
from soundwave.serving.service import Service

START_SECONDS = 30
KEY = "a-key-that-is-long-enough"


@dataclass
class Running:
    """A server that runs in this process."""

    address: str
    service: Service
    server: Server

    @property
    def api(self) -> str:
        """The base address of OpenAI's clients."""
        return f"{self.address}/v1"

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def in_loop(self, function: Callable[..., Any], *args: Any) -> None:
        """Calls a function in the server's event loop."""
        assert self.server._loop is not None
        self.server._loop.call_soon_threadsafe(function, *args)


@contextmanager
def running(engine: Any, keys: Sequence[str] = (), **options: Any) -> Iterator[Running]:
    """A server over an engine, on a free port; stopped at the end."""
    chosen = ServerOptions(**{"port": 0, "graceful_seconds": 1.0, **options})
    app = create_app(engine, chosen, Keys(tuple(keys)))
    with bound_socket(chosen) as listener:
        started = threading.Event()
        server = Server(app, chosen, started.set)
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),), daemon=True)
        thread.start()
        assert started.wait(START_SECONDS), "the server did not start"
        try:
            yield Running(address_of(listener), app.state.service, server)
        finally:
            if thread.is_alive():
                server._loop.call_soon_threadsafe(server.stop)  # type: ignore[union-attr]
            thread.join(START_SECONDS)


@dataclass
class ScriptedEngine:
    """Has an engine's shape. Answers word by word, and counts how far it came.

    Attributes:
        words: of every answer.
        steps: words that were made, of all answers together.
        closed: answers that were stopped before their end.
        seconds: each word takes.
        gate: held before each word but the first of an answer, where it is given.
        error: raised instead of an answer.
    """

    words: Sequence[str] = ("The", " answer", " is", " blue.")
    seconds: float = 0.0
    gate: threading.Event | None = None
    error: Exception | None = None
    name: str = "tiny"
    steps: int = 0
    closed: int = 0
    running: int = 0
    most_running: int = 0
    asked: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    decoder: Any = None
    default_prompt: str = "What is said?"
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def chat_stream(self, messages: Any, **options: Any) -> Generator[Chunk, None, None]:
        if self.error is not None:
            raise self.error
        self.asked.append((messages, options))
        return self._answer(messages, options)

    def _answer(self, messages: Any, options: dict[str, Any]) -> Generator[Chunk, None, None]:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        made: list[str] = []
        try:
            for i, word in enumerate(self.words[: options.get("max_new_tokens", 512)]):
                if i and self.gate is not None:
                    self.gate.wait(20)
                time.sleep(self.seconds)
                self.steps += 1
                made.append(word)
                yield Chunk(word, [i])
        except GeneratorExit:
            self.closed += 1
            raise
        finally:
            self.running -= 1
        finish = "stop" if len(made) == len(self.words) else "length"
        yield Chunk("", [], finish, self._reply("".join(made), len(made), messages, finish))

    def _reply(self, text: str, tokens: int, messages: Any, finish: str) -> Reply:
        clips = [
            part["audio"] for message in messages if isinstance(message["content"], list)
            for part in message["content"] if part["type"] == "audio"
        ]
        seconds = sum(len(samples) / rate for samples, rate in clips)
        usage = Usage(seconds, 20, 7 * len(clips), tokens)
        return Reply(text, list(range(tokens)), finish, usage, Timings(0, 0, 0, 0), "audio" if clips else "text")

    def chat(self, messages: Any, **options: Any) -> Reply:
        *_, last = self.chat_stream(messages, **options)
        assert last.reply is not None
        return last.reply

    def transcribe(self, audio: Any, **options: Any) -> Transcript:
        return Transcript("", "", 1.0)  # what a server warms up with

    def transcribe_parts(
        self, recordings: Sequence[Listening], options: TranscribeOptions
    ) -> Generator[Part, None, None]:
        samples, rate = recordings[0].audio  # type: ignore[misc]
        said = Segment("word", 0.1, 0.4, (Word("word", 0.1, 0.4, 0.9),))
        yield Part(0, 0, "word", "word", (said,), "ctc", len(samples) / rate)
        yield Part(0, seconds=len(samples) / rate, whole=True)

    def source(self, options: TranscribeOptions) -> str:
        return "ctc"

    def close(self) -> None:
        self.words = ()

    def describe(self) -> dict[str, Any]:
        return {"model": self.name, "device": "cpu", "dtype": "float32", "backend": "fake", "via": "audio"}


def refusing(message: str = "temperature is odd; give another.") -> SoundwaveError:
    return ConfigurationError(message)


def wav(seconds: float = 0.5, seed: int = 0) -> bytes:
    """A recording of noise."""
    samples = np.random.default_rng(seed).normal(0, 0.05, round(seconds * SAMPLE_RATE))
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return data.getvalue()


def input_audio(data: bytes | None = None) -> dict[str, Any]:
    """A part of a message with a recording in base64."""
    text = base64.b64encode(wav() if data is None else data).decode()
    return {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}
