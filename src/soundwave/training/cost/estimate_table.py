"""The estimate of a recipe as a table: each figure with how it was derived. Nothing here was measured.

Works without data and without weights: what is not at hand is taken from published sizes and stated assumptions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean

from soundwave.checkpoints.catalog import SHIPPED
from soundwave.checkpoints.native import start_config
from soundwave.configuration import SoundwaveConfig, split_model_settings
from soundwave.data.manifests import read_manifest
from soundwave.errors import CheckpointError, ConfigurationError, DataError
from soundwave.training.build import MINI_LLM, MINI_TOWER, lora_of, stage_of, start_folder
from soundwave.training.cost.estimate import (
    PAPER_AUDIO,
    PROMPT_TOKENS,
    TOKENS_PER_SECOND,
    Flops,
    Memory,
    Parameters,
    Workload,
    count_parameters,
    ctc_passes,
    flops,
    memory,
    paper_clip_seconds,
    workload,
)
from soundwave.training.cost.public_sizes import (
    GPUS,
    LAPTOP,
    RELEASED_9B,
    Gpu,
    audio_config,
    mini,
    released_9b,
    text_config,
)
from soundwave.training.distributed import accumulation
from soundwave.training.recipe import Recipe
from soundwave.training.recipe_io import COMMAND, read_recipe
from soundwave.training.stages import Stage, learns

LEAST_SECONDS = 0.1  # of a batch, forward, backward and step, however little is computed
ASSUMED_RATE = 0.3  # of a GPU's peak, recomputation counted; large models reach 0.3 to 0.5, small ones far less
OVERHEAD = 2e9  # bytes: CUDA's context and the allocator's gaps; an assumption
EXAMPLES_READ = 10_000  # of a manifest, for the average length


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: str
    how: str


def estimate(recipe: Recipe) -> list[Row]:
    """The cost of a recipe.

    Raises:
        ConfigurationError: the sizes of a part are not known here, the recipe's sizes do not fit, or `devices` do not
            divide its `batches_per_step`.
    """
    stage = stage_of(recipe)
    config, origin = model_config(recipe)
    recipe = replace(recipe, lora=lora_of(recipe, local_start(recipe)))
    parts = count_parameters(config, recipe.lora)
    seconds, where = clip_seconds(recipe)
    work = workload(config, recipe, seconds)
    held = _held(config, recipe, stage, parts, work)
    passes = ctc_passes(config, recipe, stage)
    cost = flops(config, stage, parts, work, recipe.features is None, recipe.gradient_checkpointing, passes)
    step = _step_flops(recipe, cost, work)
    on_cpu = memory(config, recipe, stage, parts, work, recipe.mixed_precision == "bf16")  # float32 by itself
    return [
        *_parameter_rows(parts, stage, origin), *_batch_rows(recipe, stage, work, where),
        *_memory_rows(recipe, held, work), *_work_rows(config, recipe, cost, work),
        *[_device_row(recipe, step, gpu, held.total + OVERHEAD) for gpu in GPUS],
        *([_device_row(recipe, step, LAPTOP, on_cpu.total)] if recipe.devices == 1 else []),
    ]


def model_config(recipe: Recipe) -> tuple[SoundwaveConfig, str]:
    """The model that the recipe trains, and where its sizes are from.

    Raises:
        ConfigurationError: they are not known here.
    """
    split_model_settings(recipe.model)  # refuses what is no setting
    start = recipe.start_from
    if start == RELEASED_9B:
        return _switched(released_9b(), recipe), f"{start}, its published sizes"
    if (folder := local_start(recipe)) is not None:
        with contextlib.suppress(CheckpointError, ConfigurationError):  # no model: the recipe itself says enough
            return _switched(start_config(folder, start or "")[0], recipe), f"{start}, its config.json"
    if start in SHIPPED:
        return _switched(mini(), recipe), f"{start}, the sizes of its recipe; its weights are not at hand"
    tower, language_model = recipe.audio_tower or MINI_TOWER, recipe.language_model or MINI_LLM
    try:
        config = SoundwaveConfig(
            audio_config=audio_config(tower), text_config=text_config(language_model),
            **split_model_settings(recipe.model)[0],
        )
    except ConfigurationError as error:
        if start is None:
            raise
        raise ConfigurationError(
            f"start_from={start} is not there, and without it the model's sizes are not known ({error}) "
            "Train that stage first, or state its `model:` in this recipe too."
        ) from error
    if recipe.ctc_vocabulary_size is not None:
        config.ctc_vocabulary = list(range(recipe.ctc_vocabulary_size))
    note = "" if start is None else f"; {start} is not there yet"
    return config, f"{tower} and {language_model}, built without memory{note}"


def _switched(config: SoundwaveConfig, recipe: Recipe) -> SoundwaveConfig:
    for name, value in split_model_settings(recipe.model)[0].items():
        setattr(config, name, value)
    config.check()
    return config


def local_start(recipe: Recipe) -> Path | None:
    """The folder of `start_from` where it is at hand: an estimate asks no hub for it."""
    start = recipe.start_from
    with contextlib.suppress(CheckpointError, ConfigurationError):
        if start is not None and (start in SHIPPED or Path(start).is_dir()):
            return start_folder(recipe)
    return None


def clip_seconds(recipe: Recipe) -> tuple[float, str]:
    """Average length of a clip: from manifests that are at hand and state durations, or of the paper's data."""
    durations: list[float] = []
    for source in recipe.train:
        if COMMAND in source.manifest or "://" in source.manifest:
            continue  # an estimate runs no command, and asks no other machine
        try:
            examples = islice(read_manifest(source.manifest), EXAMPLES_READ)
            durations += [example.duration for example in examples if example.audios and example.duration]
        except (DataError, OSError):
            continue
    if not durations:
        stage = stage_of(recipe)
        hours, clips = PAPER_AUDIO[stage.name]
        return paper_clip_seconds(stage), f"assumed: the paper's {hours:,} h in {clips / 1e6:.2f}M clips of this stage"
    return fmean(durations), f"the mean of {len(durations):,} durations in the manifests"


