"""A decoder without weights, for tests and for servers that are tried out dry.

Its answers are those that it is told, or short ones made from a hash of the prompt; its log-probabilities are those of
a true softmax, so that everything a decoder promises holds for it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from transformers import GenerationConfig

from soundwave.errors import ConfigurationError
from soundwave.inference.backends.protocol import DecoderInfo, Prompt, Token, room_for_answer
from soundwave.inference.backends.sampling import Choose, chooser
from soundwave.inference.options import GenerationOptions

EXPECTED = 12.0  # what the expected token's score has above the others', which are drawn from a normal distribution
LONGEST = 12  # tokens of an answer that nobody gave


class FakeDecoder:
    """Answers by rote.

    Args:
        vocabulary: V, the number of token ids.
        width: D, of the embeddings in a prompt.
        eos_ids: tokens that end an answer.
        context_length: as in `DecoderInfo`.
        answer: gives the expected answer to a prompt, without an end token; None: a few tokens made from its hash.

    Attributes:
        running: iterators that have begun and are neither at their end nor closed.
    """

    def __init__(
        self, vocabulary: int, width: int, eos_ids: Iterable[int], context_length: int | None = None,
        answer: Callable[[Prompt], Sequence[int]] | None = None,
    ):
        self.vocabulary, self.running, self._closed = vocabulary, 0, False
        self._info = DecoderInfo("fake", "cpu", "float64", frozenset(eos_ids), context_length, width, concurrent=True)
        self._answer = answer or self._by_hash

    @property
    def info(self) -> DecoderInfo:
        """What it is."""
        return self._info

    def generate(
        self, prompts: Sequence[Prompt], options: GenerationOptions, drafts: Sequence[list[int]] | None = None
    ) -> Iterator[Token]:
        """New tokens, a token of every row at a time; see `Decoder.generate`."""
        self._check_open()
        limits = [min(options.max_new_tokens, room_for_answer(prompt, self._info)) for prompt in prompts]
        choose = chooser(options, GenerationConfig(top_k=0), self._info.eos_ids, len(prompts))
        return self._generate(prompts, limits, choose)

    def _generate(self, prompts: Sequence[Prompt], limits: Sequence[int], choose: Choose) -> Iterator[Token]:
        self.running += 1
        try:
            answers: list[list[int]] = [[] for _ in prompts]
            rows = list(range(len(prompts)))
            while rows:
                logprobs = np.stack([self._logprobs(prompts[row], answers[row]) for row in rows])
                chosen = choose(torch.from_numpy(logprobs), rows, [answers[row] for row in rows]).tolist()
                for i, (row, token) in enumerate(zip(rows, chosen, strict=True)):
                    answers[row].append(token)
                    yield Token(row, token, float(logprobs[i, token]))
                    self._check_open()
                rows = [
                    row for row in rows
                    if answers[row][-1] not in self._info.eos_ids and len(answers[row]) < limits[row]
                ]
        finally:
            self.running -= 1

    def score(self, prompt: Prompt, continuations: Sequence[list[int]]) -> list[float]:
        """Natural log-probability of each of several continuations of one prompt."""
        self._check_open()
        room_for_answer(prompt, self._info, max(map(len, continuations), default=0))
        return [
            float(sum(self._logprobs(prompt, tokens[:i])[token] for i, token in enumerate(tokens)))
            for tokens in continuations
        ]

    def close(self) -> None:
        """The decoder cannot be used afterwards."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("This decoder is closed; make a new one.")

    def _logprobs(self, prompt: Prompt, so_far: Sequence[int]) -> np.ndarray:
        """(V,) of what follows: noise of prompt and tokens so far, and the expected answer high above it."""
        scores = np.random.default_rng([_digest(prompt), *so_far]).standard_normal(self.vocabulary)
        expected = [*self._answer(prompt), min(self._info.eos_ids, default=0)]
        scores[expected[min(len(so_far), len(expected) - 1)]] += EXPECTED
        return scores - np.logaddexp.reduce(scores)

    def _by_hash(self, prompt: Prompt) -> list[int]:
        draw = np.random.default_rng(_digest(prompt))
        tokens = draw.integers(self.vocabulary, size=1 + int(draw.integers(LONGEST))).tolist()
        return [token for token in tokens if token not in self._info.eos_ids]


def _digest(prompt: Prompt) -> int:
    told = hashlib.blake2b(bytes([prompt.adapted]), digest_size=8)
    for segment in prompt.segments:
        told.update(np.asarray(segment, np.float32 if isinstance(segment, np.ndarray) else np.int64).tobytes())
    return int.from_bytes(told.digest(), "big")
