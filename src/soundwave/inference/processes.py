"""What a loaded model means to the processes around it: busy neighbours, and forked children.

Importing it imports no torch: how threads wait is settled before torch is loaded.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

LOAD = Path("/proc/loadavg")  # its fourth field: threads that run now / all threads
SAMPLES, SAMPLE_SECONDS = 5, 0.002  # the middle of so many: a thread that ran for an instant is no neighbour


def wait_as_fits() -> None:
    """Lets threads that wait for each other sleep where the machine is busy, instead of spinning on cores others need.

    On an idle machine spinning is better: an answer takes 1.4 times as long without it. On a busy one everything takes
    six times as long with it (benchmarks/busy_machine.py). It is decided when torch is loaded: afterwards this does
    nothing. Who has set OMP_WAIT_POLICY, GOMP_SPINCOUNT or KMP_BLOCKTIME is obeyed.
    """
    decided = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ)
    if "torch" not in sys.modules and not decided and is_busy():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def is_busy() -> bool:
    """Whether other processes compute on cores that our threads would take."""
    return running_neighbours() + usable_cores() > (os.cpu_count() or 1)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def running_neighbours() -> int:
    """How many threads of other processes compute at this moment.

    The load average tells what was in the last minute, and that may have been us: it is taken only where the system
    tells nothing else.
    """
    samples = []
    for _ in range(SAMPLES):
        try:
            running = LOAD.read_text(encoding="ascii").split()[3].partition("/")[0]
        except (OSError, IndexError):  # no Linux
            return round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0
        samples.append(int(running) - 1)  # without the thread that reads this
        time.sleep(SAMPLE_SECONDS)
    return max(0, sorted(samples)[SAMPLES // 2])


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
