"""Trains mini's stages one after the other within some minutes, and hands back weights and curves.

    python recipes/mini/gpu_stages.py --minutes 8 --out OUT gpu-stage1.yaml gpu-stage2.yaml gpu-stage3.yaml

Features come first; what is then left of the minutes is divided among the stages. A stage that is done stays; one that
was stopped goes on where it was, with its part of this call's minutes on top of those it has had. After each stage OUT
holds `results-1`, `results-2`, …: pieces of one tar with the latest stage's weights in float16 and all curves,
which `--collect FOLDER` puts together again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from ship import LIMIT_BYTES, MINI, ship

from soundwave.errors import SoundwaveError
from soundwave.training.checkpoint import list_checkpoints
from soundwave.training.loop import FINAL_FOLDER, train
from soundwave.training.recipe_io import read_recipe
from soundwave.training.run import CHECKPOINTS

SHARES = {"alignment": 0.65, "shrinking": 0.25, "instruction": 0.1}  # of the minutes after features
PIECE_BYTES = 15_000_000  # of the results: small files come back where large ones do not
SOURCES = ("train", "evaluation")
FIGURES = ("metrics.jsonl", "curves.png", "recipe.yaml")
OVERHEAD_MINUTES = 0.3  # of a stage, for loading, the last evaluation and results: a guess until one has been measured
LEAST_MINUTES = 0.02  # a stage begins with more than a second


def present(recipe: Path) -> dict[str, Any]:
    """A recipe with those of its manifests that are there; `train` may become empty."""
    content: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for part in SOURCES:
        kept = [source for source in content.get(part) or [] if Path(os.path.expandvars(source["manifest"])).is_file()]
        content[part] = kept
    return content


def minutes_of(run: Path) -> float:
    """What a run has had already, by its newest checkpoint."""
    found = list_checkpoints(run / CHECKPOINTS)
    return float(json.loads((found[-1] / "position.json").read_text())["minutes"]) if found else 0.0


def is_done(run: Path) -> bool:
    """Whether a stage has written its model."""
    return (run / FINAL_FOLDER / "config.json").is_file()


def train_stages(recipes: list[Path], minutes: float, out: Path, overrides: list[str]) -> None:
    """Trains what is not done yet.

    Args:
        recipes: in order; those of their manifests that are not there are left out, and stages without any.
        minutes: until everything is written, features included.
        out: where results go after each stage.
        overrides: `key=value` for all of them.
    """
    ends = time.monotonic() + 60 * minutes
    left = []
    for path in recipes:
        content = present(path)
        if not content["train"]:
            print(f"{path.name}: none of its training data is here; left out", flush=True)
            continue
        run = Path(os.path.expandvars(content["output_dir"]))
        kept = run.parent / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(yaml.safe_dump(content, sort_keys=False))
        left.append((kept, content["stage"], run))
    runs = [run for _, _, run in left]
    left = [one for one in left if not is_done(one[2])]
    if left and not list_checkpoints(left[0][2] / CHECKPOINTS):
        train(read_recipe(left[0][0], overrides), dry_run=True)  # stores the features
    overhead = OVERHEAD_MINUTES
    while left:
        path, stage, run = left[0]
        share, began = SHARES[stage] / sum(SHARES[one] for _, one, _ in left), time.monotonic()
        given = share * ((ends - began) / 60 - overhead * len(left))
        if given < LEAST_MINUTES:
            raise SystemExit(f"{path.name}: no minutes are left for it; the same command goes on with the next ones.")
        print(f"{path.name}: {given:.2f} minutes", flush=True)
        train(read_recipe(path, [*overrides, f"max_minutes={minutes_of(run) + given}"]))
        write_results(runs, out)
        overhead = max(0.0, (time.monotonic() - began) / 60 - given)
        left.pop(0)
    write_results(runs, out)


def write_results(runs: list[Path], out: Path) -> None:
    """Everything worth taking along, in pieces."""
    done = [run for run in runs if is_done(run)]
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / "results"
        stage.mkdir()
        if done:
            size = ship(done[-1] / FINAL_FOLDER, stage / done[-1].name / FINAL_FOLDER)
            told = "" if size <= LIMIT_BYTES else f", more than the {LIMIT_BYTES / 1e6:.0f} MB that are shipped"
            print(f"{done[-1].name}: {size / 1e6:.1f} MB of weights{told}", flush=True)
        for run in runs:
            for name in FIGURES:
                if (run / name).is_file():
                    (stage / run.name).mkdir(exist_ok=True)
                    shutil.copy(run / name, stage / run.name / name)
        whole = Path(folder) / "results.tar"
        with tarfile.open(whole, "w") as tar:
            tar.add(stage, ".")
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("results-*"):
            old.unlink()
        with whole.open("rb") as file:
            number = 1
            while content := file.read(PIECE_BYTES):
                (out / f"results-{number}").write_bytes(content)
                number += 1


def collect(out: Path, folder: Path) -> None:
    """Puts results together again."""
    pieces = sorted(out.glob("results-*"), key=lambda piece: int(piece.name.partition("-")[2]))
    if not pieces:
        raise SystemExit(f"{out} holds no results-1; give the folder that `gpu.sh train` wrote.")
    with tempfile.TemporaryFile() as whole:
        for piece in pieces:
            whole.write(piece.read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole) as tar:
            tar.extractall(folder, filter="data")
    for final in folder.glob(f"*/{FINAL_FOLDER}"):
        shutil.copy(MINI / "ngram.npz", final)  # the search's, which training does not change
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, help="the stages' recipes, in order")
    parser.add_argument("--minutes", type=float, help="until everything is written, features included")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="key=value", help="for all recipes")
    parser.add_argument("--collect", type=Path, help="put the results of --out together in this folder instead")
    arguments = parser.parse_args()
    try:
        if arguments.collect:
            collect(arguments.out, arguments.collect)
        elif not arguments.recipes or not arguments.minutes or arguments.minutes <= 0:
            parser.error(f"--minutes {arguments.minutes}, {len(arguments.recipes)} recipes: give more than 0 of both")
        else:
            train_stages(arguments.recipes, arguments.minutes, arguments.out, arguments.overrides)
    except SoundwaveError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
