"""Measures each switch of the design: a short training with only that switch changed, then figures on held-out speech.

    SPEECH=… TEXTS=… WORK=… python recipes/switches/compare.py --out docs/results/switches.json

All groups take about 25 minutes on two idle cores. A row that is in the file with the same settings is not run again,
and a run that was stopped goes on: the same command finishes what is left. The figures compare switches with each other
at few steps; they are no scores of a trained model, and differences of the size that another seed makes mean nothing
(`--seeds 1 2` shows how large that is).

Needs $WORK/labels and $WORK/features as recipes/mini/reproduce.sh makes them, and its stage I: `--stage1`, or
$WORK/runs/stage1/final, or else the first row of the group `alignment` serves as one. Of a finished model (`--stage1
models/soundwave-mini`) the alignment adapter alone is taken: the shrinking adapter and LoRA start anew in each row.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import question_data
import torch
from accelerate.state import AcceleratorState
from results_table import markdown
from safetensors.torch import save_file

from soundwave.checkpoints.lora import LORA_FOLDER
from soundwave.checkpoints.native import TRAINED_FILE, adapter_tensors, load_processor
from soundwave.configuration import SoundwaveConfig
from soundwave.data.manifests import read_manifest
from soundwave.evaluation import TaskName
from soundwave.evaluation.clips import read_clips
from soundwave.evaluation.runner import Notebook, evaluate
from soundwave.evaluation.tasks import TASKS
from soundwave.inference.loading import load
from soundwave.inference_config import InferenceConfig
from soundwave.text.ctc_tokenizer import CtcTokenizer
from soundwave.training.loop import train
from soundwave.training.recipe import Recipe
from soundwave.training.recipe_io import read_recipe
from soundwave.training.reporting import read_metrics

HERE = Path(__file__).parent
GIVEN = "$WORK/switches/questions/given.jsonl"
CHANGES: dict[str, list[list[str]]] = {
    "alignment": [
        [], ["model.alignment_attention=frame"], ["model.alignment_layers=2"], ["model.ctc_head=projection"],
        ["model.alignment_whitening=true"],
        ["ctc_vocabulary_size=1000"],
    ],
    "vocabulary": [[], ["ctc_vocabulary_size=null"]],
    "shrinking": [
        [], ["model.audio_embedding=look_back"], ["model.look_back_over=kept"], ["model.run_pooling=first"],
        ["model.run_pooling=peak"], ["model.blank_handling=one_per_run"], ["model.blank_handling=drop"],
    ],
    "targets": [
        [], ["kl_weight=0.5"], ["kl_weight=1.0"], [f"train=[{{manifest: {GIVEN}}}]"],
    ],
    "positions": [[], ["model.alignment_convolution=7"], ["model.adapter_positions=rotary"], ["optimizer=adamw"]],
    "whitened": [
        [], ["model.alignment_attention=frame"], ["model.adapter_positions=rotary"], ["optimizer=adamw"],
        ["model.alignment_layers=2"], ["model.ctc_head=projection"], ["ctc_vocabulary_size=1000"],
        ["ctc_vocabulary_size=null"],
    ],
    "convolution": [
        [], ["model.alignment_attention=frame"], ["model.alignment_whitening=true"], ["optimizer=adamw"],
    ],
    "further": [
        [], ["model.encoder_layer_sum=true", "model.encoder_upper_layers=6"],
        ["model.encoder_training=lora", "model.encoder_upper_layers=2"],
        ["model.encoder_training=lora", "model.encoder_upper_layers=6"],
        ["model.encoder_training=full", "model.encoder_upper_layers=2", "encoder_learning_rate_scale=0.05"],
        ["model.encoder_training=full", "model.encoder_upper_layers=3", "encoder_learning_rate_scale=0.05"],
        ["ctc_label_smoothing=0.1"], ["intermediate_ctc_weight=0.3"], ["ema_decay=0.95"],
        ["time_masks=4"], ["model.alignment_dropout=0.1"],
    ],
    "fresh": [
        [], ["intermediate_ctc_weight=0.3"], ["model.alignment_dropout=0.1"], ["ctc_label_smoothing=0.02"],
        ["model.alignment_layers=3"], ["model.alignment_layers=4"],
    ],
}  # fmt: skip
RECIPE_OF = {"positions": "alignment", "fresh": "../efficiency/stage1"}  # the others have one of their own name
USUAL = ["alignment", "vocabulary", "shrinking", "targets"]
FROM_STAGE_1 = ("shrinking", "targets", "further")
ANSWER_TOKENS = 32
HELD_OUT = {
    "alignment": "dev-librispeech, 200 clips", "vocabulary": "dev-librispeech, 200 clips",
    "positions": "dev-librispeech, 200 clips", "convolution": "dev-librispeech, 200 clips",
    "whitened": "dev-librispeech, 200 clips", "further": "dev-librispeech, 200 clips",
    "fresh": "dev-librispeech, 200 clips",
    "shrinking": "dev-questions' transcripts, 92 clips",
    "targets": "what the LLM itself answers to the 92 dev-questions in writing; answered: their known answers",
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = [*CHANGES, []]  # the last is what argparse checks where none is given
    told = f"of {', '.join(CHANGES)}; where none is given: {', '.join(USUAL)}"
    parser.add_argument("groups", nargs="*", choices=groups, metavar="GROUP", help=told)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; other rows in it stay")
    parser.add_argument("--stage1", type=Path, help="the stage I that stage II starts from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--only", default="", help="only changes that hold this text, and what they are compared with")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for all runs, such as max_steps=2")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    groups = arguments.groups or USUAL
    if "targets" in groups:
        question_data.make(Path(os.environ["WORK"]) / "switches" / "questions")
    for group, changes, seed in wanted(groups, arguments.seeds, arguments.only):
        recipe = recipe_of(group, changes, seed, arguments.stage1, arguments.set)
        rows = rows_in(arguments.out)
        name = {"group": group, "changed": changed_of(changes), "seed": seed}
        if any(row["settings"] == settings_of(recipe) and name.items() <= row.items() for row in rows):
            continue
        row = name | measured(group, recipe)
        # read again: another process may have measured other rows meanwhile
        write(arguments.out, [old for old in rows_in(arguments.out) if not name.items() <= old.items()] + [row])
        print(json.dumps(row), flush=True)
    print(markdown(rows_in(arguments.out), list(CHANGES)))


def wanted(groups: Iterable[str], seeds: Sequence[int], only: str) -> Iterable[tuple[str, list[str], int]]:
    """The runs in order: in each group first the recipe as it is."""
    for group in groups:
        for changes in CHANGES[group]:
            if not changes or only in changed_of(changes):
                yield from ((group, changes, seed) for seed in seeds)


def changed_of(changes: list[str]) -> str:
    """What a row differs in, for people."""
    return ", ".join(changes) or "nothing"


def recipe_of(group: str, changes: list[str], seed: int, stage1: Path | None, common: list[str]) -> Recipe:
    """A run's recipe; its folder is named by all that decides the run."""
    overrides = [f"seed={seed}", *common, *changes]
    path = HERE / f"{RECIPE_OF.get(group, group)}.yaml"
    if group in FROM_STAGE_1:
        overrides.append(f"start_from={start_of(stage1, seed, common)}")
    recipe = read_recipe(path, overrides)
    return dataclasses.replace(recipe, output_dir=f"{recipe.output_dir}/{settings_of(recipe)}")


