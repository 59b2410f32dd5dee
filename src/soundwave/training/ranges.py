"""What a recipe's numbers and choices may be, in one table, and what a person is told of one that is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from soundwave.errors import ConfigurationError
from soundwave.training.augmentation import check_augmentation

if TYPE_CHECKING:
    from soundwave.training.recipe import Recipe


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, without the ends that are open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"{self.low:g} or more"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:.10g}"


POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, open_high=True)
SPEED = Range(0.25, 4)

# Every number of a recipe, by its path; those of `augmentation` are in augmentation.py. None, where it is an option's
# value, is always allowed.
RANGES = {
    "mixture_temperature_step": POSITIVE,
    "ctc_vocabulary_size": POSITIVE,
    "learning_rate": POSITIVE,
    "alignment_learning_rate_scale": NOT_NEGATIVE,  # 0: it does not learn
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "warmup_ratio": SHARE,
    "max_grad_norm": NOT_NEGATIVE,  # 0: no clipping
    "num_train_epochs": POSITIVE,
    "max_steps": POSITIVE,
    "batch_seconds": POSITIVE,
    "max_batch_size": POSITIVE,
    "gradient_accumulation_steps": POSITIVE,
    "batches_per_step": POSITIVE,
    "ctc_weight": NOT_NEGATIVE,
    "kl_weight": SHARE,
    "kl_temperature": POSITIVE,
    "time_masks": NOT_NEGATIVE,
    "time_mask_frames": NOT_NEGATIVE,
    "feature_dropout": BELOW_ONE,
    "lora.r": NOT_NEGATIVE,  # 0: the stage trains no LoRA
    "lora.lora_alpha": POSITIVE,
    "lora.lora_dropout": BELOW_ONE,
    "devices": POSITIVE,
    "seed": Range(0, 2**32 - 1),  # NumPy's seeds
    "logging_steps": POSITIVE,
    "eval_steps": POSITIVE,
    "save_steps": POSITIVE,
    "stream_buffer_size": POSITIVE,
    "train.repeat": POSITIVE,
    "train.speeds": SPEED,
    "evaluation.repeat": POSITIVE,
    "evaluation.speeds": SPEED,
}
CHOICES = {
    "mixed_precision": ("auto", "bf16", "no"), "on_nan": ("stop", "skip"), "on_bad_audio": ("skip", "stop"),
    "on_bad_shard": ("skip", "stop"), "mixture": ("none", "dynamic"),
    "optimizer": ("auto", "adamw", "adamw_fused", "muon"), "llm_quantization": ("none", "4bit"),
}


def check_values(recipe: Recipe, where: str) -> None:
    """Holds every value of a recipe against what is allowed.

    Args:
        recipe: with values of the right types.
        where: what the message begins with, such as the recipe's file.

    Raises:
        ConfigurationError: one is not; the message names the option, its value and what is allowed.
    """
    for name, allowed in CHOICES.items():
        if getattr(recipe, name) not in allowed:
            raise ConfigurationError(
                f"{where}: {name}={getattr(recipe, name)!r} is not known; choose one of {', '.join(allowed)}."
            )
    _check_ranges(recipe, where)
    if recipe.kl_weight and recipe.stage == "alignment":
        raise ConfigurationError(
            f"{where}: kl_weight is {recipe.kl_weight} in the stage alignment, which does not run the LLM; set it to 0."
        )
    check_augmentation(recipe.augmentation, where)
    for name in ("train", "evaluation"):
        for i, source in enumerate(getattr(recipe, name)):
            if not source.manifest:
                raise ConfigurationError(f"{where}: {name}[{i}] names no manifest; add `manifest: path`.")
            if not source.speeds:
                raise ConfigurationError(f"{where}: {name}[{i}].speeds is []; name one speed at least, such as 1.0.")


def _check_ranges(value: Any, where: str, path: str = "", shown: str = "") -> None:
    """Of all numbers in an option; `path` finds it in the table, `shown` tells which of several it is."""
    if is_dataclass(value):
        for one in fields(value):
            dot = "." if path else ""
            _check_ranges(getattr(value, one.name), where, f"{path}{dot}{one.name}", f"{shown}{dot}{one.name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            _check_ranges(part, where, path, f"{shown}[{i}]")
    elif path in RANGES and value is not None and value not in RANGES[path]:
        raise ConfigurationError(f"{where}: {shown} is {value}; it must be {RANGES[path]}.")
