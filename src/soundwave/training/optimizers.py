"""The optimizers of a run: AdamW for everything, or Muon for the adapters' matrices with AdamW for the rest.

Muon (Keller Jordan, 2024; "Muon is Scalable for LLM Training", arXiv 2502.16982) makes each step of a matrix
orthogonal, so that directions with small gradients are learned too. One learning rate serves both.
"""

from __future__ import annotations

import torch
from torch import nn

from soundwave.training.muon import Muon
from soundwave.training.recipe import Recipe

MUON_MOMENTUM = 0.95  # as published
MUON_SCALE = 4.0  # of the learning rate: an even step may be longer than AdamW's; what mini's stage I was trained with


def make_optimizers(module: nn.Module, recipe: Recipe, on_cuda: bool) -> list[torch.optim.Optimizer]:
    """The optimizers of a module's trained parameters; each group's `scale` multiplies the run's learning rate."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    matrices = {name: p for name, p in trained.items() if recipe.optimizer == "muon" and _is_adapter_matrix(name, p)}
    rest = {name: p for name, p in trained.items() if name not in matrices}
    low_precision = recipe.mixed_precision == "bf16"  # by then what the device was found to be faster in
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(
            Muon(
                _groups(matrices, recipe, MUON_SCALE), lr=recipe.learning_rate, momentum=MUON_MOMENTUM,
                weight_decay=recipe.weight_decay, dtype=torch.bfloat16 if on_cuda or low_precision else torch.float32,
            )
        )
    if rest:
        made.append(
            torch.optim.AdamW(
                _groups(rest, recipe, 1.0), lr=recipe.learning_rate, betas=(recipe.adam_beta1, recipe.adam_beta2),
                weight_decay=recipe.weight_decay,
                fused=recipe.optimizer == "adamw_fused" or (recipe.optimizer == "auto" and on_cuda),
            )
        )
    return made


def _is_adapter_matrix(name: str, parameter: nn.Parameter) -> bool:
    """LoRA's factors stay with AdamW: a low-rank update has no full set of directions to even out."""
    return parameter.ndim == 2 and "lora_" not in name


def _groups(parameters: dict[str, nn.Parameter], recipe: Recipe, scale: float) -> list[dict]:
    aligning = [p for name, p in parameters.items() if "alignment." in name]
    others = [p for name, p in parameters.items() if "alignment." not in name]
    groups = [
        {"params": aligning, "scale": scale * recipe.alignment_learning_rate_scale},
        {"params": others, "scale": scale},
    ]
    return [group for group in groups if group["params"]]
