"""The losses as pure functions: next-token and CTC (paper section 3.3; released code), and KL to a teacher."""

# B clips, F aligned frames, C CTC classes, V LLM vocabulary

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CTC_WEIGHT = 0.3  # of the CTC term beside the next-token loss (released code)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all targets of the batch: logits (targets, V), targets (targets,)."""
    return F.cross_entropy(logits.float(), targets)


def kl_to_teacher(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """How far each position's distribution is from the teacher's: T² · KL(teacher ‖ student), both softened by T.

    T² keeps the gradient's size when the distributions are softened (Hinton et al., arXiv 1503.02531); the use for
    speech is Ultravox's.

    Args:
        logits: (targets, V) of the student.
        teacher: (targets, V) of the teacher; no gradient reaches it.
        temperature: T; above 1 the teacher's less likely tokens count for more.

    Returns:
        (targets,) in nats, zero where the distributions agree.
    """
    student = (logits.float() / temperature).log_softmax(-1)
    wanted = (teacher.detach().float() / temperature).log_softmax(-1)
    return F.kl_div(student, wanted, reduction="none", log_target=True).sum(-1) * temperature**2


def matched_loss(logits: Tensor, targets: Tensor, matched: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
    """The mean over all targets of (1 - w) · cross-entropy + w · KL, and of cross-entropy where there is no teacher.

    Args:
        logits: (targets, V).
        targets: (targets,) token ids.
        matched: (targets,) True where a teacher speaks too.
        kl: (matched,) from `kl_to_teacher`.
        kl_weight: w; 1 takes the place of cross-entropy.
    """
    each = F.cross_entropy(logits.float(), targets, reduction="none")
    weight = kl_weight * matched.to(each.dtype)
    return (((1.0 - weight) * each).sum() + kl_weight * kl.sum()) / len(each)


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
