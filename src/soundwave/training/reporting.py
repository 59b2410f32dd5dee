"""What a run tells: figures to `metrics.jsonl` and TensorBoard, curves, a bar on a terminal, and what it passed over.

Knows nothing about models or data. Files are UTF-8.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from soundwave.errors import ConfigurationError, TrainingError
from soundwave.files import write_text

FIGURES = ("loss", "ctc", "next_token", "kl")  # of training, in the order in which processes tell them to each other


class RunLog:
    """Appends figures of one run; a resumed run forgets what came after its checkpoint.

    Args:
        folder: the run's output folder.
        step: the step to go on from.
        say: tells a person what the run goes on without.
        report_to: who is told beside `metrics.jsonl`: tensorboard, wandb.
        settings: the recipe as plain values, for those who show it.

    Raises:
        WriteError: the disk is full or cannot be written.
    """

    def __init__(
        self, folder: Path, step: int = 0, say: Callable[[str], None] = lambda text: None,
        report_to: Sequence[str] = ("tensorboard",), settings: dict[str, Any] | None = None,
    ):
        self.folder, self.path = folder, folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._boards: list[TensorBoard | WeightsAndBiases] = []
        if "tensorboard" in report_to:
            self._boards.append(TensorBoard(folder / "tensorboard", say))
        if "wandb" in report_to:
            self._boards.append(WeightsAndBiases(folder, say, settings or {}))

    def add(self, step: int, **figures: Any) -> None:
        """Writes figures of a step; None values are left out.

        Raises:
            TrainingError: the disk is full or cannot be written.
        """
        row = {"step": step, **{key: value for key, value in figures.items() if value is not None}}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise _unwritten(self.path, error, "it goes on from the last checkpoint") from error
        for board in self._boards:
            board.add(step, {key.replace("eval_", "eval/"): value for key, value in row.items() if key != "step"})

    def close(self) -> None:
        """Flushes what others are told and draws the plot.

        Raises:
            TrainingError: the plot cannot be written.
        """
        for board in self._boards:
            board.close()
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
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def held_out_names(manifests: Sequence[str]) -> list[str]:
    """What the figures of each held-out manifest are called, no two alike.

    Args:
        manifests: paths, in the recipe's order.

    Returns:
        For each the name of its folder; where several manifests share that, `folder_stem`; where they share that too,
        with a number from the second on. Without a folder it is the stem.

    Example:
        >>> held_out_names(["books/manifest.jsonl", "dev/asr.jsonl", "dev/translation.jsonl"])
        ['books', 'dev_asr', 'dev_translation']
    """
    paths = [Path(manifest) for manifest in manifests]
    folders = [path.parent.name or path.stem for path in paths]
    shared = Counter(folders)
    taken = {folder for folder in folders if shared[folder] == 1}
    names = []
    for path, folder in zip(paths, folders, strict=True):
        name = folder
        if shared[folder] > 1:
            stem = f"{folder}_{path.stem}"
            name = next(n for n in (stem if i == 1 else f"{stem}_{i}" for i in count(1)) if n not in taken)
            taken.add(name)
        names.append(name)
    return names


def held_out_scores(rows: Sequence[dict[str, Any]], figure: str) -> dict[int, float]:
    """The held-out figure of each step that has it; the lower the better.

    Args:
        rows: of a metrics file.
        figure: the full name of one (`eval_dev_loss`), or `loss`, `ctc_wer` …: the mean over all that have it.

    Returns:
        By step, in order; a figure that is no number is infinite.
    """
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("eval_") and (name == figure or name.endswith(f"_{figure}")):
                found.setdefault(row["step"], {})[name] = value if math.isfinite(value) else math.inf
    return {step: sum(values.values()) / len(values) for step, values in sorted(found.items())}


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


class TensorBoard:
    """Writes figures for TensorBoard, where it is installed and as long as the disk takes them.

    Args:
        folder: for the files.
        say: tells a person, once, that nothing more is written.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.folder, self.say = folder, say
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return  # an optional extra: metrics.jsonl has it all
        _hush_its_threads()

        def open_writer() -> None:
            self._writer = SummaryWriter(str(folder))

        self._try(open_writer)

    def add(self, step: int, figures: dict[str, Any]) -> None:
        """Writes the numbers among a step's figures."""
        for key, value in figures.items():
            if self._writer is not None and isinstance(value, (int, float)):
                self._try(partial(self._writer.add_scalar, key, value, step))

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._try(self._writer.close)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            self._writer = None
            self.say(
                f"{self.folder} could not be written ({error.strerror or error}); the run goes on without TensorBoard, "
                "metrics.jsonl has the same figures"
            )


