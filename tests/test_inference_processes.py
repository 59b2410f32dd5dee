"""A model beside other processes: a forked child computes, an engine is not pickled, waiting threads sleep."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from soundwave.errors import ConfigurationError
from soundwave.inference.processes import refuse_pickling

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


def test_pickling_says_what_to_do_instead() -> None:
    class Engine:
        name = "my-model"

        def __reduce__(self) -> Any:
            refuse_pickling(self)

    with pytest.raises(ConfigurationError, match=r"soundwave.load\('my-model'\)"):
        pickle.dumps(Engine())


SHOWN = "import os, {first}; from soundwave.inference.processes import wait_passively; wait_passively(); "
SHOWN += "print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in __import__('sys').modules)"


def test_threads_wait_asleep_unless_somebody_decided_otherwise() -> None:
    assert in_a_process(SHOWN.format(first="sys")) == "PASSIVE False"
    assert in_a_process(SHOWN.format(first="sys"), OMP_WAIT_POLICY="ACTIVE") == "ACTIVE False"


def test_the_command_decides_before_torch_is_loaded() -> None:
    code = (
        "import os, sys, soundwave; from soundwave.cli import app; app.app = lambda **_: None; app.main();"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    assert in_a_process(code) == "PASSIVE False"
