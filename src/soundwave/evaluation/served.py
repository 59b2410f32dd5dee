"""A model behind OpenAI's API, evaluated as one in this process is: recordings go over HTTP, words come back."""

from __future__ import annotations

import base64
import os
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from soundwave.audio import SAMPLE_RATE, AudioInput, load_audio
from soundwave.errors import AudioError, ConfigurationError, SoundwaveError
from soundwave.evaluation.provenance import code_hash
from soundwave.inference.options import Via
from soundwave.inference.results import Reply, Timings, Transcript, Usage
from soundwave.inference_config import InferenceConfig

KEY_VARIABLE = "SOUNDWAVE_API_KEY"
AT_ONCE = 4  # requests
SECONDS = 600.0  # for a request, its wait in a queue included
COME_AGAIN = (429, 503)
WAV_FLOAT = 3  # the code of float samples in a header
T = TypeVar("T")


class Served:
    """A `System` over HTTP; the API key is taken from SOUNDWAVE_API_KEY.

    Args:
        address: such as http://127.0.0.1:8000 or http://127.0.0.1:8000/v1.

    Raises:
        ConfigurationError: nobody serves a model there.
    """

    decoder, processor, folder = None, None, None
    default_prompt = "the model's own"
    inference = InferenceConfig(transcribe_prompt=default_prompt)

    def __init__(self, address: str):
        self.address = address.rstrip("/").removesuffix("/v1")
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=f"{self.address}/v1", headers=headers, timeout=SECONDS)
        self.name = str(self._asked("GET", "/models")["data"][0]["id"])
        self.settings = {"weights": {}, "code_sha256": code_hash(), "served": {"model": self.name}}

    def transcribe_batch(self, audios: Sequence[AudioInput], *, llm: bool | None = None) -> list[Any]:
        """A `Transcript` of each recording, without its segments."""
        return self._each(lambda audio: self._transcribed(audio, llm), audios)

    def ask_batch(
        self, requests: Sequence[Any], *, via: Via = "auto", temperature: float = 0.2, max_new_tokens: int = 512
    ) -> list[Any]:
        """A `Reply` to each (audio, prompt), without its token ids."""
        options = {"via": via, "temperature": temperature, "max_completion_tokens": max_new_tokens}
        return self._each(lambda request: self._answered(request[0], request[1], options), requests)

    def describe(self) -> dict[str, Any]:
        """What is known of the model: its name."""
        return {"model": self.name, "device": None, "dtype": "its own dtype", "parameters": None}

    def _transcribed(self, audio: AudioInput, llm: bool | None) -> Transcript:
        fields = {"model": self.name, "response_format": "verbose_json"} | ({} if llm is None else {"llm": str(llm)})
        said = self._asked("POST", "/audio/transcriptions", data=fields, files={"file": ("clip.wav", wav_of(audio))})
        return Transcript(said["text"], said["ctc_text"], said["duration"], said["language"], [], said["source"])

    def _answered(self, audio: AudioInput | None, prompt: str | None, options: dict[str, Any]) -> Reply:
        content: list[dict[str, Any]] = []
        if audio is not None:
            data = base64.b64encode(wav_of(audio)).decode("ascii")
            content.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
        if prompt is not None:
            content.append({"type": "text", "text": prompt})
        body = {"model": self.name, "messages": [{"role": "user", "content": content}], **options}
        answer = self._asked("POST", "/chat/completions", json=body)
        choice, usage = answer["choices"][0], answer["usage"]
        used = Usage(usage["audio_seconds"], usage["prompt_tokens"], 0, usage["completion_tokens"])
        return Reply(
            choice["message"]["content"], [], choice["finish_reason"], used, Timings(0, 0, 0, 0), answer["via"],
            answer["transcript"],
        )

    def _asked(self, method: str, path: str, **content: Any) -> Any:
        """What the server answers; where it is busy, later.

        Raises:
            AudioError: it refuses the recording.
            SoundwaveError: it refuses the request.
            ConfigurationError: it is not there, or is no such server.
        """
        try:
            while (response := self._client.request(method, path, **content)).status_code in COME_AGAIN:
                time.sleep(float(response.headers.get("retry-after", 1)))
            answer = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ConfigurationError(
                f"the model {self.address!r} cannot be asked ({error}); give the address of a server that speaks "
                "OpenAI's API, as `soundwave serve` does."
            ) from error
        if response.is_success:
            return answer
        told = answer.get("error", {}) if isinstance(answer, dict) else {}
        kind = AudioError if told.get("param") == "file" else SoundwaveError
        raise kind(f"{self.address} answers with {response.status_code}: {told.get('message', 'it says no more')}")

    def _each(self, function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(function, items))


def wav_of(audio: AudioInput) -> bytes:
    """A recording as a WAV of float32 at 16 kHz: the very samples that a model in this process would hear."""
    data = load_audio(audio, max_seconds=None).astype("<f4").tobytes()
    form = struct.pack("<IHHIIHH", 16, WAV_FLOAT, 1, SAMPLE_RATE, 4 * SAMPLE_RATE, 4, 32)
    head = b"RIFF" + struct.pack("<I", len(data) + 36) + b"WAVEfmt " + form
    return head + b"data" + struct.pack("<I", len(data)) + data