class WeightsAndBiases:
    """Tells figures to Weights & Biases: project WANDB_PROJECT or `soundwave`, a run for each output folder.

    Args:
        folder: the run's; the id of its page is kept there, so that a run that goes on has the same page.
        say: tells a person, once, that nothing more is told.
        settings: shown beside the figures.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], settings: dict[str, Any]):
        self.say, kept = say, folder / "wandb.id"
        self._run: Any = None
        wandb = import_wandb()

        def start() -> None:
            known = kept.read_text(encoding="utf-8").strip() if kept.is_file() else None
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "soundwave"), name=folder.resolve().name, dir=str(folder),
                id=known, resume="allow", config=settings,
            )
            kept.write_text(f"{self._run.id}\n", encoding="utf-8")

        self._try(start)

    def add(self, step: int, figures: dict[str, Any]) -> None:
        """Tells the numbers among a step's figures."""
        numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        if self._run is not None:
            self._try(partial(self._run.log, numbers, step=step))

    def close(self) -> None:
        """Sends what is left."""
        if self._run is not None:
            self._try(self._run.finish)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # a service on the network fails in ways of its own; the run is worth more
            self._run = None
            self.say(
                f"Weights & Biases cannot be told the figures ({' '.join(str(error).split())[:200]}); the run goes on "
                "without, metrics.jsonl has the same"
            )


def import_wandb() -> Any:
    """The library of Weights & Biases, which only a run that asks for it needs.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigurationError(
            f"report_to names wandb, which cannot be imported ({error}); run pip install wandb, or leave it out."
        ) from error


def _hush_its_threads() -> None:
    """TensorBoard raises what its writing thread met in the caller too; Python need not print it as well."""
    shown = threading.excepthook
    if getattr(shown, "hushes_tensorboard", False):
        return

    def hook(problem: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(problem.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and isinstance(problem.exc_value, OSError)):
            shown(problem)

    hook.hushes_tensorboard = True  # type: ignore[attr-defined]
    threading.excepthook = hook


class RunProgress:
    """A bar where a person watches, plain lines in a log."""

    def __init__(self, shown: bool):
        self.console = Console(stderr=True, quiet=not shown, soft_wrap=True)
        self.live = shown and sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: Any = None

    def start(self, total: int, done: int = 0, what: str = "training") -> None:
        """Shows a bar for `total` steps."""
        self.total = total
        if self.live:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(what, total=total, completed=done)
            self._bar.start()

    def step(self, step: int, figures: dict[str, float | None], speed: float) -> None:
        """Reports a step's figures."""
        text = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self.say(f"step {step}/{self.total}: {text}, {speed:.0f} times real time")

    def say(self, text: str) -> None:
        """One line, above the bar."""
        self.console.print(text, highlight=False, markup=False)

    def stop(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Skipped:
    """Shards, rows and clips that cannot be used, each told to a person once however often it is met.

    Args:
        say: tells a person.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self._met = Counter[str]()
        self._lock = threading.Lock()  # the lanes of a stream read in threads of their own

    def name(self, name: str, problem: str) -> None:
        """Names something that is skipped, if it is new.

        Args:
            name: which one it is; the same again is only counted.
            problem: what is wrong with it, named in full.
        """
        with self._lock:
            self._met[name] += 1
            new = self._met[name] == 1
        if new:
            self.say(f"skipped: {problem}")

    def count(self) -> None:
        """Says how many there were, if any was met again after it was named."""
        with self._lock:
            several, times = len(self._met), sum(self._met.values())
        if times > several:
            self.say(f"skipped, each as named above: {several}, met {times} times in all")
