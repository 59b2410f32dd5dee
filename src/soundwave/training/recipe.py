"""A training run as data: every option with its meaning, its range, and whether a run that goes on may change it.

Names follow Hugging Face's TrainingArguments and PEFT's LoraConfig where these have one. Knows nothing about files;
YAML is read in `recipe_io.py`. `resume=True` stands where an option changes neither the order of the data, the model,
the loss nor the kind of optimizer; `path=True` where `$NAME` is taken from the environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from soundwave.errors import ConfigurationError, shown
from soundwave.settings import check_settings, setting
from soundwave.training.augmentation import Augmentation

LARGEST_SEED = 2**32 - 1  # NumPy's
FIGURES_KEPT = "loss, ctc_wer, next_token, kl, or the full name of one manifest's, such as eval_dev_loss"


@dataclass
class DataSource:
    """One manifest and how it is used."""

    manifest: str = setting(
        "", path=True, help="a manifest, or shards (data/shards.py); relative to the folder where the command runs"
    )
    repeat: float = setting(
        1.0, above=0, help="passes over it per epoch; 0.5 takes a random half, new in each epoch; of shards, its weight"
    )
    speeds: list[float] = setting(
        factory=lambda: [1.0], least=0.25, most=4, filled=True, help="each pass takes one of these at random"
    )
    prompts: list[str] = setting(factory=list, help="instructions to draw from instead of the manifest's own")
    task: str = setting("asr", help="manifests of one task share its part of a dynamic mixture")
    kl: bool = setting(True, help="whether kl_weight holds for its examples")
    simulate: str | None = setting(
        None, path=True,
        help="a bank of units (`soundwave data units`): what is said is made from it, and no recording is read",
    )


@dataclass
class LoraRecipe:
    """LoRA of the LLM. Null: that of `start_from`, or where it has none the paper's (r 64, alpha 16 on q, k, v, o)."""

    r: int | None = setting(None, least=0, help="rank; 0: the stage trains no LoRA, and one that is there stays")
    lora_alpha: int | None = setting(None, above=0, help="scale: alpha / r")
    lora_dropout: float | None = setting(None, least=0, below=1, help="share of its inputs set to zero")
    target_modules: list[str] | None = setting(None, filled=True, help="the LLM's matrices that it changes")


