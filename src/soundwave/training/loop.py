"""The one training loop, for every stage (paper section 3.3), on accelerate.

What differs between stages is data (`stages.py`), what a step computes is in `modules.py`, and what a run reads is in
`preparation.py`. A run that was interrupted goes on from its last checkpoint with the same losses.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from soundwave.checkpoints.native import save_trained
from soundwave.errors import ConfigurationError, TrainingError
from soundwave.training.checkpointing import Position, list_checkpoints, load_checkpoint, save_checkpoint
from soundwave.training.dataset import Batch, Item, Source, batches
from soundwave.training.estimate_table import estimate, render
from soundwave.training.evaluate import evaluate
from soundwave.training.logs import RunLog
from soundwave.training.modules import Losses, StageModule
from soundwave.training.preparation import Prepared, prepare
from soundwave.training.recipe import Recipe, read_recipe

FINAL_FOLDER = "final"
CHECKPOINTS = "checkpoints"


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
    return train(recipe, dry_run=dry_run, resume=resume)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero at `steps`."""
    warmup = max(1, round(recipe.warmup_ratio * steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def train(recipe: Recipe, dry_run: bool = False, resume: bool = True) -> Path:
    """Runs a recipe; see `train_from_recipe`."""
    precision = _precision(recipe)
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=recipe.gradient_accumulation_steps)
    torch.manual_seed(recipe.seed)
    prepared = prepare(recipe, accelerator.device, precision, accelerator.is_main_process)
    module = StageModule(prepared.model, prepared.stage, recipe.ctc_weight)
    run = _Run(recipe, accelerator, prepared, module)
    run.check_two_batches()
    if not dry_run:
        run.start(resume)
        run.loop()
    final = Path(recipe.output_dir) / FINAL_FOLDER
    if not dry_run and accelerator.is_main_process:
        try:
            save_trained(prepared.model, final, torch.float32)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{final} could not be written ({error}); free some space and start the same command again: "
                "nothing but that is left to do."
            ) from error
        run.log.close()
    return final


def _precision(recipe: Recipe) -> str:
    if recipe.mixed_precision != "auto":
        return recipe.mixed_precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    fast_on_cpu = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast_on_cpu else "no"


