"""Runs transformers' Whisper encoder over windows of any length, ragged batches included, whole or in two parts.

Transformers' own forward insists on 30 s and takes no mask. Position embeddings are sliced and padding is masked in
the convolutions and in attention, so that a clip in a batch gives what it gives alone. The upper layers may belong to
a model, which learns them (`encoder_upper_layers`); the lower part's frames can then be stored.
"""

# N clips, M mel bins, T mel frames (100 Hz), F = T / 2 encoder frames (50 Hz), E encoder width, R rank

from __future__ import annotations

import math
import operator
import re
from collections import deque
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from soundwave.configuration import SoundwaveConfig

UPPER_NAME = re.compile(r"audio_tower\.(?:layers\.(\d+)\.|layer_norm\.|layer_sum$)")
FACTORS = (".down", ".up")  # endings of the names of a low-rank change


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank change of its matrix (LoRA, arXiv 2106.09685): up · down · alpha / R.

    Args:
        like: the layer in whose place it comes; its sizes are taken, not its weights.
        r: R.
        alpha: scales the change, which is nothing at first.
    """

    def __init__(self, like: nn.Linear, r: int, alpha: int):
        super().__init__(like.in_features, like.out_features, bias=like.bias is not None)
        self.scale = alpha / r
        self.down = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(r, like.in_features), a=math.sqrt(5)))
        self.up = nn.Parameter(torch.zeros(like.out_features, r))

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return super().forward(input) + F.linear(F.linear(input, self.down), self.up) * self.scale

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The matrix with the change."""
        change = self.up.float() @ self.down.float() * self.scale
        return (self.weight.float() + change).to(self.weight.dtype)


def make_tower(config: SoundwaveConfig) -> WhisperEncoder:
    """The encoder of a configuration, with what the model adds to the upper layers; weights are random."""
    tower = WhisperEncoder(config.audio_config)
    for layer in tower.layers[config.encoder_depth :] if config.encoder_training == "lora" else ():
        for owner in (layer, layer.self_attn):
            for name, module in list(owner.named_children()):
                if type(module) is nn.Linear:
                    setattr(owner, name, LoraLinear(module, config.encoder_lora_r, config.encoder_lora_alpha))
    if config.encoder_layer_sum:
        tower.layer_sum = nn.Parameter(_last_alone(config))
    return tower


def _last_alone(config: SoundwaveConfig) -> Tensor:
    """(states,) the weights of a sum that is its last term."""
    count = config.encoder_upper_layers
    return F.one_hot(torch.tensor(count, device="cpu"), count + 1).float()


def fresh_upper(config: SoundwaveConfig) -> dict[str, Tensor]:
    """Untrained values of what the model adds to the encoder, by full name."""
    with torch.device("meta"):  # the encoder itself may be large
        tower = make_tower(config)
    values = {}
    for name, module in tower.named_modules():
        if isinstance(module, LoraLinear):
            values[f"audio_tower.{name}.down"] = nn.init.kaiming_uniform_(torch.empty(module.down.shape), math.sqrt(5))
            values[f"audio_tower.{name}.up"] = torch.zeros(module.up.shape)
    if config.encoder_layer_sum:
        values["audio_tower.layer_sum"] = _last_alone(config)
    return values


def is_upper(config: SoundwaveConfig, name: str) -> bool:
    """Whether the weight of that full name is of the encoder's layers that belong to the model."""
    match = UPPER_NAME.match(name) if config.encoder_upper_layers else None
    return match is not None and (match[1] is None or int(match[1]) >= config.encoder_depth)


def is_own(config: SoundwaveConfig, name: str) -> bool:
    """Whether the weight of that full name is the model's own, though it is the encoder's: learned over its source."""
    learned = config.encoder_training == "full" or name.endswith((*FACTORS, "layer_sum"))
    return learned and is_upper(config, name)


def merged_weights(tower: WhisperEncoder) -> dict[str, Tensor]:
    """The matrices that a LoRA changes, with the change, by name."""
    layers = {name: module for name, module in tower.named_modules() if isinstance(module, LoraLinear)}
    return {f"{name}.weight": layer.merged() for name, layer in layers.items()}


def merge_lora(tower: WhisperEncoder) -> None:
    """Lets a tower with LoRA run as fast as one without; the factors stay beside the matrices, to be saved."""
    for module in tower.modules():
        if isinstance(module, LoraLinear):
            module.weight.data = module.merged()
            module.__class__ = nn.Linear  # type: ignore[assignment]


def keep_lower(tower: WhisperEncoder, depth: int) -> None:
    """Leaves of a tower the part that gives what enters the layer `depth`."""
    tower.layers = tower.layers[:depth]
    tower.layer_norm = nn.Identity()
    tower.layer_sum = None


def keep_upper(tower: WhisperEncoder, depth: int) -> None:
    """Leaves of a tower the part that `encode_upper` runs, its weights under the same names."""
    for i in range(depth):
        tower.layers[i] = nn.Identity()
    tower.conv1 = tower.conv2 = tower.embed_positions = None


def encode_window(tower: WhisperEncoder, features: Tensor, mel_mask: Tensor | None) -> Tensor:
    """Log-mel (N, M, T) to encoder frames (N, F, E); of the lower part alone, to what it ends with.

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
    return encode_upper(tower, x, None if mel_mask is None else mel_mask[:, ::2], 0)


def encode_upper(tower: WhisperEncoder, x: Tensor, mask: Tensor | None, depth: int) -> Tensor:
    """What enters the layer `depth` (N, F, E) to encoder frames (N, F, E); `mask` (N, F), None: all of them exist."""
    keys = None if mask is None else mask[:, None, None, :]
    weights = getattr(tower, "layer_sum", None)
    states = deque([x], maxlen=1 if weights is None else len(weights))
    for layer in tower.layers[depth:]:
        states.append(_layer(layer, states[-1], keys))
    if weights is None:
        return tower.layer_norm(states[-1])
    # Weights of any size, not a softmax's: that is flat where it leaves the last state as it is, and would stay there.
    return reduce(operator.add, [w * tower.layer_norm(state) for w, state in zip(weights, states, strict=True)])


def upper_frames(config: SoundwaveConfig, tower: WhisperEncoder, frames: Tensor, mask: Tensor | None) -> Tensor:
    """Encoder frames (N, F, E) of those that training stores (N, F, E): the same where no layer belongs to the model.

    Args:
        config: the model's.
        tower: at least its upper part.
        frames: what `encode_window` gave of the lower part.
        mask: (N, F / frames_per_group) True for aligned frames that exist; None: all of them.
    """
    if not config.encoder_upper_layers:
        return frames
    own = None if mask is None else mask.repeat_interleave(config.frames_per_group, 1)
    return encode_upper(tower, frames.to(tower.layer_norm.weight.dtype), own, config.encoder_depth)


def _layer(layer: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """One pre-norm encoder layer with a key mask (no dropout)."""
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
