"""Muon (Keller Jordan, 2024), with updates as large as AdamW's ("Muon is Scalable for LLM Training", arXiv 2502.16982).

PyTorch has one too, whose Newton-Schulz iterations are always in bfloat16. Processors without instructions for that do
them sixty times slower than in float32, and a step of mini's stage I then takes half a minute instead of seconds; those
that have them are four times faster in bfloat16, and in float32 the iterations take half of such a step. This one
differs from PyTorch's in nothing but that the precision is chosen (`tests/test_optimizers.py` compares them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as published
ITERATIONS = 5
EPSILON = 1e-7
UPDATE_SIZE = 0.2  # root mean square of AdamW's usual update, as a share of the learning rate (arXiv 2502.16982)


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
