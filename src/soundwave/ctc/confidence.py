"""How sure a word of a transcript is: its CTC path's probability, and how far the texts without it are behind.

Both are evidence, not probabilities that the word is right; a model's few numbers (`ConfidenceOptions`), fitted by
`benchmarks/confidence.py`, make one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from soundwave.ctc.align import Token
from soundwave.inference_config import ConfidenceOptions

WIDEST_GAP = 10.0  # nats; also where all texts have the word
SUREST = 1e-4  # a path's probability counts as this far from 0 and 1 at least


@dataclass(frozen=True)
class Evidence:
    """What speaks for a word.

    Attributes:
        path: the geometric mean of its pieces' probabilities, each in the frame where it is likeliest.
        gap: nats from the best text that has the word to the best that has not; None where only one text is known.
    """

    path: float
    gap: float | None = None


def path_probability(tokens: Sequence[Token]) -> float:
    """The `path` of a word's `Evidence`; 0 for a word that no frames are left for."""
    if not tokens:
        return 0.0
    return math.exp(sum(max(token.logprobs) for token in tokens) / len(tokens))


def gaps(words: Sequence[str], texts: Sequence[tuple[Sequence[str], float]]) -> list[float]:
    """For each word nats from the best text that has it in its place to the best that has not.

    Args:
        words: of the text that was chosen.
        texts: the words and the score of each text that was weighed, the chosen one among them.
    """
    having, lacking = [-math.inf] * len(words), [-math.inf] * len(words)
    for others, score in texts:
        kept = [False] * len(words)
        for block in SequenceMatcher(None, words, others, autojunk=False).get_matching_blocks():
            kept[block.a : block.a + block.size] = [True] * block.size
        for i, has in enumerate(kept):
            scores = having if has else lacking
            scores[i] = max(scores[i], score)
    return [
        max(-WIDEST_GAP, min(WIDEST_GAP, best - rival)) if math.isfinite(best) else 0.0
        for best, rival in zip(having, lacking, strict=True)
    ]


def confidence_of(evidence: Evidence, options: ConfidenceOptions | None) -> float:
    """How likely a word is right, from 0 to 1; without the model's numbers, or without other texts, its path's own."""
    if options is None or evidence.gap is None:
        return evidence.path
    path = min(max(evidence.path, SUREST), 1 - SUREST)
    odds = options.bias + options.path * math.log(path / (1 - path)) + options.gap * evidence.gap
    return 1 / (1 + math.exp(-odds))
