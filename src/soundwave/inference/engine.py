"""The engine: recordings and prompts in, typed results out, over one loaded model.

It knows audio, prompts and results; what a model computes is in `model`, how tokens are chosen is the backend's.
"""

# S audio positions, D LLM width

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soundwave.audio import AudioInput
from soundwave.checkpoints.catalog import resolve_model
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.errors import ConfigurationError
from soundwave.inference.backends.torch import TorchBackend
from soundwave.inference.hearing import Heard, Hearing
from soundwave.inference.pieces import Pieces
from soundwave.inference.placement import device_named, dtype_named
from soundwave.inference.results import Chunk, Reply, Speech, Timings, Transcript, Usage, transcript_of
from soundwave.inference.sampling import Sampling
from soundwave.inference.transcription import Transcription
from soundwave.model.linear import use_onednn
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer

BACKENDS = ("torch",)


@dataclass(frozen=True)
class Request:
    """One question: an audio (or None) and a prompt."""

    audio: AudioInput | None
    prompt: str


@dataclass(frozen=True)
class _Turn:
    """What becomes of one request: the LLM goes on from a prompt, or the answer is the words that were found."""

    input_ids: Tensor  # (1, L)
    audio: list[Tensor]  # embeddings for the prompt's placeholder
    words: str | None = None  # found in the recording: the answer itself, or what the prompt asks in their place
    is_answer: bool = False


def load(
    model: str | os.PathLike[str] = "mini", *, device: str = "auto", dtype: str = "auto", backend: str = "torch"
) -> Engine:
    """Loads a model for asking.

    Args:
        model: `mini`, a folder (our format or the released 9B's), or a hub id.
        device: `auto` (CUDA, else Apple's GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (bfloat16 on a CUDA GPU that has it, else float32), `float32`, `float16`, `bfloat16`.
        backend: `torch`.

    Raises:
        CheckpointError: the model cannot be found, downloaded or read.
        ConfigurationError: an unknown device, dtype or backend.
    """
    if backend not in BACKENDS:
        raise ConfigurationError(f"backend={backend!r} is not known; choose one of {', '.join(BACKENDS)}.")
    place = device_named(device)
    kind = dtype_named(dtype, place)
    folder = resolve_model(model)
    loaded, processor = load_checkpoint(folder, place, kind)
    use_onednn(loaded)
    return Engine(loaded, processor, name=str(model), folder=folder)


