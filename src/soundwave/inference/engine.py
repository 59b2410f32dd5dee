"""The engine: recordings and prompts in, typed results out, over one loaded model.

It knows audio, prompts and results; what a model computes is in `model`, how tokens are chosen is the backend's.
"""

# S audio positions, D LLM width

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soundwave.audio import SAMPLE_RATE, AudioInput, load_audio
from soundwave.checkpoints.catalog import resolve_model
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.ctc_text import CtcTokenizer
from soundwave.errors import ConfigurationError
from soundwave.inference.backends.torch import TorchBackend
from soundwave.inference.ctc_prefix import log_likelihoods
from soundwave.inference.joint import WORD, JointScorer
from soundwave.inference.lexicon import Lexicon
from soundwave.inference.results import Chunk, Reply, Speech, Timings, Transcript, Usage
from soundwave.inference.sampling import Sampling
from soundwave.model.soundwave import SoundwaveForConditionalGeneration, SpeechOutput
from soundwave.processing import SoundwaveProcessor

BACKENDS = ("torch",)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# A transcript needs about 4 tokens a second; three times that, and a start, bounds a loop without cutting real speech.
TRANSCRIPT_TOKENS_PER_SECOND = 12
TRANSCRIPT_TOKENS_AT_LEAST = 32


LOST = 50.0  # nats: a text that is so much less likely than CTC's own left what was said, or loops


def transcript_tokens(seconds: float) -> int:
    """The most tokens that a transcript of a recording can have."""
    return TRANSCRIPT_TOKENS_AT_LEAST + int(TRANSCRIPT_TOKENS_PER_SECOND * seconds)


@dataclass(frozen=True)
class Request:
    """One question: an audio (or None) and a prompt."""

    audio: AudioInput | None
    prompt: str


