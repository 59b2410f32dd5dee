"""The mean and the directions of the encoder's frames, so that an adapter learns from all of them at once.

A few channels of Whisper's last layer are ten times as large as most, and many go together: as they are, what lies in
the small directions is learned late. Measured once, when a fresh adapter's training begins (`alignment_whitening`).
"""

# E encoder width

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from soundwave.errors import TrainingError
from soundwave.files import atomic_file
from soundwave.model.adapters import AlignmentAdapter

FILE = "whitening.safetensors"  # in the run's folder: a run that goes on reads it again
ENOUGH = 100_000  # frames: 200 for each direction of Whisper base
RIDGE = 0.01  # of the mean variance, added to every direction's: what hardly varies is not blown up


def measure(frames: Iterable[Tensor], width: int) -> tuple[Tensor, Tensor]:
    """The mean (E,) and the whitener (E, E): `(frame - mean) @ whitener` has about the identity as its covariance.

    Args:
        frames: batches of frames, (n, E); read until there are enough. One that holds what is no number is left out: it
            is named when its turn to be trained on comes.
        width: E.

    Returns:
        Nothing and the identity where there are no frames: a run on text alone.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for batch in frames:
        batch = batch.double()
        if not batch.isfinite().all():
            continue
        count, total, products = count + len(batch), total + batch.sum(0), products + batch.T @ batch
        if count >= ENOUGH:
            break
    if not count:
        return torch.zeros(width), torch.eye(width)
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    variances = variances.clamp(min=0) + RIDGE * variances.mean()
    whitener = directions @ torch.diag(variances.rsqrt()) @ directions.T  # symmetric: the nearest to the frames' own
    return mean.float(), whitener.float()


def write_whitening(folder: Path, frames: Iterable[Tensor], width: int, begun: bool = True) -> None:
    """Measures for the run in `folder`, unless it has been done.

    Args:
        folder: the run's.
        frames, width: see `measure`.
        begun: whether the run has a checkpoint; without one, what is there may be of another recipe and is replaced.

    Raises:
        WriteError: the disk is full.
    """
    if begun and (folder / FILE).exists():
        return
    mean, whitener = measure(frames, width)
    with atomic_file(folder / FILE) as draft:
        save_file({"mean": mean, "whitener": whitener.contiguous()}, draft)


def read_whitening(folder: Path, adapter: AlignmentAdapter) -> None:
    """Puts what was measured into a fresh adapter.

    Raises:
        TrainingError: the file cannot be read, or was measured on another encoder.
    """
    try:
        stored = load_file(folder / FILE)
        adapter.frame_mean.copy_(stored["mean"])
        adapter.frame_whitener.copy_(stored["whitener"])
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise TrainingError(
            f"{folder / FILE} does not fit this run ({error}); change output_dir, or delete that folder to start anew."
        ) from error
