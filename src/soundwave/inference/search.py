"""What a search for a transcript knows: a scorer of LLM and CTC together, and how its result is spelt.

It knows scores, tokens and words; which recordings there are, and who runs the LLM, is the engine's.
"""

# F frames, C CTC classes

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from soundwave.configuration import SoundwaveConfig
from soundwave.inference.ctc_prefix import log_likelihoods
from soundwave.inference.joint import WORD, JointScorer, spoken
from soundwave.inference.lexicon import Lexicon
from soundwave.inference.rewording import Rewording
from soundwave.inference.typed import TypedReader
from soundwave.text.ctc_tokenizer import CtcTokenizer

# A transcript needs about 4 tokens a second; three times that, and a start, bounds a loop without cutting real speech.
TOKENS_PER_SECOND = 12
TOKENS_AT_LEAST = 32
LOST = 50.0  # nats: a text that is so much less likely than CTC's own left what was said, or loops


def transcript_tokens(seconds: float) -> int:
    """The most tokens that a transcript of a recording can have."""
    return TOKENS_AT_LEAST + int(TOKENS_PER_SECOND * seconds)


class TranscriptSearch:
    """A word list and scorers over one model's vocabulary.

    Args:
        config: the model's.
        tokenizer: the LLM's.
        ctc: makes CTC classes from words.
        end_ids: tokens that end a text.
        reader: the plain LLM.
    """

    def __init__(
        self, config: SoundwaveConfig, tokenizer: Any, ctc: CtcTokenizer, end_ids: set[int], reader: TypedReader
    ):
        self.config, self.tokenizer, self.ctc, self.end_ids = config, tokenizer, ctc, end_ids
        self.lexicon, self.reader = Lexicon.named(config.word_list, tokenizer), reader
        self._rewording: Rewording | None = None

    def scorer(self, logits: Sequence[Tensor], limits: Sequence[int]) -> JointScorer:
        """Holds what the LLM proposes against recordings.

        Args:
            logits: (F, C) CTC scores of each.
            limits: the most tokens of each text.
        """
        config = self.config
        return JointScorer(
            logits, self.ctc, self.tokenizer, config.blank_class, self.end_ids, config.joint_ctc_weight, limits,
        )

    def respelt(self, text: str, logits: Tensor, heard: str) -> str:
        """A transcript with known words for what was spelt by ear, where the recording allows them.

        Args:
            text: what was found.
            logits: (F, C) CTC scores of the recording.
            heard: what CTC alone reads, which takes the place of a text that lost the recording.
        """

        def likelihoods(texts: list[str]) -> list[float]:
            said = [" ".join(map(spoken, WORD.findall(one))) for one in texts]
            return log_likelihoods(logits, [self.ctc.encode(one) for one in said], self.config.blank_class)

        if not text:
            return text
        searched, greedy = likelihoods([text, heard])
        if searched < greedy - LOST:
            text = heard[:1].upper() + heard[1:]
        return self.lexicon.respelt(text, likelihoods)

    def reworded(self, text: str, logits: Tensor) -> str:
        """A transcript in which other known words stand where they are better by CTC and the plain LLM together.

        Args:
            text: what was found.
            logits: (F, C) CTC scores of the recording.
        """
        config = self.config
        if not text or not config.rewording_weight:
            return text
        if self._rewording is None:
            self._rewording = Rewording(
                self.lexicon, self.ctc, self.reader, config.blank_class, config.rewording_weight
            )
        return self._rewording.reworded(text, logits)
