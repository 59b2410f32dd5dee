"""A checkpoint folder to a model and its processor, whichever of the two formats it is in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from soundwave.checkpoints.native import load_native
from soundwave.checkpoints.released import MODEL_TYPE as RELEASED_TYPE
from soundwave.checkpoints.released import is_released, load_released
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor


def load_checkpoint(
    folder: Path, device: str, dtype: torch.dtype
) -> tuple[SoundwaveForConditionalGeneration, SoundwaveProcessor]:
    """Reads a model's folder: our own format, or the public 9B weights' unchanged.

    Args:
        folder: holds config.json and safetensors.
        device: where the weights go, such as `cpu` or `cuda:0`.
        dtype: as what they are kept.

    Raises:
        CheckpointError: no config.json, one of another kind of model, or files that do not fit together.
    """
    values = read_config(folder)
    if is_released(values):
        return load_released(folder, device, dtype)
    if values.get("model_type") == SoundwaveConfig.model_type:
        return load_native(folder, device, dtype)
    raise CheckpointError(
        f"{folder / 'config.json'} has the model_type {values.get('model_type')!r}; Soundwave reads "
        f"{SoundwaveConfig.model_type!r} (its own format) and {RELEASED_TYPE!r} (the released 9B format). "
        "Give the folder of such a model."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The values of a folder's config.json.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no config.json, so it holds no model; give a model's folder.")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download the checkpoint again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a {type(values).__name__}, not an object; download the checkpoint again.")
    return values
