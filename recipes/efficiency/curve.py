"""How good a stage I gets from so many hours of speech, people's and made apart: a run an amount, and the plot of all.

    SPEECH=… WORK=… python recipes/efficiency/curve.py --speech human --hours 1 4 16 --seeds 1 2 3 \\
        --out docs/results/data-efficiency

Every amount is drawn from all manifests of stage1.yaml of that kind alike; a smaller amount lies inside a larger one.
Made speech is what lies in $WORK/synth and $WORK/tasks. All runs take the same number of steps: what differs is how
often a clip is heard again. Runs that are done are not run again, a stopped one goes on. Needs $WORK as
recipes/mini/reproduce.sh makes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from soundwave.data.manifests import read_rows
from soundwave.training.loop import train
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.recipe_io import read_recipe
from soundwave.training.reporting import read_metrics

HERE = Path(__file__).parent
SPEECH = {"all": ("human", "made"), "human": ("human",), "made": ("made",)}
HELD_OUT = "dev-librispeech, CTC greedy, Whisper's English normaliser"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 4, 16], help="amounts (%(default)s)")
    parser.add_argument("--speech", choices=SPEECH, default="all", help="whose (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="a run each (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.png; other points stay")
    parser.add_argument("--recipe", type=Path, default=HERE / "stage1.yaml", help="a stage I (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for all runs, such as max_steps=2")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe, arguments.set)
    recipe.train = [source for source in recipe.train if speech_of(source.manifest) in SPEECH[arguments.speech]]
    available = sum(hours_of(source.manifest) for source in recipe.train)
    if max(arguments.hours) > available:
        parser.error(f"--hours {max(arguments.hours):g}: the manifests hold {available:.1f} h; add more to the recipe")
    path = arguments.out.with_suffix(".json")
    for seed, hours in product(arguments.seeds, sorted(arguments.hours)):
        known = {"speech": arguments.speech, "hours": hours, "seed": seed, "max_steps": recipe.max_steps}
        if any(known.items() <= point.items() for point in points_in(path)):
            continue
        point = known | measured(dataclasses.replace(recipe, seed=seed), arguments.speech, hours, hours / available)
        points = [*points_in(path), point]  # read again: another process may have measured other points meanwhile
        write(path, sorted(points, key=lambda one: (one["speech"], one["seed"], one["hours"])))
        print(json.dumps(point), flush=True)
    plot(points_in(path), arguments.out.with_suffix(".png"))


def points_in(path: Path) -> list[dict[str, Any]]:
    """Those of earlier runs."""
    return json.loads(path.read_text())["points"] if path.is_file() else []


def speech_of(manifest: str) -> str:
    """`made` or `human`."""
    made = [Path(os.environ.get("WORK", "work")) / folder for folder in ("synth", "tasks")]
    return "made" if any(folder in Path(manifest).parents for folder in made) else "human"


def hours_of(manifest: str) -> float:
    """How much a manifest holds."""
    return sum(row.example.duration or 0.0 for row in read_rows(Path(manifest))) / 3600


def measured(recipe: Recipe, speech: str, hours: float, share: float) -> dict[str, Any]:
    """Trains on a share of every manifest, unless that is done, and gives the error rate on held-out speech."""
    folder = Path(recipe.output_dir) / f"{speech}-{hours:g}h-seed{recipe.seed}-{recipe.max_steps}steps"
    sources = [cut(source, share, folder / f"train-{i}.jsonl", recipe.seed) for i, source in enumerate(recipe.train)]
    if not (folder / "final" / "config.json").is_file():
        train(dataclasses.replace(recipe, train=sources, output_dir=str(folder)))
    last = [row for row in read_metrics(folder / "metrics.jsonl") if any(key.startswith("eval_") for key in row)][-1]
    (rate,) = (value for key, value in last.items() if key.endswith("_ctc_wer"))
    heard = sum(hours_of(source.manifest) for source in sources)
    return {"hours_drawn": round(heard, 3), "ctc_wer": round(rate, 4), "commit": commit()}


def cut(source: DataSource, share: float, path: Path, seed: int) -> DataSource:
    """A part of a manifest as one of its own, with absolute paths: its first rows in an order that the seed fixes."""
    rows = [json.loads(line) for line in Path(source.manifest).read_text(encoding="utf-8").splitlines()]
    random.Random(f"{seed}/{Path(source.manifest).parent.name}").shuffle(rows)
    left = share * sum(row.get("duration", 0.0) for row in rows)
    kept = []
    for row in rows:
        if left <= 0 and kept:
            break
        left -= row.get("duration", 0.0)
        kept.append(row | {"audio": str((Path(source.manifest).parent / row["audio"]).resolve())})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    return dataclasses.replace(source, manifest=str(path))


def commit() -> str:
    """The code that runs, with a mark where it was changed since."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()


def write(path: Path, points: Sequence[dict[str, Any]]) -> None:
    """All points and how they were made; the file appears whole or not at all."""
    command = f"python recipes/efficiency/curve.py {' '.join(sys.argv[1:])}"
    earlier = json.loads(path.read_text())["commands"] if path.is_file() else []
    about = {
        "commands": list(dict.fromkeys([*earlier, command])), "held_out": HELD_OUT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "cores": os.cpu_count(), "points": points,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(about, indent=1) + "\n")
    draft.replace(path)


def hours_in(points: Sequence[dict[str, Any]]) -> list[float]:
    """The amounts, each once."""
    return sorted({point["hours"] for point in points})


def plot(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Word error rate against hours: a line a kind of speech, through the means of its seeds, which are dashes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for speech in sorted({point["speech"] for point in points}):
        of_kind = [point for point in points if point["speech"] == speech]
        rates = {hours: [100 * p["ctc_wer"] for p in of_kind if p["hours"] == hours] for hours in hours_in(of_kind)}
        means = {hours: mean(some) for hours, some in rates.items()}
        (line,) = axes.plot(list(means), list(means.values()), marker="o", label=f"{speech} speech")
        for hours, rate in means.items():
            axes.annotate(f"{rate:.1f}", (hours, rate), xytext=(4, 5), textcoords="offset points")
            axes.plot([hours] * len(rates[hours]), rates[hours], "_", color=line.get_color(), alpha=0.6)
    axes.set(xscale="log", xlabel="hours of training audio", ylabel="word error rate of CTC, %",
             title=f"Stage I, {points[0]['max_steps']} steps each, dev-librispeech")
    axes.set_xticks(hours_in(points), [f"{one:g}" for one in hours_in(points)])
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.12)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
