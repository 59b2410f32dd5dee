"""The moving average of the weights, by hand: it alone is evaluated, kept as the best and written."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from soundwave.training import checkpoint, validate
from soundwave.training.averaging import Average
from soundwave.training.loop import train
from soundwave.training.recipe import DataSource, Recipe

DECAY = 0.15  # reached at the third step: 1/10, 2/11, then 0.15


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Six steps of two batches, evaluated and saved after each; all checkpoints stay."""
    monkeypatch.setattr(checkpoint, "KEPT", 99)
    plain = tiny_runs.recipe(tmp_path, eval_steps=1, save_steps=1, gradient_accumulation_steps=2, ema_decay=DECAY)
    return dataclasses.replace(plain, evaluation=[DataSource(plain.train[0].manifest)])


def saved(recipe: Recipe, step: int, file: str = "average") -> dict[str, Tensor]:
    return load_file(Path(recipe.output_dir) / "checkpoints" / f"step-{step:06d}" / f"{file}.safetensors")


def same(final: Path, parameters: dict[str, Tensor]) -> bool:
    made = tiny_runs.weights(final)
    return all(torch.equal(made[name], value) for name, value in parameters.items())


def interrupt_after(recipe: Recipe, step: int) -> None:
    """Lets a finished run be one that was stopped after the checkpoint of a step."""
    shutil.rmtree(Path(recipe.output_dir) / "final")
    for later in range(step + 1, 7):
        shutil.rmtree(Path(recipe.output_dir) / "checkpoints" / f"step-{later:06d}")


@pytest.mark.parametrize(
    ("decay", "step", "stays"), [(0.999, 0, 1 / 10), (0.999, 1, 2 / 11), (0.999, 8990, 8991 / 9000), (0.5, 90, 0.5)]
)
def test_the_average_keeps_less_of_itself_early_on(decay: float, step: int, stays: float) -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 4.0)
    average = Average(layer, decay)
    nn.init.constant_(layer.weight, 8.0)
    average.update(step)
    assert average.values["weight"].item() == pytest.approx(4 * stays + 8 * (1 - stays))
    assert layer.weight.item() == 8.0


def test_it_stands_in_for_the_weights_and_gives_them_back_also_after_a_mistake() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)  # frozen: no part of it
    average = Average(layer, 0.9)
    before = layer.weight.detach().clone()
    average.values["weight"] += 1.0
    with average.applied():
        assert torch.equal(layer.weight, before + 1.0)
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert torch.equal(layer.weight, before)
    assert list(average.values) == ["weight"]


def test_the_final_model_is_the_average_and_training_itself_is_as_without(recipe: Recipe, tmp_path: Path) -> None:
    plain = dataclasses.replace(recipe, ema_decay=0.0, output_dir=str(tmp_path / "plain"))
    finals = {run.output_dir: train(run) for run in (recipe, plain)}
    ours, theirs = (
        [row["loss"] for row in tiny_runs.losses(run.output_dir) if "loss" in row] for run in (recipe, plain)
    )
    assert ours == theirs
    assert same(finals[plain.output_dir], saved(recipe, 6, "model"))
    assert same(finals[recipe.output_dir], saved(recipe, 6))
    assert not (Path(plain.output_dir) / "checkpoints" / "step-000006" / "average.safetensors").exists()
    for step in range(1, 6):  # once for each optimizer step, of two batches
        stays = min(DECAY, (1 + step) / (10 + step))
        before, now, weights = saved(recipe, step), saved(recipe, step + 1), saved(recipe, step + 1, "model")
        for name, value in now.items():
            torch.testing.assert_close(value, stays * before[name] + (1 - stays) * weights[name])
    assert not same(finals[recipe.output_dir], saved(recipe, 6, "model"))


def test_held_out_figures_are_the_averages(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[dict[str, Tensor]] = []

    def evaluate(module: nn.Module, *more: Any) -> dict[str, float]:
        if more[-1] is None:  # not the try before the first step
            parameters = checkpoint.trained_parameters(module)
            evaluated.append({name: value.detach().clone() for name, value in parameters.items()})
        return {"loss": 0.0}

    monkeypatch.setattr(validate, "evaluate", evaluate)
    train(recipe)
    for step, parameters in enumerate(evaluated, 1):
        average = saved(recipe, step)
        assert all(torch.equal(parameters[name], value) for name, value in average.items())
    assert len(evaluated) == 6


def test_a_run_that_goes_on_has_the_figures_and_the_model_of_one_that_never_stopped(recipe: Recipe) -> None:
    straight = tiny_runs.weights(train(recipe))
    rows = tiny_runs.losses(recipe.output_dir)
    interrupt_after(recipe, 3)
    assert same(train(recipe), straight)
    for ours, theirs in zip(rows, tiny_runs.losses(recipe.output_dir), strict=True):
        assert {**ours, "times_real_time": 0} == {**theirs, "times_real_time": 0}


def test_the_best_model_is_the_average_that_was_evaluated(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    coming = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(
        validate, "evaluate", lambda *given: {"loss": next(coming) if given[-1] is None else 0.0}
    )
    recipe = dataclasses.replace(recipe, keep_best="loss", early_stop=2)
    final = train(recipe)
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir) if "loss" in row] == [1, 2, 3, 4]
    assert same(final, saved(recipe, 2))
    assert same(train(recipe), saved(recipe, 2))  # a finished run writes the same again


def test_a_run_that_has_begun_may_start_to_average_and_stop_to(recipe: Recipe) -> None:
    plain = dataclasses.replace(recipe, ema_decay=0.0)
    train(plain)
    interrupt_after(plain, 3)
    train(recipe)
    first = saved(recipe, 4)
    weights = [saved(recipe, step, "model") for step in (3, 4)]
    for name, value in first.items():  # it begins as the weights of step 3 are
        torch.testing.assert_close(value, DECAY * weights[0][name] + (1 - DECAY) * weights[1][name])
    interrupt_after(plain, 4)
    assert same(train(plain), saved(plain, 6, "model"))


def test_a_step_that_is_skipped_leaves_the_average_as_it_is(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    update = Average.update

    def counted(self: Average, step: int) -> None:
        told.append(step)
        update(self, step)

    numbers = iter([False])  # the first step's
    monkeypatch.setattr(Average, "update", counted)
    monkeypatch.setattr("soundwave.training.loop._is_number", lambda *_: next(numbers, True))
    train(dataclasses.replace(recipe, on_nan="skip"))
    assert told == [0, 1, 2, 3, 4, 5]
