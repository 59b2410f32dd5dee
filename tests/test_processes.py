"""Several processes train as one does: real processes, gloo, tiny parts. The same recipes run in this process alone."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_runs
import torch
import yaml
from tiny_runs import weights

from soundwave.errors import ConfigurationError, TrainingError
from soundwave.training.distributed import accumulation, other_number
from soundwave.training.loop import train
from soundwave.training.prepare import prepare
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.sampler import batches, epoch_items, places, shares

SCRIPT = Path(__file__).with_name("train_recipes.py")
TEXT_ONLY = [
    {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "Good day."}]}
    for said in ("Hi", "Who is the person?", "Say so", "A cat?")
]
STEPS = 6
LEARNING_ENCODER = {"encoder_upper_layers": 1, "encoder_training": "lora", "encoder_layer_sum": True}
SHARED = ("alignment", "shrinking", "instruction", "frame", "encoder", "skipped")  # runs that have to be equal


def in_processes(count: int, recipes: list[Recipe], folder: Path, seconds: int = 240) -> list[int]:
    """Trains recipes in `count` processes that find each other as `torchrun`'s do; returns their exit codes."""
    paths = []
    for number, recipe in enumerate(recipes):
        paths.append(folder / f"{number}.yaml")
        paths[-1].write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, paths)], stderr=(folder / f"process-{rank}.txt").open("w"),
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)},
        )
        for rank in range(count)
    ]
    try:
        return [process.wait(seconds) for process in started]  # a deadlock is a failure, not a wait
    finally:
        for process in started:
            process.kill()


