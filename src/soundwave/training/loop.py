"""The one training loop, for every stage (paper section 3.3), on accelerate.

`train` prepares a run, `fit` takes its steps with `train_step`, `validate` and `save`, and `finish` writes the model.
What differs between stages is data (`stages.py`), what a step computes is in `objective.py`. A run that was interrupted
goes on from its last checkpoint with the same losses, and several processes have the losses of one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from soundwave.checkpoints.native import save_trained
from soundwave.errors import ConfigurationError, DataError, TrainingError
from soundwave.training.build import lora_of, start_folder
from soundwave.training.checkpoint import (
    checkpoint_at,
    list_checkpoints,
    load_evaluated,
    save_checkpoint,
    trained_state,
)
from soundwave.training.collate import Batch
from soundwave.training.cost.estimate_table import estimate, render
from soundwave.training.deepspeed import uses_zero
from soundwave.training.distributed import (
    alone_in,
    autocast,
    device_of,
    end_processes,
    gathered,
    in_main_process,
    make_whole,
    start_processes,
    whole,
)
from soundwave.training.hub import push
from soundwave.training.objective import Losses
from soundwave.training.optim import learning_rate
from soundwave.training.prepare import prepare
from soundwave.training.recipe import Recipe, check_recipe
from soundwave.training.recipe_io import check_places, read_recipe
from soundwave.training.reporting import (
    RunProgress,
    held_out_scores,
    import_wandb,
    means,
    remember,
)
from soundwave.training.resume import check_changes
from soundwave.training.run import CHECKPOINTS, Run, epoch_batches, is_due, new_run, start, upcoming_shares
from soundwave.training.sampler import Place, Share
from soundwave.training.streaming import tell_lanes
from soundwave.training.validate import best_step, evaluated, stops_early, validate

FINAL_FOLDER = "final"
MOST_SKIPPED = 20  # steps in a row: then it is not the data that is broken


def train_from_recipe(path: str | Path, overrides: list[str], dry_run: bool = False, resume: bool = True) -> Path:
    """Runs a recipe to its end and returns the folder of the trained model.

    Args:
        path: a YAML recipe.
        overrides: `key=value` changes to it.
        dry_run: only check: print an estimate, read everything, store the features, compute two batches and evaluate
            one.
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


def train(recipe: Recipe, dry_run: bool = False, resume: bool = True) -> Path:
    """Runs a recipe; see `train_from_recipe`."""
    check_recipe(recipe, "recipe")
    check_places(recipe, output=not dry_run)
    if "wandb" in recipe.report_to:
        import_wandb()
    accelerator = start_processes(recipe)
    precision = accelerator.mixed_precision
    earlier = start_folder(recipe)
    recipe = replace(recipe, mixed_precision=precision, lora=lora_of(recipe, earlier))
    if resume and list_checkpoints(Path(recipe.output_dir) / CHECKPOINTS):
        check_changes(recipe, RunProgress(accelerator.is_main_process).say)
    torch.manual_seed(recipe.seed)
    prepared = prepare(recipe, device_of(accelerator), precision, accelerator.is_main_process)
    run = new_run(recipe, accelerator, prepared)
    try_batches(run)
    if dry_run:
        return run.folder / FINAL_FOLDER
    with alone_in(accelerator, run.folder):
        start(run, resume)
        fit(run)
        return finish(run, earlier)


def try_batches(run: Run) -> None:
    """Computes the longest batch and one other, and evaluates one of each held-out set: memory, shapes, finite losses.

    Raises:
        TrainingError: a loss is not finite.
        ConfigurationError: `keep_best` is no held-out figure.
        DataError: nothing of the audio can be read.
    """
    made = epoch_batches(run, 0)
    longest = max(made, key=lambda batch: sum(item.seconds for item in batch))
    for items in made:  # the first of which anything can be read stands in for those of which nothing can
        with suppress(DataError):
            run.prepared.collator(items)
            break
    for items in (longest, made[0]):
        batch = run.prepared.collator(items).to(run.accelerator.device)  # NumPy's part of it knows no bfloat16
        with torch.no_grad(), autocast(run.accelerator):
            losses = run.module(batch)
        if not torch.isfinite(losses.total):
            names = _shown([item.name for item in items])
            raise TrainingError(f"The loss of the first batch is {losses.total.item()}; it holds {names}.")
    row: dict[str, Any] = {"step": 0}
    tried = [evaluated(run, name, source, most=1) for name, source in run.held_out.items()]
    for figures in tried:
        row |= figures
    # a batch that cannot be read tells no names of figures
    if (best := run.recipe.keep_best) is not None and all(tried) and not held_out_scores([row], best):
        raise ConfigurationError(f"keep_best is {best}, but the held-out figures are {', '.join(list(row)[1:])}.")


