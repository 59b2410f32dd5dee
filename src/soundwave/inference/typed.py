"""The plain LLM, reading texts as if a person had typed them."""

# L tokens of a text, V LLM vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from soundwave.inference.backends.torch import TorchBackend
from soundwave.processing import SoundwaveProcessor


@dataclass(frozen=True)
class Following:
    """What the plain LLM expects in a text.

    Attributes:
        scores: (L, V) log-probabilities, in the place of each token.
        tokens: those that are there.
        places: where in the text each begins and ends.
    """

    scores: Tensor
    tokens: list[int]
    places: list[tuple[int, int]]

    def between(self, start: int, end: int) -> tuple[int, float]:
        """The first token of a stretch of the text, and the log-probability of all tokens in it."""
        at = [i for i, (left, right) in enumerate(self.places) if right > start and left < end]
        return at[0], self.scores[at, [self.tokens[i] for i in at]].sum().item()


class TypedReader:
    """Reads texts as typed turns.

    Args:
        processor: the model's.
        backend: runs the model's LLM.
    """

    def __init__(self, processor: SoundwaveProcessor, backend: TorchBackend):
        self.processor, self.backend = processor, backend

    def turn(self, text: str) -> list[int]:
        """The tokens of a conversation in which a person typed the text, to where the answer would begin."""
        return self.processor.tokenize([{"role": "user", "content": text}]).ids

    def likelihoods(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each of at least two texts, beyond what all begin with."""
        return self.backend.log_likelihoods([self.turn(text) for text in texts])

    def tokens(self, text: str) -> list[int]:
        """The LLM's tokens of a piece of text."""
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids

    def following(self, text: str) -> Following:
        """What is expected in the places of a text's tokens, each after those before it."""
        read = self.processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        turns = self.turn("a"), self.turn("b")
        begun = next(i for i, (one, other) in enumerate(zip(*turns, strict=False)) if one != other)
        scores = self.backend.next_scores([*turns[0][:begun], *read.input_ids])
        return Following(scores[begun - 1 : -1].cpu(), read.input_ids, read.offset_mapping)
