"""What the command line shows: answers on standard output; status, bars and errors on standard error.

Knows nothing about what is done. rich is imported inside the functions that need it: `soundwave --help` does not.
"""

from __future__ import annotations

import json
import time
import warnings
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TextIO

from soundwave.cli import streams
from soundwave.errors import SoundwaveWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Group
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table

    from soundwave.doctor import Finding

UNWRAPPED = 400  # columns: wider than any finding of the doctor
# Of control characters a terminal obeys some: a file's name or an answer must not be able to move its cursor.
OBEYED = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "?")


@contextmanager
def count_progress(description: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A function of what is done and how much there is, 0: not known; a bar follows it where somebody watches."""
    if quiet or not streams.errors().isatty():
        yield lambda done, total: None
        return
    with progress_bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


@contextmanager
def audio_progress(description: str, total: float, quiet: bool) -> Iterator[Callable[[float | None], None]]:
    """A function of the seconds of audio that are done, None: all; a bar with the place and the speed follows it.

    Args:
        description: stands before the bar.
        total: seconds that there are; 0: not known.
        quiet: no bar.
    """
    if quiet or not streams.errors().isatty():
        yield lambda done: None
        return
    from rich.progress import TextColumn

    began = time.perf_counter()
    first: list[float] = []  # what was done when the bar began to move: an earlier run's
    with progress_bar(TextColumn("{task.fields[place]}")) as bar:
        task = bar.add_task(description, total=total or None, place="")

        def show(done: float | None) -> None:
            if done is None:
                bar.update(task, completed=1, total=1)
                return
            first.append(done) if not first else None
            speed = (done - first[0]) / max(time.perf_counter() - began, 1e-3)
            place = clock(done) + (f" of {clock(total)}" if total else "")
            bar.update(task, completed=done, place=f"{place}, {speed:.1f} x real time")

        yield show


def clock(seconds: float) -> str:
    """A place in a recording for people: `1:02:03`.

    >>> clock(3723.4)
    '1:02:03'
    """
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


@contextmanager
def progress_bar(*more: ProgressColumn) -> Iterator[Progress]:
    """A bar on standard error. Answers that go to the same terminal are printed above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), *more)
    bar = Progress(*columns, console=Console(file=streams.errors()), redirect_stdout=False, transient=True)
    with bar, streams.answers_above(bar.console):
        yield bar


def say(line: str, quiet: bool) -> None:
    """Status, for people who watch: nothing where standard error is a file or a pipe."""
    if streams.errors().isatty():
        note(line, quiet)


def note(line: str, quiet: bool) -> None:
    """What a reader of the answer should know, whoever watches: on standard error, unless --quiet."""
    if not quiet:
        _print(line, streams.errors())


def say_error(problem: object) -> None:
    """One line, whatever the message holds."""
    note("error: " + " ".join(str(problem).split()), quiet=False)


@contextmanager
def warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Within it, a warning of ours is one line without the place in the source; a library's is as Python has it."""
    with warnings.catch_warnings():
        as_python = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, SoundwaveWarning):
                note("warning: " + " ".join(str(message).split()), quiet)
            else:
                as_python(message, category, *place, **more)

        warnings.showwarning = show
        warnings.simplefilter("always", SoundwaveWarning)
        yield


def print_answer(text: str, end: str = "\n") -> None:
    """Writes a text, or a piece of it, to standard output at once."""
    _print(text, streams.answers(), end)


def _print(text: str, stream: TextIO, end: str = "\n") -> None:
    print(text.translate(OBEYED) if stream.isatty() else text, end=end, file=stream, flush=True)


def as_plain(value: Any) -> Any:
    """Dataclasses as dictionaries, arrays and tensors as lists: what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: as_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def to_json(value: Any, indent: int | None = None) -> str:
    """A result as JSON: one line, or indented for people."""
    return json.dumps(as_plain(value), ensure_ascii=False, indent=indent)


def print_json(value: Any) -> None:
    print_answer(to_json(value, indent=2))


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

    output = streams.answers()
    Console(file=output, highlight=False, width=None if output.isatty() else UNWRAPPED).print(table)
    output.flush()
