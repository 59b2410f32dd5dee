"""A run's figures as TensorBoard reads them: a convenience, which a full disk ends without ending the run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


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
