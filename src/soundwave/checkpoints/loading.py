"""A checkpoint folder to a model, whichever of the two formats it is in: whole, or the speech encoder alone."""

from __future__ import annotations

from pathlib import Path

import torch

from soundwave.checkpoints.folder import read_config
from soundwave.checkpoints.native import load_native, load_native_encoder
from soundwave.checkpoints.released import MODEL_TYPE as RELEASED_TYPE
from soundwave.checkpoints.released import is_released, load_released, load_released_encoder
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError
from soundwave.inference_config import InferenceConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.speech_encoder import SpeechEncoder
from soundwave.processing import SoundwaveProcessor


def load_checkpoint(
    folder: Path, device: str, dtype: torch.dtype
) -> tuple[SoundwaveForConditionalGeneration, SoundwaveProcessor, InferenceConfig]:
    """Reads a model's folder: our own format, or the public 9B weights' unchanged.

    Args:
        folder: holds config.json and safetensors.
        device: where the weights go, such as `cpu` or `cuda:0`.
        dtype: as what they are kept.

    Raises:
        CheckpointError: no config.json, one of another kind of model, or files that do not fit together.
    """
    model, processor = (load_released if _is_released(folder) else load_native)(folder, device, dtype)
    return model, processor, processor.inference


def load_speech_encoder(
    folder: Path, device: str, dtype: torch.dtype
) -> tuple[SpeechEncoder, SoundwaveProcessor, InferenceConfig]:
    """Reads what turns speech into embeddings and CTC scores; of the LLM its token embeddings, where they are needed.

    Args:
        folder, device, dtype: as for `load_checkpoint`.

    Raises:
        CheckpointError: as for `load_checkpoint`.
    """
    load = load_released_encoder if _is_released(folder) else load_native_encoder
    encoder, processor = load(folder, device, dtype)
    return encoder, processor, processor.inference


def _is_released(folder: Path) -> bool:
    values = read_config(folder)
    if is_released(values) or values.get("model_type") == SoundwaveConfig.model_type:
        return is_released(values)
    raise CheckpointError(
        f"{folder / 'config.json'} has the model_type {values.get('model_type')!r}; Soundwave reads "
        f"{SoundwaveConfig.model_type!r} (its own format) and {RELEASED_TYPE!r} (the released 9B format). "
        "Give the folder of such a model."
    )
