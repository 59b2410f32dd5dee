"""A run that is given minutes instead of steps: its learning rate falls to zero by then, on whatever machine."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_runs

from soundwave.training import loop
from soundwave.training.checkpoint import list_checkpoints
from soundwave.training.loop import train
from soundwave.training.recipe import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_runs.recipe(
        tmp_path, max_steps=1000, max_minutes=0.5, warmup_ratio=0.0, save_steps=2, report_to=[], learning_rate=1e-3
    )


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a second after the one before."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    whole = loop.train_step

    def train_step(run: Any, upcoming: Any) -> float | None:
        if run.position.step == step:
            raise KeyboardInterrupt
        return whole(run, upcoming)

    monkeypatch.setattr(loop, "train_step", train_step)


def rates(recipe: Recipe) -> list[float]:
    return [row["learning_rate"] for row in tiny_runs.losses(recipe.output_dir)]


def test_it_ends_when_its_minutes_are_over_with_a_checkpoint_and_a_rate_near_zero(recipe: Recipe) -> None:
    final = train(recipe)
    (*_, last) = tiny_runs.losses(recipe.output_dir)
    assert 8 < last["step"] < 31
    assert last["minutes"] == pytest.approx(0.5, abs=0.05)
    assert list_checkpoints(Path(recipe.output_dir) / "checkpoints")[-1].name == f"step-{last['step']:06d}"
    assert (final / "adapters.safetensors").is_file()
    falling = rates(recipe)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 0.5e-3
    assert falling[-1] < 0.1e-3


def test_the_minutes_before_a_stop_count(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    train(recipe)
    straight = len(rates(recipe))
    stopped = dataclasses.replace(recipe, output_dir=f"{recipe.output_dir}-stopped")
    with monkeypatch.context() as patched:
        stop_at(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    train(stopped)
    assert len(rates(stopped)) == pytest.approx(straight, abs=1)
    assert rates(stopped)[2] < rates(stopped)[1]


def test_a_run_whose_minutes_are_over_is_done_and_goes_on_with_more(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe)
    steps = len(rates(recipe))
    train(recipe)
    assert len(rates(recipe)) == steps
    assert "max_minutes" in capsys.readouterr().err
    train(dataclasses.replace(recipe, max_minutes=0.8))
    assert len(rates(recipe)) > steps


def test_steps_that_are_fewer_end_it_before(recipe: Recipe) -> None:
    train(dataclasses.replace(recipe, max_steps=2))
    assert len(rates(recipe)) == 2
