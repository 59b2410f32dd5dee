"""Two processes that share parameters (FSDP2) or moments (ZeRO) by the shipped settings train as one process does.

accelerate does both on accelerators only, PyTorch and DeepSpeed on CPUs too; `train_recipes.py` lets accelerate do it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_runs
import torch
import yaml
from test_processes import LEARNING_ENCODER, TEXT_ONLY, in_processes
from tiny_runs import losses, weights

from soundwave.errors import ConfigurationError
from soundwave.training.deepspeed import wrapped_by_zero
from soundwave.training.loop import train
from soundwave.training.recipe import DataSource, Recipe

SETTINGS = Path(__file__).parents[1] / "recipes" / "paper" / "accelerate"
if not SETTINGS.is_dir():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
STEPS = 6
WAYS = [
    "fsdp2",
    pytest.param(
        "zero1", marks=pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is missing")
    ),
]


def launched(way: str) -> dict[str, str]:
    """What `accelerate launch --config_file fsdp2.yaml` tells its processes, and that this is no accelerator."""
    settings = yaml.safe_load((SETTINGS / f"{way}.yaml").read_text())
    if way == "fsdp2":
        told = {name.upper(): str(value) for name, value in settings["fsdp_config"].items()}
        return {"ACCELERATE_USE_FSDP": "true", "SHARDED_ON_CPU": "1", **told}
    stage = str(settings["deepspeed_config"]["zero_stage"])
    return {
        "ACCELERATE_USE_DEEPSPEED": "true", "SHARDED_ON_CPU": "1", "DS_ACCELERATOR": "cpu",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    }


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How processes that are started share; their environment says so."""
    for name, value in launched(request.param).items():
        monkeypatch.setenv(name, value)
    return str(request.param)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    """Stages I and II in this process alone: two batches a process and step, text-only examples, evaluation."""
    folder = tmp_path_factory.mktemp("sharded")
    alignment = tiny_runs.recipe(
        folder, output_dir=str(folder / "alignment"), batches_per_step=4, save_steps=2, eval_steps=3,
        learning_rate=3e-4,  # so that rounding does not grow from step to step, nor change which frames are kept
        evaluation=[DataSource(str(folder / "data" / "manifest.jsonl"))],
    )
    projection = dataclasses.replace(
        alignment, output_dir=str(folder / "projection"), model={**alignment.model, "ctc_head": "projection"}
    )
    text = tiny_runs.manifest_of(folder / "data", TEXT_ONLY, "text.jsonl")
    shrinking = dataclasses.replace(
        alignment, stage="shrinking", start_from=str(folder / "alignment" / "final"), mixture="dynamic",
        train=[*alignment.train, DataSource(str(text), task="text")], output_dir=str(folder / "shrinking"),
    )
    encoder = dataclasses.replace(
        shrinking, model=LEARNING_ENCODER, features=str(folder / "below"), output_dir=str(folder / "encoder")
    )
    recipes = {"alignment": alignment, "shrinking": shrinking, "projection": projection, "encoder": encoder}
    for recipe in recipes.values():
        train(recipe)
    return recipes


def trained(recipe: Recipe, name: str) -> Recipe:
    """The same recipe in two processes that share its parameters."""
    folder = Path(recipe.output_dir).parent
    apart = dataclasses.replace(recipe, output_dir=str(f"{recipe.output_dir}-{name}"))
    codes = in_processes(2, [apart], folder)
    assert codes == [0, 0], (folder / "process-0.txt").read_text()
    return apart


def assert_same(one: Recipe, other: Recipe) -> None:
    for ours, theirs in zip(losses(one.output_dir), losses(other.output_dir), strict=True):
        for figure in {*ours, *theirs} - {"times_real_time"}:
            assert ours[figure] == pytest.approx(theirs[figure], abs=1e-4), (ours["step"], figure)
    alone, apart = (weights(Path(run.output_dir) / "final") for run in (one, other))
    assert {name: value.shape for name, value in alone.items()} == {name: value.shape for name, value in apart.items()}
    changes = torch.cat([(alone[name] - apart[name]).abs().flatten() for name in alone])
    assert (changes > 1e-4).float().mean() < 0.01  # AdamW's first steps are signs: gradients of zero fall either way


@pytest.mark.parametrize("run", ["alignment", "shrinking", "projection", "encoder"])
def test_sharing_processes_have_the_losses_and_weights_of_one(straight: dict[str, Recipe], way: str, run: str) -> None:
    assert_same(straight[run], trained(straight[run], way))


def test_a_killed_run_that_shares_goes_on_as_it_was_or_in_one_process(
    straight: dict[str, Recipe], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = straight["shrinking"]
    folder = Path(recipe.output_dir).parent
    killed = dataclasses.replace(recipe, output_dir=str(folder / f"shrinking-{way}-killed"))
    monkeypatch.setenv("KILL_IN_SAVE", "2")
    assert -9 in in_processes(2, [killed], folder)
    monkeypatch.delenv("KILL_IN_SAVE")
    alone = dataclasses.replace(killed, output_dir=str(folder / f"shrinking-{way}-moved"))
    shutil.copytree(killed.output_dir, alone.output_dir)
    assert_same(recipe, trained(recipe, f"{way}-killed"))
    train(alone)  # this process shares nothing
    assert_same(recipe, alone)


@pytest.mark.parametrize(
    ("way", "changes", "told"),
    [
        ("fsdp2", {"kl_weight": 0.5}, "TrainingError: kl_weight needs the whole model in each process"),
        ("fsdp2", {"ema_decay": 0.9}, "TrainingError: ema_decay needs all that is trained in each process"),
        pytest.param("zero1", {"optimizer": "muon"}, "ConfigurationError: DeepSpeed runs one", marks=WAYS[1].marks),
    ],
    indirect=["way"],
)
def test_what_sharing_cannot_do_is_told(
    straight: dict[str, Recipe], way: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(straight["shrinking"], output_dir=str(tmp_path / "refused"), **changes)
    in_processes(2, [recipe], tmp_path)
    assert (tmp_path / "refused" / "error-0.txt").read_text().startswith(told)


def test_another_stage_of_zero_is_refused() -> None:
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 2}})
    accelerator: Any = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    with pytest.raises(ConfigurationError, match="zero_stage is 2; set 1"):
        wrapped_by_zero(accelerator, torch.nn.Linear(1, 1), [], 1.0)
