"""A training run as data: every option with its meaning, read from YAML with `key=value` overrides.

Names follow Hugging Face's TrainingArguments and PEFT's LoraConfig where these have one. What each number may be is in
`ranges.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from soundwave.errors import ConfigurationError
from soundwave.training.augmentation import Augmentation
from soundwave.training.ranges import check_values

VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")


@dataclass
class DataSource:
    """One manifest and how it is used."""

    manifest: str = ""  # path of a manifest, or shards (shards.py); relative to the folder where the command runs
    repeat: float = 1.0  # passes over it per epoch; 0.5 takes a random half, new in each epoch; of shards, its weight
    speeds: list[float] = field(default_factory=lambda: [1.0])  # each pass takes one of these speeds at random
    prompts: list[str] = field(default_factory=list)  # instructions to draw from instead of the manifest's own
    task: str = "asr"  # what its examples are for; manifests of one task share its part of a dynamic mixture
    kl: bool = True  # whether kl_weight holds for its examples


@dataclass
class LoraRecipe:
    """LoRA of the LLM (paper: r 64, alpha 16 on q, k, v, o)."""

    r: int = 64  # rank; 0: the stage trains no LoRA, and one of the stage before stays as it is
    lora_alpha: int = 16  # scale: alpha / r
    lora_dropout: float = 0.05
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


@dataclass
class Recipe:
    """Everything that decides a training run."""

    stage: str = "alignment"  # alignment (I), shrinking (II) or instruction (III)
    output_dir: str = "runs/stage1"  # checkpoints, logs and plots; a run found here is resumed
    start_from: str | None = None  # model to train further: the stage before, or any model: a folder, `mini`, a hub id
    audio_tower: str | None = None  # frozen encoder: part, folder or hub id; null: start_from's, or mini's
    language_model: str | None = None  # likewise of the LLM
    model: dict[str, Any] = field(default_factory=dict)  # switches of SoundwaveConfig for a new model
    ctc_vocabulary_size: int | None = 250  # about how many of the LLM's tokens CTC emits; null: all (paper)
    merge_words: bool | None = None  # join what such a CTC spells into the LLM's tokens; null: in stage II, yes
    train: list[DataSource] = field(default_factory=list)
    evaluation: list[DataSource] = field(default_factory=list)
    mixture: str = "none"  # none: each manifest as often as it says; dynamic: by task, ever more alike (mixture.py)
    mixture_temperature_step: float = 5.0  # of a dynamic mixture, per epoch
    features: str | None = "runs/features"  # folder of the stored encoder features; null: computed on the fly
    learning_rate: float = 1e-4
    alignment_learning_rate_scale: float = 1.0  # of the alignment adapter; below 1 stage II keeps what stage I learned
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    warmup_ratio: float = 0.01
    max_grad_norm: float = 1.0  # longer gradients are scaled down to it; 0: none are
    num_train_epochs: float = 1.0
    max_steps: int | None = None  # optimizer steps; overrides the epochs
    batch_seconds: float = 120.0  # audio per device and batch, padding included
    max_batch_size: int = 64  # examples per device and batch, at most
    gradient_accumulation_steps: int = 1  # batches per device and optimizer step
    batches_per_step: int | None = None  # instead: of all processes together, so that their number changes no step
    ctc_weight: float = 0.3  # of the CTC loss beside the next-token loss
    kl_weight: float = 0.0  # 0 to 1: share of the KL to what the LLM itself answers to the typed transcript
    kl_temperature: float = 2.0  # softens both distributions of that KL
    time_masks: int = 0  # SpecAugment over encoder frames: spans set to zero, per ten seconds
    time_mask_frames: int = 16  # longest span, in encoder frames of 20 ms
    feature_dropout: float = 0.0  # encoder channels set to zero, per clip
    augmentation: Augmentation = field(default_factory=Augmentation)  # of the waveforms of `train`; off at first
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    mixed_precision: str = "auto"  # bf16, no (float32), or auto: the faster one of this device
    optimizer: str = "auto"  # adamw, adamw_fused (one kernel for all weights), muon (optimizers.py), or auto: AdamW,
    # fused on a CUDA GPU
    gradient_checkpointing: bool = False  # the LLM's layers are computed twice, and their activations not kept
    llm_quantization: str = "none"  # none, or 4bit (QLoRA): the frozen LLM's matrices as NF4; needs a CUDA GPU
    devices: int = 1  # GPUs (processes) of the estimate; a run in another number of processes says so
    seed: int = 1
    logging_steps: int = 20
    eval_steps: int = 200
    save_steps: int = 200
    on_nan: str = "stop"  # stop, or skip the optimizer step that the batch belongs to and go on
    on_bad_audio: str = "skip"  # skip (each is named), or stop
    on_bad_shard: str = "skip"  # of a stream: name what is missing or broken and go on with the next, or stop
    stream_buffer_size: int = 512  # streamed examples that each batch of a step is shuffled and bucketed among


def read_recipe(path: str | Path, overrides: typing.Sequence[str] = ()) -> Recipe:
    """Reads a YAML recipe and applies overrides such as `learning_rate=1e-3` or `lora.r=32`.

    Raises:
        ConfigurationError: no such file, not a mapping, an unknown key (the nearest known one is named), a wrong type
            or value.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigurationError(
            f"There is no recipe {file}; give the path of a YAML file, such as recipes/mini/stage1.yaml."
        )
    try:
        values = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{file} must hold `key: value` lines, but holds a {type(values).__name__}.")
    for override in overrides:
        _apply_override(values, override)
    recipe = _build(Recipe, values, str(file))
    check_values(recipe, str(file))
    return recipe


