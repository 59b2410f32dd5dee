"""A model beside other processes: a forked child computes, waiting threads sleep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from soundwave.inference import processes

# Work that OpenMP divides among its threads, before the fork and after it.
FORK = """
import os, signal, torch
from soundwave.inference.processes import compute_after_fork
torch.set_num_threads(2)
work = lambda: torch.randn(600, 600).matmul(torch.randn(600, 600)).softmax(-1).sum().round().item()
if {hook}:
    compute_after_fork()
    compute_after_fork()
assert work() == 600
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends a child that waits for ever
    ok = work() == 600
    os._exit(0 if ok and torch.get_num_threads() == 1 else 3)
status = os.waitpid(child, 0)[1]
print("hung" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), torch.get_num_threads())
"""


def in_a_process(code: str, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))}
    everything = {**kept, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=everything, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_with_one_thread_and_its_parent_with_all() -> None:
    assert in_a_process(FORK.format(hook=True)) == "0 2"


# --- how threads wait


@pytest.mark.parametrize(
    ("running", "cores", "usable", "busy"),
    [
        (["1"], 2, 2, False),  # only we
        (["2"], 2, 2, True),
        (["1", "1", "5", "1", "1"], 2, 2, False),  # one that ran for an instant
        (["9"], 64, 32, False),  # there is room
        (["9"], 64, 64, True),
        (["9"], 64, 1, False),
    ],
)
def test_a_machine_is_busy_where_others_compute_on_the_cores_that_we_would_take(
    running: list[str], cores: int, usable: int, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = iter(running * 5)
    load: Any = SimpleNamespace(read_text=lambda encoding: f"3.0 2.0 1.0 {next(reads)}/700 12345")
    monkeypatch.setattr(processes, "LOAD", load)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(processes, "usable_cores", lambda: usable)
    assert processes.is_busy() is busy


def test_where_the_system_tells_less_the_load_average_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOAD", tmp_path / "none")
    monkeypatch.setattr(os, "getloadavg", lambda: (3.2, 0.0, 0.0), raising=False)
    assert processes.running_neighbours() == 3


WAITING = (
    "import os, sys; {first}; from soundwave.inference import processes; processes.is_busy = lambda: {busy};"
    "{decide}; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
)


@pytest.mark.parametrize(
    ("first", "busy", "environment", "told"),
    [
        ("pass", True, {}, "PASSIVE False"),
        ("pass", False, {}, "None False"),
        ("pass", True, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE False"),
        ("pass", True, {"GOMP_SPINCOUNT": "5"}, "None False"),
        ("import torch", True, {}, "None True"),  # too late
    ],
)
def test_threads_wait_asleep_where_the_machine_is_busy(
    first: str, busy: bool, environment: dict[str, str], told: str
) -> None:
    code = WAITING.format(first=first, busy=busy, decide="processes.wait_as_fits()")
    assert in_a_process(code, **environment) == told


def test_the_command_decides_before_torch_is_loaded() -> None:
    decide = "from soundwave.cli import app; app.app = lambda **_: None; app.main()"
    assert in_a_process(WAITING.format(first="pass", busy=True, decide=decide)) == "PASSIVE False"
