"""The model that a recipe trains: its configuration, and its parts in memory, fresh or from a model before.

Weights are read here and nowhere else in training. Knows nothing about data but the words that a CTC vocabulary spells.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from soundwave.checkpoints.catalog import HUB_ID, SHIPPED, resolve_model
from soundwave.checkpoints.four_bit import quantisation_config, quantise, require_four_bit
from soundwave.checkpoints.lora import LORA_FOLDER, attach_lora, load_lora
from soundwave.checkpoints.native import (
    adapter_tensors,
    fill_part,
    load_processor,
    new_config,
    resolve_part,
    start_config,
)
from soundwave.checkpoints.weights import empty_model, fill
from soundwave.configuration import SoundwaveConfig, split_model_settings
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.inference_config import InferenceConfig
from soundwave.model.linear import use_onednn
from soundwave.model.lora import CONFIG_NAME, DEFAULT, lora_layers
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.speech_encoder import alignment_mark
from soundwave.model.whisper import keep_lower, keep_upper
from soundwave.text.ctc_tokenizer import build_vocabulary, merge_table
from soundwave.training.recipe import LoraRecipe, Recipe
from soundwave.training.stages import Stage, stage_named
from soundwave.training.streaming import some_transcripts

MINI_TOWER, MINI_LLM = "whisper-base", "smollm2-135m-instruct"  # what a new model stands on where nothing is named
VOCABULARY_EXAMPLES = 20_000  # of a stream, whose words decide which pieces a restricted CTC vocabulary keeps
MERGES = "shrinking.merges"  # a table of token ids, made from the tokenizer
PAPER_LORA = LoraRecipe(64, 16, 0.05, ["q_proj", "k_proj", "v_proj", "o_proj"])


def stage_of(recipe: Recipe) -> Stage:
    """The recipe's stage; with `lora: {r: 0}` it trains no LoRA, and one that is there stays as it is."""
    stage = stage_named(recipe.stage)
    return stage if recipe.lora.r != 0 else dataclasses.replace(stage, lora=False)


def lora_of(recipe: Recipe, start: Path | None) -> LoraRecipe:
    """The LoRA that the run has, with nothing left open.

    Args:
        recipe: what it leaves open is that of `start`, or the paper's.
        start: the folder of the model to train further.

    Raises:
        ConfigurationError: the recipe asks for another size than that of `start`, whose matrices cannot change theirs.
        CheckpointError: the LoRA's configuration cannot be read.
    """
    file = None if start is None else start / LORA_FOLDER / CONFIG_NAME
    values, wanted = dataclasses.asdict(PAPER_LORA), dataclasses.asdict(recipe.lora)
    if file is not None and file.is_file():
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            values = {name: kept[name] for name in values}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); copy the model's folder again.") from error
        for name in ("r", "lora_alpha", "target_modules"):
            if wanted[name] and recipe.lora.r != 0 and _unlike(wanted[name], values[name]):
                raise ConfigurationError(
                    f"lora.{name} is {wanted[name]}, but the LoRA of start_from={recipe.start_from} has "
                    f"{values[name]} and is trained further as it is; leave lora.{name} out, or set it to that."
                )
    return LoraRecipe(**{name: values[name] if wanted[name] is None else wanted[name] for name in values})


def _unlike(wanted: object, kept: object) -> bool:
    if isinstance(wanted, list) and isinstance(kept, list):
        return set(wanted) != set(kept)
    return wanted != kept


def trained_config(recipe: Recipe) -> tuple[SoundwaveConfig, InferenceConfig]:
    """What the run trains and how it is asked: those of `start_from` with the recipe's settings, or new ones.

    Raises:
        ConfigurationError: a setting is not known, has a value that is not allowed, or does not fit `start_from`.
        CheckpointError: a part is not there.
    """
    switches, prompts = split_model_settings(recipe.model)
    start = start_folder(recipe)
    if start is not None:
        config, inference = start_config(start, _lasting_name(recipe))
        _check_parts(recipe, config)
        whitens = switches.get("alignment_whitening", config.alignment_whitening)
        if whitens != config.alignment_whitening:
            raise ConfigurationError(
                f"model: alignment_whitening={whitens}, but {start} was trained with {config.alignment_whitening}; it "
                "is measured when stage I begins: leave it out, or train stage I anew without start_from."
            )
        _check_upper(start, config, switches)
        for name, value in switches.items():  # that later stages may change
            setattr(config, name, value)
        return _with_merges(config, recipe), inference.changed(prompts)
    config = new_config(recipe.audio_tower or MINI_TOWER, recipe.language_model or MINI_LLM, **switches)
    if recipe.ctc_vocabulary_size is not None:
        tokenizer = load_processor(config).tokenizer
        allowed = recipe.allow_commands
        texts = (text for source in recipe.train for text in some_transcripts(source, VOCABULARY_EXAMPLES, allowed))
        config.ctc_vocabulary = build_vocabulary(tokenizer, texts, recipe.ctc_vocabulary_size)
    return _with_merges(config, recipe), InferenceConfig.of(prompts)