def fit(run: Run) -> None:
    """Steps until the last one, or until held-out figures say enough; logs, saves and evaluates on the way."""
    recipe, position = run.recipe, run.position
    run.wrapped.train()
    started, audio = time.monotonic(), 0.0
    began = started - 60 * position.minutes
    run.prepared.progress.start(run.steps, position.step)
    if position.step:
        validate(run)  # what a run that was stopped between saving and evaluating has left to do
    upcoming = upcoming_shares(run)
    while position.step < run.steps and not stops_early(run):
        seconds = train_step(run, upcoming)
        if seconds is None:
            continue
        audio += seconds
        position.step += 1
        minutes = (time.monotonic() - began) / 60
        run.spend(gathered(run.accelerator, [minutes])[0] if recipe.max_minutes else minutes)  # by one clock
        if position.step % recipe.logging_steps == 0:
            report(run, audio / (time.monotonic() - started))
            started, audio = time.monotonic(), 0.0
        if is_due(run, recipe.save_steps) or (run.prepared.evaluation and is_due(run, recipe.eval_steps)):
            save(run)  # before it evaluates: what goes wrong there costs no step
        validate(run)
    run.prepared.progress.stop()
    run.prepared.skipped.count()


def train_step(run: Run, upcoming: Iterator[Share[Batch]]) -> float | None:
    """Computes this process's batches of one optimizer step and takes it, with all processes or with none.

    Returns:
        Seconds of audio of the whole step; None where the step was skipped.
    """
    accelerator, position, computed = run.accelerator, run.position, list[tuple[Losses, Place]]()
    run.rate = learning_rate(run.recipe, run.done, run.steps)
    for group in (group for optimizer in run.optimizers for group in optimizer.param_groups):
        group["lr"] = run.rate * group["scale"]
    seconds = None
    for share in upcoming:
        # the same dropout after resuming, and in whichever process
        torch.manual_seed(run.recipe.seed * 1_000_003 + share.place.epoch * 100_003 + share.place.index + 1)
        position.lanes.update([share.place.lane] if share.place.lane else [])
        with accelerator.accumulate(run.wrapped):
            with autocast(accelerator):
                losses = run.wrapped(share.batch.to(accelerator.device))
            computed.append((losses, share.place))
            if not accelerator.sync_gradients:
                if _goes_backward(run, losses.total):
                    accelerator.backward(losses.total)
                continue
            # Before the processes exchange gradients: all of them go on, or none.
            figures = accelerator.gather(torch.stack([_figures(*one) for one in computed]))
            if _is_number(run, "loss", figures[:, 0], computed):
                accelerator.backward(losses.total)
                norm = accelerator.clip_grad_norm_(run.wrapped.parameters(), run.recipe.max_grad_norm or math.inf)
                norm = None if norm is None else whole(torch.as_tensor(norm))
                if _is_number(run, "gradient", norm, computed):
                    for optimizer in run.optimizers:
                        optimizer.step()
                    if run.average is not None:
                        run.average.update(position.step)
                    remember(position.window, figures[:, :-1].tolist())
                    seconds = float(figures[:, -1].sum())
            for optimizer in run.optimizers:
                optimizer.zero_grad()
        position.epoch, position.batch = share.after
        break
    run.skipped = 0 if seconds is not None else run.skipped + 1
    if run.skipped == MOST_SKIPPED:
        raise TrainingError(
            f"{MOST_SKIPPED} steps in a row had no finite loss or gradient (now at step {position.step}); "
            "lower learning_rate, and start from the last checkpoint."
        )
    return seconds