@dataclass(frozen=True)
class _Heard:
    """A recording after the front end."""

    speech: Speech | None
    loading: float
    encoding: float
    ctc_logits: Tensor | None = None  # (F, C) of the frames that exist


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
    place = _device(device)
    kind = _dtype(dtype, place)
    folder = resolve_model(model)
    loaded, processor = load_checkpoint(folder, place, kind)
    return Engine(loaded, processor, name=str(model), folder=folder)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigurationError(f"device={name!r} is not known; give auto, cpu, cuda, cuda:0 or mps.") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        raise ConfigurationError(f"device={name!r} is not available here; give --device cpu, or auto.")
    return name


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32
    if name not in DTYPES:
        raise ConfigurationError(f"dtype={name!r} is not known; choose auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


class Engine:
    """A model that can be asked. One engine may be used from several threads; answers are made one after another.

    Args:
        model: in evaluation mode, on its device.
        processor: the model's.
        name: what the user called it.
        folder: where it was read from.
    """

    def __init__(
        self, model: SoundwaveForConditionalGeneration, processor: SoundwaveProcessor, name: str = "model",
        folder: Path | None = None,
    ):
        self.model, self.processor, self.name, self.folder = model, processor, name, folder
        self.backend = TorchBackend(model)
        self.ctc = CtcTokenizer(processor.tokenizer, model.config.ctc_vocabulary)
        self._lexicon: Lexicon | None = None  # collected when it is first needed

    @property
    def default_prompt(self) -> str:
        """The prompt for audio that comes without one."""
        return self.model.config.default_prompt

    def ask(
        self, audio: AudioInput | None, prompt: str | None = None, *, temperature: float = 0.2, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int | None = None,
    ) -> Reply:
        """Answers a prompt about a recording.

        Args:
            audio: a path, bytes, a file object, `(samples, sampling_rate)`, or None for a typed question.
            prompt: what to do with it; None: the model's default prompt.
            temperature, top_p, max_new_tokens, seed: see `Sampling`.

        Raises:
            AudioError: the recording cannot be used, or is over 30 s long.
            ConfigurationError: an option is out of range.
        """
        for chunk in self.stream(
            audio, prompt, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed
        ):
            if chunk.reply is not None:
                return chunk.reply
        raise AssertionError("a stream ends with a reply")

    def stream(
        self, audio: AudioInput | None, prompt: str | None = None, *, temperature: float = 0.2, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int | None = None,
    ) -> Iterator[Chunk]:
        """The answer in typed chunks as it is made; arguments and errors as for `ask`."""
        sampling = Sampling(temperature, top_p, max_new_tokens, seed)
        started = time.perf_counter()
        heard = self._hear(audio)
        input_ids = self._prompt(audio is not None, prompt)
        embeddings = [] if heard.speech is None else [heard.speech.embeddings]
        first, shown = 0.0, ""
        ids: list[int] = []
        pending: list[int] = []
        for token in self.backend.stream(input_ids, embeddings, sampling):
            first = first or time.perf_counter() - started
            ids.append(token)
            pending.append(token)
            text = self._text(ids)
            if not text.endswith("\ufffd") and text != shown:  # half a character waits for its other bytes
                yield Chunk(text[len(shown) :], pending)
                shown, pending = text, []
        reply = self._reply(ids, heard, input_ids, first, time.perf_counter() - started)
        yield Chunk(reply.text[len(shown) :], pending, reply.finish_reason, reply)

    def ask_batch(
        self, requests: Sequence[Request | tuple[AudioInput | None, str]], *, temperature: float = 0.2,
        top_p: float = 0.9, max_new_tokens: int = 512, seed: int | None = None,
    ) -> list[Reply]:
        """Answers several requests at once; greedy answers equal those of single calls."""
        sampling = Sampling(temperature, top_p, max_new_tokens, seed)
        many = [request if isinstance(request, Request) else Request(*request) for request in requests]
        if not many:
            return []
        heard = self._hear_batch([request.audio for request in many])
        return self._answer(many, heard, sampling)

    def encode(self, audio: AudioInput) -> Speech:
        """What the front end makes of a recording: embeddings, CTC tokens and their times."""
        heard = self._hear(audio)
        assert heard.speech is not None
        return heard.speech

    def transcribe(self, audio: AudioInput) -> Transcript:
        """Writes down what a person says, with the model's own prompt; empty where nobody speaks."""
        return self.transcribe_batch([audio])[0]

    def transcribe_batch(self, audios: Sequence[AudioInput]) -> list[Transcript]:
        """Transcripts of several recordings, made at once: the LLM's, held against the frames where the model can."""
        heard = self._hear_batch(list(audios))
        speeches = [one.speech for one in heard if one.speech is not None]
        spoken = [i for i, speech in enumerate(speeches) if speech.ctc_token_ids]  # no token heard: nothing was said
        said = [""] * len(speeches)
        if spoken:
            limits = {i: transcript_tokens(speeches[i].duration) for i in spoken}
            prompt = self.model.config.transcribe_prompt
            requests = [Request(audios[i], prompt) for i in spoken]
            chosen = [heard[i] for i in spoken]
            sampling = Sampling(temperature=0, max_new_tokens=max(limits.values()))
            scorer = self._scorer(chosen, list(limits.values()))
            for i, reply in zip(spoken, self._answer(requests, chosen, sampling, scorer), strict=True):
                said[i] = self._without_prefix(self._text(reply.token_ids[: limits[i]]))
        return [self._transcript(text, one) for text, one in zip(said, heard, strict=True)]

    def _scorer(self, heard: Sequence[_Heard], limits: Sequence[int]) -> JointScorer | None:
        """Holds what the LLM proposes against the recordings, where the model was made for that."""
        config = self.model.config
        logits = [one.ctc_logits for one in heard if one.ctc_logits is not None]
        if not config.joint_ctc_weight:
            return None
        return JointScorer(
            logits, self.ctc, self.processor.tokenizer, config.blank_class, self.backend.end_ids,
            config.joint_ctc_weight, limits,
        )

    def describe(self) -> dict[str, Any]:
        """The model's name, place and size."""
        parts = ("audio_tower", "alignment", "shrinking", "language_model")
        sizes = {part: sum(p.numel() for p in getattr(self.model, part).parameters()) for part in parts}
        return {
            "model": self.name, "folder": None if self.folder is None else str(self.folder),
            "device": str(self.model.device), "dtype": str(self.model.dtype).removeprefix("torch."),
            "backend": "torch", "parameters": sizes | {"total": sum(sizes.values())},
        }

    def _hear(self, audio: AudioInput | None) -> _Heard:
        return self._hear_batch([audio])[0]

    def _hear_batch(self, audios: Sequence[AudioInput | None]) -> list[_Heard]:
        started = time.perf_counter()
        clips: list[np.ndarray | None] = [None if audio is None else load_audio(audio) for audio in audios]
        loading = (time.perf_counter() - started) / max(1, len(audios))
        started = time.perf_counter()
        heard = iter(self._encode([clip for clip in clips if clip is not None]))
        encoding = (time.perf_counter() - started) / max(1, len(audios))
        return [
            _Heard(None, 0.0, 0.0) if clip is None else replace(next(heard), loading=loading, encoding=encoding)
            for clip in clips
        ]

    @torch.no_grad()
    def _encode(self, clips: list[np.ndarray]) -> list[_Heard]:
        if not clips:
            return []
        features = self.processor.features(clips).to(self.model.device)
        output = self.model.encode_speech(features["input_features"], features["feature_attention_mask"])
        kept = output.kept()
        return [
            _Heard(self._speech(output, i, kept[i], len(clip) / SAMPLE_RATE), 0.0, 0.0, self._logits(output, i))
            for i, clip in enumerate(clips)
        ]

    def _logits(self, output: SpeechOutput, row: int) -> Tensor | None:
        return output.ctc_logits[row][output.valid[row]] if self.model.config.joint_ctc_weight else None

    def _speech(self, output: SpeechOutput, row: int, embeddings: Tensor, duration: float) -> Speech:
        config, runs = self.model.config, output.runs
        tokens: list[int] = []
        times: list[tuple[float, float]] = []
        columns = (runs.classes[row], runs.start[row], runs.end[row], runs.mask[row])
        for token, start, end, exists in zip(*(column.tolist() for column in columns), strict=True):
            if exists and token != config.blank_class:
                tokens.append(token)
                step = config.seconds_per_frame
                times.append((round(min(start * step, duration), 3), round(min(end * step, duration), 3)))
        ids = tokens if config.ctc_vocabulary is None else [config.ctc_vocabulary[token] for token in tokens]
        return Speech(embeddings, ids, times, duration, self.ctc.decode(tokens))

    def _prompt(self, has_audio: bool, prompt: str | None) -> Tensor:
        text = self.default_prompt if prompt is None else prompt
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if has_audio:
            content.insert(0, {"type": "audio"})
        ids = self.processor.tokenize([{"role": "user", "content": content}]).ids
        longest = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if longest is not None and len(ids) >= longest:
            raise ConfigurationError(
                f"The prompt has {len(ids)} tokens; this model reads at most {longest}. Shorten it."
            )
        return torch.tensor([ids], device=self.model.device)

    def _answer(
        self, requests: Sequence[Request], heard: list[_Heard], sampling: Sampling, scorer: JointScorer | None = None
    ) -> list[Reply]:
        started = time.perf_counter()
        prompts = [self._prompt(request.audio is not None, request.prompt)[0] for request in requests]
        longest = max(len(ids) for ids in prompts)
        input_ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=self.model.device)
        mask = torch.zeros_like(input_ids)
        for i, ids in enumerate(prompts):
            input_ids[i, longest - len(ids) :], mask[i, longest - len(ids) :] = ids, 1
        audio = [one.speech.embeddings for one in heard if one.speech is not None]
        answers = self.backend.batch(input_ids, mask, audio, sampling, scorer)
        spent = time.perf_counter() - started
        return [
            self._reply(ids, one, prompt[None], spent, spent + one.loading + one.encoding)
            for ids, one, prompt in zip(answers, heard, prompts, strict=True)
        ]

    def _reply(self, ids: list[int], heard: _Heard, input_ids: Tensor, first: float, total: float) -> Reply:
        audio_tokens = 0 if heard.speech is None else len(heard.speech.embeddings)
        prompt_tokens = input_ids.shape[1] + (audio_tokens - 1 if heard.speech is not None else 0)
        usage = Usage(
            0.0 if heard.speech is None else heard.speech.duration, prompt_tokens, audio_tokens, len(ids)
        )
        finish = "stop" if ids and ids[-1] in self.backend.end_ids else "length"
        return Reply(self._text(ids), ids, finish, usage, Timings(heard.loading, heard.encoding, first, total))

    def _text(self, ids: list[int]) -> str:
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)

    def _without_prefix(self, text: str) -> str:
        for prefix in self.model.config.transcript_prefixes:
            text = text.removeprefix(prefix)
        return text.strip()

    def _respelt(self, text: str, heard: _Heard) -> str:
        """A transcript with known words for what was spelt by ear, where the recording allows them."""
        if not text or heard.ctc_logits is None:
            return text
        logits, blank = heard.ctc_logits, self.model.config.blank_class
        self._lexicon = self._lexicon or Lexicon(self.processor.tokenizer)

        def likelihoods(texts: list[str]) -> list[float]:
            spoken = [" ".join(WORD.findall(one.lower())) for one in texts]
            return log_likelihoods(logits, [self.ctc.encode(one) for one in spoken], blank)

        heard_text = heard.speech.ctc_text if heard.speech is not None else ""
        searched, greedy = likelihoods([text, heard_text])
        if searched < greedy - LOST:
            text = heard_text[:1].upper() + heard_text[1:]
        return self._lexicon.respelt(text, likelihoods)

    def _transcript(self, said: str, heard: _Heard) -> Transcript:
        speech = heard.speech
        assert speech is not None
        said = self._respelt(said, heard)
        segments: list[dict[str, float | str]] = []
        if said:
            start = speech.token_times[0][0] if speech.token_times else 0.0
            end = speech.token_times[-1][1] if speech.token_times else speech.duration
            segments.append({"start": start, "end": end, "text": said})
        source = "llm+ctc" if said and self.model.config.joint_ctc_weight else "llm"
        return Transcript(said, speech.ctc_text, round(speech.duration, 3), None, segments, source)