def _check_upper(start: Path, config: SoundwaveConfig, switches: dict[str, Any]) -> None:
    """What the encoder's upper layers have learned goes on as it is; more of them may begin to learn.

    Raises:
        ConfigurationError: the switches would leave some of it out.
    """
    kept: list[str] = []
    if config.encoder_training == "lora":
        kept += ["encoder_lora_r", "encoder_lora_alpha"]
    if config.encoder_training != "none":
        kept += ["encoder_training"]
    if config.encoder_layer_sum:
        kept += ["encoder_layer_sum", "encoder_upper_layers"]
    changed = [name for name in kept if switches.get(name, getattr(config, name)) != getattr(config, name)]
    if switches.get("encoder_upper_layers", config.encoder_upper_layers) < config.encoder_upper_layers:
        changed += ["encoder_upper_layers"] if config.encoder_training != "none" else []
    if changed:
        name = changed[0]
        raise ConfigurationError(
            f"model: {name}={switches[name]}, but {start} was trained with {getattr(config, name)}, and what its "
            "encoder learned goes on as it is; leave it out, or start from what `soundwave export` makes of that model."
        )


def start_folder(recipe: Recipe) -> Path | None:
    """The folder of the model to train further: a folder, `mini`, or a hub id.

    Raises:
        ConfigurationError: there is no such folder.
        CheckpointError: there is no such model.
    """
    start = recipe.start_from
    if start is None:
        return None
    if (Path(start) / "config.json").is_file():
        return Path(start)
    if start not in SHIPPED and (Path(start).is_dir() or not HUB_ID.fullmatch(start)):
        raise ConfigurationError(f"start_from={start}: no config.json there; train the stage before first.")
    return resolve_model(start)


def _lasting_name(recipe: Recipe) -> str:
    """What a trained folder calls the whole model it stands on; a path holds wherever the next command runs."""
    start = recipe.start_from or ""
    return str(Path(start).resolve()) if Path(start).is_dir() else start


def _with_merges(config: SoundwaveConfig, recipe: Recipe) -> SoundwaveConfig:
    wanted = recipe.merge_words
    if wanted is None:  # where it is possible, and the LLM begins to read what CTC spells
        wanted = recipe.stage == "shrinking" and config.ctc_vocabulary is not None and config.joins_runs
    if wanted and not config.ctc_merges:
        if config.ctc_vocabulary is None:
            raise ConfigurationError(
                "merge_words=true joins what a restricted CTC vocabulary spells; set ctc_vocabulary_size in stage I, "
                "or leave merge_words out."
            )
        config.ctc_merges = len(merge_table(load_processor(config).tokenizer, config.ctc_vocabulary))
    config.check()
    return config


def _check_parts(recipe: Recipe, config: SoundwaveConfig) -> None:
    """The stage before was trained over the parts that this one names."""
    pairs = {"audio_tower": config.audio_tower_source, "language_model": config.language_model_source}
    for name, source in pairs.items():
        wanted = getattr(recipe, name)
        if wanted is None:
            continue
        if source is None or resolve_part(source) != resolve_part(wanted):
            raise ConfigurationError(
                f"{name}={wanted}, but {recipe.start_from} was trained over {source}; name the same part."
            )


