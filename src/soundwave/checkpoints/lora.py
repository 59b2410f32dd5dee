"""LoRA of the language model, kept as a PEFT folder: attach, load one or several, merge and unmerge, fold in, save."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig
from torch import nn

from soundwave.checkpoints.weights import read_shapes
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.model.lora import (
    CONFIG_NAME,
    DEFAULT,
    PEFT_PREFIX,
    WEIGHTS_NAME,
    add_lora,
    choose_lora,
    lora_layers,
    lora_names,
    unwrap_lora,
    write_lora,
)
from soundwave.model.soundwave import LORA_FOLDER, SoundwaveForConditionalGeneration

__all__ = [
    "LORA_FOLDER", "attach_lora", "fold_lora", "load_lora", "merge_lora", "save_lora", "unmerge_lora", "use_lora",
]


def attach_lora(
    model: SoundwaveForConditionalGeneration, r: int, lora_alpha: int, lora_dropout: float,
    target_modules: Sequence[str],
) -> None:
    """Adds fresh LoRA matrices to the LLM; they change nothing until trained.

    Raises:
        ConfigurationError: the LLM has no module of a name; those that it has are named.
    """
    _check_targets(model.language_model, target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout,
        target_modules=list(target_modules),
    )
    add_lora(model.language_model, config)


def _check_targets(language_model: nn.Module, names: Sequence[str]) -> None:
    """PEFT itself passes over names that no module has, as long as one of them has."""
    matrices = [path for path, module in language_model.named_modules() if _is_matrix(module)]
    missing = [name for name in names if not any(f".{path}".endswith(f".{name}") for path in matrices)]
    if missing or not names:
        known = sorted({path.rpartition(".")[2] for path in matrices})
        raise ConfigurationError(
            f"lora.target_modules names {', '.join(missing) or 'nothing'}, but the language model has "
            f"{', '.join(known)}; choose from these."
        )


def _is_matrix(module: nn.Module) -> bool:
    """Whether PEFT can adapt a module: a linear layer of any kind, or an embedding."""
    return getattr(getattr(module, "weight", None), "ndim", 0) == 2


def load_lora(
    model: SoundwaveForConditionalGeneration, folder: str | os.PathLike[str], trainable: bool = False,
    name: str = DEFAULT,
) -> None:
    """Attaches the LoRA of a PEFT folder (safetensors only); one that is merged is taken out of the weights first.

    Args:
        model: to attach it to.
        folder: `adapter_config.json` and `adapter_model.safetensors`.
        trainable: whether it is trained further.
        name: several can be attached under different names; the last one loaded is in use (`use_lora`). A model's own
            is called `default`.

    Raises:
        CheckpointError: a file is missing or broken, or the LoRA is of another LLM.
        ConfigurationError: the name is taken, or has a dot in it.
    """
    if name in lora_names(model.language_model) or "." in name:
        wrong = "must not have a dot in it" if "." in name else "is attached already"
        raise ConfigurationError(f"The LoRA name {name!r} {wrong}; give another `name`.")
    folder = Path(folder)
    for file in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} lacks {file}; copy the whole folder of the model again.")
    shapes = read_shapes([folder / WEIGHTS_NAME])
    misfit = f"The LoRA in {folder} does not fit this language model; use the folder as it was saved."
    unmerge_lora(model)
    try:
        model.attach_lora(folder, trainable, name)
    except Exception as error:  # PEFT trips over values of a wrong type in many ways
        raise CheckpointError(f"{misfit} ({' '.join(str(error).split())[:200]})") from error
    suffix = f".{name}.weight"
    attached = {key for key, _ in model.language_model.named_parameters() if "lora_" in key and key.endswith(suffix)}
    stored = {key.removeprefix(PEFT_PREFIX).replace(".weight", suffix) for key in shapes}
    if attached != stored:
        raise CheckpointError(f"{misfit} ({sorted(attached ^ stored)[0]} is in one of them only)")


def use_lora(model: SoundwaveForConditionalGeneration, *names: str) -> None:
    """Chooses which of the attached LoRAs are in use; with several, their changes add up.

    One that is merged is taken out of the weights first: else it would go on answering beside or instead of these.

    Raises:
        ConfigurationError: none of that name is attached.
    """
    _check_attached(model, names or ("",))
    unmerge_lora(model)
    choose_lora(model.language_model, names)


def _check_attached(model: SoundwaveForConditionalGeneration, names: Sequence[str]) -> None:
    attached = lora_names(model.language_model)
    for name in names:
        if name not in attached:
            raise ConfigurationError(f"There is no LoRA {name!r}; attached are {', '.join(attached) or 'none'}.")


def merge_lora(model: SoundwaveForConditionalGeneration) -> None:
    """Adds what the LoRA in use changes to the LLM's weights: generation no longer computes it apart.

    `unmerge_lora` takes it out again, up to rounding; `fold_lora` is for good.
    """
    for layer in lora_layers(model.language_model):
        layer.merge(safe_merge=True)


def unmerge_lora(model: SoundwaveForConditionalGeneration) -> None:
    """Takes a merged LoRA out of the LLM's weights; where none is merged, nothing changes."""
    for layer in lora_layers(model.language_model):
        if layer.merged:
            layer.unmerge()


def fold_lora(model: SoundwaveForConditionalGeneration) -> None:
    """Merges the LoRA in use for good: the LLM is a plain one afterwards, and every attached LoRA is gone.

    A conversation without audio is then answered by the changed LLM too.
    """
    merge_lora(model)
    if model.has_lora:
        unwrap_lora(model.language_model)


def save_lora(model: SoundwaveForConditionalGeneration, folder: Path, name: str = DEFAULT) -> None:
    """Writes an attached LoRA as a PEFT folder, in float16.

    Raises:
        ConfigurationError: none of that name is attached.
    """
    _check_attached(model, [name])
    write_lora(model.language_model, folder, name, half=True)
