"""A run's figures where a person looks: `metrics.jsonl`, TensorBoard, a plot of the curves, and the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soundwave.errors import TrainingError
from soundwave.training.tensorboard import TensorBoard

FIGURES = ("loss", "ctc", "next_token", "kl")  # of training, in the order in which processes tell them to each other


class RunLog:
    """Appends figures of one run; a resumed run forgets what came after its checkpoint.

    Args:
        folder: the run's output folder.
        step: the step to go on from.
        say: tells a person what the run goes on without.

    Raises:
        TrainingError: the disk is full or cannot be written.
    """

    def __init__(self, folder: Path, step: int = 0, say: Callable[[str], None] = lambda text: None):
        self.folder, self.path = folder, folder / "metrics.jsonl"
        draft = self.path.with_suffix(".tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [row for row in read_metrics(self.path) if row["step"] <= step]
            draft.write_text("".join(json.dumps(row) + "\n" for row in kept))
            draft.replace(self.path)  # whole, whenever this run is killed
        except OSError as error:
            raise _unwritten(self.path, error, "it goes on from the last checkpoint") from error
        self._board = TensorBoard(folder / "tensorboard", say)

    def add(self, step: int, **figures: Any) -> None:
        """Writes figures of a step; None values are left out.

        Raises:
            TrainingError: the disk is full or cannot be written.
        """
        row = {"step": step, **{key: value for key, value in figures.items() if value is not None}}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise _unwritten(self.path, error, "it goes on from the last checkpoint") from error
        self._board.add(step, {key.replace("eval_", "eval/"): value for key, value in row.items() if key != "step"})

    def close(self) -> None:
        """Flushes TensorBoard and draws the plot.

        Raises:
            TrainingError: the plot cannot be written.
        """
        self._board.close()
        plot = self.folder / "curves.png"
        try:
            plot_curves(self.path, plot)
        except OSError as error:
            raise _unwritten(plot, error, "nothing but that plot is left to do") from error


def _unwritten(path: Path, error: OSError, then: str) -> TrainingError:
    return TrainingError(
        f"{path} could not be written ({error.strerror or error}); free some space and start the same command again: "
        f"{then}."
    )


def remember(window: dict[str, list[float]], losses: Sequence[Sequence[float]]) -> None:
    """Adds the losses of batches, each in the order of `FIGURES` and NaN where unknown, to sums and numbers by name."""
    for name, values in zip(FIGURES, zip(*losses, strict=True), strict=True):
        known = [value for value in values if not math.isnan(value)]
        before, count = window.get(name, (0.0, 0))
        window[name] = [before + sum(known), count + len(known)]


def means(window: dict[str, list[float]]) -> dict[str, float | None]:
    """The mean of each loss, None where no batch had it."""
    return {name: round(total / count, 6) if count else None for name, (total, count) in window.items()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics file; a half-written last line is dropped."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def plot_curves(metrics: Path, target: Path) -> None:
    """Draws losses and evaluation error rates over steps into a PNG."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read_metrics(metrics)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in FIGURES:
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            left.plot(*zip(*points, strict=True), label=name)
    left.set(xlabel="optimizer step", ylabel="training loss", yscale="log")
    for name in sorted({key for row in rows for key in row if key.startswith("eval_")}):
        points = [(row["step"], row[name]) for row in rows if name in row]
        right.plot(*zip(*points, strict=True), marker=".", label=name.removeprefix("eval_"))
    right.set(xlabel="optimizer step", ylabel="evaluation: loss, or error rate of CTC greedy")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(target, dpi=110)
    plt.close(figure)
