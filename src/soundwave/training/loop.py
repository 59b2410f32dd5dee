"""The one training loop, for every stage (paper section 3.3), on accelerate.

What differs between stages is data (`stages.py`), what a step computes is in `modules.py`, and what a run reads is in
`preparation.py`. A run that was interrupted goes on from its last checkpoint with the same losses, and several
processes have the losses of one (`order.py`, `processes.py`).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor

from soundwave.checkpoints.native import save_trained
from soundwave.errors import ConfigurationError, TrainingError
from soundwave.training.checkpointing import (
    Moments,
    OptimizerMoments,
    Position,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    trained_state,
)
from soundwave.training.dataset import Batch, Item, Source, batches
from soundwave.training.estimate_table import estimate, render
from soundwave.training.evaluate import evaluate, held_out_names
from soundwave.training.logs import RunLog, means, remember
from soundwave.training.mixture import epoch_items
from soundwave.training.modules import Losses, StageModule
from soundwave.training.optimizers import make_optimizers
from soundwave.training.order import Place, Share, places, shares
from soundwave.training.preparation import Prepared, prepare
from soundwave.training.processes import (
    alone_in,
    autocast,
    device_of,
    end_processes,
    gathered,
    in_main_process,
    shards,
    start_processes,
    wrapped,
)
from soundwave.training.progress import RunProgress
from soundwave.training.recipe import Recipe, check_variables, read_recipe
from soundwave.training.resuming import check_changes
from soundwave.training.sharded import flatten_scalars, make_whole, whole
from soundwave.training.stream_position import begin, tell_lanes
from soundwave.training.whitening import read_whitening, write_whitening
from soundwave.training.zero import ZeroMoments, uses_zero

FINAL_FOLDER = "final"
CHECKPOINTS = "checkpoints"
MOST_SKIPPED = 20  # steps in a row: then it is not the data that is broken


def train_from_recipe(path: str | Path, overrides: list[str], dry_run: bool = False, resume: bool = True) -> Path:
    """Runs a recipe to its end and returns the folder of the trained model.

    Args:
        path: a YAML recipe.
        overrides: `key=value` changes to it.
        dry_run: only check: print an estimate, read everything, store the features, compute two batches.
        resume: go on from the newest checkpoint of `output_dir`; without it, a run that is there is an error.

    Raises:
        ConfigurationError, DataError, TrainingError: what is wrong, before the first step where it can be known then.
    """
    recipe = read_recipe(path, overrides)
    if dry_run:
        try:
            told = render(estimate(recipe), str(path))
        except ConfigurationError as error:  # a part that is downloaded below, or a mistake that is named there
            told = f"no estimate: {error}"
        print(told, file=sys.stderr, flush=True)
    final = train(recipe, dry_run=dry_run, resume=resume)
    end_processes()
    return final


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero at `steps`."""
    warmup = max(1, round(recipe.warmup_ratio * steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def train(recipe: Recipe, dry_run: bool = False, resume: bool = True) -> Path:
    """Runs a recipe; see `train_from_recipe`."""
    check_variables(recipe, output=not dry_run)
    accelerator = start_processes(recipe)
    precision = accelerator.mixed_precision
    recipe = replace(recipe, mixed_precision=precision)
    if resume and list_checkpoints(Path(recipe.output_dir) / CHECKPOINTS):
        check_changes(recipe, RunProgress(accelerator.is_main_process).say)
    torch.manual_seed(recipe.seed)
    prepared = prepare(recipe, device_of(accelerator), precision, accelerator.is_main_process)
    module = StageModule(
        prepared.model, prepared.stage, recipe.ctc_weight, recipe.kl_weight, recipe.kl_temperature
    )
    run = _Run(recipe, accelerator, prepared, module)
    run.check_two_batches()
    if dry_run:
        return run.folder / FINAL_FOLDER
    with alone_in(accelerator, run.folder):
        run.start(resume)
        run.loop()
        return run.finish()


@dataclass
class _Run:
    """The state of one run: position, optimizer, log."""

    recipe: Recipe
    accelerator: Accelerator
    prepared: Prepared
    module: StageModule

    def __post_init__(self) -> None:
        recipe, self.on_cuda = self.recipe, self.accelerator.device.type == "cuda"
        self.optimizers: list[Any] = list(make_optimizers(self.module, recipe, self.on_cuda))
        self.raw_module = self.module
        self.moments: Moments = OptimizerMoments(list(self.optimizers))
        self.position = Position()
        self.skipped, self.sharded, self.scalars = 0, shards(self.accelerator), set[str]()
        self.shared = self.sharded or uses_zero(self.accelerator)  # no process has all that is trained
        if self.sharded and recipe.kl_weight:  # its second pass of the LLM is not in every batch
            raise TrainingError("kl_weight needs the whole model in each process (DDP); set it to 0, or do not shard.")
        processes = self.accelerator.num_processes
        per_step = processes * self.accelerator.gradient_accumulation_steps
        if self.prepared.stream is not None:
            self.prepared.stream.lanes = per_step
        first = len(self.epoch_batches(0))
        if first < processes and self.prepared.stream is None:
            raise TrainingError(
                f"The training data makes {first} batches an epoch, too few for {processes} processes; "
                "start fewer, lower batch_seconds or max_batch_size, or add data."
            )
        self.steps = recipe.max_steps or max(1, round(first * recipe.num_train_epochs / per_step))
        self.folder = Path(recipe.output_dir)

    def epoch_batches(self, epoch: int) -> list[list[Item]]:
        """The batches of one epoch, the same in every process; of a stream, the first that this process reads."""
        if self.prepared.stream is not None:
            return self.prepared.stream.first_batches(self.accelerator.process_index)
        return batches(epoch_items(self.prepared.train, self.recipe, epoch), self.recipe, self.recipe.seed, epoch)

    def check_two_batches(self) -> None:
        """Computes the longest batch and one other before the first step: memory, shapes, finite losses."""
        made = self.epoch_batches(0)
        longest = max(made, key=lambda batch: sum(item.seconds for item in batch))
        for items in (longest, made[0]):
            batch = self.collate(items, None).to(self.accelerator.device)  # NumPy's part of it knows no bfloat16
            with torch.no_grad(), autocast(self.accelerator):
                losses = self.module(batch)
            if not torch.isfinite(losses.total):
                names = _shown([item.name for item in items])
                raise TrainingError(f"The loss of the first batch is {losses.total.item()}; it holds {names}.")

    def collate(self, items: list[Item], augment_seed: str | None) -> Batch:
        """Items to tensors, masked where a seed is given."""
        return self.prepared.collator(items, augment_seed)

    def start(self, resume: bool) -> None:
        """Finds the checkpoint to go on from, and lets accelerate wrap module and optimizer."""
        found = list_checkpoints(self.folder / CHECKPOINTS)
        if found and not resume:
            raise TrainingError(
                f"{self.folder} already holds a run (at {found[-1].name}); change output_dir, or resume it."
            )
        config = self.prepared.model.config
        if config.alignment_whitening and not self.recipe.start_from:
            width = config.audio_config.d_model
            measure = partial(write_whitening, self.folder, self._frames(), width, begun=bool(found))
            in_main_process(self.accelerator, measure)
            read_whitening(self.folder, self.prepared.model.alignment)
        if self.shared:
            self.scalars = flatten_scalars(self.module)
        if self.sharded:
            self.raw_module.require_input_gradients()
        given, clipping = self.optimizers, self.recipe.max_grad_norm
        self.module, self.optimizers = wrapped(self.accelerator, self.module, given, clipping)
        if uses_zero(self.accelerator):
            self.moments = ZeroMoments(self.accelerator, *given)
        if found:
            self.position = load_checkpoint(found[-1], self.raw_module, self.moments)
        in_main_process(self.accelerator, self._open)

    def _open(self) -> None:
        self.prepared.write_plan(self.folder, self.steps, self.position.step)
        self.log = RunLog(self.folder, self.position.step, self.prepared.progress.say)

    def _frames(self) -> Iterator[Tensor]:
        """The encoder's frames (n, E) of batches all over the first epoch."""
        made = self.epoch_batches(0)
        for items in made[:: max(1, len(made) // 50)]:
            batch = self.collate(items, None)
            if batch.encoder_frames is not None and batch.frame_mask is not None:
                width = self.prepared.model.config.frames_per_group
                yield batch.encoder_frames[batch.frame_mask.repeat_interleave(width, 1)]

    def finish(self) -> Path:
        """Writes what was trained, once the last step is done; returns its folder."""
        final = self.folder / FINAL_FOLDER
        if self.shared:
            make_whole(self.prepared.model, self.scalars)
        in_main_process(self.accelerator, partial(self._write, final))
        return final

    def _write(self, final: Path) -> None:
        try:
            save_trained(self.prepared.model, final, torch.float32, self.prepared.processor.inference)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{final} could not be written ({error}); free some space and start the same command again: "
                "nothing but that is left to do."
            ) from error
        self.log.close()

    def upcoming(self) -> Iterator[Share]:
        """This process's batches from the position on."""
        seed, accelerator = self.recipe.seed, self.accelerator

        def collate(place: Place) -> Batch:
            return self.collate(place.items, f"{seed}/{place.epoch}/{place.index}")

        rank, processes = accelerator.process_index, accelerator.num_processes
        if self.prepared.stream is not None:
            begin(self.prepared.stream, self.position, accelerator)
            return self.prepared.stream.shares(self.position.lanes, self.position.batch, rank, processes, collate)
        sequence = places(self.epoch_batches, self.position.epoch, self.position.batch)
        return shares(sequence, rank, processes, collate)

    def loop(self) -> None:
        """Steps until the last one; evaluates, logs and saves on the way."""
        self.module.train()
        started, audio = time.monotonic(), 0.0
        self.prepared.progress.start(self.steps, self.position.step)
        upcoming = self.upcoming()
        while self.position.step < self.steps:
            seconds = self._step(upcoming)
            if seconds is None:
                continue
            audio += seconds
            self.position.step += 1
            if self.position.step % self.recipe.logging_steps == 0:
                speed = audio / (time.monotonic() - started)
                in_main_process(self.accelerator, partial(self._report, speed))
                self.position.window, started, audio = {}, time.monotonic(), 0.0
            self._evaluate_and_save()
        self.prepared.progress.stop()
        self.prepared.left_out.count()

    def _step(self, upcoming: Iterator[Share]) -> float | None:
        """Computes this process's batches of one optimizer step and takes it, with all processes or with none.

        Returns:
            Seconds of audio of the whole step; None where the step was skipped.
        """
        accelerator, computed = self.accelerator, list[tuple[Losses, Place]]()
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(self.recipe, self.position.step, self.steps) * group["scale"]
        seconds = None
        for share in upcoming:
            # the same dropout after resuming, and in whichever process
            torch.manual_seed(self.recipe.seed * 1_000_003 + share.place.epoch * 100_003 + share.place.index + 1)
            self.position.lanes.update([share.place.lane] if share.place.lane else [])
            with accelerator.accumulate(self.module):
                with autocast(accelerator):
                    losses = self.module(share.batch.to(accelerator.device))
                computed.append((losses, share.place))
                if not accelerator.sync_gradients:
                    if self._goes_backward(losses.total):
                        accelerator.backward(losses.total)
                    continue
                # Before the processes exchange gradients: all of them go on, or none.
                figures = accelerator.gather(torch.stack([_figures(*one) for one in computed]))
                if self._is_number("loss", figures[:, 0], computed):
                    accelerator.backward(losses.total)
                    norm = accelerator.clip_grad_norm_(self.module.parameters(), self.recipe.max_grad_norm or math.inf)
                    norm = None if norm is None else whole(torch.as_tensor(norm))
                    if self._is_number("gradient", norm, computed):
                        for optimizer in self.optimizers:
                            optimizer.step()
                        remember(self.position.window, figures[:, :-1].tolist())
                        seconds = float(figures[:, -1].sum())
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
            self.position.epoch, self.position.batch = share.after
            break
        self.skipped = 0 if seconds is not None else self.skipped + 1
        if self.skipped == MOST_SKIPPED:
            raise TrainingError(
                f"{MOST_SKIPPED} steps in a row had no finite loss or gradient (now at step {self.position.step}); "
                "lower learning_rate, and start from the last checkpoint."
            )
        return seconds

    def _goes_backward(self, loss: Tensor) -> bool:
        """Whether a batch before the last of a step has a gradient; sharing processes all have one, or none."""
        finite = bool(torch.isfinite(loss))
        return all(gathered(self.accelerator, [finite])) if self.shared else finite

    def _is_number(self, what: str, values: Tensor | None, computed: list[tuple[Losses, Place]]) -> bool:
        """Whether all values, the same in every process, are finite; otherwise names the examples.

        Raises:
            TrainingError: they are not, and the recipe says to stop; in every process.
        """
        if values is None or torch.isfinite(values).all():
            return True
        value = values[~torch.isfinite(values)].flatten()[0].item()
        guilty = [place for losses, place in computed if what != "loss" or not torch.isfinite(losses.total)]
        names = gathered(self.accelerator, [item.name for place in guilty for item in place.items])
        message = f"The {what} at step {self.position.step} is {value}; the batch holds {_shown(names)}."
        too_late = what == "gradient" and uses_zero(self.accelerator)  # its step is part of its backward pass
        if self.recipe.on_nan != "skip" or too_late:
            raise TrainingError(f"{message} Look at these examples, lower learning_rate, or set on_nan=skip.")
        self.prepared.progress.say(f"skipped: {message}")
        return False

    def _report(self, speed: float) -> None:
        """Writes the mean losses since the last time (main process)."""
        figures = means(self.position.window)
        rate = learning_rate(self.recipe, self.position.step - 1, self.steps)
        also = {"learning_rate": rate, "epoch": self.position.epoch, "times_real_time": round(speed, 1)}
        self.log.add(self.position.step, **figures, **also)
        self.prepared.progress.step(self.position.step, figures, speed)

    def _evaluate_and_save(self) -> None:
        step, recipe = self.position.step, self.recipe
        last = step == self.steps
        if self.prepared.evaluation and (last or step % recipe.eval_steps == 0):
            self._evaluate(self.prepared.evaluation)
        if last or step % recipe.save_steps == 0:
            tell_lanes(self.position, self.accelerator)
            state = trained_state(self.raw_module, self.moments, self.accelerator.is_main_process)
            in_main_process(
                self.accelerator, partial(save_checkpoint, self.folder / CHECKPOINTS, state, self.position)
            )

    def _evaluate(self, sources: list[Source]) -> None:
        self.module.eval()
        names = held_out_names([source.source.manifest for source in sources])
        for name, source in zip(names, sources, strict=True):
            with autocast(self.accelerator):
                figures = evaluate(self.raw_module, source, self.prepared.collator, self.recipe, self.accelerator)
            named = {f"eval_{name}_{figure}": value for figure, value in figures.items()}
            in_main_process(self.accelerator, partial(self._log_evaluation, named))
        self.module.train()

    def _log_evaluation(self, figures: dict[str, float]) -> None:
        self.log.add(self.position.step, **figures)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.prepared.progress.say(f"step {self.position.step}: {shown}")


def _figures(losses: Losses, place: Place) -> Tensor:
    """(5,): the losses in the order of `logs.FIGURES`, NaN where there is no such term, and seconds of audio."""
    terms = (losses.total, losses.ctc, losses.next_token, losses.kl)
    values = [math.nan if term is None else term.item() for term in terms]
    return torch.tensor([*values, sum(item.seconds for item in place.items)], device=losses.total.device)


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


__all__ = ["learning_rate", "train", "train_from_recipe"]
