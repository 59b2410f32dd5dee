"""How fast one linear layer is by PyTorch's own way and by oneDNN's (`soundwave.model.linear`), in float32 on the CPU.

One row is a step of decoding, 50 are a short prompt, 275 and 1,500 the encoder's frames of 5 and of 30 s; the sizes are
SmolLM2-135M's.

    python benchmarks/linear.py --json linear.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timing import CLOCKS, interleaved, machine_facts, medians
from torch import Tensor, nn

from soundwave.model.linear import AVAILABLE, use_onednn

WIDTH, FFN_DIM = 576, 1536
LAYERS = 30  # one after another, so that weights come from memory as they do in a model
PYTORCH, ONEDNN = "nn.Linear", "oneDNN"


@torch.no_grad()
def compare(rows: int, repeats: int, clock: str = "wall") -> dict[str, Any]:
    """Times of `LAYERS` layers over so many rows, and their ratio."""
    layers = nn.ModuleList(nn.Linear(WIDTH, FFN_DIM, bias=False) for _ in range(LAYERS))
    twins = nn.ModuleList(nn.Linear(WIDTH, FFN_DIM, bias=False) for _ in range(LAYERS))
    twins.load_state_dict(layers.state_dict())
    use_onednn(twins)
    x = torch.randn(1, rows, WIDTH)
    times = interleaved({PYTORCH: lambda: _through(layers, x), ONEDNN: lambda: _through(twins, x)}, repeats, clock)
    middle = medians(times)
    return {"rows": rows, "seconds": middle, "all_seconds": times, "ratio": middle[PYTORCH] / middle[ONEDNN]}


def _through(layers: nn.ModuleList, x: Tensor) -> None:
    for layer in layers:
        layer(x)


def show(result: dict[str, Any]) -> None:
    """A table for people."""
    console, facts = Console(highlight=False), result["machine"]
    console.print(f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}")
    table = Table(title=f"{LAYERS} layers {WIDTH} → {FFN_DIM}, median milliseconds of {result['repeats']} rounds")
    for name in ("rows", PYTORCH, ONEDNN, f"{PYTORCH} ÷ {ONEDNN}"):
        table.add_column(name, justify="right")
    for row in result["measured"]:
        times = (f"{1000 * row['seconds'][name]:.1f}" for name in (PYTORCH, ONEDNN))
        table.add_row(str(row["rows"]), *times, f"{row['ratio']:.2f}×")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 50, 275, 1500], help="%(default)s")
    parser.add_argument("--repeats", type=int, default=20, help="measured rounds (%(default)s)")
    parser.add_argument("--threads", type=int, help="for PyTorch; default: its own choice")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: for a busy machine, with --threads 1"
    )
    parser.add_argument("--json", type=Path, help="keep everything that was measured here")
    options = parser.parse_args(arguments)
    if not AVAILABLE:
        sys.exit("This PyTorch has no oneDNN for linear layers, so there is nothing to compare.")
    if options.threads:
        torch.set_num_threads(options.threads)
    measured = [compare(rows, options.repeats, options.clock) for rows in options.rows]
    result = {"machine": machine_facts(), "clock": options.clock, "repeats": options.repeats, "measured": measured}
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
