"""Linear layers through oneDNN where a CPU computes in float32.

PyTorch gives float32 products to MKL, which is slow on processors of other makers: on an AMD EPYC with AVX-512, oneDNN
is about twice as fast, for one row and for hundreds (`benchmarks/linear.py`). Both give the same up to rounding.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

# oneDNN, and PyTorch's own layer over it, keep what they prepared for each shape they met, 1,024 shapes each.
# Recordings have lengths of every kind, so memory grew by a gigabyte in an hour; with 16 it stays, nothing is slower.
CACHED_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "16"}


class OneDnnLinear(nn.Linear):
    """An `nn.Linear` that computes through oneDNN where no gradient is asked for; its weights are where they were."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        plain = input.dtype is self.weight.dtype is torch.float32 and input.device.type == "cpu" and input.numel()
        if not plain or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")


def use_onednn(module: nn.Module) -> None:
    """Lets each `nn.Linear` in a module compute through oneDNN, where PyTorch has it.

    What oneDNN keeps of shapes is bounded, unless the environment says how much it may be, or oneDNN has been used in
    this process before.
    """
    if AVAILABLE:
        for name, value in CACHED_SHAPES.items():
            os.environ.setdefault(name, value)  # read when oneDNN is first used
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = OneDnnLinear
