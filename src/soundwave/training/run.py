"""One run as a small state that the loop works on: how it is made, starts or goes on, and what batch comes next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from soundwave.errors import TrainingError
from soundwave.training.averaging import Average
from soundwave.training.checkpoint import (
    Moments,
    OptimizerMoments,
    Position,
    list_checkpoints,
    load_checkpoint,
    load_evaluated,
)
from soundwave.training.collate import Batch
from soundwave.training.deepspeed import ZeroMoments, uses_zero
from soundwave.training.distributed import (
    flatten_scalars,
    in_main_process,
    shards,
    wrapped,
)
from soundwave.training.hub import make_repository
from soundwave.training.objective import StageModule
from soundwave.training.optim import make_optimizers
from soundwave.training.prepare import Prepared
from soundwave.training.recipe import Recipe
from soundwave.training.reporting import RunLog, held_out_names, read_metrics
from soundwave.training.resume import data_marks, tell_changed_data
from soundwave.training.sampler import Item, Place, Share, Source, batches, epoch_items, places, shares
from soundwave.training.streaming import begin
from soundwave.training.whitening import read_whitening, write_whitening

CHECKPOINTS = "checkpoints"  # their folder in the run's


@dataclass
class Run:
    """The state of one run.

    Attributes:
        recipe, accelerator, prepared: what it was made of.
        module: the model and its losses, as they are.
        wrapped: the same as accelerate runs it.
        optimizers: likewise.
        moments: what the optimizers remember.
        steps: where it ends.
        position: where it stands.
        scalars: parameters that were given a dimension for FSDP2 or DeepSpeed.
        rate: the learning rate of the latest step.
        skipped: steps in a row whose loss or gradient was no number.
        average: of what is trained, where the recipe asks for one, once the run has begun.
        log: of the main process, once the run has begun.
    """

    recipe: Recipe
    accelerator: Accelerator
    prepared: Prepared
    module: StageModule
    wrapped: Any
    optimizers: list[Any]
    moments: Moments
    steps: int
    position: Position = field(default_factory=Position)
    scalars: set[str] = field(default_factory=set)
    rate: float = 0.0
    skipped: int = 0
    average: Average | None = None
    log: RunLog | None = None

    @property
    def done(self) -> float:
        """The step that the learning rate follows: by count, or by the minutes spent where these are further."""
        limit = self.recipe.max_minutes
        return max(self.position.step, self.steps * min(1.0, self.position.minutes / limit) if limit else 0)

    def spend(self, minutes: float) -> None:
        """Says how many minutes the run has taken; where that is all, the step it stands at is the last one."""
        self.position.minutes = minutes
        if self.recipe.max_minutes and minutes >= self.recipe.max_minutes:
            self.steps = self.position.step

    @property
    def folder(self) -> Path:
        """Where everything that the run writes goes."""
        return Path(self.recipe.output_dir)

    @property
    def parted(self) -> bool:
        """Whether no process has all that is trained."""
        return shards(self.accelerator) or uses_zero(self.accelerator)

    @property
    def held_out(self) -> dict[str, Source]:
        """The held-out sources by the names of their figures."""
        sources = self.prepared.evaluation
        return dict(zip(held_out_names([source.source.manifest for source in sources]), sources, strict=True))

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the module is what is evaluated: its moving average, where one is kept."""
        return nullcontext() if self.average is None else self.average.applied()

    def rows(self) -> list[dict[str, Any]]:
        """All figures that were written down."""
        return read_metrics(self.folder / "metrics.jsonl")


def new_run(recipe: Recipe, accelerator: Accelerator, prepared: Prepared) -> Run:
    """A run before its first step.

    Raises:
        TrainingError: the recipe does not fit the processes.
    """
    module = StageModule(
        prepared.model, prepared.stage, recipe.ctc_weight, recipe.kl_weight, recipe.kl_temperature,
        recipe.ctc_label_smoothing, recipe.intermediate_ctc_weight,
    )
    optimizers = make_optimizers(module, recipe, accelerator.device.type == "cuda")
    run = Run(recipe, accelerator, prepared, module, module, list(optimizers), OptimizerMoments(optimizers), steps=0)
    if shards(accelerator) and recipe.kl_weight:  # its second pass of the LLM is not in every batch
        raise TrainingError("kl_weight needs the whole model in each process (DDP); set it to 0, or do not shard.")
    if run.parted and recipe.ema_decay:
        raise TrainingError("ema_decay needs all that is trained in each process (DDP); set it to 0, or do not shard.")
    per_step = accelerator.num_processes * accelerator.gradient_accumulation_steps
    if prepared.stream is not None:
        prepared.stream.lanes = per_step
    first = len(epoch_batches(run, 0))
    if first < accelerator.num_processes and prepared.stream is None:
        raise TrainingError(
            f"The training data makes {first} batches an epoch, too few for {accelerator.num_processes} processes; "
            "start fewer, lower batch_seconds or max_batch_size, or add data."
        )
    run.steps = recipe.max_steps or max(1, round(first * recipe.num_train_epochs / per_step))
    return run


