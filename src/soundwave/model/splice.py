"""Puts audio embeddings where their placeholders stand: ragged rows to one padded batch.

The number of audio positions is known only after the CTC decisions, so prompts cannot be padded before this step.
"""

# R rows, L positions of the longest row, D width

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # label of positions without a target, as in transformers


@dataclass(frozen=True)
class Spliced:
    """A padded batch of prompts.

    Attributes:
        embeddings: (R, L, D), zero at padding.
        mask: (R, L) int64, 1 where a position exists.
        labels: (R, L) int64 targets, `IGNORED` elsewhere; None where none were given.
    """

    embeddings: Tensor
    mask: Tensor
    labels: Tensor | None


def splice(
    rows: list[Tensor], row_ids: list[Tensor], audio: list[Tensor], audio_token_id: int,
    labels: list[Tensor] | None = None, left: bool = True,
) -> Spliced:
    """Replaces each placeholder by its audio's embeddings and pads.

    Args:
        rows: per row (length, D) token embeddings; the placeholder's own row is ignored.
        row_ids: per row (length,) token ids.
        audio: (S_i, D) embeddings in the order of the placeholders, row after row.
        audio_token_id: the placeholder.
        labels: per row (length,) targets aligned with the ids.
        left: pad on the left (generation) or on the right (training).
    """
    pending = iter(audio)
    embedded, targets = [], []
    for i, (row, ids) in enumerate(zip(rows, row_ids, strict=True)):
        pieces, label_pieces, start = [], [], 0
        for at in (ids == audio_token_id).nonzero().flatten().tolist():
            clip = next(pending).to(row.dtype)
            pieces += [row[start:at], clip]
            if labels is not None:
                label_pieces += [labels[i][start:at], ids.new_full((len(clip),), IGNORED)]
            start = at + 1
        embedded.append(torch.cat([*pieces, row[start:]]))
        if labels is not None:
            targets.append(torch.cat([*label_pieces, labels[i][start:]]))
    mask = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in embedded]
    return Spliced(
        _pad(embedded, 0.0, left), _pad(mask, 0, left), _pad(targets, IGNORED, left) if labels is not None else None
    )


def _pad(rows: list[Tensor], value: float, left: bool) -> Tensor:
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
