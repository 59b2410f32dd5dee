"""What the beam search is tested against: every path of every frame, written out, with nothing clever."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np

from soundwave.ctc.beam_search import Hypothesis
from soundwave.ctc.lexicon import plain_word
from soundwave.ctc.ngram import Ngram
from soundwave.inference_config import BeamSearchOptions


def add_logs(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def text_of_path(path: tuple[int, ...], pieces: list[str]) -> str:
    """The pieces of a CTC path: repetitions count once, blanks not at all."""
    return "".join(pieces[spelt] for spelt, _ in itertools.groupby(path))


def phrase_bonus(words: list[str], phrases: list[str]) -> int:
    """How many words belong to hot phrases."""
    hot = [False] * len(words)
    for phrase in (plain_word(phrase).split() for phrase in phrases):
        for i in range(len(words) - len(phrase) + 1):
            if [plain_word(word) for word in words[i : i + len(phrase)]] == phrase:
                hot[i : i + len(phrase)] = [True] * len(phrase)
    return sum(hot)


def enumerate_texts(
    logprobs: np.ndarray,
    words: list[str],
    pieces: list[str],
    ngram: Ngram | None,
    options: BeamSearchOptions,
    hotwords: list[str],
) -> list[Hypothesis]:
    """All texts that some path says, best first.

    A word of no list costs what the options say. A text must begin with a piece that begins a word.
    """
    acoustic: dict[str, float] = {}
    for path in itertools.product(range(len(pieces)), repeat=len(logprobs)):
        text = text_of_path(path, pieces)
        if text.startswith(" ") or not text:
            likelihood = float(sum(logprobs[frame, spelt] for frame, spelt in enumerate(path)))
            key = " ".join(text.split())
            acoustic[key] = add_logs(acoustic.get(key, -math.inf), likelihood)
    hot = {plain_word(word): word for word in " ".join(hotwords).split()}
    listed = {plain_word(word): word for word in words}
    modelled = hot | listed  # the n-gram knows a word as the list writes it; it is shown as the hot words write it
    hypotheses = []
    for key, likelihood in acoustic.items():
        unknown = [word for word in key.split() if word not in modelled]
        if (unknown and options.unknown_word is None) or not all(
            re.fullmatch(r"[a-z][a-z']+", word) for word in unknown
        ):
            continue
        language = 0.0 if ngram is None else ngram.score_sentence([modelled.get(word, word) for word in key.split()])
        said = [(listed | hot).get(word, word) for word in key.split()]
        score = likelihood + options.language_weight * language + options.word_bonus * len(said)
        score += options.hotword_bonus * phrase_bonus(said, hotwords)
        score -= sum((options.unknown_word or 0) + options.unknown_letter * len(word) for word in unknown)
        hypotheses.append(Hypothesis(" ".join(said), tuple(said), likelihood, language, score))
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)
