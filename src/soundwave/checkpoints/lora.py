"""LoRA of the language model, kept as a PEFT folder: attach, load one or several, merge and unmerge, fold in, save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file

from soundwave.checkpoints.weights import read_shapes
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.model.soundwave import LORA_FOLDER, SoundwaveForConditionalGeneration

__all__ = [
    "LORA_FOLDER", "attach_lora", "fold_lora", "load_lora", "merge_lora", "save_lora", "unmerge_lora", "use_lora",
]

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
PEFT_PREFIX = "base_model.model."  # of every name in a PEFT folder
DEFAULT = "default"  # PEFT's name for the only LoRA


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


def load_lora(
    model: SoundwaveForConditionalGeneration, folder: Path, trainable: bool = False, name: str = DEFAULT
) -> None:
    """Attaches the LoRA of a PEFT folder (safetensors only).

    Args:
        model: to attach it to.
        folder: `adapter_config.json` and `adapter_model.safetensors`.
        trainable: whether it is trained further.
        name: several can be attached under different names; the last one loaded is in use (`use_lora`).

    Raises:
        CheckpointError: a file is missing or broken, or the LoRA is of another LLM.
    """
    for file in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} lacks {file}; copy the whole folder of the model again.")
    shapes = read_shapes([folder / WEIGHTS_NAME])
    misfit = f"The LoRA in {folder} does not fit this language model; use the folder as it was saved."
    try:
        model.attach_lora(folder, trainable, name)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{misfit} ({' '.join(str(error).split())[:200]})") from error
    suffix = f".{name}.weight"
    attached = {key for key, _ in model.language_model.named_parameters() if "lora_" in key and key.endswith(suffix)}
    stored = {key.removeprefix(PEFT_PREFIX).replace(".weight", suffix) for key in shapes}
    if attached != stored:
        raise CheckpointError(f"{misfit} ({sorted(attached ^ stored)[0]} is in one of them only)")


def use_lora(model: SoundwaveForConditionalGeneration, *names: str) -> None:
    """Chooses which of the attached LoRAs are in use; with several, their changes add up.

    Raises:
        ConfigurationError: none of that name is attached.
    """
    attached = list(model.language_model.peft_config) if model.has_lora else []
    unknown = [name for name in names if name not in attached]
    if unknown or not names:
        raise ConfigurationError(
            f"There is no LoRA {unknown[0] if unknown else ''!r}; attached are {', '.join(attached) or 'none'}."
        )
    model.language_model.set_adapter(list(names))


def merge_lora(model: SoundwaveForConditionalGeneration) -> None:
    """Adds what the LoRA in use changes to the LLM's weights: generation no longer computes it apart.

    `unmerge_lora` takes it out again, up to rounding; `fold_lora` is for good.
    """
    for layer in _layers(model):
        layer.merge(safe_merge=True)


def unmerge_lora(model: SoundwaveForConditionalGeneration) -> None:
    """Takes a merged LoRA out of the LLM's weights."""
    for layer in _layers(model):
        layer.unmerge()


def fold_lora(model: SoundwaveForConditionalGeneration) -> None:
    """Merges the LoRA in use for good: the LLM is a plain one afterwards, and every attached LoRA is gone.

    A conversation without audio is then answered by the changed LLM too, and the configuration says so.
    """
    merge_lora(model)
    language_model = model.language_model
    for name, module in list(language_model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(language_model.get_submodule(parent), child, module.get_base_layer())
    if model.has_lora:
        del language_model.peft_config
        language_model._hf_peft_config_loaded = False
        model.config.text_only = "adapted"


def _layers(model: SoundwaveForConditionalGeneration) -> list[BaseTunerLayer]:
    return [module for module in model.language_model.modules() if isinstance(module, BaseTunerLayer)]


def save_lora(model: SoundwaveForConditionalGeneration, folder: Path, name: str = DEFAULT) -> None:
    """Writes an attached LoRA as a PEFT folder, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    language_model = model.language_model
    language_model.peft_config[name].save_pretrained(folder)
    state = get_peft_model_state_dict(language_model, adapter_name=name)
    state = {f"{PEFT_PREFIX}{name}": value.detach().cpu().half().contiguous() for name, value in state.items()}
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
