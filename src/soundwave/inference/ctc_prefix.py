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


def next_begins(scores: Tensor, prefixes: Prefixes) -> Tensor:
    """(N, C) log-probability that the recording begins with each prefix and one more class; blank's column is nothing.

    A repetition of the last class is taken as if no blank were needed between: a bound, for choosing candidates.
    """
    start = torch.where(prefixes.last < 0, 0.0, NEVER).to(scores.dtype)[:, None]
    before = torch.cat([start, torch.logaddexp(prefixes.token, prefixes.blank)[:, :-1]], dim=1)  # (N, F)
    return torch.logsumexp(before[:, :, None] + scores, dim=1)


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
