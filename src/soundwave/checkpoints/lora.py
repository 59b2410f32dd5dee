"""LoRA of the language model, kept as a PEFT folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from soundwave.checkpoints.weights import read_shapes
from soundwave.errors import CheckpointError
from soundwave.model.soundwave import LORA_FOLDER, SoundwaveForConditionalGeneration

__all__ = ["LORA_FOLDER", "attach_lora", "load_lora", "save_lora"]

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
PEFT_PREFIX = "base_model.model."  # of every name in a PEFT folder


def attach_lora(
    model: SoundwaveForConditionalGeneration, r: int, lora_alpha: int, lora_dropout: float,
    target_modules: Sequence[str],
) -> None:
    """Adds fresh LoRA matrices to the LLM; they change nothing until trained."""
    model.language_model.add_adapter(
        LoraConfig(
            task_type="CAUSAL_LM", r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout,
            target_modules=list(target_modules),
        )
    )


def load_lora(model: SoundwaveForConditionalGeneration, folder: Path, trainable: bool = False) -> None:
    """Attaches the LoRA of a PEFT folder (safetensors only).

    Raises:
        CheckpointError: a file is missing or broken, or the LoRA is of another LLM.
    """
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks {name}; copy the whole folder of the model again.")
    shapes = read_shapes([folder / WEIGHTS_NAME])
    misfit = f"The LoRA in {folder} does not fit this language model; use the folder as it was saved."
    try:
        model.attach_lora(folder, trainable)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{misfit} ({' '.join(str(error).split())[:200]})") from error
    attached = {name for name, _ in model.language_model.named_parameters() if "lora_" in name}
    stored = {name.removeprefix(PEFT_PREFIX).replace(".weight", ".default.weight") for name in shapes}
    if attached != stored:
        raise CheckpointError(f"{misfit} ({sorted(attached ^ stored)[0]} is in one of them only)")


def save_lora(model: SoundwaveForConditionalGeneration, folder: Path) -> None:
    """Writes the attached LoRA as a PEFT folder, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    language_model = model.language_model
    language_model.peft_config["default"].save_pretrained(folder)
    state = get_peft_model_state_dict(language_model)
    state = {f"{PEFT_PREFIX}{name}": value.detach().cpu().half().contiguous() for name, value in state.items()}
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
