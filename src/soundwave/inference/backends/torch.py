"""The torch decoder: transformers' `generate` over prompts whose placeholders have become embeddings.

Where LoRA is attached, spoken turns run through a merged twin of the LLM, and typed ones through the plain weights.
"""

# R rows, L tokens, S audio positions, D width, V vocabulary

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from soundwave.checkpoints.lora import lora_state, merged_twin
from soundwave.inference.sampling import Sampling
from soundwave.model.soundwave import SoundwaveForConditionalGeneration, cache_for

BEAMS = 8  # of a search; `length_penalty=0.0` adds log-probabilities up as they are
READ_AT_ONCE = 16  # texts: those of one batch are padded to the longest


@dataclass(frozen=True)
class Read:
    """A text that the LLM has read.

    Attributes:
        tokens: its L ids.
        scores: (L, V) log-probabilities of what follows each.
        so_far: L log-probabilities of the text up to each token, after the first.
        held: the LLM's keys and values, as a keyword argument for it.
    """

    tokens: list[int]
    scores: Tensor
    so_far: list[float]
    held: dict[str, DynamicCache]


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
    def read(self, tokens: list[int]) -> Read:
        """What the LLM that answers typed turns makes of a text.

        Args:
            tokens: ids, from the beginning of a conversation on.
        """
        language_model, ids = self.model.language_model, torch.tensor([tokens], device=self.model.device)
        held = cache_for(language_model)
        with self._lock, self.model.plain_language_model(self.model.config.text_only == "adapted"):
            scores = language_model(ids, use_cache=True, **held).logits[0].float().log_softmax(-1)
        each = scores[:-1].gather(-1, ids[0, 1:, None])[:, 0]
        return Read(tokens, scores, [0.0, *each.double().cumsum(0).tolist()], held)

    @torch.no_grad()
    def gains(self, read: Read, texts: Sequence[list[int]], ahead: int | None = None) -> list[float]:
        """How much likelier than a text that was read the LLM that answers typed turns finds others.

        Each is read from where it differs on. First tokens count for nothing.

        Args:
            read: one text.
            texts: token ids of the others.
            ahead: tokens that are read where the rest of both is the same, which gives a close guess; None: all.
        """
        spans = [_Span.between(read.tokens, text, ahead) for text in texts]
        by_length = sorted(range(len(texts)), key=lambda i: spans[i].end - spans[i].start)
        found = [0.0] * len(texts)
        with self._lock, self.model.plain_language_model(self.model.config.text_only == "adapted"):
            for first in range(0, len(texts), READ_AT_ONCE):
                rows = by_length[first : first + READ_AT_ONCE]
                some = self._gains(read, [texts[i] for i in rows], [spans[i] for i in rows])
                for i, gain in zip(rows, some, strict=True):
                    found[i] = gain
        return found

    def _gains(self, read: Read, texts: Sequence[list[int]], spans: Sequence[_Span]) -> list[float]:
        language_model, device = self.model.language_model, self.model.device
        parts = [torch.tensor(text[at.start : at.end], device=device) for text, at in zip(texts, spans, strict=True)]
        padded = nn.utils.rnn.pad_sequence(parts, batch_first=True)  # on the right, where nothing looks back at it
        starts, held = torch.tensor([[at.start] for at in spans], device=device), copy.deepcopy(read.held)
        for cache in held.values():
            cache.batch_repeat_interleave(len(texts))
        known = torch.arange(len(read.tokens), device=device) < starts
        decoded = language_model.get_decoder()(
            padded, attention_mask=torch.cat([known, torch.ones_like(padded, dtype=torch.bool)], 1).long(),
            position_ids=starts + torch.arange(padded.shape[1], device=device), use_cache=True, **held,
        ).last_hidden_state
        head, found = language_model.get_output_embeddings(), []
        for states, part, at in zip(decoded, parts, spans, strict=True):  # the vocabulary's scores of one at a time
            scores = head(states[: len(part) - 1]).float().log_softmax(-1)
            total = scores.gather(-1, part[1:, None]).sum().item()
            found.append(total - (read.so_far[at.read_end - 1] - read.so_far[at.start]))
        return found

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


@dataclass(frozen=True)
class _Span:
    """Where a text differs from one that was read, with a token before it: what comes next is expected there.

    Attributes:
        start: of that token, in both.
        end, read_end: in the text, and in the one that was read; not included.
    """

    start: int
    end: int
    read_end: int

    @classmethod
    def between(cls, read: Sequence[int], text: Sequence[int], ahead: int | None) -> _Span:
        """The span of a text, up to `ahead` tokens into what is the same again in both; None: to the end."""
        start = max(0, min(_common(read, text), len(text) - 1) - 1)
        same = min(_common(read[::-1], text[::-1]), min(len(read), len(text)) - start - 1)
        left_out = 0 if ahead is None else max(0, same - ahead)
        return cls(start, len(text) - left_out, len(read) - left_out)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (left, right) in pairs if left != right), min(len(one), len(other)))


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