def build_model(
    recipe: Recipe, stage: Stage, config: SoundwaveConfig, device: torch.device, precision: str
) -> SoundwaveForConditionalGeneration:
    """The model with only the parts in memory that the stage runs; adapters are fresh or from `start_from`.

    Frozen parts of the LLM's size are in low precision where the run is; adapters and LoRA are in float32.
    """
    frozen = frozen_dtype(precision)
    four_bit = stage.next_token and recipe.llm_quantization == "4bit"
    if four_bit:
        require_four_bit(device)
    model = empty_model(config)
    if config.encoder_upper_layers:
        _add_upper(model, config, device)
    else:
        model.audio_tower = None  # its frames come from `Features`
    fresh = SoundwaveForConditionalGeneration.fresh_adapters(config, recipe.seed)
    fill(model, iter(fresh.items()), _adapters_only, str(device), torch.float32, "fresh adapters")
    start = start_folder(recipe)
    if start is not None:
        fill(model, _start_tensors(start, config), _adapters_only, str(device), torch.float32, str(start))
    only = None if stage.next_token else (lambda name: "embed_tokens" in name)
    source, place = config.language_model_source or "", "cpu" if four_bit else str(device)
    fill_part(model, source, "language_model.", place, frozen, only)
    model.language_model.tie_weights()
    if start is None:
        _copy_embeddings(model)
    if model.alignment.ctc_projection is not None:
        model.alignment.ctc_projection.to(frozen)
    if four_bit:
        quantise(model.language_model, quantisation_config(frozen), device)
    if stage.next_token:
        model.language_model.to(device)
        _add_lora(model, recipe, stage, start)
    if stage.next_token and recipe.gradient_checkpointing:
        language_model = model.language_model  # the first name is transformers' from 5.23 on
        enable = getattr(language_model, "activation_checkpointing_enable", None)
        (enable or language_model.gradient_checkpointing_enable)({"use_reentrant": False})
    return model


def _add_upper(model: SoundwaveForConditionalGeneration, config: SoundwaveConfig, device: torch.device) -> None:
    """The encoder's upper layers, as their source has them; the frames that they read come from `Features`."""
    keep_upper(model.audio_tower, config.encoder_depth)
    names = {name for name, _ in model.named_parameters()}
    source = config.audio_tower_source or ""
    fill_part(model, source, "audio_tower.", str(device), torch.float32, names.__contains__)


def _add_lora(model: SoundwaveForConditionalGeneration, recipe: Recipe, stage: Stage, start: Path | None) -> None:
    """The LoRA of the model before, or a fresh one where the stage trains one."""
    torch.manual_seed(recipe.seed)
    lora = lora_of(recipe, start)
    if start is not None and (start / LORA_FOLDER).is_dir():
        load_lora(model, start / LORA_FOLDER, trainable=stage.lora)
        _set_dropout(model, lora.lora_dropout or 0.0)
    elif stage.lora:
        attach_lora(model, lora.r or 0, lora.lora_alpha or 0, lora.lora_dropout or 0.0, lora.target_modules or [])
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def _copy_embeddings(model: SoundwaveForConditionalGeneration) -> None:
    """Starts a projection head as the LLM's embeddings of its classes (released); a blank of its own stays random."""
    head = model.alignment.ctc_projection
    table: torch.Tensor = model.language_model.get_input_embeddings().weight
    if head is not None:
        vocabulary = model.config.ctc_vocabulary
        rows = table if vocabulary is None else table[vocabulary]
        with torch.no_grad():
            head.weight[: len(rows)] = rows.to(head.weight.dtype)


def _start_tensors(start: Path, config: SoundwaveConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """What was learned before; a shrinking adapter that gave the LLM another kind of embedding starts anew."""
    fed = start_config(start, "")[0].audio_embedding
    for name, tensor in adapter_tensors(start):
        if fed == config.audio_embedding or not name.startswith("shrinking."):
            yield name, tensor


def start_mark(recipe: Recipe, config: SoundwaveConfig) -> str | None:
    """The mark of the aligned frames that the run starts from; None where it is a fresh one."""
    start = start_folder(recipe)
    if start is None:
        return None
    return alignment_mark(adapter_tensors(start), config)


def _adapters_only(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor)] if name != MERGES else []  # a later stage may begin to merge


def _set_dropout(model: SoundwaveForConditionalGeneration, share: float) -> None:
    """The dropout of a LoRA that was loaded with its own."""
    for layer in lora_layers(model.language_model):
        if DEFAULT in getattr(layer, "lora_dropout", {}):
            layer.lora_dropout[DEFAULT] = nn.Dropout(share) if share else nn.Identity()


def build_encoder(config: SoundwaveConfig, device: torch.device, precision: str) -> nn.Module:
    """The frozen audio tower alone, without the layers that belong to the model."""
    model = empty_model(config)
    only = None
    if config.encoder_upper_layers:
        keep_lower(model.audio_tower, config.encoder_depth)
        only = {name for name, _ in model.named_parameters()}.__contains__
    fill_part(model, config.audio_tower_source or "", "audio_tower.", str(device), frozen_dtype(precision), only)
    use_onednn(model.audio_tower)
    return model.audio_tower.eval().requires_grad_(False)


def frozen_dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32
