"""Joint decoding: the language model proposes the next tokens, and CTC says how well the recording bears them out.

A language model can loop, or go on with what nobody said; CTC cannot, because it only reads frames. It knows no words;
the language model does. Each step of the search adds up both, as is usual in speech recognition (Watanabe et al. 2017).
The two have different tokens, so the CTC scores whole words: as soon as the text holds one, and, while it is being
written, what is there of it.
"""

# R rows (beams of recordings), V LLM vocabulary, F frames, C CTC classes

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from soundwave.inference.ctc_prefix import NEVER, Prefixes, empty_prefix, extend, next_begins
from soundwave.text.ctc_tokenizer import CtcTokenizer

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*['’]?")
CTC_WEIGHT = 0.5  # of CTC's log-probability beside the language model's
CANDIDATES = 12  # tokens that the language model proposes in each step and row
HEARD_CANDIDATES = 4  # and tokens that the CTC path would go on with: any word can be spelt
HOPELESS = 0.5  # nats below the best text that has ended: no longer text gets there, as each token only costs
UNSPEAKABLE = -200.0  # a word of digits or of another script: how it is said is not known to the CTC
UNFINISHED = math.log(0.1)  # that a word under way is not finished: its last piece may become another


@dataclass(frozen=True)
class _State:
    """Where a row's text stands: the CTC prefix of its finished words (N = 1), the word under way, the score so far."""

    prefixes: Prefixes
    pending: str
    score: float


class JointScorer(LogitsProcessor):
    """Adds CTC's evidence to the language model's scores, for `generate` with any number of beams.

    Args:
        logits: per recording (F, C) CTC scores.
        ctc: makes CTC classes from words.
        tokenizer: the LLM's.
        blank: class of the blank.
        end_ids: tokens that end the text.
        weight: of CTC's log-probability.
        limits: per recording the most tokens of its text, the end among them; None: as many as the search goes on for.
    """

    def __init__(
        self, logits: Sequence[Tensor], ctc: CtcTokenizer, tokenizer: object, blank: int, end_ids: set[int],
        weight: float = CTC_WEIGHT, limits: Sequence[int] | None = None,
    ):
        self.scores = [one.detach().cpu().double().log_softmax(-1) for one in logits]
        self.ctc, self.tokenizer, self.blank, self.end_ids, self.weight = ctc, tokenizer, blank, end_ids, weight
        self.states: list[dict[tuple[int, ...], _State]] = [
            {(): _State(empty_prefix(scores, blank), "", 0.0)} for scores in self.scores
        ]
        self.limits = [math.inf] * len(self.scores) if limits is None else list(limits)
        self._totals: list[dict[tuple[int, ...], float]] = [{(): 0.0} for _ in self.scores]  # of both, of texts so far
        self._best_ended = [-math.inf] * len(self.scores)
        self._spelt: dict[str, list[int]] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, length) tokens so far and (R, V) scores of the next ones, to scores of the few that are looked at."""
        values = scores.float().log_softmax(-1).cpu()
        likely = values.topk(CANDIDATES, dim=-1).indices.tolist()
        beams = len(input_ids) // len(self.scores)
        result = torch.full_like(scores, -torch.inf)
        for row, (ids, tokens) in enumerate(zip(input_ids.tolist(), likely, strict=True)):
            clip = row // beams
            state = self.states[clip].get(tuple(ids))
            if state is None:  # a beam that has ended, or one of padding
                result[row] = scores[row]
                continue
            total = self._totals[clip][tuple(ids)]
            # At its own limit, so that a recording's text does not depend on others in its batch; and where it cannot
            # win any more, so that the search ends soon after the best text has.
            if len(ids) + 1 >= self.limits[clip] or total < self._best_ended[clip] - HOPELESS:
                tokens = sorted(self.end_ids)
            else:
                heard = self._heard_next(clip, state)
                tokens = list(dict.fromkeys([*tokens, *heard, *self.end_ids]))
            joint = values[row, tokens] + self.weight * torch.tensor(self._evidence(clip, tuple(ids), tokens))
            result[row, tokens] = joint.to(scores)
            for token, added in zip(tokens, joint.tolist(), strict=True):
                self._totals[clip][(*ids, token)] = total + added
                if token in self.end_ids:
                    self._best_ended[clip] = max(self._best_ended[clip], total + added)
        return result

    def total(self, clip: int, token_ids: Sequence[int]) -> float:
        """The log-probability of a text of a recording, of both together: of one that the search came by."""
        return self._totals[clip].get(tuple(token_ids), -math.inf)

    def _heard_next(self, clip: int, state: _State) -> list[int]:
        """The LLM tokens of the classes that the CTC path goes on with."""
        begun = self._extended(clip, state.prefixes, [self._spell(state.pending)])
        following = next_begins(self.scores[clip], begun)[0]
        following[self.blank] = NEVER
        classes = following.topk(HEARD_CANDIDATES).indices.tolist()
        return classes if self.ctc.vocabulary is None else [self.ctc.vocabulary[one] for one in classes]

    def _evidence(self, clip: int, ids: tuple[int, ...], tokens: list[int]) -> list[float]:
        """What CTC adds to each candidate: its score with the candidate, less its score before it."""
        states = self.states[clip]
        state = states[ids]
        texts = [state.pending + self._piece(token) for token in tokens]
        ends = [token in self.end_ids for token in tokens]
        finished, pending = zip(*(_split(text, end) for text, end in zip(texts, ends, strict=True)), strict=True)
        spelt = [[one for word in words for one in self._spell(word)] for words in finished]
        done = self._extended(clip, state.prefixes, spelt)
        partial = [self._spell(word) for word in pending]
        full = self._extended(clip, done, partial)
        short = self._extended(clip, done, [classes[:-1] for classes in partial])
        going = torch.logaddexp(full.begins + math.log1p(-math.exp(UNFINISHED)), short.begins + UNFINISHED)
        nothing = torch.tensor([not classes for classes in partial])
        refused = [
            sum(not self._spell(word) for word in (*words, under) if word)
            for words, under in zip(finished, pending, strict=True)
        ]
        total = torch.where(torch.tensor(ends), done.whole(), torch.where(nothing, done.begins, going)).tolist()
        for i, token in enumerate(tokens):
            if not ends[i]:
                states[(*ids, token)] = _State(done.pick(torch.tensor([i])), pending[i], total[i])
        return [value - state.score + UNSPEAKABLE * count for value, count in zip(total, refused, strict=True)]

    def _extended(self, clip: int, prefixes: Prefixes, rows: list[list[int]]) -> Prefixes:
        """Prefixes (one for all rows, or one for each) with the classes of each row."""
        count = len(rows)
        if len(prefixes.last) != count:
            prefixes = prefixes.pick(torch.zeros(count, dtype=torch.long))
        for step in range(max(map(len, rows), default=0)):
            going = [i for i, classes in enumerate(rows) if step < len(classes)]
            chosen, at = torch.tensor(going), [rows[i][step] for i in going]
            longer = extend(self.scores[clip], prefixes.pick(chosen), torch.tensor(at), self.blank)
            prefixes = Prefixes(
                prefixes.token.index_copy(0, chosen, longer.token), prefixes.blank.index_copy(0, chosen, longer.blank),
                prefixes.last.index_copy(0, chosen, longer.last), prefixes.begins.index_copy(0, chosen, longer.begins),
            )
        return prefixes

    def _piece(self, token: int) -> str:
        return "" if token in self.end_ids else self.tokenizer.decode([token])  # type: ignore[attr-defined]

    def _spell(self, word: str) -> list[int]:
        if word not in self._spelt:
            self._spelt[word] = self.ctc.encode_words([spoken(word)])[0] if word else []
        return self._spelt[word]


def spoken(word: str) -> str:
    """A word in the letters that CTC has: é is an e and an accent."""
    return unicodedata.normalize("NFKD", word.lower().replace("’", "'"))


def _split(text: str, end: bool) -> tuple[list[str], str]:
    """The finished words of a text, and the word under way (which at the end is finished too)."""
    found = list(WORD.finditer(text))
    open_ended = bool(found) and found[-1].end() == len(text) and not end
    words = [match.group().rstrip("'’") for match in found]
    return (words[:-1], found[-1].group()) if open_ended else (words, "")
