"""How long a person waits for the first `soundwave ask`, in a new process, and how much memory it takes.

Wall seconds of the whole process (median) and its peak resident memory, beside the budget and beside a process that
does nothing but import torch and transformers: what of it is ours. Exit code 1 where the budget is missed.

    python benchmarks/cold_start.py --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from timing import machine_facts

from soundwave.checkpoints.catalog import models_cache, resolve_model

QUESTION = Path(__file__).resolve().parents[1] / "examples" / "question.wav"
PROMPT = "Please answer the question that the person asks."
BUDGET_SECONDS = 8.0  # on 2 cores
BUDGET_GIGABYTES = 1.3
GIGABYTE = 1e9
# ru_maxrss is in kibibytes on Linux, in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
IMPORTS_ONLY = [sys.executable, "-c", "import torch, transformers"]
# A process of its own starts and measures the command: on Linux a new process's peak begins at its parent's, and this
# one has torch in it.
WATCHER = """
import json, os, sys, time
began = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], dict(os.environ), file_actions=quiet)
_, status, usage = os.wait4(child, 0)
print(json.dumps([time.perf_counter() - began, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]))
"""


@dataclass(frozen=True)
class Run:
    """One process: wall seconds and peak resident bytes."""

    seconds: float
    peak_bytes: int


def run(command: list[str]) -> Run:
    """Starts a command, waits for its end, and reads what the system counted for it.

    Raises:
        SystemExit: The command failed; its own words are above.
    """
    watched = subprocess.run(
        [sys.executable, "-I", "-S", "-c", WATCHER, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, peak, code = json.loads(watched.stdout)
    if code:
        raise SystemExit(f"failed with {code}: {' '.join(command)}")
    return Run(seconds, peak * RSS_UNIT)


def ask_command(model: str) -> list[str]:
    """`soundwave ask`, as it is installed or from the source tree."""
    installed = Path(sys.executable).with_name("soundwave")
    found = str(installed) if installed.exists() else shutil.which("soundwave")
    start = [found] if found else [sys.executable, "-c", "from soundwave.cli.app import main; main()"]
    return [*start, "ask", str(QUESTION), PROMPT, "--model", model, "--temperature", "0", "--device", "cpu"]


def forget_files(folders: list[Path]) -> None:
    """Drops weight files from the system's file cache, so that they are read from the disk again (Linux only)."""
    for path in (file for folder in folders for file in folder.rglob("*.safetensors")):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(model: str, repeats: int, cold_disk: bool) -> dict[str, Any]:
    """Both processes, in turn."""
    ask, imports, folders = ask_command(model), [], []
    asks: list[Run] = []
    if cold_disk:
        folders = [resolve_model(model), models_cache()]
    run(ask_command(model))  # Python compiles its files once, which is installation, not a start
    for _ in range(repeats):
        forget_files(folders)
        asks.append(run(ask))
        imports.append(run(IMPORTS_ONLY))
    seconds, base = median(one.seconds for one in asks), median(one.seconds for one in imports)
    peak = max(one.peak_bytes for one in asks)
    return {
        "command": "soundwave ask examples/question.wav", "model": Path(model).name, "machine": machine_facts(),
        "repeats": repeats, "weights_read_from_disk": cold_disk, "seconds": seconds,
        "all_seconds": [one.seconds for one in asks], "peak_gigabytes": peak / GIGABYTE,
        "imports_seconds": base, "imports_gigabytes": max(one.peak_bytes for one in imports) / GIGABYTE,
        "ratio_to_imports": seconds / base, "budget_seconds": BUDGET_SECONDS, "budget_gigabytes": BUDGET_GIGABYTES,
        "met": seconds <= BUDGET_SECONDS and peak <= BUDGET_GIGABYTES * GIGABYTE,
    }


def show(result: dict[str, Any]) -> str:
    """The figures for people."""
    facts = result["machine"]
    disk = "weights read from disk" if result["weights_read_from_disk"] else "weights in the file cache"
    return "\n".join([
        f"{result['command']} with {result['model']}; {facts['processor']}, {facts['cores']} cores; {disk}",
        f"{result['seconds']:.2f} s (median of {result['repeats']}), budget {result['budget_seconds']:g} s; "
        f"{result['ratio_to_imports']:.2f}× a process that only imports torch and transformers "
        f"({result['imports_seconds']:.2f} s)",
        f"{result['peak_gigabytes']:.2f} GB at its peak, budget {result['budget_gigabytes']:g} GB; "
        f"the imports alone take {result['imports_gigabytes']:.2f} GB",
        "met" if result["met"] else "MISSED",
    ])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="mini, a folder or a hub id")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind")
    parser.add_argument("--cold-disk", action="store_true", help="drop the weights from the file cache before each run")
    parser.add_argument("--json", type=Path, help="keep everything that was measured here")
    options = parser.parse_args()
    result = measure(options.model, options.repeats, options.cold_disk)
    print(show(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if not result["met"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