def _parameter_rows(parts: Parameters, stage: Stage, origin: str) -> list[Row]:
    trained = stage.trained + (("lora",) if stage.lora else ())

    def row(name: str, size: int, prefix: str) -> Row:
        return Row(f"  {name}", f"{size / 1e6:,.1f}M", "trained" if prefix in trained else "frozen")

    tower = row("audio tower", parts.audio_tower, "audio_tower.")
    if parts.own and learns(stage):
        tower = replace(tower, how=f"{parts.own / 1e6:,.1f}M of it trained")

    return [
        Row("parameters", f"{parts.total / 1e9:.2f}B", origin),
        tower, row("alignment adapter", parts.alignment, "alignment."),
        row("CTC head", parts.ctc_head, "ctc"), row("shrinking adapter", parts.shrinking, "shrinking."),
        row("language model", parts.language_model, "language_model."), row("LoRA", parts.lora, "lora"),
        Row("  trained", f"{parts.trained(stage) / 1e6:,.1f}M", f"stage {stage.name}"),
    ]


def _batch_rows(recipe: Recipe, stage: Stage, work: Workload, where: str) -> list[Row]:
    accumulated = accumulation(recipe, recipe.devices)
    steps_clips = work.clips * accumulated * recipe.devices
    setting = "gradient_accumulation_steps" if recipe.batches_per_step is None else "batches_per_step"
    tokens = "the LLM is not run"
    if stage.next_token:
        tokens = (
            f"a clip: {PROMPT_TOKENS} of the prompt (assumed), {work.audio_positions} of audio, {work.replied} of the "
            f"reply ({TOKENS_PER_SECOND} a second, assumed)"
        )
    return [
        Row("clip", f"{work.seconds:.1f} s", where),
        Row("clips a step", f"{steps_clips:,}", f"{work.clips} x {accumulated} accumulated x {recipe.devices} devices "
            f"(devices=, {setting}=)"),
        Row("audio a step", f"{steps_clips * work.seconds / 3600:,.2f} h", "clips x their length"),
        Row("LLM tokens a step", f"{steps_clips * work.positions * stage.next_token:,}", tokens),
    ]


def _held(config: SoundwaveConfig, recipe: Recipe, stage: Stage, parts: Parameters, work: Workload) -> Memory:
    """Bytes on one of the recipe's devices; among several, DDP's buckets are as large as the gradients."""
    held = memory(config, recipe, stage, parts, work, recipe.mixed_precision != "no")
    return held if recipe.devices == 1 else replace(held, gradients=2 * held.gradients)


def _memory_rows(recipe: Recipe, held: Memory, work: Workload) -> list[Row]:
    low, buckets = recipe.mixed_precision != "no", "; DDP's buckets are as much again" if recipe.devices > 1 else ""
    total = held.total + OVERHEAD
    fits = [gpu.name for gpu in GPUS if total < gpu.memory]
    return [
        Row("memory of a device", f"{total / 1e9:.1f} GB", "the sum, and 2 GB of CUDA and gaps (assumed); fits: "
            + (", ".join(fits) or "none of the GPUs below")),
        Row("  frozen weights", _size(held.frozen), f"{'bf16' if low else 'float32'}; adapters in float32, "
            "with autocast's copies" + ("; the LLM's matrices in 4 bits" if recipe.llm_quantization == "4bit" else "")),
        Row("  trained weights", _size(held.trained), "4 bytes each"),
        Row("  gradients", _size(held.gradients), f"4 bytes each{buckets}"),
        Row("  optimizer", _size(held.optimizer), _optimizer(recipe)),
        *([Row("  moving average", _size(held.average), "4 bytes each (ema_decay)")] if held.average else []),
        Row("  activations", _size(held.activations), f"{work.clips} clips; formulas in training/cost/estimate.py"
            + ("; LLM layers recomputed" if recipe.gradient_checkpointing else "")),
    ]