def _goes_backward(run: Run, loss: Tensor) -> bool:
    """Whether a batch before the last of a step has a gradient; sharing processes all have one, or none."""
    finite = bool(torch.isfinite(loss))
    return all(gathered(run.accelerator, [finite])) if run.parted else finite


def _is_number(run: Run, what: str, values: Tensor | None, computed: list[tuple[Losses, Place]]) -> bool:
    """Whether all values, the same in every process, are finite; otherwise names the examples.

    Raises:
        TrainingError: they are not, and the recipe says to stop; in every process.
    """
    if values is None or torch.isfinite(values).all():
        return True
    value = values[~torch.isfinite(values)].flatten()[0].item()
    guilty = [place for losses, place in computed if what != "loss" or not torch.isfinite(losses.total)]
    names = gathered(run.accelerator, [item.name for place in guilty for item in place.items])
    message = f"The {what} at step {run.position.step} is {value}; the batch holds {_shown(names)}."
    too_late = what == "gradient" and uses_zero(run.accelerator)  # its step is part of its backward pass
    if run.recipe.on_nan != "skip" or too_late:
        raise TrainingError(f"{message} Look at these examples, lower learning_rate, or set on_nan=skip.")
    run.prepared.progress.say(f"skipped: {message}")
    return False


def report(run: Run, speed: float) -> None:
    """Writes the mean losses since the last time, and how many times real time the audio was trained on."""
    position, figures = run.position, means(run.position.window)
    more = {"learning_rate": run.rate, "epoch": position.epoch, "times_real_time": round(speed, 1)}
    if run.recipe.max_minutes:
        more["minutes"] = round(position.minutes, 3)

    def write() -> None:
        assert run.log is not None
        run.log.add(position.step, **figures, **more)
        run.prepared.progress.step(position.step, figures, speed)

    in_main_process(run.accelerator, write)
    position.window = {}


def save(run: Run) -> None:
    """Writes a checkpoint of where the run stands."""
    tell_lanes(run.position, run.accelerator)
    average = None if run.average is None else run.average.values
    state = trained_state(run.module, run.moments, run.accelerator.is_main_process, average)
    folder, best = run.folder / CHECKPOINTS, best_step(run)
    in_main_process(run.accelerator, partial(save_checkpoint, folder, state, run.position, best))


def finish(run: Run, earlier: Path | None) -> Path:
    """Writes what was trained, at the last step or where it was best; returns its folder.

    Args:
        run: at its end.
        earlier: the folder of the model that it began from.
    """
    final = run.folder / FINAL_FOLDER
    best = gathered(run.accelerator, [best_step(run)])[0]
    if best is not None and best != run.position.step:
        load_evaluated(checkpoint_at(run.folder / CHECKPOINTS, best), run.module)
        run.prepared.progress.say(f"{final} is step {best}, where {run.recipe.keep_best} was lowest")
    elif run.average is not None:
        run.average.exchange()
    if run.parted:
        make_whole(run.prepared.model, run.scalars)

    def write() -> None:
        try:
            save_trained(run.prepared.model, final, torch.float32, run.prepared.processor.inference, earlier)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{final} could not be written ({error}); free some space and start the same command again: "
                "nothing but that is left to do."
            ) from error
        assert run.log is not None
        run.log.close()
        if run.recipe.push_to_hub:
            run.prepared.progress.say(f"pushed to {push(run.recipe, final)}")

    in_main_process(run.accelerator, write)
    return final


def _figures(losses: Losses, place: Place) -> Tensor:
    """(5,): the losses in the order of `reporting.FIGURES`, NaN where there is none, and seconds of audio."""
    terms = (losses.total, losses.ctc, losses.next_token, losses.kl)
    values = [math.nan if term is None else term.item() for term in terms]
    return torch.tensor([*values, sum(item.seconds for item in place.items)], device=losses.total.device)


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