def start_of(stage1: Path | None, seed: int, common: list[str]) -> Path:
    """The stage I to start from: the one named, mini's, or that of the group `alignment`."""
    usual = Path(os.environ["WORK"]) / "runs" / "stage1" / "final"
    if stage1 is not None:
        return aligned(stage1) if (stage1 / LORA_FOLDER).is_dir() else stage1
    if (usual / "config.json").is_file():
        return usual
    return Path(recipe_of("alignment", [], seed, None, common).output_dir) / "final"


def aligned(model: Path) -> Path:
    """A finished model as if stage I had just ended: its alignment adapter, no words joined, and no n-gram."""
    folder = Path(os.environ["WORK"]) / "switches" / f"stage1-of-{model.name}"
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((model / "config.json").read_text()) | {"ctc_merges": 0, "lora": False}
    (folder / "config.json").write_text(json.dumps(config))
    # what is asked about is answered from the audio itself, by what the run trains
    settings = {"via": "audio", "answer_prompt": None, "transcribe": {"ngram": None}}
    InferenceConfig.read(model).changed(settings).write(folder)
    tensors = {name: tensor.float() for name, tensor in adapter_tensors(model) if name.startswith("alignment.")}
    save_file(tensors, folder / TRAINED_FILE, metadata={"format": "pt"})
    return folder


