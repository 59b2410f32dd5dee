"""Everything a run needs before its first step: parts, vocabulary, manifests, stored features, checks.

Fails in the first minute: paths, formats and features are looked at before any training.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

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
from soundwave.configuration import SoundwaveConfig
from soundwave.data.readers import check_audio_files
from soundwave.data.shards import is_sharded
from soundwave.errors import ConfigurationError, SoundwaveError, TrainingError
from soundwave.model.linear import use_onednn
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer, build_vocabulary, merge_table
from soundwave.training.dataset import Collator, Source, clips_of
from soundwave.training.effects import Effects
from soundwave.training.features import Clip, Features, FeatureStore, OnTheFly, fill_store
from soundwave.training.left_out import LeftOut
from soundwave.training.progress import RunProgress
from soundwave.training.recipe import Recipe
from soundwave.training.resuming import keep_recipe
from soundwave.training.stages import Stage, mark_trained, stage_named
from soundwave.training.streaming import Stream, some_transcripts

MAX_SECONDS = 30.0
MINI_TOWER, MINI_LLM = "whisper-base", "smollm2-135m-instruct"  # what a new model stands on where nothing is named
VOCABULARY_EXAMPLES = 20_000  # of a stream, whose words decide which pieces a restricted CTC vocabulary keeps
MERGES = "shrinking.merges"  # a table of token ids, made from the tokenizer
NOT_SWITCHES = {
    "model_type", "sub_configs", "audio_config", "text_config", "audio_tower_source", "language_model_source",
}
SWITCH_NAMES = [name for name in SoundwaveConfig.__annotations__ if name not in NOT_SWITCHES]


@dataclass
class Prepared:
    """What the loop works with."""

    recipe: Recipe
    stage: Stage
    model: SoundwaveForConditionalGeneration
    processor: SoundwaveProcessor
    collator: Collator
    train: list[Source]
    evaluation: list[Source]
    progress: RunProgress
    left_out: LeftOut
    trained: list[str]
    stream: Stream | None = None  # instead of `train`, where one of its sources is in shards

    def write_plan(self, folder: Path, steps: int, from_step: int) -> None:
        """Says what is about to happen, and keeps the exact recipe in the run's folder if that is any training.

        Raises:
            TrainingError: the run is beyond its last step, or the disk is full or cannot be written.
        """
        if from_step > steps:
            raise TrainingError(
                f"{folder} is at step {from_step}, but max_steps or num_train_epochs ends it at step {steps}; set "
                f"max_steps to {from_step} or more, or change output_dir to start a new run."
            )
        if from_step == steps:
            self.progress.say(
                f"{folder} is done: step {steps} of {steps}, nothing is left to train; to train on, raise max_steps or "
                "num_train_epochs"
            )
            return
        keep_recipe(self.recipe, folder)
        count = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        examples = sum(len(source.examples) for source in self.train)
        hours = sum(e.duration or 0.0 for source in self.train for e in source.examples) / 3600
        data = f"{examples} examples, {hours:.1f} h of audio" if self.stream is None else self.stream.described()
        self.progress.say(
            f"stage {self.stage.name}: {count / 1e6:.2f}M trained parameters, {data}, steps {from_step} to {steps}"
        )


def prepare(recipe: Recipe, device: torch.device, precision: str, main: bool) -> Prepared:
    """Reads parts and data, stores missing features, and marks what the stage trains.

    Raises:
        ConfigurationError, DataError, TrainingError, CheckpointError: with what to change.
    """
    stage = stage_of(recipe)
    if not recipe.train:
        raise ConfigurationError("The recipe names no training data; add `train: [{manifest: path}]`.")
    progress = RunProgress(main)
    if stage.next_token and recipe.start_from is None:
        still = "" if "alignment." in stage.trained else ", which it does not train"
        progress.say(
            f"warning: the recipe has no start_from, so stage {stage.name} begins with a random alignment adapter"
            f"{still}: the LLM hears nothing that it could read; name the stage before, as in start_from: "
            "runs/stage1/final"
        )
    config = _config(recipe)
    processor = load_processor(config)
    ctc = CtcTokenizer(processor.tokenizer, config.ctc_vocabulary)
    effects = Effects.of(recipe.augmentation, recipe.seed, stored=recipe.features is not None)
    left_out = LeftOut(RunProgress(True).say)  # in each process: the others do not read what it does
    stream = None
    if any(is_sharded(source.manifest) for source in recipe.train):
        stream = Stream(recipe, ctc, effects, stage.next_token, left_out)
    train_sources = [
        Source(source, ctc, effects, number) for number, source in enumerate(recipe.train if stream is None else [])
    ]
    evaluation_sources = [Source(source, ctc) for source in recipe.evaluation]
    read_whole = [*(stream.sources if stream else train_sources), *evaluation_sources]
    check_audio_files(example for source in read_whole for example in source.examples)
    sources = [*train_sources, *evaluation_sources]
    store = _features(recipe, config, processor, sources, device, precision, progress, left_out)
    for source in sources:
        source.keep_stored(store)
        if not stage.next_token:
            source.keep_transcribed()
    model = build_model(recipe, stage, config, device, precision)
    if config.ctc_merges:
        assert config.ctc_vocabulary is not None
        model.shrinking.merges.copy_(torch.tensor(merge_table(processor.tokenizer, config.ctc_vocabulary)))
    trained = mark_trained(model, stage)
    collator = Collator(store, processor, recipe, with_text=stage.next_token, endless=stream is not None)
    return Prepared(
        recipe, stage, model, processor, collator, train_sources, evaluation_sources, progress, left_out, trained,
        stream,
    )


def stage_of(recipe: Recipe) -> Stage:
    """The recipe's stage; with `lora: {r: 0}` it trains no LoRA, and one that is there stays as it is."""
    stage = stage_named(recipe.stage)
    return stage if recipe.lora.r else dataclasses.replace(stage, lora=False)


