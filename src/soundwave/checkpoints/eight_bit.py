"""Matrices of stored weights in 8 bits: half the file of float16. A model that is read has them in its own type again.

Only storage: each row of a matrix is int8 times one float32, the row's largest absolute value over 127 ("absmax"). That
scale lies beside it, under the matrix's name and `SCALE_ENDING`. Nothing computes with the integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_ENDING = ".int8_scale"
STEPS = 127  # of an absolute value


def pack(name: str, matrix: Tensor) -> dict[str, Tensor]:
    """A matrix as it is stored.

    Args:
        name: the matrix's.
        matrix: (rows, columns), floating point, finite.

    Returns:
        `name`: int8 (rows, columns); `name` with `SCALE_ENDING`: float32 (rows, 1).
    """
    matrix = matrix.float()
    scale = matrix.abs().amax(dim=1, keepdim=True) / STEPS
    steps = (matrix / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-STEPS, STEPS)
    return {name: steps.to(torch.int8), name + SCALE_ENDING: scale}


def unpack(matrix: Tensor, scale: Tensor) -> Tensor:
    """What `pack` was given, in float32, each value off by at most half a step of its row.

    Raises:
        ValueError: the two do not belong together.
    """
    if matrix.dtype != torch.int8 or matrix.dim() != 2 or scale.shape != (len(matrix), 1):
        raise ValueError(
            f"int8 of shape (rows, columns) and a scale of shape (rows, 1) are needed, not {matrix.dtype} of shape "
            f"{tuple(matrix.shape)} and {tuple(scale.shape)}"
        )
    return matrix.float() * scale.float()
