"""The learning rate over a run, and its optimizers: AdamW for everything, or Muon for the adapters' matrices beside it.

Muon (Keller Jordan, 2024; "Muon is Scalable for LLM Training", arXiv 2502.16982) makes each step of a matrix
orthogonal, so that directions with small gradients are learned too, and as large as AdamW's: one learning rate serves
both. PyTorch has one, whose Newton-Schulz iterations are always in bfloat16. Processors without instructions for that
do them sixty times slower than in float32; those that have them are four times faster in it. Ours differs in nothing
but that the precision is chosen (`tests/test_optimizers.py` compares them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from soundwave.model.whisper import FACTORS
from soundwave.training.recipe import Recipe
from soundwave.training.stages import rate_scales

MUON_MOMENTUM = 0.95  # as published
MUON_SCALE = 4.0  # of the learning rate: an even step may be longer than AdamW's; what mini's stage I was trained with
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as published
ITERATIONS = 5
EPSILON = 1e-7
UPDATE_SIZE = 0.2  # root mean square of AdamW's usual update, as a share of the learning rate (arXiv 2502.16982)


def learning_rate(recipe: Recipe, step: float, steps: int) -> float:
    """Linear warm-up, then a cosine to zero at `steps`; `step` as `Run.done` has it."""
    warmup = max(1, round(recipe.warmup_ratio * steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


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
    return parameter.ndim == 2 and "lora_" not in name and not name.endswith(FACTORS)


def _groups(parameters: dict[str, nn.Parameter], recipe: Recipe, scale: float) -> list[dict]:
    scales = rate_scales(recipe) | {"": 1.0}
    groups: dict[str, list[nn.Parameter]] = {part: [] for part in scales}
    for name, parameter in parameters.items():
        groups[next(part for part in scales if part in name)].append(parameter)
    return [{"params": own, "scale": scale * scales[part]} for part, own in groups.items() if own]


class Muon(torch.optim.Optimizer):
    """Steps matrices by the orthogonal part of their momentum.

    Args:
        params: matrices, or groups of them.
        lr: learning rate, as for AdamW.
        momentum: of the gradient's running mean, looked ahead along as Nesterov does.
        weight_decay: share of the learning rate that a weight loses in each step.
        dtype: what the iterations are computed in; the weights and their momentum keep their own.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                update = orthogonal(weight.grad.lerp(mean, momentum), self.dtype)
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(update, alpha=-lr * UPDATE_SIZE * math.sqrt(max(weight.shape)))
        return loss


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix with the same singular vectors, whose singular values are all about 1 (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