class Engine:
    """A model that can be asked. One engine may be used from several threads; answers are made one after another.

    Args:
        model: in evaluation mode, on its device.
        processor: the model's.
        name: what the user called it.
        folder: where it was read from.
        search: whether what is said is searched by LLM and CTC together, in models that are made for it; without that
            the LLM alone writes it, and CTC alone spells by ear.
    """

    def __init__(
        self, model: SoundwaveForConditionalGeneration, processor: SoundwaveProcessor, name: str = "model",
        folder: Path | None = None, search: bool = True,
    ):
        self.model, self.processor, self.name, self.folder, self.search = model, processor, name, folder, search
        self.backend = TorchBackend(model)
        self.ctc = CtcTokenizer(processor.tokenizer, model.config.ctc_vocabulary)
        self._hearing = Hearing(model, processor, self.ctc)
        self._transcription = Transcription(processor, self.ctc, self.backend)

    @property
    def default_prompt(self) -> str:
        """The prompt for audio that comes without one."""
        return self.model.config.default_prompt

    def ask(
        self, audio: AudioInput | None, prompt: str | None = None, *, temperature: float = 0.2, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int | None = None, on_chunk: Callable[[Chunk], None] | None = None,
    ) -> Reply:
        """Answers a prompt about a recording; to the model's prompt for a transcript it gives what `transcribe` gives.

        To the model's prompt for an answer to what is said, where it has one, the words are found as `transcribe` finds
        them, and the LLM answers them as if they had been typed.

        Args:
            audio: a path, bytes, a file object, `(samples, sampling_rate)`, or None for a typed question.
            prompt: what to do with it; None: the model's default prompt. In the prompts that the model has of its own,
                case, spaces and marks do not matter.
            temperature, top_p, max_new_tokens, seed: see `Sampling`.
            on_chunk: is called with each piece of the answer as it is made, those that `stream` gives. On a CPU this is
                faster than `stream`, which computes in a thread of its own.

        Raises:
            AudioError: the recording cannot be used, or is over 30 s long.
            ConfigurationError: an option is out of range.
        """
        sampling = Sampling(temperature, top_p, max_new_tokens, seed)
        started = time.perf_counter()
        heard = self._hearing.of([audio])[0]
        (turn,) = self._turns([heard], [prompt])
        first, pieces = 0.0, Pieces(self._text)

        def add(token: int) -> None:
            nonlocal first
            first = first or time.perf_counter() - started
            chunk = pieces.add(token)
            if chunk is not None and on_chunk is not None:
                on_chunk(chunk)

        if turn.is_answer:
            for token in self._found(turn, sampling):
                add(token)
        else:
            self.backend.single(turn.input_ids, turn.audio, sampling, add)
        reply = self._reply(pieces.ids, heard, turn, first, time.perf_counter() - started)
        if on_chunk is not None:
            on_chunk(pieces.last(reply))
        return reply

    def stream(
        self, audio: AudioInput | None, prompt: str | None = None, *, temperature: float = 0.2, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int | None = None,
    ) -> Iterator[Chunk]:
        """The answer in typed chunks as it is made; arguments and errors as for `ask`."""
        sampling = Sampling(temperature, top_p, max_new_tokens, seed)
        started = time.perf_counter()
        heard = self._hearing.of([audio])[0]
        (turn,) = self._turns([heard], [prompt])
        first, pieces = 0.0, Pieces(self._text)
        made = self.backend.stream(turn.input_ids, turn.audio, sampling)
        for token in self._found(turn, sampling) if turn.is_answer else made:
            first = first or time.perf_counter() - started
            if (chunk := pieces.add(token)) is not None:
                yield chunk
        yield pieces.last(self._reply(pieces.ids, heard, turn, first, time.perf_counter() - started))

    def _found(self, turn: _Turn, sampling: Sampling) -> list[int]:
        """The tokens of words that are the answer themselves; they come as a whole."""
        return self._written(turn.words or "")[: sampling.max_new_tokens]

    def _turns(self, heard: Sequence[Heard], prompts: Sequence[str | None]) -> list[_Turn]:
        """What the LLM is to go on from in each request, after the words are found of those that ask for them."""
        asked = [self._asked(one, prompt) for one, prompt in zip(heard, prompts, strict=True)]
        config = self.model.config
        finding = (config.transcribe_prompt, config.answer_prompt)
        chosen = [i for i, one in enumerate(heard) if self._searches(one) and asked[i] in finding]
        found = dict(zip(chosen, self._searched([heard[i] for i in chosen]), strict=True))
        return [self._turn(one, asked[i], found.get(i)) for i, one in enumerate(heard)]

    def _asked(self, heard: Heard, prompt: str | None) -> str:
        """A prompt, as the model knows it where it has that one: case, spaces and marks make no other prompt of it."""
        if prompt is None or heard.speech is None:
            return self.default_prompt if prompt is None else prompt
        own = (self.default_prompt, self.model.config.answer_prompt, self.model.config.transcribe_prompt)
        return next((one for one in own if one and _plain(one) == _plain(prompt)), prompt)

    def _turn(self, heard: Heard, prompt: str, words: str | None) -> _Turn:
        # where nobody speaks nothing is asked, and nothing is answered
        is_answer = words is not None and (not words or prompt == self.model.config.transcribe_prompt)
        if words and not is_answer:
            return _Turn(self._prompt(False, words), [], words)
        audio = [] if heard.speech is None else [heard.speech.embeddings]
        return _Turn(self._prompt(heard.speech is not None, prompt), audio, words, is_answer)

    def ask_batch(
        self, requests: Sequence[Request | tuple[AudioInput | None, str]], *, temperature: float = 0.2,
        top_p: float = 0.9, max_new_tokens: int = 512, seed: int | None = None,
    ) -> list[Reply]:
        """Answers several requests at once; greedy answers equal those of single calls."""
        sampling = Sampling(temperature, top_p, max_new_tokens, seed)
        many = [request if isinstance(request, Request) else Request(*request) for request in requests]
        if not many:
            return []
        heard = self._hearing.of([request.audio for request in many])
        return self._answer(many, heard, sampling)

    def encode(self, audio: AudioInput) -> Speech:
        """What the front end makes of a recording: embeddings, CTC tokens and their times."""
        heard = self._hearing.of([audio])[0]
        assert heard.speech is not None
        return heard.speech

    def transcribe(self, audio: AudioInput) -> Transcript:
        """Writes down what a person says, with the model's own prompt; empty where nobody speaks."""
        return self.transcribe_batch([audio])[0]

    def transcribe_batch(self, audios: Sequence[AudioInput]) -> list[Transcript]:
        """Transcripts of several recordings, made at once: the LLM's, held against the frames where the model can."""
        heard = self._hearing.of(list(audios))
        return [
            self._transcript(text, one, "llm+ctc" if text and self._searches(one) else "llm")
            for text, one in zip(self._searched(heard), heard, strict=True)
        ]

    def read(self, audio: AudioInput) -> Transcript:
        """Writes down what CTC alone reads in a recording: words without capitals or marks. No LLM runs, so it is fast.

        In models that are made for the search, known words stand where something was spelt by ear.
        """
        return self.read_batch([audio])[0]

    def read_batch(self, audios: Sequence[AudioInput]) -> list[Transcript]:
        """What CTC alone reads in several recordings."""
        heard = self._hearing.of(list(audios))
        return [self._transcript(self._transcription.read(one, self.search), one, "ctc") for one in heard]

    def _searched(self, heard: Sequence[Heard]) -> list[str]:
        """What is said in each recording, empty where nothing is."""
        return self._transcription.texts(heard, self._prompt(True, self.model.config.transcribe_prompt)[0], self.search)

    def _searches(self, heard: Heard) -> bool:  # whether CTC has a say in what this recording says
        return self.search and heard.ctc_logits is not None

    def _written(self, text: str) -> list[int]:
        """The tokens of a whole reply."""
        ids = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        return [*ids, min(self.backend.end_ids)]

    def describe(self) -> dict[str, Any]:
        """The model's name, place and size."""
        parts = ("audio_tower", "alignment", "shrinking", "language_model")
        sizes = {part: sum(p.numel() for p in getattr(self.model, part).parameters()) for part in parts}
        return {
            "model": self.name, "folder": None if self.folder is None else str(self.folder),
            "device": str(self.model.device), "dtype": str(self.model.dtype).removeprefix("torch."),
            "backend": "torch", "parameters": sizes | {"total": sum(sizes.values())},
        }

    def _prompt(self, has_audio: bool, prompt: str) -> Tensor:
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if has_audio:
            content.insert(0, {"type": "audio"})
        ids = self.processor.tokenize([{"role": "user", "content": content}]).ids
        longest = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if longest is not None and len(ids) >= longest:
            raise ConfigurationError(
                f"The prompt has {len(ids)} tokens; this model reads at most {longest}. Shorten it."
            )
        return torch.tensor([ids], device=self.model.device)

    def _answer(self, requests: Sequence[Request], heard: list[Heard], sampling: Sampling) -> list[Reply]:
        started = time.perf_counter()
        turns = self._turns(heard, [request.prompt for request in requests])
        others = [turn for turn in turns if not turn.is_answer]
        prompts, audio = [turn.input_ids[0] for turn in others], [one for turn in others for one in turn.audio]
        made = iter(self.backend.batch(prompts, audio, sampling) if others else [])
        answers = [self._found(turn, sampling) if turn.is_answer else next(made) for turn in turns]
        spent = time.perf_counter() - started
        return [
            self._reply(ids, one, turn, spent, spent + one.loading + one.encoding)
            for ids, one, turn in zip(answers, heard, turns, strict=True)
        ]

    def _reply(self, ids: list[int], heard: Heard, turn: _Turn, first: float, total: float) -> Reply:
        audio_tokens = 0 if heard.speech is None else len(heard.speech.embeddings)
        prompt_tokens = turn.input_ids.shape[1] + (audio_tokens - 1 if turn.audio else 0)
        usage = Usage(heard.duration, prompt_tokens, audio_tokens, len(ids))
        finish = "stop" if ids and ids[-1] in self.backend.end_ids else "length"
        timings = Timings(heard.loading, heard.encoding, first, total)
        return Reply(self._text(ids), ids, finish, usage, timings, None if turn.is_answer else turn.words or None)

    def _text(self, ids: list[int]) -> str:
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)

    def _transcript(self, said: str, heard: Heard, source: str) -> Transcript:
        assert heard.speech is not None
        return transcript_of(said, heard.speech, source)


def _plain(prompt: str) -> str:
    """Its words in small letters."""
    return " ".join(re.findall(r"[^\W_]+", prompt.lower()))
