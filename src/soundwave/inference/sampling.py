"""Decoding options: checked once, then turned into what `generate` understands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from soundwave.errors import ConfigurationError


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; the defaults are those of the released code.

    Attributes:
        temperature: 0 takes the most likely token (greedy); higher is more varied.
        top_p: sample from the smallest set of tokens whose probabilities sum to this.
        max_new_tokens: the answer ends there at the latest.
        seed: the same seed gives the same sampled answer; None: a new one each time.

    Raises:
        ConfigurationError: a value out of range.
    """

    temperature: float = 0.2
    top_p: float = 0.9
    max_new_tokens: int = 512
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigurationError(f"temperature is {self.temperature}; give 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p is {self.top_p}; give a number above 0 and at most 1.")
        if self.max_new_tokens < 1:
            raise ConfigurationError(f"max_new_tokens is {self.max_new_tokens}; give at least 1.")

    def generate_options(self) -> dict[str, Any]:
        """Keyword arguments of transformers' `generate`."""
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        if self.temperature == 0:
            return options | {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return options | {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
