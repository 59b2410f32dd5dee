"""Measures each switch of the design: a short training with only that switch changed, then figures on held-out speech.

    SPEECH=… WORK=… python recipes/switches/compare.py alignment shrinking --out docs/results/switches.json

Runs that are done are not run again. The figures compare switches with each other; they are no scores of a trained
model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

from soundwave.training.logs import read_metrics
from soundwave.training.loop import train
from soundwave.training.recipe import read_recipe

HERE = Path(__file__).parent
CHANGES = {
    "alignment": [
        [], ["model.alignment_attention=frame"], ["model.alignment_layers=2"], ["ctc_vocabulary_size=1000"],
        ["model.ctc_head=projection"],
    ],
    "shrinking": [
        [], ["model.audio_embedding=look_back"], ["model.look_back_over=kept"], ["model.run_pooling=first"],
        ["model.run_pooling=peak"], ["model.blank_handling=one_per_run"], ["model.blank_handling=drop"],
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", choices=sorted(CHANGES), help="which switches")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; rows of other groups in it stay")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    for group in arguments.groups:
        for changes in CHANGES[group]:
            row = measured(group, changes)
            rows = [old for old in rows if (old["group"], old["changed"]) != (group, row["changed"])] + [row]
            write(arguments.out, rows)
            print(json.dumps(row))


def measured(group: str, changes: list[str]) -> dict[str, object]:
    """One run's figures."""
    name = "-".join(change.split(".")[-1].replace("=", "-") for change in changes) or "as-recipe"
    base = read_recipe(HERE / f"{group}.yaml")
    recipe = read_recipe(HERE / f"{group}.yaml", [*changes, f"output_dir={base.output_dir}/{name}"])
    folder = Path(recipe.output_dir)
    if not (folder / "final" / "config.json").is_file():
        train(recipe)
    last = read_metrics(folder / "metrics.jsonl")[-1]
    figures = {key.split("_", 2)[-1]: value for key, value in last.items() if key.startswith("eval_")}
    changed = ", ".join(changes) or "nothing"
    return {"group": group, "changed": changed, "steps": last["step"], "seed": recipe.seed} | figures


def write(path: Path, rows: list[dict[str, object]]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    about = {
        "command": f"python recipes/switches/compare.py {' '.join(sys.argv[1:])}", "commit": commit.stdout.strip(),
        "date": date.today().isoformat(),
        "data": "alignment: dev-librispeech (200 clips); shrinking: dev-questions (92 clips)", "rows": rows,
    }
    path.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
