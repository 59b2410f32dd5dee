"""Held-out data during training: losses, the CTC path's word error rate, and what follows from them for the run."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean as mean

import jiwer
import torch
from accelerate import Accelerator

from soundwave.errors import DataError
from soundwave.model.shrink import collapse
from soundwave.training.checkpoint import checkpoint_at
from soundwave.training.collate import Collator
from soundwave.training.distributed import autocast, gathered, in_main_process
from soundwave.training.objective import StageModule
from soundwave.training.recipe import Recipe
from soundwave.training.reporting import held_out_scores
from soundwave.training.run import CHECKPOINTS, Run, is_due
from soundwave.training.sampler import Source, batches


@torch.no_grad()
def evaluate(
    module: StageModule, source: Source, collator: Collator, recipe: Recipe, accelerator: Accelerator,
    most: int | None = None,
) -> dict[str, float]:
    """Mean losses per batch, and the error rate of greedy CTC against the normalised transcripts.

    Several processes take turns with the batches; all of them return the figures of the whole. Batches are made outside
    of autocast: NumPy's part of the log-mel knows no bfloat16.

    Args:
        module: in evaluation mode.
        source: the held-out manifest.
        collator, recipe, accelerator: of the run.
        most: batches, to try whether it works; None: all of them. Without figures where none of these can be read.

    Returns:
        `loss`; `next_token` where the LLM runs, and `kl` where the text LLM is its teacher; `ctc_wer` (a fraction)
        where transcripts are known.

    Raises:
        DataError: none of all its audio can be read.
    """
    plain = replace(recipe, time_masks=0, feature_dropout=0.0)
    decode = source.tokenizer.decode
    losses, next_token, kl = list[float](), list[float](), list[float]()
    references, hypotheses = list[str](), list[str]()
    made = batches(source.items(recipe.seed, 0), plain, recipe.seed, 0)[:most]
    rank, processes = accelerator.process_index, accelerator.num_processes
    for first in range(0, len(made), processes):
        # Whose turn finds no batch left computes the last one again: all have a part in each pass of a sharded model.
        items = made[min(first + rank, len(made) - 1)]
        batch = collator(items).to(accelerator.device)
        with autocast(accelerator):
            result = module(batch)
        if first + rank >= len(made) or batch.stands_in:
            continue
        losses.append(result.total.item())
        if result.next_token is not None:
            next_token.append(result.next_token.item())
        if result.kl is not None:
            kl.append(result.kl.item())
        if result.paths is None or batch.frame_mask is None:
            continue
        owners = [item for item in items if item.name in batch.names for _ in range(item.sounds)]
        for item, path, mask in zip(owners, result.paths.tolist(), batch.frame_mask.tolist(), strict=True):
            if item.ctc is not None and item.example.transcript:
                classes = collapse([token for token, inside in zip(path, mask, strict=True) if inside], module.blank)
                hypotheses.append(decode(classes))
                references.append(item.example.transcript)
    losses, next_token = gathered(accelerator, losses), gathered(accelerator, next_token)
    kl = gathered(accelerator, kl)
    references, hypotheses = gathered(accelerator, references), gathered(accelerator, hypotheses)
    if not losses and most is None:
        raise DataError(f"No audio of {source.source.manifest} can be read; see what was left out above.")
    figures = {name: mean(of) for name, of in (("loss", losses), ("next_token", next_token), ("kl", kl)) if of}
    if references:
        figures["ctc_wer"] = jiwer.wer(references, hypotheses)
    return figures


def validate(run: Run) -> None:
    """Writes the held-out figures of this step, where it is time and they are not there yet."""
    if not run.prepared.evaluation or not is_due(run, run.recipe.eval_steps):
        return
    main, step = run.accelerator.is_main_process, run.position.step
    rows = [row for row in run.rows() if row["step"] == step] if main else []
    known = gathered(run.accelerator, [name for row in rows for name in row])
    for name, source in run.held_out.items():
        if f"eval_{name}_loss" in known:
            continue
        figures = evaluated(run, name, source)

        def write(figures: dict[str, float] = figures) -> None:
            assert run.log is not None
            run.log.add(run.position.step, **figures)
            shown = ", ".join(f"{figure} {value:.4f}" for figure, value in figures.items())
            run.prepared.progress.say(f"step {run.position.step}: {shown}")

        in_main_process(run.accelerator, write)


def evaluated(run: Run, name: str, source: Source, most: int | None = None) -> dict[str, float]:
    """One held-out set's figures, of the moving average where there is one, by the names that a log has."""
    run.module.eval()
    with run.averaged():
        figures = evaluate(run.module, source, run.prepared.collator, run.recipe, run.accelerator, most)
    run.module.train()
    return {f"eval_{name}_{figure}": value for figure, value in figures.items()}


def best_step(run: Run) -> int | None:
    """The step with the lowest held-out figure whose checkpoint is there; None where the recipe asks for none."""
    if run.recipe.keep_best is None:
        return None
    scores = held_out_scores(run.rows(), run.recipe.keep_best)
    there = [step for step in scores if checkpoint_at(run.folder / CHECKPOINTS, step).is_dir()]
    return min(there, key=lambda step: scores[step], default=None)


def stops_early(run: Run) -> bool:
    """Whether the last `early_stop` evaluations were no better than one before them; the same in every process."""
    recipe = run.recipe
    if recipe.early_stop is None or recipe.keep_best is None or not is_due(run, recipe.eval_steps):
        return False
    scores = held_out_scores(run.rows(), recipe.keep_best)
    since = list(scores).index(min(scores, key=lambda step: scores[step])) + 1 if scores else 0
    stops = gathered(run.accelerator, [len(scores) - since >= recipe.early_stop])[0]
    if stops:
        run.prepared.progress.say(
            f"step {run.position.step}: stopped early, {recipe.keep_best} has not become lower for "
            f"{len(scores) - since} evaluations"
        )
    return stops