def spoil(recipe: Recipe) -> str:
    """Puts NaN into the stored frames of a clip that is in neither of the two batches that are checked first."""
    prepared = prepare(recipe, torch.device("cpu"), "no", main=False)
    made = batches(epoch_items(prepared.train, recipe, 0), recipe, recipe.seed, 0)
    longest = max(made, key=lambda batch: sum(item.seconds for item in batch))
    item = next(item for batch in made for item in batch if batch is not made[0] and batch is not longest)
    start, count = prepared.collator.store.index[item.clips[0].key()]
    rows = np.memmap(Path(recipe.features) / "frames.f16", np.float16, "r+").reshape(-1, tiny.ENCODER_WIDTH)
    rows[start : start + count] = np.nan
    return item.name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Output folders of every recipe, trained alone and by two processes."""
    folder = tmp_path_factory.mktemp("runs")
    alignment = tiny_runs.recipe(
        folder, output_dir=str(folder / "one" / "alignment"), batches_per_step=2,
        learning_rate=3e-4,  # so that rounding does not grow from step to step, nor change which frames are kept
    )
    start = str(folder / "one" / "alignment" / "final")
    train(alignment)
    text = tiny_runs.manifest_of(folder / "data", TEXT_ONLY, "text.jsonl")
    both = [*alignment.train, DataSource(str(text), task="text")]
    shrinking = dataclasses.replace(
        alignment, stage="shrinking", start_from=start, train=both, evaluation=alignment.train, eval_steps=3,
        mixture="dynamic", ema_decay=0.9,
    )
    spoilt = dataclasses.replace(alignment, features=str(folder / "spoilt"), on_nan="skip", seed=2)
    name = spoil(spoilt)
    recipes = {
        "alignment": alignment, "shrinking": shrinking,
        "instruction": dataclasses.replace(shrinking, stage="instruction", batches_per_step=4),
        "frame": dataclasses.replace(alignment, model=alignment.model | {"alignment_attention": "frame"}),
        "encoder": dataclasses.replace(shrinking, model=LEARNING_ENCODER, features=str(folder / "below")),
        "skipped": spoilt, "stopped": dataclasses.replace(spoilt, on_nan="stop"),
        "few": dataclasses.replace(alignment, batch_seconds=99.0, max_batch_size=99),
    }
    apart = {name: dataclasses.replace(one, output_dir=str(folder / "two" / name)) for name, one in recipes.items()}
    alone = {name: dataclasses.replace(one, output_dir=str(folder / "one" / name)) for name, one in recipes.items()}
    for kind in SHARED:
        train(alone[kind])
    codes = in_processes(2, list(apart.values()), folder)
    told = "".join((folder / f"process-{rank}.txt").read_text() for rank in range(2))
    return {"folder": folder, "codes": codes, "told": told, "spoilt": name, "recipes": recipes}


def test_two_processes_reach_their_end(runs: dict[str, Any]) -> None:
    assert runs["codes"] == [0, 0], runs["told"]


@pytest.mark.parametrize("kind", SHARED)
def test_two_processes_have_the_losses_of_one(runs: dict[str, Any], kind: str) -> None:
    alone, apart = (tiny_runs.losses(str(runs["folder"] / count / kind)) for count in ("one", "two"))
    assert [row["step"] for row in alone if "loss" in row] == list(range(1, STEPS + 1))
    assert [set(row) for row in alone] == [set(row) for row in apart]
    for ours, theirs in zip(alone, apart, strict=True):
        for figure in set(ours) - {"times_real_time"}:
            assert ours[figure] == pytest.approx(theirs[figure], abs=1e-4), (ours["step"], figure)


def test_what_two_processes_trained_is_what_one_trains(runs: dict[str, Any]) -> None:
    alone, apart = (weights(runs["folder"] / count / "shrinking" / "final") for count in ("one", "two"))
    assert set(alone) == set(apart)
    changes = torch.cat([(alone[name] - apart[name]).abs().flatten() for name in alone])
    assert (changes > 1e-4).float().mean() < 0.01  # AdamW's first steps are signs: gradients of zero fall either way


def test_some_steps_mixed_batches_with_and_without_audio(runs: dict[str, Any]) -> None:
    recipe = runs["recipes"]["instruction"]
    prepared = prepare(recipe, torch.device("cpu"), "no", main=False)
    kinds = set()
    for epoch in range(4):
        for batch in batches(epoch_items(prepared.train, recipe, epoch), recipe, recipe.seed, epoch):
            assert len(batch) <= recipe.max_batch_size
            kinds.add(frozenset(bool(item.clips) for item in batch))
    assert kinds == {frozenset({True}), frozenset({False}), frozenset({True, False})}


def test_a_batch_that_is_no_number_is_skipped_by_all_processes_together(runs: dict[str, Any]) -> None:
    assert "skipped: The loss at step " in runs["told"]
    assert runs["spoilt"] in runs["told"]
    assert all(torch.isfinite(value).all() for value in weights(runs["folder"] / "two" / "skipped" / "final").values())


def test_a_batch_that_is_no_number_stops_all_processes_with_the_same_words(runs: dict[str, Any]) -> None:
    told = {(runs["folder"] / "two" / "stopped" / f"error-{rank}.txt").read_text() for rank in range(2)}
    assert len(told) == 1
    assert told.pop().startswith("TrainingError: The loss at step ")


def test_fewer_batches_than_processes_is_a_mistake_that_is_told(runs: dict[str, Any]) -> None:
    told = (runs["folder"] / "two" / "few" / "error-1.txt").read_text()
    assert "makes 1 batches an epoch, too few for 2 processes; start fewer, lower batch_seconds" in told


# How the data is shared


def share_of(rank: int, processes: int) -> Iterator[Any]:
    """One process's share of epochs of three batches, each a name instead of examples."""
    named: Any = lambda epoch: [f"{epoch}/{i}" for i in range(3)]  # noqa: E731
    return shares(places(named, 0, 0), rank, processes, lambda place: place.items)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_batch_of_every_epoch_is_computed_by_one_process(processes: int) -> None:
    taken: dict[int, list[Any]] = {}
    for rank in range(processes):
        mine = share_of(rank, processes)
        taken[rank] = [next(mine).batch for _ in range(12 // processes)]
    together = [batch for step in zip(*taken.values(), strict=True) for batch in step]
    assert together == [f"{epoch}/{i}" for epoch in range(4) for i in range(3)]


def test_the_position_after_a_step_does_not_depend_on_the_processes() -> None:
    alone, two = share_of(0, 1), share_of(1, 2)
    assert [next(alone).after for _ in range(8)][1::2] == [(0, 2), (1, 1), (1, 3), (2, 2)]
    assert [next(two).after for _ in range(4)] == [(0, 2), (1, 1), (1, 3), (2, 2)]


@pytest.mark.parametrize(
    ("changes", "processes", "each"),
    [
        ({"gradient_accumulation_steps": 3}, 2, 3),  # of each process
        ({"batches_per_step": 8}, 1, 8),  # of all together
        ({"batches_per_step": 8}, 4, 2),
        ({"batches_per_step": 8, "gradient_accumulation_steps": 5}, 8, 1),
    ],
)
def test_batches_of_a_step(changes: dict[str, Any], processes: int, each: int) -> None:
    assert accumulation(Recipe(**changes), processes) == each


def test_batches_that_the_processes_cannot_share_are_told() -> None:
    with pytest.raises(ConfigurationError, match="batches_per_step is 8, which 3 processes cannot share equally"):
        accumulation(Recipe(batches_per_step=8), 3)


@pytest.mark.parametrize(
    ("changes", "processes", "told"),
    [
        ({"devices": 32}, 8, "is 32, the number of processes 8; batches a step: 8 instead of 32 (batches_per_step=32"),
        ({"devices": 32, "batches_per_step": 64}, 8, "batches a step: 64 as the recipe says, 8 of each process"),
        ({}, 2, "batches a step: 2 instead of 1 (batches_per_step=1 keeps their number, devices=2 says that this"),
    ],
)
def test_another_number_of_processes_than_the_recipe_is_for_is_told_in_one_line(
    changes: dict[str, Any], processes: int, told: str
) -> None:
    line = other_number(Recipe(**changes), processes)
    assert line is not None
    assert told in line
    assert line.startswith("warning: ")
    assert "\n" not in line


@pytest.mark.parametrize("changes", [{}, {"batches_per_step": 64}, {"devices": 1, "gradient_accumulation_steps": 4}])
def test_the_number_of_processes_that_the_recipe_is_for_needs_no_word(changes: dict[str, Any]) -> None:
    assert other_number(Recipe(**changes), 1) is None


def test_a_run_says_that_it_has_another_number_of_processes(runs: dict[str, Any]) -> None:
    line = "warning: the recipe's devices is 1, the number of processes 2; batches a step: 2 as the recipe says, 1 of"
    told = [(runs["folder"] / f"process-{rank}.txt").read_text() for rank in range(2)]
    assert line in told[0]
    assert line not in told[1]  # once, not by each process


def test_an_epoch_without_any_batch_is_told(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path)
    recipe.train[0].repeat = 0.01
    with pytest.raises(TrainingError, match="The training data makes 0 batches an epoch, too few for 1 processes"):
        train(recipe)
