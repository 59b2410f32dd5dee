"""What a loaded model means to the processes around it: busy neighbours, forked children, pickles.

Importing it imports no torch: how threads wait is settled before torch is loaded.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from soundwave.errors import ConfigurationError


def wait_passively() -> None:
    """Lets threads that wait for each other sleep, instead of spinning on a core that somebody else needs.

    Spinning gains little on an idle machine; on a busy one it took six times as long (benchmarks/busy_machine.py). It is
    decided when torch is loaded: afterwards this does nothing, and who has set OMP_WAIT_POLICY is obeyed.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def compute_after_fork() -> None:
    """Lets a forked child compute, with one thread: the others do not exist in it, and OpenMP would wait for them.

    A second call does nothing.
    """
    global _registered
    if not _registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)
    _registered = True


_registered = False


def _use_one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def refuse_pickling(engine: Any) -> NoReturn:
    """For `__reduce__` of what holds a model: says what to do instead of pickling it.

    Raises:
        ConfigurationError: always.
    """
    name = getattr(engine, "name", "mini")
    raise ConfigurationError(
        f"An engine cannot be pickled; load it in the process that uses it: soundwave.load({name!r})."
    )