def _config(recipe: Recipe) -> SoundwaveConfig:
    for name in recipe.model:
        if name not in SWITCH_NAMES:
            near = difflib.get_close_matches(name, SWITCH_NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(SWITCH_NAMES)}."
            raise ConfigurationError(f"model: {name!r} is not a known switch; {hint}")
    start = start_folder(recipe)
    if start is not None:
        config = start_config(start, _lasting_name(recipe))
        _check_parts(recipe, config)
        whitens = recipe.model.get("alignment_whitening", config.alignment_whitening)
        if whitens != config.alignment_whitening:
            raise ConfigurationError(
                f"model: alignment_whitening={whitens}, but {start} was trained with {config.alignment_whitening}; it "
                "is measured when stage I begins: leave it out, or train stage I anew without start_from."
            )
        for name, value in recipe.model.items():  # switches that later stages may change
            setattr(config, name, value)
        return _with_merges(config, recipe)
    config = new_config(recipe.audio_tower or MINI_TOWER, recipe.language_model or MINI_LLM, **recipe.model)
    if recipe.ctc_vocabulary_size is not None:
        tokenizer = load_processor(config).tokenizer
        texts = (text for source in recipe.train for text in some_transcripts(source, VOCABULARY_EXAMPLES))
        config.ctc_vocabulary = build_vocabulary(tokenizer, texts, recipe.ctc_vocabulary_size)
    return _with_merges(config, recipe)


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
    frozen = _frozen_dtype(precision)
    four_bit = stage.next_token and recipe.llm_quantization == "4bit"
    if four_bit:
        require_four_bit(device)
    model = empty_model(config)
    fresh = SoundwaveForConditionalGeneration.fresh_adapters(config, recipe.seed)
    fill(model, iter(fresh.items()), _adapters_only, str(device), torch.float32, "fresh adapters")
    start = start_folder(recipe)
    if start is not None:
        fill(model, _start_tensors(start, config), _adapters_only, str(device), torch.float32, str(start))
    only = None if stage.next_token else "embed_tokens"
    source, place = config.language_model_source or "", "cpu" if four_bit else str(device)
    fill_part(model, source, "language_model.", place, frozen, only)
    model.language_model.tie_weights()
    if start is None:
        _copy_embeddings(model)
    if model.alignment.ctc_projection is not None:
        model.alignment.ctc_projection.to(frozen)
    model.audio_tower = None  # its frames come from `Features`
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


