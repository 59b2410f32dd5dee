"""Runs whose parameters are spread over two processes (FSDP2) by the shipped settings: they train as one process does.

accelerate shards on accelerators only, PyTorch on CPUs too; `train_recipes.py` lets accelerate do it here.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_runs
import torch
import yaml
from test_processes import TEXT_ONLY, in_processes
from tiny_runs import losses, weights

from soundwave.training.loop import train
from soundwave.training.recipe import DataSource, Recipe

SETTINGS = Path(__file__).parents[1] / "recipes" / "paper" / "accelerate" / "fsdp2.yaml"
if not SETTINGS.is_file():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
STEPS = 6


def launched() -> dict[str, str]:
    """What `accelerate launch --config_file fsdp2.yaml` tells its processes, and that this is no accelerator."""
    settings = yaml.safe_load(SETTINGS.read_text())
    told = {name.upper(): str(value) for name, value in settings["fsdp_config"].items()}
    return {"ACCELERATE_USE_FSDP": "true", "SHARDED_ON_CPU": "1", **told}


@pytest.fixture(scope="module")
def sharded() -> Iterator[pytest.MonkeyPatch]:
    """The environment in which processes that are started shard."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in launched().items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    """Stages I and II in this process alone: two batches a process and step, text-only examples, evaluation."""
    folder = tmp_path_factory.mktemp("sharded")
    alignment = tiny_runs.recipe(
        folder, output_dir=str(folder / "alignment"), batches_per_step=4, save_steps=2, eval_steps=3,
        evaluation=[DataSource(str(folder / "data" / "manifest.jsonl"))],
    )
    text = tiny_runs.manifest_of(folder / "data", TEXT_ONLY, "text.jsonl")
    shrinking = dataclasses.replace(
        alignment, stage="shrinking", start_from=str(folder / "alignment" / "final"), mixture="dynamic",
        train=[*alignment.train, DataSource(str(text), task="text")], output_dir=str(folder / "shrinking"),
        learning_rate=3e-4,  # so that rounding does not change which frames are kept
    )
    recipes = {"alignment": alignment, "shrinking": shrinking}
    for recipe in recipes.values():
        train(recipe)
    return recipes


def trained(recipe: Recipe, name: str) -> Recipe:
    """The same recipe in two processes that share its parameters."""
    folder = Path(recipe.output_dir).parent
    apart = dataclasses.replace(recipe, output_dir=str(folder / f"{recipe.stage}-{name}"))
    codes = in_processes(2, [apart], folder)
    assert codes == [0, 0], (folder / "process-0.txt").read_text()
    return apart


def assert_same(one: Recipe, other: Recipe) -> None:
    for ours, theirs in zip(losses(one.output_dir), losses(other.output_dir), strict=True):
        for figure in {*ours, *theirs} - {"times_real_time"}:
            assert ours[figure] == pytest.approx(theirs[figure], abs=1e-4, rel=1e-5), (ours["step"], figure)
    alone, apart = (weights(Path(run.output_dir) / "final") for run in (one, other))
    assert {name: value.shape for name, value in alone.items()} == {name: value.shape for name, value in apart.items()}
    changes = torch.cat([(alone[name] - apart[name]).abs().flatten() for name in alone])
    assert (changes > 1e-4).float().mean() < 0.01  # AdamW's first steps are signs: gradients of zero fall either way


@pytest.mark.parametrize("stage", ["alignment", "shrinking"])
def test_sharded_processes_have_the_losses_and_weights_of_one(
    straight: dict[str, Recipe], sharded: pytest.MonkeyPatch, stage: str
) -> None:
    assert_same(straight[stage], trained(straight[stage], "sharded"))


def test_a_killed_sharded_run_goes_on_sharded_or_in_one_process(
    straight: dict[str, Recipe], sharded: pytest.MonkeyPatch
) -> None:
    recipe = straight["shrinking"]
    folder = Path(recipe.output_dir).parent
    killed = dataclasses.replace(recipe, output_dir=str(folder / "shrinking-killed"))
    sharded.setenv("KILL_IN_SAVE", "2")
    assert -9 in in_processes(2, [killed], folder)
    sharded.delenv("KILL_IN_SAVE")
    alone = dataclasses.replace(killed, output_dir=str(folder / "shrinking-moved"))
    shutil.copytree(killed.output_dir, alone.output_dir)
    assert_same(recipe, trained(recipe, "killed"))
    train(alone)  # this process does not shard
    assert_same(recipe, alone)


def test_what_sharding_cannot_do_is_told(straight: dict[str, Recipe], tmp_path: Path) -> None:
    recipe = dataclasses.replace(straight["shrinking"], output_dir=str(tmp_path / "kl"), kl_weight=0.5)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in launched().items():
            patch.setenv(name, value)
        in_processes(2, [recipe], tmp_path)
    assert "kl_weight needs the whole model in each process" in (tmp_path / "kl" / "error-0.txt").read_text()
