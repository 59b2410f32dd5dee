"""Beam search over CTC log-probabilities: words of a lexicon, a word n-gram, hot words, and words of no list at a cost.

A beam is a text so far with the probability of all CTC paths that say it, apart by whether they end in a blank (Hannun
et al. 2014, arXiv 1408.2873). It stands at a node of the lexicon's trie. Until its word is known it is judged by the
most likely word below the node (LM look-ahead, Ortmanns et al. 1996). Frames that are surely blank only multiply.

Knows nothing about models: classes come from a `Lexicon`, log-probabilities as arrays. `beams.py` holds the beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundwave.ctc.beams import Beams
from soundwave.ctc.history import Costs
from soundwave.ctc.hotwords import HotWords
from soundwave.ctc.lexicon import Lexicon, plain_word
from soundwave.ctc.ngram import Ngram
from soundwave.errors import ConfigurationError
from soundwave.inference_config import BeamSearchOptions


@dataclass(frozen=True)
class Hypothesis:
    """One of the n best texts of a recording.

    Attributes:
        text: the words joined by spaces, names with their capitals.
        words: the same, apart.
        acoustic: CTC log-probability of the text: the sum over its paths that the search kept.
        language: n-gram log-probability with the end of the sentence; 0 without an n-gram.
        score: acoustic, weighted language, word bonus and the terms of hot and unknown words: what the order goes by.
    """

    text: str
    words: tuple[str, ...]
    acoustic: float
    language: float
    score: float


class BeamSearchDecoder:
    """Finds the most likely texts.

    Args:
        lexicon: the words that can be said.
        ngram: how likely they follow each other; None for no opinion.
        blank: class of the CTC blank.
        options: weights and pruning.
    """

    def __init__(self, lexicon: Lexicon, ngram: Ngram | None, blank: int, options: BeamSearchOptions | None = None):
        self.lexicon = lexicon
        self.ngram = ngram
        self.blank = blank
        self.options = options or BeamSearchOptions()
        self._costs = Costs(lexicon, ngram, self.options)
        self._hot_costs: tuple[tuple[str, ...], Costs] | None = None

    def decode(
        self, logprobs: Sequence[NDArray[np.floating]], nbest: int = 1, hotwords: Sequence[str] = ()
    ) -> list[list[Hypothesis]]:
        """The n best texts of each recording, best first; at least one, "" where nothing is said.

        Args:
            logprobs: for each recording natural log-probabilities of the classes, (frames, classes). A recording's
                result does not depend on the others.
            nbest: texts a recording at most; all differ.
            hotwords: words or phrases to expect in these recordings. They need not be in the lexicon.

        Raises:
            ConfigurationError: `nbest` is below 1, an array has not two dimensions, or a hot word cannot be spelt.
        """
        if nbest < 1:
            raise ConfigurationError(f"nbest is {nbest}; it must be at least 1.")
        for array in logprobs:
            if array.ndim != 2:
                raise ConfigurationError(f"logprobs of shape {array.shape} were given; (frames, classes) are needed.")
        costs = self._costs_with(tuple(hotwords))
        beams = [self._searched(np.asarray(array, np.float64), Beams(costs)) for array in logprobs]
        return [
            [Hypothesis(" ".join(words), words, *scores) for words, *scores in one.texts(nbest)] for one in beams
        ]

    def go_on(
        self, logprobs: NDArray[np.floating], after: Sequence[str], hotwords: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """The likeliest words of a stretch within a sentence: some were said before it, more will be.

        Args:
            logprobs: (frames, classes) of the stretch.
            after: the words before it; as many as the n-gram looks back are enough.
            hotwords: as for `decode`.
        """
        beams = Beams(self._costs_with(tuple(hotwords)), after)
        [(words, *_)] = self._searched(np.asarray(logprobs, np.float64), beams).texts(1, whole=False)
        return words

    def _searched(self, logprobs: NDArray[np.float64], beams: Beams) -> Beams:
        """The beams after all frames."""
        if logprobs.size:
            blanks = logprobs[:, self.blank]
            sure = blanks >= np.log(self.options.sure_blank)
            frames = np.pad(logprobs, ((0, 0), (0, 1)), constant_values=-np.inf)
            frames[:, self.blank] = -np.inf
            silence = 0.0
            for frame, blank, surely in zip(frames, blanks.tolist(), sure, strict=True):
                if surely:
                    silence += blank
                    continue
                beams.wait(silence)
                silence = 0.0
                beams.advance(frame, blank)
            beams.wait(silence)
        return beams

    def _costs_with(self, phrases: tuple[str, ...]) -> Costs:
        """What words are worth with hot words; kept until others come: live captions search many times a second."""
        if not phrases:
            return self._costs
        hot_costs = self._hot_costs
        if hot_costs is None or hot_costs[0] != phrases:
            self._hot_costs = hot_costs = phrases, self._with_hotwords(phrases)
        return hot_costs[1]

    def _with_hotwords(self, phrases: Sequence[str]) -> Costs:
        hot = HotWords(phrases, self.options.hotword_bonus)
        new = [written for plain, written in hot.written.items() if plain not in self.lexicon.number_of]
        known = set("".join(self.lexicon.pieces))
        for word in new:
            if not known.issuperset(plain_word(word)):
                raise ConfigurationError(
                    f"The hot word '{word}' has signs that this model cannot spell; write it as it is spoken."
                )
        return Costs(self.lexicon.extended(new) if new else self.lexicon, self.ngram, self.options, hot)


def greedy(logprobs: NDArray[np.floating], blank: int) -> list[int]:
    """The likeliest class of each frame without repetitions and blanks: classes of a text over any vocabulary.

    Args:
        logprobs: (frames, classes) log-probabilities, or scores of any scale.
        blank: class of the CTC blank.
    """
    best = logprobs.argmax(-1) if len(logprobs) else np.zeros(0, np.int64)
    kept = np.append(True, best[1:] != best[:-1])[: len(best)] & (best != blank)
    return [int(one) for one in best[kept]]