@dataclass
class _Run:
    """The state of one run: position, optimizer, log."""

    recipe: Recipe
    accelerator: Accelerator
    prepared: Prepared
    module: StageModule

    def __post_init__(self) -> None:
        recipe, self.on_cuda = self.recipe, self.accelerator.device.type == "cuda"
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        aligning = [p for name, p in trained.items() if "alignment." in name]
        others = [p for name, p in trained.items() if "alignment." not in name]
        groups = [{"params": aligning, "scale": recipe.alignment_learning_rate_scale}, {"params": others, "scale": 1.0}]
        self.optimizer: Any = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=recipe.learning_rate,
            betas=(recipe.adam_beta1, recipe.adam_beta2), weight_decay=recipe.weight_decay,
            fused=recipe.optimizer == "adamw_fused" or (recipe.optimizer == "auto" and self.on_cuda),
        )
        self.raw_module, self.raw_optimizer = self.module, self.optimizer
        self.position = Position()
        world = self.accelerator.num_processes * recipe.gradient_accumulation_steps
        per_epoch = max(1, len(self.epoch_batches(0)) // world)
        self.steps = recipe.max_steps or max(1, round(per_epoch * recipe.num_train_epochs))
        self.folder = Path(recipe.output_dir)

    def epoch_batches(self, epoch: int) -> list[list[Item]]:
        """The batches of one epoch, the same in every process."""
        items = [item for source in self.prepared.train for item in source.items(self.recipe.seed, epoch)]
        return batches(items, self.recipe, self.recipe.seed, epoch)

    def check_two_batches(self) -> None:
        """Computes the longest batch and one other before the first step: memory, shapes, finite losses."""
        made = self.epoch_batches(0)
        longest = max(made, key=lambda batch: sum(item.seconds for item in batch))
        for items in (longest, made[0]):
            with torch.no_grad(), self.accelerator.autocast():
                losses = self.module(self.collate(items, None).to(self.accelerator.device))
            if not torch.isfinite(losses.total):
                raise TrainingError(f"The loss of the first batch is {losses.total.item()}; it holds {_names(items)}.")

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
        if found:
            self.position = load_checkpoint(found[-1], self.raw_module, self.raw_optimizer)
        self.module, self.optimizer = self.accelerator.prepare(self.module, self.optimizer)
        if self.accelerator.is_main_process:
            self.prepared.write_plan(self.folder, self.steps, self.position.step)
            self.log = RunLog(self.folder, self.position.step)

    def upcoming(self) -> Iterator[tuple[Position, list[Item], Batch]]:
        """This process's batches from the position on, each with the position after it; one is made ahead."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        epoch, index = self.position.epoch, self.position.batch
        with ThreadPoolExecutor(1) as worker:
            while True:
                made = self.epoch_batches(epoch)
                made = made[: len(made) // world * world]
                ahead: Any = None
                for at in range(index, len(made), world):
                    here = ahead or worker.submit(self.collate, made[at + rank], self._augment_seed(epoch, at + rank))
                    following = at + world + rank
                    ahead = None
                    if following < len(made):
                        ahead = worker.submit(self.collate, made[following], self._augment_seed(epoch, following))
                    yield Position(0, epoch, at + world), made[at + rank], here.result()
                epoch, index = epoch + 1, 0

    def _augment_seed(self, epoch: int, batch: int) -> str:
        return f"{self.recipe.seed}/{epoch}/{batch}"

    def loop(self) -> None:
        """Steps until the last one; evaluates, logs and saves on the way."""
        recipe, accelerator = self.recipe, self.accelerator
        self.module.train()
        window: list[Losses] = []
        started, seconds = time.monotonic(), 0.0
        self.prepared.progress.start(self.steps, self.position.step)
        for after, items, batch in self.upcoming():
            if self.position.step >= self.steps:
                break
            # the same dropout after resuming too
            torch.manual_seed(recipe.seed * 1_000_003 + after.epoch * 100_003 + after.batch)
            with accelerator.accumulate(self.module):
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, self.position.step, self.steps) * group["scale"]
                with accelerator.autocast():
                    losses = self.module(batch.to(accelerator.device))
                if not self._finite("loss", losses.total, items):
                    self.position.epoch, self.position.batch = after.epoch, after.batch
                    continue
                accelerator.backward(losses.total)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.module.parameters(), recipe.max_grad_norm)
                    if not self._finite("gradient", norm, items):
                        self.optimizer.zero_grad()
                        self.position.epoch, self.position.batch = after.epoch, after.batch
                        continue
                self.optimizer.step()
                self.optimizer.zero_grad()
            window.append(losses)
            seconds += sum(item.seconds for item in items)
            self.position.epoch, self.position.batch = after.epoch, after.batch
            if not accelerator.sync_gradients:
                continue
            self.position.step += 1
            if self.position.step % recipe.logging_steps == 0:
                self._report(window, seconds / (time.monotonic() - started))
                window, started, seconds = [], time.monotonic(), 0.0
            self._evaluate_and_save()
        self.prepared.progress.stop()

    def _finite(self, what: str, value: Any, items: list[Item]) -> bool:
        if value is None or torch.isfinite(value):
            return True
        message = f"The {what} at step {self.position.step} is {value.item()}; the batch holds {_names(items)}."
        if self.recipe.on_nan != "skip":
            raise TrainingError(f"{message} Look at these examples, lower learning_rate, or set on_nan=skip.")
        self.prepared.progress.say(f"skipped: {message}")
        return False

    def _report(self, window: list[Losses], speed: float) -> None:
        if not self.accelerator.is_main_process:
            return

        def mean(values: list[torch.Tensor | None]) -> float | None:
            known = [value.item() for value in values if value is not None]
            return round(sum(known) / len(known), 6) if known else None

        figures = {
            "loss": mean([one.total for one in window]), "ctc": mean([one.ctc for one in window]),
            "next_token": mean([one.next_token for one in window]),
        }
        rate = learning_rate(self.recipe, self.position.step - 1, self.steps)
        also = {"learning_rate": rate, "epoch": self.position.epoch, "times_real_time": round(speed, 1)}
        self.log.add(self.position.step, **figures, **also)
        self.prepared.progress.step(self.position.step, figures, speed)

    def _evaluate_and_save(self) -> None:
        step, recipe = self.position.step, self.recipe
        last = step == self.steps
        if self.prepared.evaluation and (last or step % recipe.eval_steps == 0):
            self._evaluate(self.prepared.evaluation)
        if (last or step % recipe.save_steps == 0) and self.accelerator.is_main_process:
            save_checkpoint(self.folder / CHECKPOINTS, self.raw_module, self.raw_optimizer, self.position)

    def _evaluate(self, sources: list[Source]) -> None:
        self.module.eval()
        for source in sources:
            with self.accelerator.autocast():
                figures = evaluate(
                    self.raw_module, source, self.prepared.collator, self.recipe, self.accelerator.device
                )
            if self.accelerator.is_main_process:
                named = {f"eval_{Path(source.source.manifest).parent.name}_{k}": v for k, v in figures.items()}
                self.log.add(self.position.step, **named)
                shown = ", ".join(f"{name} {value:.4f}" for name, value in named.items())
                self.prepared.progress.say(f"step {self.position.step}: {shown}")
        self.module.train()


def _names(items: list[Item]) -> str:
    shown = ", ".join(item.name for item in items[:4])
    return shown if len(items) <= 4 else f"{shown} and {len(items) - 4} more"


__all__ = ["learning_rate", "train", "train_from_recipe"]