def epoch_batches(run: Run, epoch: int) -> list[list[Item]]:
    """The batches of one epoch, the same in every process; of a stream, the first that this process reads."""
    if run.prepared.stream is not None:
        return run.prepared.stream.first_batches(run.accelerator.process_index)
    return batches(epoch_items(run.prepared.train, run.recipe, epoch), run.recipe, run.recipe.seed, epoch)


def start(run: Run, resume: bool) -> None:
    """Finds the checkpoint to go on from, and lets accelerate wrap module and optimizer.

    Raises:
        TrainingError: the folder holds a run that must not be resumed, or cannot be.
        ConfigurationError: the hub does not take what is to be pushed there.
    """
    accelerator, recipe, model = run.accelerator, run.recipe, run.prepared.model
    found = list_checkpoints(run.folder / CHECKPOINTS)
    if found and not resume:
        raise TrainingError(
            f"{run.folder} already holds a run (at {found[-1].name}); change output_dir, or resume it."
        )
    if recipe.push_to_hub:
        in_main_process(accelerator, partial(make_repository, recipe, model.config))
    if model.config.alignment_whitening and not recipe.start_from:
        width = model.config.audio_config.d_model
        in_main_process(accelerator, partial(write_whitening, run.folder, _frames(run), width, begun=bool(found)))
        read_whitening(run.folder, model.alignment)
    if run.parted:
        run.scalars = flatten_scalars(run.module)
    if shards(accelerator):
        run.module.require_input_gradients()
    given = run.optimizers
    run.wrapped, run.optimizers = wrapped(
        accelerator, run.module, given, recipe.max_grad_norm, run.module.layer_classes
    )
    if uses_zero(accelerator):
        run.moments = ZeroMoments(accelerator, *given)
    marks = data_marks(recipe)
    if found:
        run.position = load_checkpoint(found[-1], run.module, run.moments)
        tell_changed_data(run.position.data, marks, run.prepared.progress.say)
        run.spend(run.position.minutes)
    run.position.data = marks
    if recipe.ema_decay:
        run.average = Average(run.module, recipe.ema_decay)
        if found:
            with run.averaged():
                load_evaluated(found[-1], run.module)  # of a run that kept none: it begins as the parameters are

    def open_log() -> None:
        run.prepared.write_plan(run.folder, run.steps, run.position.step)
        run.log = RunLog(
            run.folder, run.position.step, run.prepared.progress.say, recipe.report_to, asdict(recipe)
        )

    in_main_process(accelerator, open_log)


def _frames(run: Run) -> Iterator[Tensor]:
    """What the alignment adapter reads (n, E) of batches all over the first epoch."""
    made = epoch_batches(run, 0)
    for items in made[:: max(1, len(made) // 50)]:
        batch = run.prepared.collator(items)
        with torch.no_grad():
            frames = run.module.adapter_input(batch.to(run.accelerator.device))
        if frames is not None and batch.frame_mask is not None:
            width = run.prepared.model.config.frames_per_group
            yield frames.cpu()[batch.frame_mask.repeat_interleave(width, 1)]


def upcoming_shares(run: Run) -> Iterator[Share[Batch]]:
    """This process's batches from the position on."""
    accelerator, stream = run.accelerator, run.prepared.stream

    def collate(place: Place) -> Batch:
        return run.prepared.collator(place.items, f"{run.recipe.seed}/{place.epoch}/{place.index}")

    rank, processes = accelerator.process_index, accelerator.num_processes
    if stream is not None:
        begin(stream, run.position, accelerator)
        return stream.shares(run.position.lanes, run.position.batch, rank, processes, collate)
    sequence = places(partial(epoch_batches, run), run.position.epoch, run.position.batch)
    return shares(sequence, rank, processes, collate)


def is_due(run: Run, every: int) -> bool:
    """Whether something that comes every so many steps, and at the last, comes now."""
    return run.position.step == run.steps or run.position.step % every == 0