@dataclass
class Recipe:
    """Everything that decides a training run."""

    stage: str = setting("alignment", help="alignment (I), shrinking (II) or instruction (III)")
    output_dir: str = setting(
        "runs/stage1", path=True, help="checkpoints, logs and plots; a run that is there is resumed"
    )
    start_from: str | None = setting(
        None, path=True, help="model to train further: the stage before, or any model: a folder, `mini`, a hub id"
    )
    audio_tower: str | None = setting(
        None, path=True, help="frozen encoder: part, folder or hub id; null: start_from's, or mini's"
    )
    language_model: str | None = setting(None, path=True, help="likewise of the LLM")
    model: dict[str, Any] = setting(factory=dict, help="switches of SoundwaveConfig for a new model")
    ctc_vocabulary_size: int | None = setting(
        250, above=0, help="about how many of the LLM's tokens CTC emits; null: all (paper)"
    )
    merge_words: bool | None = setting(
        None, help="join what such a CTC spells into the LLM's tokens; null: in stage II, yes"
    )
    train: list[DataSource] = setting(factory=list, help="what is learned from")
    evaluation: list[DataSource] = setting(factory=list, resume=True, help="held-out data")
    allow_commands: bool = setting(
        False, resume=True, help="whether a manifest `pipe:…` may run its command; nothing else runs any"
    )
    mixture: str = setting(
        "none", choices=("none", "dynamic"),
        help="none: each manifest as often as it says; dynamic: by task, ever more alike (sampler.py)",
    )
    mixture_temperature_step: float = setting(5.0, above=0, help="of a dynamic mixture, per epoch")
    features: str | None = setting(
        "runs/features", path=True, resume=True,
        help="folder of the stored encoder features; null: computed on the fly",
    )
    reading_processes: int = setting(
        1, above=0, most=256, resume=True,
        help="processes that decode audio while features are stored; beside a GPU give one a core",
    )
    learning_rate: float = setting(1e-4, above=0, resume=True, help="highest rate")
    alignment_learning_rate_scale: float = setting(
        1.0, least=0, resume=True,
        help="of the alignment adapter; below 1 stage II keeps what stage I learned, at 0 it stays as it is",
    )
    encoder_learning_rate_scale: float = setting(
        1.0, least=0, resume=True,
        help="of what the encoder's upper layers learn (encoder_training); at 0 they stay as they are",
    )
    weight_decay: float = setting(0.1, least=0, resume=True, help="of all that is trained")
    adam_beta1: float = setting(0.9, least=0, below=1, resume=True, help="of the mean gradient")
    adam_beta2: float = setting(0.95, least=0, below=1, resume=True, help="of the mean squared gradient")
    warmup_ratio: float = setting(0.01, least=0, most=1, resume=True, help="share of the steps until the highest rate")
    max_grad_norm: float = setting(
        1.0, least=0, resume=True, help="longer gradients are scaled down to it; 0: none are"
    )
    ema_decay: float = setting(
        0.0, least=0, below=1, resume=True,
        help="of a moving average of what is trained, such as 0.999, which is evaluated and becomes final/; 0: none",
    )
    num_train_epochs: float = setting(1.0, above=0, resume=True, help="passes over the data")
    max_steps: int | None = setting(None, above=0, resume=True, help="optimizer steps; overrides the epochs")
    max_minutes: float | None = setting(
        None, above=0, resume=True,
        help="minutes of steps and evaluations, those before a stop too, in which the run ends if its steps have not",
    )
    batch_seconds: float = setting(120.0, above=0, help="audio per device and batch, padding included")
    max_batch_size: int = setting(64, above=0, help="examples per device and batch, at most")
    gradient_accumulation_steps: int = setting(
        1, above=0, resume=True, help="batches per device and optimizer step"
    )
    batches_per_step: int | None = setting(
        None, above=0, resume=True,
        help="instead: of all processes together, so that their number changes no step; a stream keeps it",
    )
    ctc_weight: float = setting(0.3, least=0, help="of the CTC loss beside the next-token loss")
    kl_weight: float = setting(
        0.0, least=0, most=1, help="share of the KL to what the LLM itself answers to the typed transcript"
    )
    kl_temperature: float = setting(2.0, above=0, help="softens both distributions of that KL")
    ctc_label_smoothing: float = setting(
        0.0, least=0, below=1, help="share of the KL from the uniform distribution in the CTC loss (training.md)"
    )
    intermediate_ctc_weight: float = setting(
        0.0, least=0, below=1, help="share of the CTC loss of the alignment layers before the last in the CTC loss"
    )
    time_masks: int = setting(0, least=0, help="SpecAugment over encoder frames: spans set to zero, per ten seconds")
    time_mask_frames: int = setting(16, least=0, help="longest span, in encoder frames of 20 ms")
    feature_dropout: float = setting(0.0, least=0, below=1, help="encoder channels set to zero, per clip")
    augmentation: Augmentation = field(default_factory=Augmentation)  # of the waveforms of `train`; off at first
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    mixed_precision: str = setting(
        "auto", choices=("auto", "bf16", "no"), resume=True,
        help="bf16, no (float32), or auto: the faster one of this device",
    )
    optimizer: str = setting(
        "auto", choices=("auto", "adamw", "adamw_fused", "muon"),
        help="adamw, adamw_fused (one kernel for all weights), muon (optim.py), or auto: AdamW, fused on a CUDA GPU",
    )
    gradient_checkpointing: bool = setting(
        False, resume=True, help="the LLM's layers are computed twice, and their activations not kept"
    )
    llm_quantization: str = setting(
        "none", choices=("none", "4bit"), help="4bit (QLoRA): the frozen LLM's matrices as NF4; needs a CUDA GPU"
    )
    devices: int = setting(
        1, above=0, resume=True, help="GPUs (processes) of the estimate; a run in another number of processes says so"
    )
    seed: int = setting(1, least=0, most=LARGEST_SEED, help="of every draw")
    logging_steps: int = setting(20, above=0, resume=True, help="steps between two rows of figures")
    eval_steps: int = setting(200, above=0, resume=True, help="steps between two evaluations; each saves first")
    save_steps: int = setting(200, above=0, resume=True, help="steps between two checkpoints")
    keep_best: str | None = setting(
        None, resume=True,
        help=f"final/ is the checkpoint where this held-out figure was lowest: {FIGURES_KEPT}; null: the last step",
    )
    early_stop: int | None = setting(
        None, above=0, resume=True, help="evaluations in a row without a lower keep_best that end the run"
    )
    report_to: list[str] = setting(
        factory=lambda: ["tensorboard"], choices=("tensorboard", "wandb"), resume=True,
        help="who is told the figures beside metrics.jsonl",
    )
    push_to_hub: bool = setting(False, resume=True, help="whether final/ is uploaded at the end")
    hub_model_id: str | None = setting(None, resume=True, help="where to: name/model")
    hub_private_repo: bool = setting(True, resume=True, help="whether a repository that is made for it is private")
    on_nan: str = setting(
        "stop", choices=("stop", "skip"), resume=True,
        help="stop, or skip the optimizer step that the batch belongs to and go on",
    )
    on_bad_audio: str = setting("skip", choices=("skip", "stop"), resume=True, help="skip (each is named), or stop")
    on_bad_shard: str = setting(
        "skip", choices=("skip", "stop"), resume=True,
        help="of a stream: name what is missing or broken and go on with the next, or stop",
    )
    stream_buffer_size: int = setting(
        512, above=0, help="streamed examples that each batch of a step is shuffled and bucketed among"
    )


