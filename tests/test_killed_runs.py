"""A run that is killed with SIGKILL, anywhere, and started again ends as if nothing had happened: real processes."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs
import torch
import yaml
from filelock import FileLock
from tiny_runs import weights

from soundwave.errors import TrainingError
from soundwave.training.checkpoint import list_checkpoints
from soundwave.training.loop import train
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.reporting import read_metrics

SCRIPT = Path(__file__).with_name("train_recipes.py")
STEPS = 60


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run to its end: two tasks in a dynamic mixture, masking and dropout, figures between checkpoints."""
    folder = tmp_path_factory.mktemp("killed")
    plain = tiny_runs.recipe(folder, output_dir=str(folder / "straight"))
    rows = tiny_runs.clips(folder / "data")
    sources = [
        DataSource(str(tiny_runs.manifest_of(folder / "data", rows[:6], "many.jsonl")), speeds=[0.9, 1.0]),
        DataSource(str(tiny_runs.manifest_of(folder / "data", rows[6:], "few.jsonl")), task="other"),
    ]
    recipe = dataclasses.replace(
        plain, train=sources, mixture="dynamic", max_steps=STEPS, save_steps=2, logging_steps=3,
        gradient_accumulation_steps=2,
    )
    train(recipe)
    return recipe


def started(recipe: Recipe, **environment: str) -> subprocess.Popen[bytes]:
    path = Path(recipe.output_dir).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path)], env=os.environ | environment, stderr=subprocess.DEVNULL
    )


def assert_ends_as(straight: Recipe, killed: Recipe) -> None:
    """Starts the killed run again and compares every figure and weight."""
    final = train(killed)
    one, other = (tiny_runs.losses(run.output_dir) for run in (straight, killed))
    assert [row["step"] for row in other] == list(range(3, STEPS + 1, 3))
    for ours, theirs in zip(one, other, strict=True):
        for figure in set(ours) - {"times_real_time"}:
            assert ours[figure] == pytest.approx(theirs[figure], abs=1e-6), (ours["step"], figure)
    wanted, got = weights(Path(straight.output_dir) / "final"), weights(final)
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    checkpoints = Path(killed.output_dir) / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"step-{step:06d}" for step in (STEPS - 2, STEPS)]


def test_a_run_killed_at_any_step_goes_on_as_if_it_had_not_been(straight: Recipe) -> None:
    folder = Path(straight.output_dir).parent
    killed = dataclasses.replace(straight, output_dir=str(folder / "any-step"))
    step = random.randrange(6, STEPS // 2)  # another one in each run of this test
    process = started(killed)
    try:
        metrics, until = Path(killed.output_dir) / "metrics.jsonl", time.monotonic() + 120
        while not any(row["step"] >= step for row in read_metrics(metrics)):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, f"it had ended before step {step} was seen"
    assert list_checkpoints(folder / "any-step" / "checkpoints")
    assert_ends_as(straight, killed)


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(straight: Recipe) -> None:
    folder = Path(straight.output_dir).parent
    killed = dataclasses.replace(straight, output_dir=str(folder / "while-saving"))
    assert started(killed, KILL_IN_SAVE="4").wait(120) == -signal.SIGKILL
    checkpoints = folder / "while-saving" / "checkpoints"
    half = checkpoints / ".step-000008.unfinished"
    assert [path.name for path in half.iterdir()] == ["model.safetensors"]
    assert [path.name for path in list_checkpoints(checkpoints)] == ["step-000004", "step-000006"]
    assert_ends_as(straight, killed)


def test_two_runs_never_write_into_one_folder(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, max_steps=1)
    folder = Path(recipe.output_dir)
    folder.mkdir()
    with (
        FileLock(folder / "run.lock"),
        pytest.raises(TrainingError, match=r"Another run is training into .*run; wait for its end, stop it, or change"),
    ):
        train(recipe)
    assert not (folder / "checkpoints").exists()
    train(recipe)
