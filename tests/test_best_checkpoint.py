"""Held-out figures decide: the best checkpoint becomes the model, and a run that gets no better ends early."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file

from soundwave.errors import ConfigurationError
from soundwave.training import validate
from soundwave.training.checkpoint import list_checkpoints
from soundwave.training.loop import train
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.reporting import held_out_scores


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    plain = tiny_runs.recipe(tmp_path, eval_steps=1, save_steps=1, keep_best="loss")
    return dataclasses.replace(plain, evaluation=[DataSource(plain.train[0].manifest)])


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float | Exception]], None]:
    """Lets the held-out losses of the coming evaluations be these; an exception is raised."""

    def script(losses: list[float | Exception]) -> None:
        coming = iter(losses)

        def evaluate(*_: Any) -> dict[str, float]:
            if _[-1] is not None:  # the try before the first step
                return {"loss": 0.0}
            loss = next(coming)
            if isinstance(loss, Exception):
                raise loss
            return {"loss": loss}

        monkeypatch.setattr(validate, "evaluate", evaluate)

    return script


def kept(recipe: Recipe) -> list[str]:
    return [path.name for path in list_checkpoints(Path(recipe.output_dir) / "checkpoints")]


def same_as_checkpoint(final: Path, step: int) -> bool:
    there = load_file(final.parent / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    made = tiny_runs.weights(final)
    return all(torch.equal(made[name], value) for name, value in there.items())


def test_the_model_is_the_checkpoint_that_was_best_and_that_stays(recipe: Recipe, scripted: Any) -> None:
    scripted([3.0, 1.0, 2.0, 2.5, 1.5, 1.2])
    final = train(recipe)
    assert kept(recipe) == ["step-000002", "step-000005", "step-000006"]
    assert same_as_checkpoint(final, 2)
    scripted([])
    assert same_as_checkpoint(train(recipe), 2)  # a finished run writes the same again, and evaluates nothing


def test_without_it_the_model_is_the_last_step(recipe: Recipe, scripted: Any) -> None:
    scripted([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    final = train(dataclasses.replace(recipe, keep_best=None))
    assert kept(recipe) == ["step-000005", "step-000006"]
    assert same_as_checkpoint(final, 6)


def test_a_run_that_gets_no_better_ends_early_and_stays_ended(
    recipe: Recipe, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    early = dataclasses.replace(recipe, early_stop=2)
    scripted([3.0, 1.0, 1.0, 2.0])  # as low again is no better
    final = train(early)
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir) if "loss" in row] == [1, 2, 3, 4]
    assert same_as_checkpoint(final, 2)
    assert "step 4: stopped early" in capsys.readouterr().err
    scripted([])
    assert same_as_checkpoint(train(early), 2)
    scripted([5.0, 0.5])  # more patience: it goes on
    assert same_as_checkpoint(train(dataclasses.replace(early, early_stop=9)), 6)


def test_what_goes_wrong_in_an_evaluation_costs_no_step_and_is_made_up_for(recipe: Recipe, scripted: Any) -> None:
    scripted([3.0, RuntimeError("out of memory")])
    with pytest.raises(RuntimeError, match="out of memory"):
        train(dataclasses.replace(recipe, save_steps=100))
    assert kept(recipe) == ["step-000001", "step-000002"]
    scripted([1.0, 2.0, 3.0, 4.0, 5.0])
    train(dataclasses.replace(recipe, save_steps=100))
    found = held_out_scores(tiny_runs.losses(recipe.output_dir), "loss")
    assert found == {1: 3.0, 2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0, 6: 5.0}


def test_a_figure_that_is_not_held_out_is_told_before_the_first_step(recipe: Recipe) -> None:
    with pytest.raises(ConfigurationError, match=r"keep_best is bleu, but the held-out figures are eval_data_loss, "):
        train(dataclasses.replace(recipe, keep_best="bleu"))
    assert not Path(recipe.output_dir).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_best": "loss"}, "keep_best is loss, and needs evaluation"),
        ({"early_stop": 3}, "early_stop is 3, and needs keep_best"),
    ],
)
def test_what_one_option_needs_of_another_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        train(tiny_runs.recipe(tmp_path, **changes))


def test_a_score_is_the_mean_over_the_manifests_that_have_the_figure_or_one_of_them() -> None:
    rows = [
        {"step": 1, "loss": 9.0}, {"step": 1, "eval_a_loss": 2.0, "eval_a_ctc_wer": 0.5},
        {"step": 1, "eval_b_loss": 4.0}, {"step": 2, "eval_a_loss": float("nan"), "eval_b_loss": 1.0},
    ]
    assert held_out_scores(rows, "loss") == {1: 3.0, 2: float("inf")}
    assert held_out_scores(rows, "ctc_wer") == {1: 0.5}
    assert held_out_scores(rows, "eval_b_loss") == {1: 4.0, 2: 1.0}
