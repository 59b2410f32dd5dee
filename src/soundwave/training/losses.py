"""The losses as pure functions: next-token cross-entropy and CTC (paper section 3.3; released code)."""

# B clips, F aligned frames, C CTC classes, V LLM vocabulary

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CTC_WEIGHT = 0.3  # of the CTC term beside the next-token loss (released code)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all targets of the batch: logits (targets, V), targets (targets,)."""
    return F.cross_entropy(logits.float(), targets)


def ctc_loss(logits: Tensor, frames: Tensor, targets: list[list[int]], blank: int) -> Tensor:
    """CTC in float32: each clip's loss over its target length, then the mean over clips.

    Args:
        logits: (B, F, C) scores.
        frames: (B,) real lengths: padding is not speech that was labelled blank.
        targets: classes per clip; an empty target asks for blanks only.
        blank: class of the blank.

    Returns:
        A scalar; clips with more tokens than frames allow count as zero.
    """
    lengths = torch.tensor([len(target) for target in targets], device=logits.device)
    flat = torch.tensor([token for target in targets for token in target], dtype=torch.long, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.float().log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(scores, flat, frames, lengths, blank=blank, reduction="mean", zero_infinity=True)


def total_loss(next_token: Tensor | None, ctc: Tensor | None, ctc_weight: float = CTC_WEIGHT) -> Tensor:
    """next-token + 0.3 · CTC; with one term only, that term (stage I has no next-token loss, stage III no CTC)."""
    if next_token is None:
        assert ctc is not None
        return ctc
    return next_token if ctc is None else next_token + ctc_weight * ctc