def _add_lora(model: SoundwaveForConditionalGeneration, recipe: Recipe, stage: Stage, start: Path | None) -> None:
    """The LoRA of the model before, or a fresh one where the stage trains one."""
    torch.manual_seed(recipe.seed)
    if start is not None and (start / LORA_FOLDER).is_dir():
        load_lora(model, start / LORA_FOLDER, trainable=stage.lora)
    elif stage.lora:
        lora = recipe.lora
        attach_lora(model, lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules)
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
    """The adapters to start from; a shrinking adapter that gave the LLM another kind of embedding starts anew."""
    fed = start_config(start, "").audio_embedding
    for name, tensor in adapter_tensors(start):
        if fed == config.audio_embedding or not name.startswith("shrinking."):
            yield name, tensor


def _adapters_only(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    wanted = name.startswith(("alignment.", "shrinking.")) and name != MERGES  # a later stage may begin to merge
    return [(name, tensor)] if wanted else []


def _features(
    recipe: Recipe, config: SoundwaveConfig, processor: SoundwaveProcessor, sources: list[Source],
    device: torch.device, precision: str, progress: RunProgress, left_out: LeftOut,
) -> Features:
    """Opens the store and encodes what it lacks; the encoder is in memory for that time only, or stays on the fly."""
    if recipe.features is None:
        return OnTheFly(_encoder(config, device, precision), processor, _on_bad(recipe, left_out))
    about: dict[str, object] = {
        "encoder": Path(config.audio_tower_source or "").name, "window": config.encoder_window,
        "tail": config.window_tail_seconds,
    }
    if config.frames_per_group != 2:  # windows are whole groups
        about["frames_per_group"] = config.frames_per_group
    try:
        folder = Path(recipe.features)
        store = FeatureStore(folder, config.audio_config.d_model, about)
        clips = {clip.key(): (clip, seconds) for clip, seconds in clips_of(sources) if seconds <= MAX_SECONDS}
        if any(key not in store for key in clips):
            # One process, of this run or another, encodes; the others wait here and then find nothing missing.
            with FileLock(folder / "filling.lock"):
                store = FeatureStore(folder, config.audio_config.d_model, about)
                missing = [pair for key, pair in clips.items() if key not in store]
                if missing:
                    _encode(recipe, config, processor, store, missing, device, precision, progress)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else error
        raise TrainingError(
            f"The encoder features could not be stored in {recipe.features} ({reason}); free some "
            "space and start the same command again: what is stored stays."
        ) from error
    return store


def _encode(
    recipe: Recipe, config: SoundwaveConfig, processor: SoundwaveProcessor, store: FeatureStore,
    missing: list[tuple[Clip, float]], device: torch.device, precision: str, progress: RunProgress,
) -> None:
    encoder = _encoder(config, device, precision)
    progress.say(f"encoding {len(missing)} clips ({sum(s for _, s in missing) / 3600:.1f} h) into {recipe.features}")
    progress.start(len(missing), what="encoding audio")
    fill_store(store, missing, encoder, processor, _advance(progress), _on_bad(recipe, LeftOut(progress.say)))
    progress.stop()


def _encoder(config: SoundwaveConfig, device: torch.device, precision: str) -> Any:
    model = empty_model(config)
    fill_part(model, config.audio_tower_source or "", "audio_tower.", str(device), _frozen_dtype(precision))
    use_onednn(model.audio_tower)
    return model.audio_tower.eval().requires_grad_(False)


def _frozen_dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _advance(progress: RunProgress) -> Callable[[int, int], None]:
    def advance(done: int, total: int) -> None:
        if progress.live:
            progress.step(done, {}, 0.0)

    return advance


def _on_bad(recipe: Recipe, left_out: LeftOut) -> Callable[[Clip, SoundwaveError], None]:
    def on_bad(clip: Clip, error: SoundwaveError) -> None:
        if recipe.on_bad_audio == "stop":
            raise TrainingError(f"{error} (set on_bad_audio=skip to leave such clips out)") from error
        file = clip.name if clip.path.startswith("data:") else clip.path
        left_out.name(f"{file} {clip.start} {clip.end}", str(error))  # at whatever speed

    return on_bad

