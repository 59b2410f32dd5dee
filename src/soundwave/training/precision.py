"""Which precision a run computes in: asked for, or the faster one of the device.

A CPU's flags do not say which is faster: some processors with bfloat16 instructions compute float32 at twice the speed.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from soundwave.training.resuming import read_kept

ROWS, INNER, COLUMNS = 2048, 576, 1536  # a feed-forward part of a small language model, on one batch
REPEATS = 5
WORTH_IT = 1.15  # bfloat16 must be this much faster: what it loses in exactness is not free


def precision_of(asked: str, run: Path) -> str:
    """`bf16` or `no` (float32) for a recipe's `mixed_precision`.

    Args:
        asked: `auto` is decided by the device, on a CPU by trial.
        run: the run's folder; a run that goes on keeps what was decided at its start.

    Raises:
        TrainingError: the recipe that the folder keeps cannot be read.
    """
    if asked != "auto":
        return asked
    kept = read_kept(run) or {}
    if "mixed_precision" in kept:
        return str(kept["mixed_precision"])
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "no"
    return "bf16" if seconds(torch.float32) > WORTH_IT * seconds(torch.bfloat16) else "no"


def seconds(dtype: torch.dtype) -> float:
    """The best time of a matrix product in a dtype on this CPU."""
    left, right = torch.ones(ROWS, INNER, dtype=dtype), torch.ones(COLUMNS, INNER, dtype=dtype)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        times.append(time.perf_counter() - started)
    return min(times)
