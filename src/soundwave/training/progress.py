"""What a run tells the person who watches it: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
