"""The torch decoder: transformers' `generate` over prompts whose placeholders have become embeddings."""

# R rows, L tokens, S audio positions, D width

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from soundwave.inference.sampling import Sampling
from soundwave.model.soundwave import SoundwaveForConditionalGeneration


class TorchBackend:
    """Continues prompts with the model's own LLM.

    Args:
        model: the loaded model; calls are made one after another (`generate` switches LoRA for text-only prompts).
    """

    def __init__(self, model: SoundwaveForConditionalGeneration):
        self.model = model
        self._lock = threading.Lock()

    @property
    def end_ids(self) -> set[int]:
        """Tokens that end an answer."""
        end = self.model.language_model.generation_config.eos_token_id
        return set(end) if isinstance(end, list) else {end}

    def batch(self, input_ids: Tensor, mask: Tensor, audio: list[Tensor], sampling: Sampling) -> list[list[int]]:
        """(R, L) left-padded prompts to the new tokens of each row, up to and including its end token."""
        with self._lock:
            answers = self._generate(input_ids, mask, audio, sampling)
        return [self._until_end(answer) for answer in answers.tolist()]

    def stream(self, input_ids: Tensor, audio: list[Tensor], sampling: Sampling) -> Iterator[int]:
        """The tokens of one (1, L) prompt as they are made, the end token included. Closing the iterator stops it."""
        tokens: queue.Queue[int | BaseException | None] = queue.Queue()
        stop = threading.Event()
        streamer, stopping = _Tokens(tokens), StoppingCriteriaList([_Stop(stop)])

        def work() -> None:
            try:
                with self._lock:
                    self._generate(
                        input_ids, torch.ones_like(input_ids), audio, sampling,
                        streamer=streamer, stopping_criteria=stopping,
                    )
            except BaseException as error:  # handed to the caller's thread, raised there
                tokens.put(error)
            tokens.put(None)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while (token := tokens.get()) is not None:
                if isinstance(token, BaseException):
                    raise token
                yield token
        finally:
            stop.set()
            worker.join()

    def _generate(
        self, input_ids: Tensor, mask: Tensor, audio: list[Tensor], sampling: Sampling, **more: Any
    ) -> Tensor:
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=sampling.seed is not None):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            return self.model.generate(
                input_ids, mask, audio_embeddings=audio, **sampling.generate_options(), **more
            )

    def _until_end(self, answer: list[int]) -> list[int]:
        for i, token in enumerate(answer):
            if token in self.end_ids:
                return answer[: i + 1]
        return answer


class _Tokens(BaseStreamer):
    """Puts each new token of a single row into a queue."""

    def __init__(self, tokens: queue.Queue[int | BaseException | None]):
        self.tokens = tokens

    def put(self, value: Tensor) -> None:
        for token in value.flatten().tolist():
            self.tokens.put(token)

    def end(self) -> None:
        """The worker says when it is over."""


class _Stop(StoppingCriteria):
    """Ends generation when the reader has gone away."""

    def __init__(self, event: threading.Event):
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)
