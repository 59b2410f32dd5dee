"""What threads cost that spin while they wait, on a machine whose cores others use; and what the ways out cost.

Busy processes, as many as there are cores, run beside a small stack of linear layers of mini's widths. Each variant is
a process of its own, and they take turns; the last line says how many times as long as the quickest each takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from timing import machine_facts

VARIANTS = {
    "as OpenMP comes": {},
    "threads that wait sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "as soundwave decides": {"SOUNDWAVE_DECIDES": "1"},
}
WORK = """
import os, time
if os.environ.get("SOUNDWAVE_DECIDES"):
    from soundwave.inference.processes import wait_as_fits
    wait_as_fits()
import torch
wide, narrow, rows = torch.randn(1536, 576), torch.randn(576, 1536), torch.randn(120, 576)
def layers(count):
    x = rows
    for _ in range(count):
        x = torch.nn.functional.layer_norm(torch.nn.functional.silu(x @ wide.T) @ narrow.T, (576,))
with torch.inference_mode():
    layers(5)
    began = time.perf_counter()
    layers({layers})
    print(time.perf_counter() - began)
"""
BUSY = "while True: pass"


def seconds_of(variant: str, layers: int) -> float:
    """Seconds for so many layers in a new process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))}
    command = [sys.executable, "-c", WORK.replace("{layers}", str(layers))]
    done = subprocess.run(command, env=kept | VARIANTS[variant], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Prints the seconds of each variant and their ratios; with --out, keeps them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neighbours", type=int, default=os.cpu_count(), help="busy processes beside it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(arguments.neighbours)]
    try:
        seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for _ in range(arguments.repeats):
            for name in VARIANTS:
                seconds[name].append(seconds_of(name, arguments.layers))
    finally:
        for process in neighbours:
            process.kill()
    middle = {name: median(values) for name, values in seconds.items()}
    ratios = {name: round(value / min(middle.values()), 2) for name, value in middle.items()}
    result = {"neighbours": arguments.neighbours, "seconds": middle, "times_the_quickest": ratios} | machine_facts()
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
