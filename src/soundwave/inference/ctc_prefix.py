"""How likely a recording is to begin with given CTC tokens: prefix scores of CTC, all frames at once.

The score of Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition" (2017), Algorithm 2.
Its recursions over time are linear, so each is one `logcumsumexp`. Knows classes and frames, no text.
"""

# N prefixes, F frames, C CTC classes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e30  # a log-probability of nothing; minus infinity would make NaN of differences


@dataclass(frozen=True)
class Prefixes:
    """Prefixes of one recording.

    Attributes:
        token: (N, F) log-probability of having emitted the prefix by frame f, whose decision is the last token.
        blank: (N, F) the same, with a blank at frame f.
        last: (N,) the last class, -1 for the empty prefix.
        begins: (N,) log-probability that the recording begins with the prefix.
    """

    token: Tensor
    blank: Tensor
    last: Tensor
    begins: Tensor

    def pick(self, rows: Tensor) -> Prefixes:
        """Some of the prefixes, also repeated."""
        return Prefixes(self.token[rows], self.blank[rows], self.last[rows], self.begins[rows])

    def whole(self) -> Tensor:
        """(N,) log-probability that the recording holds the prefix and nothing more."""
        return torch.logaddexp(self.token[:, -1], self.blank[:, -1])

    def within(self, first: int, last: int, blank: int) -> Prefixes:
        """The same in frames `first` to `last` (not included) alone: what was emitted before is forgotten."""
        inner = self.last if first == 0 else self.last.clamp(min=blank)  # no empty prefix begins in the middle
        return Prefixes(self.token[:, first:last], self.blank[:, first:last], inner, self.begins)


@dataclass(frozen=True)
class Rest:
    """What follows from each frame on: the log-probability that the frames from there to the end hold given classes.

    Attributes:
        token: (F + 1,) where the first of these frames emits the first class.
        blank: (F + 1,) where it is blank; past the end there is nothing, which holds no classes.
    """

    token: Tensor
    blank: Tensor

    def any(self) -> Tensor:
        """(F + 1,) of both."""
        return torch.logaddexp(self.token, self.blank)

    def within(self, first: int, last: int) -> Rest:
        """The same from the frames `first` to `last` on, the latter included."""
        return Rest(self.token[first : last + 1], self.blank[first : last + 1])


def empty_prefix(scores: Tensor, blank: int) -> Prefixes:
    """The prefix without tokens (N = 1) over (F, C) log-probabilities in float64."""
    silent = scores[:, blank].cumsum(0)[None]
    start = torch.full((1,), -1, dtype=torch.long, device=scores.device)
    return Prefixes(torch.full_like(silent, NEVER), silent, start, torch.zeros_like(silent[:, 0]))


def extend(scores: Tensor, prefixes: Prefixes, tokens: Tensor, blank: int) -> Prefixes:
    """Each prefix with one more token.

    Args:
        scores: (F, C) log-probabilities in float64.
        prefixes: N of them.
        tokens: (N,) classes, blank excluded.
        blank: class of the blank.
    """
    emitted = scores[:, tokens].T  # (N, F)
    silent = scores[:, blank].expand_as(emitted)
    # A token that repeats the last one needs a blank between.
    ended = torch.where((tokens == prefixes.last)[:, None], NEVER, prefixes.token)
    start = (prefixes.last < 0).to(scores.dtype)[:, None]
    before_first = torch.where(start > 0, 0.0, NEVER)  # nothing emitted before the first frame
    before = torch.cat([before_first, torch.logaddexp(ended, prefixes.blank)[:, :-1]], dim=1)
    token = _recursion(before + emitted, emitted)
    arrived = torch.cat([torch.full_like(start, NEVER), token[:, :-1]], dim=1)
    return Prefixes(token, _recursion(arrived + silent, silent), tokens, torch.logsumexp(before + emitted, dim=1))


def beginnings(scores: Tensor, words: Sequence[Sequence[int]], blank: int) -> list[Prefixes]:
    """The prefixes (N = 1) of the first 0, 1, … and of all words."""
    found = [empty_prefix(scores, blank)]
    for word in words:
        found.append(_with_classes(scores, found[-1], word, blank))
    return found


def rests(scores: Tensor, words: Sequence[Sequence[int]], blank: int) -> list[Rest]:
    """What follows the first 0, 1, … and all words: time runs backwards for it."""
    backwards = scores.flip(0)
    prefix = empty_prefix(backwards, blank)
    found = [_rest(prefix, empty=True)]
    for word in reversed(words):
        prefix = _with_classes(backwards, prefix, list(reversed(word)), blank)
        found.append(_rest(prefix, empty=bool(prefix.last < 0)))
    return found[::-1]


def _with_classes(scores: Tensor, prefix: Prefixes, classes: Sequence[int], blank: int) -> Prefixes:
    for one in classes:
        prefix = extend(scores, prefix, torch.tensor([one], device=scores.device), blank)
    return prefix


def _rest(prefix: Prefixes, empty: bool) -> Rest:
    token, blank = prefix.token[0].flip(0), prefix.blank[0].flip(0)
    never, end = token.new_full((1,), NEVER), token.new_full((1,), 0.0 if empty else NEVER)
    return Rest(torch.cat([token, never]), torch.cat([blank, end]))


def next_begins(scores: Tensor, prefixes: Prefixes) -> Tensor:
    """(N, C) log-probability that the recording begins with each prefix and one more class; blank's column is nothing.

    A repetition of the last class is taken as if no blank were needed between: a bound, for choosing candidates.
    """
    start = torch.where(prefixes.last < 0, 0.0, NEVER).to(scores.dtype)[:, None]
    before = torch.cat([start, torch.logaddexp(prefixes.token, prefixes.blank)[:, :-1]], dim=1)  # (N, F)
    most = before.amax(dim=1, keepdim=True)
    # a sum over frames of products is a product of matrices; what float64 cannot hold beside the largest never happens
    return ((before - most).exp() @ scores.exp()).log().clamp(min=NEVER) + most


def log_likelihoods(logits: Tensor, targets: Sequence[Sequence[int]], blank: int) -> list[float]:
    """The CTC log-likelihood of each whole target on one recording, over all alignments.

    Args:
        logits: (F, C) CTC scores of its frames.
        targets: classes of each candidate; one that does not fit the frames gets -inf.
        blank: class of the blank.
    """
    scores = logits.float().cpu().log_softmax(-1)[:, None].expand(-1, len(targets), -1).contiguous()  # (F, N, C)
    lengths = torch.tensor([len(target) for target in targets])
    flat = torch.tensor([token for target in targets for token in target], dtype=torch.long)
    frames = torch.full((len(targets),), len(logits))
    return (-F.ctc_loss(scores, flat, frames, lengths, blank=blank, reduction="none")).tolist()


def _recursion(entering: Tensor, staying: Tensor) -> Tensor:
    """y[f] = logaddexp(y[f - 1] + staying[f], entering[f]), both (N, F)."""
    total = staying.cumsum(1)
    return total + torch.logcumsumexp(entering - total, dim=1)
