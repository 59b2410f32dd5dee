"""Standard input, output and error, as a command needs them: never a traceback over an encoding or a closed stream.

Answers go to standard output, and nothing else does: while a verb runs, `sys.stdout` is standard error, so what a
library prints lands there. Knows nothing about what is printed.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from soundwave.errors import SoundwaveError

if TYPE_CHECKING:
    from rich.console import Console

_answers: TextIO | None = None  # where answers go while a verb runs
_errors: TextIO | None = None  # where our own lines go while libraries are silenced


class ClosedOutput(io.TextIOBase):
    """Standard output that the caller closed (`>&-`): writing says so."""

    def write(self, text: str) -> int:
        raise SoundwaveError("standard output is closed, so there is nowhere to print to; give it a file or a pipe.")


def prepare() -> None:
    """Makes this process's streams fit for any text; called once, before the arguments are read.

    A terminal keeps its own encoding and shows ? for what it lacks. A file or a pipe gets UTF-8 whatever the locale
    says, unless PYTHONIOENCODING asks for something else; what that lacks is a ? too.
    """
    _fill_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            own = stream.isatty() or "PYTHONIOENCODING" in os.environ
            stream.reconfigure(encoding=None if own else "utf-8", errors="replace")


def _fill_closed() -> None:
    """Descriptors that the caller closed become the null device, so that no file of ours is opened in their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdout is None:  # what Python has for a stream that was closed
        sys.stdout = cast(TextIO, ClosedOutput())
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for as long as the process lives


def answers() -> TextIO:
    """Where an answer is written."""
    return _answers or sys.stdout


def errors() -> TextIO:
    """Where status and errors are written."""
    return _errors or sys.stderr


def need_output() -> None:
    """Refuses at once, before any work, what could print nowhere.

    Raises:
        SoundwaveError: standard output is closed.
    """
    if isinstance(answers(), ClosedOutput):
        answers().write("")


def standard_input() -> BinaryIO:
    """Standard input, to read a recording from.

    Raises:
        SoundwaveError: it is closed, or a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        state = "closed" if sys.stdin is None else "a terminal"
        raise SoundwaveError(f"- reads a recording from standard input, which is {state}; pipe a file into it.")
    return cast(BinaryIO, sys.stdin.buffer)


@contextmanager
def only_answers(quiet: bool = False) -> Iterator[None]:
    """Within it, what prints to standard output, in Python or below it, prints to standard error instead.

    Args:
        quiet: nothing that libraries print appears anywhere; our own errors do.
    """
    global _answers, _errors
    before = _answers, _errors
    with ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            _errors = stack.enter_context(_led_elsewhere("stderr", nowhere))
        _answers = stack.enter_context(_led_elsewhere("stdout", sys.stderr))
        try:
            yield
        finally:
            _answers, _errors = before


@contextmanager
def answers_above(console: Console) -> Iterator[None]:
    """Within it, answers that go to the terminal on which a bar is drawn are printed above that bar."""
    global _answers
    before = _answers
    if not answers().isatty():
        yield
        return
    from rich.file_proxy import FileProxy

    above = FileProxy(console, answers())
    _answers = cast(TextIO, above)
    try:
        yield
    finally:
        above.flush()
        _answers = before


@contextmanager
def _led_elsewhere(name: str, target: TextIO) -> Iterator[TextIO]:
    """Points `sys.NAME`, and the descriptor below it, to a target; gives a stream that leads where it led before."""
    stream: TextIO = getattr(sys, name)
    number, to = _descriptor(stream), _descriptor(target)
    own, copy = stream, None
    if number is not None and to is not None:
        stream.flush()
        copy = os.dup(number)
        own = open(copy, "w", encoding=stream.encoding, errors=stream.errors, closefd=False)  # noqa: SIM115
        os.dup2(to, number)
    setattr(sys, name, target)
    try:
        yield own
    finally:
        setattr(sys, name, stream)
        if copy is not None and number is not None:
            target.flush()
            os.dup2(copy, number)
        try:
            own.flush()  # a reader that went away shows here, while it can still be handled
        finally:
            if copy is not None:
                os.close(copy)


def _descriptor(stream: TextIO) -> int | None:
    """The number of a stream's file; None in a notebook, in a test, or where it is closed."""
    with suppress(OSError, ValueError, AttributeError):
        return stream.fileno()
    return None
