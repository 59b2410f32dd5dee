"""Loads the model that a verb names, and shows how far that is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import soundwave
from soundwave.cli import streams
from soundwave.cli.display import progress_bar, say

if TYPE_CHECKING:
    from rich.progress import TaskID

    from soundwave.inference.engine import Engine


def load(model: str, device: str, dtype: str, quiet: bool, backend: str = "torch") -> Engine:
    """The engine of a model; what a shipped model lacks is fetched first, with a bar.

    Args:
        backend: `none` loads no language model.
    """
    from soundwave.checkpoints.catalog import SHIPPED

    start = time.perf_counter()
    if model in SHIPPED:
        fetch(model, quiet)  # only the first time it has something to do; then it may take minutes, so it is shown
    say(f"loading {model} ...", quiet)
    engine = soundwave.load(model, device=device, dtype=dtype, backend=backend)
    say(f"loaded {model} in {time.perf_counter() - start:.1f} s", quiet)
    return engine


def fetch(model: str, quiet: bool) -> Path:
    """Downloads what a model lacks, with a bar for each step; the bar appears when there is something to do."""
    from soundwave.checkpoints import catalog

    if quiet or not streams.errors().isatty():
        return catalog.download(model)
    tasks: dict[str, TaskID] = {}
    with progress_bar() as bar:

        def show(description: str, done: int, total: int | None) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        return catalog.download(model, progress=show)