def check_variables(recipe: Recipe, output: bool = True) -> None:
    """Looks for `$NAME` that the environment did not know, in everything that may be a path.

    A pipe's command is left to the shell.

    Args:
        recipe: as it was read, so with all known ones replaced.
        output: whether the output folder is looked at too; a dry run writes nothing there.

    Raises:
        ConfigurationError: one is not set; the message names the option and what to export.
    """
    effects = recipe.augmentation
    named = {
        **({"output_dir": recipe.output_dir} if output else {}),
        "start_from": recipe.start_from, "audio_tower": recipe.audio_tower, "language_model": recipe.language_model,
        "features": recipe.features, "augmentation.noise.source": effects.noise.source,
        "augmentation.reverberation.source": effects.reverberation.source,
        **{f"train[{i}].manifest": source.manifest for i, source in enumerate(recipe.train)},
        **{f"evaluation[{i}].manifest": source.manifest for i, source in enumerate(recipe.evaluation)},
    }
    for option, path in named.items():
        unset = VARIABLE.search(path or "")
        if unset and not str(path).startswith("pipe:"):
            raise ConfigurationError(
                f"{option} is {path}, but ${unset[1]} is not set; export {unset[1]}=… before the run, or name the path."
            )


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigurationError(f"{override!r} is no override; write key=value, such as learning_rate=1e-3.")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigurationError(f"{key} cannot be set: {parent} has no parts.")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigurationError(
            f"The override {override!r} is not valid YAML ({problem}); write key=value, with quotes around a text that "
            "has signs of YAML in it."
        ) from error


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigurationError(f"{where}: expected `key: value` pairs, but found {values!r}.")
    known = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}."
            raise ConfigurationError(f"{where}: {key!r} is not a known option{hint}")
    return cls(**{key: _convert(value, hints[key], f"{where}: {key}") for key, value in values.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, arguments[0], where)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin is list:
        if not isinstance(value, list):
            raise ConfigurationError(f"{where} must be a list, but is {value!r}.")
        return [_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigurationError(f"{where} must be `key: value` pairs, but is {value!r}.")
        return value
    if hint is Any:
        return value
    if hint is str and isinstance(value, str):
        return os.path.expandvars(value)  # so that a recipe can say $SPEECH/train/manifest.jsonl
    if hint is str and value is False:
        return "no"  # which YAML takes for false, where it is not in quotes
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigurationError(f"{where} must be {hint.__name__}, but is {value!r}.")
    return value
