"""The verb train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from soundwave.cli.display import print_answer


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a YAML file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that replace the recipe's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print an estimate, check everything, run two batches, then stop.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only print the estimate: needs neither data nor weights.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on from the run's newest checkpoint, if it has one.")] = True,
) -> None:
    """Train a model by a recipe, or go on with a stopped run.

    Prints the folder of the trained model. An estimate of memory and cost is derived, not measured: each line says how.
    """
    from soundwave.training.cost.estimate_table import estimate_text
    from soundwave.training.loop import train_from_recipe

    if estimate:
        print_answer(estimate_text(recipe, settings or []))
        return
    folder = train_from_recipe(recipe, settings or [], dry_run=dry_run, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several of this command: one of them answers
        print_answer(str(folder))
