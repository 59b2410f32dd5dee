"""The three training stages as data: what is trained, with which loss, at what cost (paper section 3.3, Table 1)."""

from __future__ import annotations

from dataclasses import dataclass

from soundwave.configuration import SoundwaveConfig
from soundwave.errors import ConfigurationError
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.whisper import is_own
from soundwave.training.recipe import Recipe


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


ALIGNS = "alignment."
ENCODES = "audio_tower."
ALIGNMENT = Stage("alignment", (ALIGNS,), lora=False, next_token=False, ctc=True)
SHRINKING = Stage("shrinking", (ALIGNS, "shrinking."), lora=True, next_token=True, ctc=True)
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


def learns(stage: Stage) -> bool:
    """Whether a stage trains the alignment adapter, and with it what the encoder's upper layers learn."""
    return ALIGNS in stage.trained


def has_effect(config: SoundwaveConfig, parameter: str) -> bool:
    """Whether the output depends on a parameter: with `frame` attention not on the alignment layers' queries and keys.

    They are in the released weights, and counted in the paper's sizes, but no gradient ever reaches them.
    """
    unused = config.alignment_attention == "frame" and parameter.startswith("alignment.layers.")
    return not (unused and (".q_proj." in parameter or ".k_proj." in parameter))


def rate_scales(recipe: Recipe) -> dict[str, float]:
    """Of the parts whose learning rate a recipe scales, by their names' prefix; at 0 a part stays as it is."""
    return {ALIGNS: recipe.alignment_learning_rate_scale, ENCODES: recipe.encoder_learning_rate_scale}


def mark_trained(
    model: SoundwaveForConditionalGeneration, stage: Stage, at_rest: tuple[str, ...] = ()
) -> list[str]:
    """Sets `requires_grad` for a stage and returns the names of what it trains.

    Args:
        model: the model.
        stage: the stage.
        at_rest: prefixes of parts that the stage would train, and a recipe leaves as they are.
    """
    names = []
    for name, parameter in model.named_parameters():
        wanted = is_trained(stage, name) and has_effect(model.config, name)
        wanted |= learns(stage) and is_own(model.config, name)
        wanted &= not name.startswith(at_rest)
        parameter.requires_grad_(wanted and not parameter.is_meta)
        if parameter.requires_grad:
            names.append(name)
    return names
