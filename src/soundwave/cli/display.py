"""What the command line shows: status and bars on standard error, JSON and tables on standard output.

Knows nothing about what is done. rich is imported inside the functions that need it: `soundwave --help` does not.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Group
    from rich.progress import Progress
    from rich.table import Table

    from soundwave.doctor import Finding

UNWRAPPED = 400  # columns: wider than any finding of the doctor


def with_progress(names: list[str], quiet: bool) -> Iterator[str]:
    """The same names, with a bar on standard error when there are several and somebody watches."""
    if quiet or len(names) < 2 or not sys.stderr.isatty():
        yield from names
        return
    with progress_bar() as bar:
        yield from bar.track(names, description="transcribing")


@contextmanager
def count_progress(description: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A function of what is done and how much there is, 0: not known; a bar follows it where somebody watches."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with progress_bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def progress_bar() -> Progress:
    """A bar on standard error that leaves standard output alone unless both are the same terminal."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())


def say(line: str, quiet: bool) -> None:
    """Status, for people who watch: nothing where standard error is a file or a pipe."""
    if not quiet and sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def say_error(problem: object) -> None:
    """One line, whatever the message holds."""
    print("error: " + " ".join(str(problem).split()), file=sys.stderr, flush=True)


def as_plain(value: Any) -> Any:
    """Dataclasses as dictionaries, arrays and tensors as lists: what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: as_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def print_json(value: Any) -> None:
    print(json.dumps(as_plain(value), ensure_ascii=False, indent=2), flush=True)


def print_findings(findings: list[Finding]) -> None:
    """A table of marks; where something is to be done, it is said below the finding."""
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        told = Text(finding.value)
        if finding.advice:
            told.append(f"\n→ {finding.advice}", style="bold")
        table.add_row(Text(finding.mark, style=colours[finding.mark]), Text(finding.name), told)
    print_table(table)


def print_table(table: Table | Group) -> None:
    """On standard output. In a file or a pipe nothing is wrapped: a line of the table is then a line of text."""
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else UNWRAPPED).print(table)