def _size(count: float) -> str:
    """Of bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _optimizer(recipe: Recipe) -> str:
    return "Muon: 4 bytes each, AdamW's 8 at most" if recipe.optimizer == "muon" else "AdamW: 8 bytes each"


def _step_flops(recipe: Recipe, cost: Flops, work: Workload) -> float:
    return cost.total * work.clips * accumulation(recipe, recipe.devices) * recipe.devices


def _work_rows(config: SoundwaveConfig, recipe: Recipe, cost: Flops, work: Workload) -> list[Row]:
    step = _step_flops(recipe, cost, work)
    shares = {
        "encoder": cost.audio_tower, "alignment": cost.alignment, "CTC head": cost.ctc_head,
        "shrinking": cost.shrinking, "LLM": cost.language_model,
    }
    shown = ", ".join(f"{name} {plain(part / 1e12, 2)}" for name, part in shares.items())
    shown_step = f"{plain(step / 1e12)} T" if step < 1e15 else f"{plain(step / 1e15)} P"
    rows = [
        Row("FLOPs of a clip", f"{plain(cost.total / 1e12)} T", f"{shown}; 2 a weight and position, backward counted"),
        Row("FLOPs of a step", shown_step, "times its clips"),
    ]
    if recipe.features is not None:
        stored = work.frames * config.audio_config.d_model * 2
        rows.append(Row("features on disk", f"{stored / 1e6:.2f} MB a clip", "frames x encoder width x 2 bytes"))
    return rows


def _device_row(recipe: Recipe, step: float, device: Gpu, held: float) -> Row:
    """Hours of a run on one kind of device, if that holds it.

    Args:
        recipe: `devices` and `max_steps`.
        step: FLOPs.
        device: GPU or CPU.
        held: bytes on one of them.
    """
    what = f"  {recipe.devices} x {device.name}"
    if held >= device.memory:
        need = f"it needs {held / 1e9:.1f} GB; lower batch_seconds or max_batch_size, or see docs/recipes.md"
        return Row(what, "does not fit", need)
    per_step, how = _device_seconds(recipe, step, device.peak)
    value = f"{plain(per_step / recipe.devices, 2)} s a step"
    if recipe.max_steps is not None:
        hours = per_step * recipe.max_steps / 3600
        value += f"; {_hours(hours / recipe.devices)}" + (f", {plain(hours)} GPU-hours" if device in GPUS else "")
        how += f", {recipe.max_steps:,} steps"
    return Row(what, value, how)


def _hours(hours: float) -> str:
    return f"{plain(hours, 2)} h" if hours >= 1 else f"{plain(60 * hours, 2)} min"


def _device_seconds(recipe: Recipe, step: float, peak: float) -> tuple[float, str]:
    """Of one step, all devices together, and why so many: small models compute less than it takes to tell them to."""
    computed = step / (peak * ASSUMED_RATE)
    least = LEAST_SECONDS * recipe.devices * accumulation(recipe, recipe.devices)
    if computed >= least:
        return computed, f"{plain(peak / 1e12)} TFLOP/s (data sheet) at {ASSUMED_RATE:.0%} of it (assumed)"
    return least, f"{LEAST_SECONDS:g} s a batch (assumed): starting kernels and reading data take longer than the sums"


def plain(value: float, digits: int = 3) -> str:
    """A number with so many digits that count, but all of those before the point; never with an exponent.

    Example:
        >>> [plain(value) for value in (1247.6, 39.84, 0.0123456)]
        ['1,248', '39.8', '0.0123']
    """
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:,.{max(0, decimals)}f}"


def render(rows: list[Row], title: str) -> str:
    """The table as text."""
    wide, values = max(len(row.what) for row in rows), max(len(row.value) for row in rows)
    lines = [f"{title}: an estimate; nothing below was measured"]
    lines += [f"{row.what:<{wide}}  {row.value:>{values}}  {row.how}" for row in rows]
    return "\n".join(lines)


def estimate_text(path: str | Path, overrides: Sequence[str]) -> str:
    """The table of a recipe's file.

    Raises:
        ConfigurationError: the recipe is wrong, or the sizes of a part are not known here.
    """
    return render(estimate(read_recipe(path, overrides)), str(path))
