"""The seam between the speech encoder and whatever runs the LLM: what a decoder is given, and what it gives back.

No key-value caches, beams, scores of a whole vocabulary or types of a framework cross it, so that torch, llama.cpp and
vLLM can all keep it. `tests/inference/contract.py` runs on every decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from soundwave.inference.options import GenerationOptions

Segment = list[int] | np.ndarray  # token ids, or (S, D) float32 audio embeddings


@dataclass(frozen=True)
class Prompt:
    """What the LLM goes on from.

    Attributes:
        segments: token ids and (S, D) audio embeddings, in order.
        adapted: by the LLM with its LoRA, or by the plain LLM.
    """

    segments: tuple[Segment, ...]
    adapted: bool = True

    def __len__(self) -> int:
        """Positions that it takes in the LLM's context."""
        return sum(len(segment) for segment in self.segments)


@dataclass(frozen=True)
class DecoderInfo:
    """What a decoder is.

    Attributes:
        name: of the backend: `torch`, `llamacpp`, `vllm`, `fake`.
        device: where it computes, such as `cpu` or `cuda:0`.
        dtype: of its weights, such as `float32` or `Q8_0`.
        eos_ids: tokens that end an answer.
        context_length: most positions of prompt and answer together; None: not limited.
        width: D, of the embeddings in a prompt.
        concurrent: whether calls may overlap; else they are made one after another.
    """

    name: str
    device: str
    dtype: str
    eos_ids: frozenset[int]
    context_length: int | None
    width: int
    concurrent: bool


@dataclass(frozen=True)
class Token:
    """A new token of one prompt's answer.

    Attributes:
        row: of the prompt among those given.
        id: the token.
        logprob: its natural log-probability by the LLM, before temperature and top-p.
    """

    row: int
    id: int
    logprob: float


class Decoder(Protocol):
    """Runs an LLM. Greedy answers of a batch are those of single calls, and drafts change no answer."""

    @property
    def info(self) -> DecoderInfo:
        """What it is."""

    def generate(
        self, prompts: Sequence[Prompt], options: GenerationOptions, drafts: Sequence[list[int]] | None = None
    ) -> Iterator[Token]:
        """New tokens as they are made, the rows' in any order, each row's up to and including its end token.

        Closing the iterator stops the work and frees what it holds.

        Args:
            prompts: at least one.
            options: how tokens are chosen.
            drafts: for each prompt the likely answer, a hint for speed; a decoder may ignore it.

        Raises:
            ConfigurationError: a prompt leaves no room for an answer in the LLM's context.
        """

    def score(self, prompt: Prompt, continuations: Sequence[list[int]]) -> list[float]:
        """Natural log-probability of each of several continuations of one prompt.

        It equals the sum of `generate`'s log-probabilities along the same tokens.
        """

    def close(self) -> None:
        """Frees the LLM. The decoder cannot be used afterwards."""
