"""The three training stages as data: what is trained, with which loss, at what cost (paper section 3.3, Table 1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from soundwave.errors import ConfigurationError


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: as recipes write it.
        trained: name prefixes of the trained parameters in `SoundwaveForConditionalGeneration`.
        lora: whether LoRA matrices of the LLM are trained.
        next_token: whether the next-token loss is used; without it the LLM is not in memory.
        ctc: whether the CTC loss is used.
    """

    name: str
    trained: tuple[str, ...]
    lora: bool
    next_token: bool
    ctc: bool


ALIGNMENT = Stage("alignment", ("alignment.",), lora=False, next_token=False, ctc=True)
SHRINKING = Stage("shrinking", ("alignment.", "shrinking."), lora=True, next_token=True, ctc=True)
INSTRUCTION = Stage("instruction", ("shrinking.",), lora=True, next_token=True, ctc=False)
STAGES = {stage.name: stage for stage in (ALIGNMENT, SHRINKING, INSTRUCTION)}


def stage_named(name: str) -> Stage:
    """The stage that a recipe names.

    Raises:
        ConfigurationError: there is no such stage.
    """
    if name not in STAGES:
        raise ConfigurationError(f"stage={name!r} is not known; choose one of {', '.join(STAGES)}.")
    return STAGES[name]


def is_trained(stage: Stage, parameter: str) -> bool:
    """Whether a stage trains the parameter of that full name.

    A released CTC head is a frozen copy of the LLM's embeddings and never trained.
    """
    if "lora_" in parameter:
        return stage.lora
    return parameter.startswith(stage.trained) and "ctc_projection" not in parameter


def mark_trained(model: nn.Module, stage: Stage) -> list[str]:
    """Sets `requires_grad` for a stage and returns the names of what it trains."""
    names = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(stage, name) and not parameter.is_meta)
        if parameter.requires_grad:
            names.append(name)
    return names
