"""The torch decoder: transformers' `generate` over prompts whose placeholders have become embeddings.

Where LoRA is attached, spoken turns run through a merged twin of the LLM, and typed ones through the plain weights.
"""

# R rows, L tokens, S audio positions, D width

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from soundwave.checkpoints.lora import lora_state, merged_twin
from soundwave.inference.sampling import Sampling
from soundwave.model.soundwave import SoundwaveForConditionalGeneration, read_once

BEAMS = 8  # of a search; `length_penalty=0.0` adds log-probabilities up as they are


class TorchBackend:
    """Continues prompts with the model's own LLM.

    Args:
        model: the loaded model; calls are made one after another (`generate` switches LoRA for text-only prompts).
    """

    def __init__(self, model: SoundwaveForConditionalGeneration):
        self.model = model
        self._lock = threading.RLock()  # a piece of one answer may ask for another
        self._twin: PreTrainedModel | None = None  # made when the first spoken turn needs it
        self._twin_state: tuple[object, ...] = ()

    @property
    def end_ids(self) -> set[int]:
        """Tokens that end an answer."""
        end = self.model.language_model.generation_config.eos_token_id
        return set(end) if isinstance(end, list) else {end}

    def batch(self, prompts: Sequence[Tensor], audio: list[Tensor], sampling: Sampling) -> list[list[int]]:
        """The new tokens of each of several (L_i,) prompts, up to and including its end token.

        Args:
            prompts: token ids.
            audio: (S_i, D) embeddings for their placeholders, in order.
            sampling: how tokens are chosen.
        """
        input_ids, mask = self._padded(prompts)
        with self._lock:
            answers = self._generate(input_ids, mask, audio, sampling)
        return [self._until_end(answer) for answer in answers.tolist()]

    def search(
        self, prompts: Sequence[Tensor], audio: list[Tensor], sampling: Sampling, scorer: LogitsProcessor
    ) -> list[list[list[int]]]:
        """The new tokens of several ways to go on from each prompt, the best first.

        Args:
            prompts, audio, sampling: as for `batch`; every prompt has audio.
            scorer: changes the LLM's scores.
        """
        input_ids, mask = self._padded(prompts)
        with self._lock:
            found = self._generate(
                input_ids, mask, audio, sampling, logits_processor=LogitsProcessorList([scorer]), num_beams=BEAMS,
                num_return_sequences=BEAMS, length_penalty=0.0,
            )
        ended = [self._until_end(tokens) for tokens in found.tolist()]
        return [ended[first : first + BEAMS] for first in range(0, len(ended), BEAMS)]

    @torch.no_grad()
    def log_likelihoods(self, texts: Sequence[list[int]]) -> list[float]:
        """How likely the LLM that answers typed turns finds each of several texts, beyond what all begin with.

        Args:
            texts: token ids, at least two texts, from the beginning of a conversation on.
        """
        columns = enumerate(zip(*(text[:-1] for text in texts), strict=False))
        differs = (at for at, column in columns if len(set(column)) > 1)
        common = max(1, next(differs, min(map(len, texts)) - 1))
        language_model, device = self.model.language_model, self.model.device
        rest = [torch.tensor(text[common - 1 :], device=device) for text in texts]
        padded = nn.utils.rnn.pad_sequence(rest, batch_first=True)  # on the right, where nothing looks back at it
        beginning = torch.tensor([texts[0][:common]], device=device)
        with self._lock, self.model.plain_language_model(self.model.config.text_only == "adapted"):
            embedded = language_model.get_input_embeddings()(beginning)
            held = read_once(language_model, embedded, torch.ones_like(beginning), len(texts)) if common > 1 else {}
            read = language_model.get_decoder()(padded, use_cache=bool(held), **held).last_hidden_state
            head, totals = language_model.get_output_embeddings(), []
            for states, one in zip(read, rest, strict=True):  # the vocabulary's scores of one text at a time
                scores = head(states[: len(one) - 1]).float().log_softmax(-1)
                totals.append(scores.gather(-1, one[1:, None]).sum().item())
        return totals

    @torch.no_grad()
    def next_scores(self, tokens: list[int]) -> Tensor:
        """(L, V) log-probabilities of what follows each of L token ids, by the LLM that answers typed turns."""
        ids = torch.tensor([tokens], device=self.model.device)
        with self._lock, self.model.plain_language_model(self.model.config.text_only == "adapted"):
            return self.model.language_model(ids, use_cache=False).logits[0].float().log_softmax(-1)

    def single(
        self, input_ids: Tensor, audio: list[Tensor], sampling: Sampling, on_token: Callable[[int], None],
        stopping: StoppingCriteria | None = None,
    ) -> None:
        """Hands over the tokens of one (1, L) prompt as they are made, the end token included, in this thread."""
        criteria = StoppingCriteriaList([] if stopping is None else [stopping])
        with self._lock:
            self._generate(
                input_ids, torch.ones_like(input_ids), audio, sampling, streamer=_Tokens(on_token),
                stopping_criteria=criteria,
            )

    def stream(self, input_ids: Tensor, audio: list[Tensor], sampling: Sampling) -> Iterator[int]:
        """The tokens that `single` makes. Closing the iterator stops it.

        They are computed in a thread beside the caller's. Where OpenMP has computed in both, its threads outnumber the
        cores, and it lets them sleep between operations: on two cores an answer takes 1.4 times as long.
        """
        tokens: queue.Queue[int | BaseException | None] = queue.Queue()
        stop = threading.Event()

        def work() -> None:
            try:
                self.single(input_ids, audio, sampling, tokens.put, _Stop(stop))
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
        adapted = bool(audio) or self.model.config.text_only == "adapted"
        with torch.random.fork_rng(devices, enabled=sampling.seed is not None):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            return self.model.generate(
                input_ids, mask, audio_embeddings=audio, merged=self._merged() if adapted else None,
                **sampling.generate_options(), **more,
            )

    def _padded(self, prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(R, L) token ids and mask, padded on the left."""
        ids = nn.utils.rnn.pad_sequence(list(prompts), batch_first=True, padding_side="left")
        mask = nn.utils.rnn.pad_sequence(
            [torch.ones_like(one) for one in prompts], batch_first=True, padding_side="left"
        )
        return ids.to(self.model.device), mask.to(self.model.device)

    def _merged(self) -> PreTrainedModel | None:
        """The LLM with its present LoRA merged; None where there is none. Only with the lock held."""
        language_model = self.model.language_model
        state = lora_state(language_model)
        if state != self._twin_state:
            self._twin = None  # gone before the next one is made
            self._twin, self._twin_state = merged_twin(language_model), state
        if self._twin is not None:
            self._twin.generation_config = language_model.generation_config
        return self._twin

    def _until_end(self, answer: list[int]) -> list[int]:
        for i, token in enumerate(answer):
            if token in self.end_ids:
                return answer[: i + 1]
        return answer


class _Tokens(BaseStreamer):
    """Hands each new token of a single row over."""

    def __init__(self, on_token: Callable[[int], None]):
        self.on_token = on_token

    def put(self, value: Tensor) -> None:
        for token in value.flatten().tolist():
            self.on_token(token)

    def end(self) -> None:
        """`generate` returns."""


class _Stop(StoppingCriteria):
    """Ends generation when the reader has gone away."""

    def __init__(self, event: threading.Event):
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)
