"""Fair timing: every variant in turn, again and again, in one process; medians, and the machine they were taken on."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from soundwave.evaluation.provenance import command_line, commit

# What a second is. `wall` is what a person waits; `processor` is what this process computed, all its threads together:
# other processes take nothing of it but caches, so with one thread it can be measured on a busy machine.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def interleaved(
    variants: Mapping[str, Callable[[], object]], repeats: int, clock: str = "wall", until: float | None = None
) -> dict[str, list[float]]:
    """Seconds of each call: one unmeasured round, then `repeats` rounds in which every variant has its turn.

    A change of the machine's load or clock during the run so meets all variants alike. `clock` is one of `CLOCKS`. No
    round begins after `until` (of `time.monotonic`) but the first.
    """
    now = CLOCKS[clock]
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(repeats):
        if until is not None and round_number and time.monotonic() > until:
            break
        for name, run in variants.items():
            began = now()
            run()
            seconds[name].append(now() - began)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The middle time of each variant."""
    return {name: median(values) for name, values in seconds.items()}


def machine_facts() -> dict[str, Any]:
    """What decides a time: the command, the code and the machine."""
    command = command_line(sys.argv[1:]).split()[1:]
    return {
        "run": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *command]), "commit": commit(),
        "processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(), "python": platform.python_version(), "torch": torch.__version__,
        "transformers": version("transformers"), "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
