"""Everything a run needs before its first step: model, vocabulary, manifests, stored features, checks.

Fails in the first minute: paths, formats and features are looked at before any training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock

from soundwave.checkpoints.native import load_processor
from soundwave.configuration import SoundwaveConfig
from soundwave.data.manifests import check_audio_files
from soundwave.data.probe import MAX_SECONDS
from soundwave.data.shards import is_sharded
from soundwave.data.units import UnitBank
from soundwave.errors import ConfigurationError, DataError, SoundwaveError, TrainingError
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer, merge_table
from soundwave.training.augmentation import Effects
from soundwave.training.build import build_encoder, build_model, stage_of, start_mark, trained_config
from soundwave.training.collate import Collator
from soundwave.training.features import Clip, Features, FeatureStore, OnTheFly, fill_store
from soundwave.training.recipe import Recipe
from soundwave.training.reporting import RunProgress, Skipped
from soundwave.training.resume import keep_recipe
from soundwave.training.sampler import Source, clips_of
from soundwave.training.stages import Stage, learns, mark_trained, rate_scales
from soundwave.training.streaming import Stream


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
    skipped: Skipped
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
                f"{folder} is done: step {steps} of {steps}, nothing is left to train; to train on, raise max_steps, "
                "num_train_epochs or max_minutes"
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
        still = "" if learns(stage) else ", which it does not train"
        progress.say(
            f"warning: the recipe has no start_from, so stage {stage.name} begins with a random alignment adapter"
            f"{still}: the LLM hears nothing that it could read; name the stage before, as in start_from: "
            "runs/stage1/final"
        )
    config, inference = trained_config(recipe)
    if recipe.intermediate_ctc_weight and config.alignment_layers < 2:
        raise ConfigurationError(
            f"intermediate_ctc_weight is {recipe.intermediate_ctc_weight}, but alignment_layers is "
            f"{config.alignment_layers}, so no layer comes before the last; set model.alignment_layers to 2 or more in "
            "stage I, or intermediate_ctc_weight to 0."
        )
    processor = load_processor(config, inference=inference)
    ctc = CtcTokenizer(processor.tokenizer, config.ctc_vocabulary)
    effects = Effects.of(recipe.augmentation, recipe.seed, stored=recipe.features is not None)
    skipped = Skipped(RunProgress(True).say)  # in each process: the others do not read what it does
    stream = None
    if any(is_sharded(source.manifest) for source in recipe.train):
        stream = Stream(recipe, ctc, effects, stage.next_token, skipped)
    banks = _banks(recipe, stage, config)
    train_sources = [
        Source(source, ctc, effects, number, banks.get(source.simulate))
        for number, source in enumerate(recipe.train if stream is None else [])
    ]
    evaluation_sources = [Source(source, ctc, bank=banks.get(source.simulate)) for source in recipe.evaluation]
    read_whole = [*(stream.sources if stream else train_sources), *evaluation_sources]
    recorded = (source for source in read_whole if source.source.simulate is None)
    check_audio_files(example for source in recorded for example in source.examples)
    sources = [*train_sources, *evaluation_sources]
    store = _features(recipe, config, processor, sources, device, precision, progress, skipped)
    for source in sources:
        source.keep_stored(store)
        if dropped := source.keep_sayable():
            progress.say(f"{source.source.manifest}: left out {dropped} texts that {source.source.simulate} cannot say")
        if not stage.next_token:
            source.keep_transcribed()
    model = build_model(recipe, stage, config, device, precision)
    if config.ctc_merges:
        assert config.ctc_vocabulary is not None
        model.shrinking.merges.copy_(torch.tensor(merge_table(processor.tokenizer, config.ctc_vocabulary)))
    trained = _trained(model, recipe, stage)
    collator = Collator(
        store, processor, recipe, stage.next_token, stream is not None, skipped.name, config.encoder_upper_layers > 0
    )
    return Prepared(
        recipe, stage, model, processor, collator, train_sources, evaluation_sources, progress, skipped, trained,
        stream,
    )


def _trained(model: SoundwaveForConditionalGeneration, recipe: Recipe, stage: Stage) -> list[str]:
    """The names of what is trained, which alone gets gradients; a scale of 0 leaves a part as it is.

    Raises:
        ConfigurationError: nothing is.
    """
    at_rest = tuple(part for part, scale in rate_scales(recipe).items() if scale == 0)
    trained = mark_trained(model, stage, at_rest)
    if not trained:
        raise ConfigurationError(
            f"The stage {stage.name} has nothing to train: a learning rate scale of 0 leaves a part as it is."
        )
    return trained


def _banks(recipe: Recipe, stage: Stage, config: SoundwaveConfig) -> dict[str | None, UnitBank]:
    """Every bank that a source is said with, opened once, by its folder.

    Raises:
        ConfigurationError: the stage would train what makes these frames.
        DataError: one holds frames of another alignment adapter than the run's own: they mean something else.
    """
    folders = {source.simulate for source in [*recipe.train, *recipe.evaluation]}
    banks: dict[str | None, UnitBank] = {folder: UnitBank(Path(folder)) for folder in folders if folder is not None}
    encoder_learns = config.encoder_training != "none" or config.encoder_layer_sum
    if banks and learns(stage) and encoder_learns and recipe.encoder_learning_rate_scale:
        raise ConfigurationError(
            f"{next(iter(banks))} holds what the encoder's upper layers make of speech as they are, but the stage "
            f"{stage.name} trains them; set encoder_learning_rate_scale to 0."
        )
    mark, start_from = start_mark(recipe, config) if banks else None, recipe.start_from
    for folder, bank in banks.items():
        if bank.adapter != mark:
            raise DataError(
                f"{folder} was made with another alignment adapter ({bank.adapter}) than start_from={start_from} has "
                f"({mark}); make it anew: soundwave data units MANIFEST... --model {start_from} --out BANK"
            )
    return banks


def _features(
    recipe: Recipe, config: SoundwaveConfig, processor: SoundwaveProcessor, sources: list[Source],
    device: torch.device, precision: str, progress: RunProgress, skipped: Skipped,
) -> Features:
    """Opens the store and encodes what it lacks; the encoder is in memory for that time only, or stays on the fly."""
    if recipe.features is None:
        return OnTheFly(build_encoder(config, device, precision), processor, _on_bad(recipe, skipped))
    about: dict[str, object] = {
        "encoder": Path(config.audio_tower_source or "").name, "window": config.encoder_window,
        "tail": config.window_tail_seconds,
    }
    if config.encoder_upper_layers:
        about["upper_layers"] = config.encoder_upper_layers  # they come after what is stored
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
    encoder = build_encoder(config, device, precision)
    progress.say(f"encoding {len(missing)} clips ({sum(s for _, s in missing) / 3600:.1f} h) into {recipe.features}")
    progress.start(len(missing), what="encoding audio")
    on_bad = _on_bad(recipe, Skipped(progress.say))
    fill_store(store, missing, encoder, processor, _advance(progress), on_bad, recipe.reading_processes)
    progress.stop()


def _advance(progress: RunProgress) -> Callable[[int, int], None]:
    def advance(done: int, total: int) -> None:
        if progress.live:
            progress.step(done, {}, 0.0)

    return advance


def _on_bad(recipe: Recipe, skipped: Skipped) -> Callable[[Clip, SoundwaveError], None]:
    def on_bad(clip: Clip, error: SoundwaveError) -> None:
        if recipe.on_bad_audio == "stop":
            raise TrainingError(f"{error} (set on_bad_audio=skip to leave such clips out)") from error
        file = clip.name if clip.path.startswith("data:") else clip.path
        skipped.name(f"{file} {clip.start} {clip.end}", str(error))  # at whatever speed

    return on_bad