def settings_of(options: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, value and metadata of every option of a recipe, those of its parts and lists included."""
    for one in fields(options):
        value, name = getattr(options, one.name), f"{prefix}{one.name}"
        if is_dataclass(value):
            yield from settings_of(value, f"{name}.")
            continue
        yield name, value, one.metadata
        for i, part in enumerate(value if isinstance(value, list) else []):
            if is_dataclass(part):
                yield from settings_of(part, f"{name}[{i}].")


def check_recipe(recipe: Recipe, where: str) -> None:
    """Holds every value of a recipe against what is allowed.

    Args:
        recipe: as it was read or made.
        where: what the message begins with, such as the recipe's file.

    Raises:
        ConfigurationError: one is not; the message names the option, its value and what is allowed.
    """
    _check_each(recipe, f"{where}: ")
    for name, value, data in settings_of(recipe):
        if data.get("filled") and value == []:
            raise ConfigurationError(f"{where}: {name} is []; name one at least.")
        if data.get("pair") and not (len(value) == 2 and value[0] <= value[1]):
            raise ConfigurationError(f"{where}: {name} is {shown(value)}; give [low, high].")
        if name.endswith("].manifest") and not value:
            raise ConfigurationError(f"{where}: {name.removesuffix('.manifest')} names no manifest; add it.")
    if recipe.kl_weight and recipe.stage == "alignment":
        raise ConfigurationError(
            f"{where}: kl_weight is {recipe.kl_weight} in the stage alignment, which does not run the LLM; set it to 0."
        )
    for name in ("ctc_label_smoothing", "intermediate_ctc_weight"):
        if recipe.stage == "instruction" and getattr(recipe, name):
            raise ConfigurationError(
                f"{where}: {name} is {getattr(recipe, name)} in the stage instruction, which has no CTC loss; "
                "set it to 0."
            )
    _check_simulated(recipe, where)
    needed = {
        "keep_best": (recipe.keep_best is not None and not recipe.evaluation, "evaluation, the held-out data"),
        "early_stop": (recipe.early_stop is not None and recipe.keep_best is None, "keep_best, the figure to go by"),
        "push_to_hub": (recipe.push_to_hub and recipe.hub_model_id is None, "hub_model_id, as in name/model"),
    }
    for name, (lacking, what) in needed.items():
        if lacking:
            raise ConfigurationError(f"{where}: {name} is {getattr(recipe, name)}, and needs {what}.")


def _check_simulated(recipe: Recipe, where: str) -> None:
    for source in [*recipe.train, *recipe.evaluation]:
        told = f"{where}: simulate is {source.simulate} for {source.manifest}, "
        if source.simulate is None:
            continue
        if recipe.stage == "alignment":
            raise ConfigurationError(f"{told}but the stage alignment learns from recordings only; leave it out.")
        if recipe.stage == "shrinking" and recipe.alignment_learning_rate_scale:
            raise ConfigurationError(
                f"{told}whose frames come from the alignment adapter as it is, but the stage shrinking trains it; "
                "set alignment_learning_rate_scale to 0, and make the bank with the model that start_from names."
            )
        if source.speeds != [1.0]:
            raise ConfigurationError(f"{told}where nothing has a speed to change; leave speeds out.")


def _check_each(options: Any, prefix: str) -> None:
    check_settings(options, prefix=prefix)
    for one in fields(options):
        value = getattr(options, one.name)
        if is_dataclass(value):
            _check_each(value, f"{prefix}{one.name}.")
        for i, part in enumerate(value if isinstance(value, list) else []):
            if is_dataclass(part):
                _check_each(part, f"{prefix}{one.name}[{i}].")
