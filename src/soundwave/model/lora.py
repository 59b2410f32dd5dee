"""LoRA on a language model: added, read, chosen, switched off, taken out, written, all by PEFT itself.

transformers wraps these steps too, but its newest release may ask for a PEFT that is not out yet; PEFT's own functions
work with every transformers. Knows nothing about audio.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from soundwave.files import atomic_file

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
PEFT_PREFIX = "base_model.model."  # of every name in a PEFT folder
READ = {  # settings of PEFT's that this project or its users make use of; others load code, copy layers, or start anew
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias", "lora_bias", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision",
    "auto_mapping",
}
PLAIN = LoraConfig()
PLAIN_NAME = re.compile(r"[\w.-]+")
DEFAULT = "default"  # PEFT's name for the only LoRA


def lora_layers(language_model: nn.Module) -> list[Any]:
    """PEFT's layers: modules that it gives no such type."""
    return [module for module in language_model.modules() if isinstance(module, BaseTunerLayer)]


def lora_names(language_model: nn.Module) -> list[str]:
    """The LoRAs that are attached, in use or not."""
    return list(getattr(language_model, "peft_config", {}))


def add_lora(language_model: nn.Module, config: LoraConfig, name: str = DEFAULT) -> None:
    """Adds fresh matrices, which change nothing until trained, and lets them be the ones in use.

    Raises:
        ValueError: the configuration names no layer of this model, or the name is taken.
    """
    if name in lora_names(language_model):
        raise ValueError(f"a LoRA named {name} is attached already")
    config.base_model_name_or_path = getattr(language_model, "name_or_path", None)
    with warnings.catch_warnings():  # a second LoRA is meant
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        inject_adapter_in_model(config, language_model, name)
    choose_lora(language_model, [name])


def read_lora(language_model: nn.Module, folder: Path, trainable: bool = False, name: str = DEFAULT) -> None:
    """Attaches the LoRA of a PEFT folder (safetensors only) and lets it be the one in use.

    Raises:
        ValueError, RuntimeError: it does not fit this model.
    """
    config = PeftConfig.from_pretrained(str(folder), trust_remote_code=False)
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{folder / CONFIG_NAME} is of {config.peft_type}, not of a LoRA")
    stored = {key.removeprefix(PEFT_PREFIX): value for key, value in load_file(folder / WEIGHTS_NAME).items()}
    _check(config, stored)
    config.inference_mode = not trainable
    config.init_lora_weights = True  # the stored ones follow; other ways decompose the LLM's matrices for it
    add_lora(language_model, config, name)
    set_peft_model_state_dict(language_model, stored, adapter_name=name)
    if not trainable:
        for key, parameter in language_model.named_parameters():
            if "lora_" in key and f".{name}." in key:
                parameter.requires_grad_(False)


def _check(config: LoraConfig, stored: dict[str, Tensor]) -> None:
    """Refuses what a stranger's configuration could make of this model: patterns, copied layers, ranks without weights.

    Raises:
        ValueError: with the setting.
    """
    for one in dataclasses.fields(config):
        if one.name not in READ and getattr(config, one.name) != getattr(PLAIN, one.name):
            raise ValueError(f"it sets {one.name}, which is not read here")
    if isinstance(config.target_modules, str) and config.target_modules != "all-linear":
        raise ValueError(f"target_modules is a pattern, {config.target_modules[:80]!r}; only a list of names is read")
    names = [*(config.rank_pattern or {}), *(config.alpha_pattern or {})]
    for given in (config.target_modules, config.exclude_modules, config.layers_pattern):
        names += [given] if isinstance(given, str) else given or []
    pattern = next((name for name in names if not PLAIN_NAME.fullmatch(name)), None)
    if pattern is not None:
        raise ValueError(f"it names modules by a pattern, {pattern[:80]!r}; only names are read")
    ranks = {value.shape[0] for key, value in stored.items() if ".lora_A." in key}
    asked = {config.r, *(config.rank_pattern or {}).values()}
    if not asked & ranks or max(asked) > max(ranks):
        raise ValueError(f"its configuration has rank {config.r}, its weights {sorted(ranks)}")
    for key, value in stored.items():
        if not value.isfinite().all():
            raise ValueError(f"{key} holds values that are no numbers")


def choose_lora(language_model: nn.Module, names: Sequence[str]) -> None:
    """Chooses which of the attached LoRAs are in use; with several, their changes add up."""
    for layer in lora_layers(language_model):
        layer.set_adapter(list(names))


def switch_lora(language_model: nn.Module, on: bool) -> None:
    """Lets the model run with the LoRA in use, or as if there were none."""
    for layer in lora_layers(language_model):
        layer.enable_adapters(enabled=on)


def unwrap_lora(language_model: nn.Module) -> None:
    """Leaves the LLM's own layers in the place of PEFT's, with what is merged into them."""
    for name, module in list(language_model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(language_model.get_submodule(parent), child, module.get_base_layer())
    del language_model.peft_config


def write_lora(language_model: nn.Module, folder: Path, name: str = DEFAULT, half: bool = False) -> None:
    """Writes an attached LoRA as a PEFT folder; `half` in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    language_model.peft_config[name].save_pretrained(folder)  # type: ignore[index, union-attr]
    state = get_peft_model_state_dict(language_model, adapter_name=name)
    values = {f"{PEFT_PREFIX}{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic_file(folder / WEIGHTS_NAME) as draft:
        save_file({key: v.half() if half else v for key, v in values.items()}, draft, {"format": "pt"})
