"""How sure a word of a transcript is: the probability of its pieces on the path that `align` found."""

from __future__ import annotations

import math
from collections.abc import Sequence

from soundwave.ctc.align import Token


def path_confidence(tokens: Sequence[Token]) -> float:
    """The geometric mean of a word's pieces' probabilities, each in the frame where it is likeliest."""
    return math.exp(sum(max(token.logprobs) for token in tokens) / len(tokens))
