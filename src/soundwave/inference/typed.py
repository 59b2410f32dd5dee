"""The plain LLM, reading texts as if a person had typed them."""

# L tokens of a text, V LLM vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from soundwave.inference.backends.torch import Read, TorchBackend
from soundwave.processing import SoundwaveProcessor


@dataclass(frozen=True)
class Typed:
    """A text that the plain LLM has read as a typed turn.

    Attributes:
        scores: (L, V) log-probabilities, in the place of each token of the text.
        tokens: those that are there.
        places: where in the text each begins and ends.
        turn: what was read: what the chat template writes before the text, the text, and the end of the turn.
    """

    scores: Tensor
    tokens: list[int]
    places: list[tuple[int, int]]
    turn: Read

    @property
    def likelihood(self) -> float:
        """The log-probability of the turn."""
        return self.turn.so_far[-1]

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
        """The tokens of a conversation in which a person typed the text, to the token that ends it."""
        before, end = self._around
        return [*before, *self.tokens(text), *end]

    def tokens(self, text: str) -> list[int]:
        """The LLM's tokens of a piece of text."""
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids

    def read(self, text: str) -> Typed:
        """Reads a text whole; others are compared with it."""
        found = self.processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        turn, first = self.backend.read(self.turn(text)), len(self._around[0])
        scores = turn.scores[first - 1 : first - 1 + len(found.input_ids)].cpu()
        return Typed(scores, found.input_ids, found.offset_mapping, turn)

    def gains(self, beside: Typed, others: Sequence[str], ahead: int | None = None) -> list[float]:
        """How much likelier other texts are than one that was read.

        Args:
            beside: that one.
            others: texts.
            ahead: tokens that are read after what differs, for a close guess; None: all.
        """
        return self.backend.gains(beside.turn, [self.turn(one) for one in others], ahead)

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the chat template writes before a person's text, and its first token after it: the rest is certain."""
        one, other = (self.processor.tokenize([{"role": "user", "content": text}]).ids for text in ("a", "b"))
        at = next(i for i, (left, right) in enumerate(zip(one, other, strict=True)) if left != right)
        # where a template begins with the text, something must come before it, for the LLM to expect it
        return one[:at] or [min(self.backend.end_ids)], one[at + 1 : at + 2]