def settings_of(recipe: Recipe) -> str:
    """A short name of everything in a recipe but the folder it writes to."""
    values = dataclasses.asdict(dataclasses.replace(recipe, output_dir=""))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def measured(group: str, recipe: Recipe) -> dict[str, Any]:
    """Trains, unless that is done, and gives the run's figures."""
    final, timing = Path(recipe.output_dir) / "final", Path(recipe.output_dir) / "seconds.json"
    if not (final / "config.json").is_file():
        began = time.monotonic()
        AcceleratorState._reset_state(reset_partial_state=True)  # a process keeps its first run's precision otherwise
        train(recipe)
        timing.write_text(json.dumps(round(time.monotonic() - began, 1)))
    metrics = read_metrics(Path(recipe.output_dir) / "metrics.jsonl")
    speeds = [row["times_real_time"] for row in metrics if "times_real_time" in row]
    figures = {key.split("_", 2)[-1]: value for key, value in metrics[-1].items() if key.startswith("eval_")}
    if recipe.stage == "alignment":
        figures["ctc_nats_per_character"] = figures["loss"] * tokens_per_character(recipe, final)
    if group == "targets":
        figures |= answered(final)
    seconds = json.loads(timing.read_text()) if timing.is_file() else None
    return {
        "settings": settings_of(recipe), "steps": metrics[-1]["step"], "batch_seconds": recipe.batch_seconds,
        "max_batch_size": recipe.max_batch_size, "start_from": shown(recipe.start_from), "run_seconds": seconds,
        "times_real_time": speeds[-1] if speeds else None,
        "commit": commit(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    } | {key: round(value, 4) for key, value in figures.items()}  # fmt: skip


def shown(folder: str | None) -> str | None:
    """A folder as it is called on any machine."""
    return None if folder is None else folder.replace(os.environ["WORK"], "$WORK")


def tokens_per_character(recipe: Recipe, final: Path) -> float:
    """CTC's loss is a mean per token; vocabularies differ in what a token is, so it is told per character."""
    config = SoundwaveConfig.from_pretrained(final)
    ctc = CtcTokenizer(load_processor(config).tokenizer, config.ctc_vocabulary)
    said = [e.transcript for source in recipe.evaluation for e in read_manifest(source.manifest) if e.transcript]
    return sum(len(ctc.encode(text)) for text in said) / sum(map(len, said))


def answered(final: Path) -> dict[str, float]:
    """The share of spoken dev questions that the trained model answers rightly, and of those it only repeats."""
    task = TASKS[TaskName.questions]
    clips = read_clips([Path(os.environ["SPEECH"]) / "dev-questions" / "manifest.jsonl"], task.needs)
    engine = load(final, device="cpu", dtype="float32")
    result = evaluate(engine, task, clips, task.ask_with(None, ANSWER_TOKENS), Notebook(None, {}), batch_size=16)
    score = task.score(result.predictions)
    return {"answered": score.value, "only_repeated": score.counts["only_repeated"] / len(clips)}


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows of earlier runs."""
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def commit() -> str:
    """The code that runs, with a mark where it was changed since."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], cwd=HERE, capture_output=True,
        text=True, check=False,
    )
    return found.stdout.strip()


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows and how they were made; the file appears whole or not at all."""
    about = {
        "command": f"python recipes/switches/compare.py {' '.join(sys.argv[1:])}", "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "train": "see recipes/switches/*.yaml", "held_out": HELD_OUT, "decoding": "greedy", "rows": rows,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(about, indent=1) + "\n")
    draft.replace(path)


if __name__ == "__main__":
    main()
