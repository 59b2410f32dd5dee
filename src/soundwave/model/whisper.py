"""Runs transformers' Whisper encoder over windows of any length, ragged batches included.

Transformers' own forward insists on 30 s and takes no mask. Position embeddings are sliced and padding is masked in
the convolutions and in attention, so that a clip in a batch gives what it gives alone.
"""

# N clips, M mel bins, T mel frames (100 Hz), F = T / 2 encoder frames (50 Hz), E encoder width

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder


def encode_window(tower: WhisperEncoder, features: Tensor, mel_mask: Tensor | None) -> Tensor:
    """Log-mel (N, M, T) to encoder frames (N, F, E).

    Args:
        tower: the encoder.
        features: log-mel; T even and at most twice the encoder's positions.
        mel_mask: (N, T) True inside each clip (an even number of frames); None: everything is inside.
    """
    if mel_mask is not None:  # a clip's last frames see zeros beyond the end, as at the edge of a window
        features = features.masked_fill(~mel_mask[:, None, :], 0.0)
    x = F.gelu(tower.conv1(features))
    if mel_mask is not None:
        x = x.masked_fill(~mel_mask[:, None, :], 0.0)
    x = F.gelu(tower.conv2(x)).transpose(1, 2)
    x = x + tower.embed_positions.weight[: x.shape[1]]
    mask = None if mel_mask is None else mel_mask[:, None, None, ::2]
    for layer in tower.layers:
        x = _layer(layer, x, mask)
    return tower.layer_norm(x)


def _layer(layer: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """One pre-norm encoder layer with a key mask (frozen: no dropout)."""
    attention = layer.self_attn
    normed = layer.self_attn_layer_norm(x)
    q, k, v = (
        project(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    inner = layer.activation_fn(layer.fc1(layer.final_layer_norm(x)))
    x = x + layer.fc2(inner)
    if x.dtype == torch.float16:  # as in transformers: large activations overflow
        x = x.clamp(min=-64504.0, max=64504.0)
    return x
