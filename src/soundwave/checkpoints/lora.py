"""LoRA of the language model, kept as a PEFT folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from soundwave.model.soundwave import LORA_FOLDER, SoundwaveForConditionalGeneration

__all__ = ["LORA_FOLDER", "attach_lora", "load_lora", "save_lora"]


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
    """Attaches the LoRA of a PEFT folder (safetensors only)."""
    model.attach_lora(folder, trainable)


def save_lora(model: SoundwaveForConditionalGeneration, folder: Path) -> None:
    """Writes the attached LoRA as a PEFT folder, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    language_model = model.language_model
    language_model.peft_config["default"].save_pretrained(folder)
    state = get_peft_model_state_dict(language_model)
    state = {f"base_model.model.{name}": value.detach().cpu().half().contiguous() for name, value in state.items()}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
