"""What a run that goes on may change of its recipe, what makes it another run, and how a person is told."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
import yaml

from soundwave.errors import TrainingError
from soundwave.training import whitening
from soundwave.training.augmentation import Augmentation, VolumeAugmentation
from soundwave.training.checkpoint import Position, TrainedState, load_checkpoint, save_checkpoint
from soundwave.training.distributed import precision_of
from soundwave.training.loop import train
from soundwave.training.recipe import DataSource, LoraRecipe, Recipe
from soundwave.training.resume import FREE, KEPT_RECIPE, check_changes, keep_recipe


@pytest.fixture
def stopped(tmp_path: Path) -> Recipe:
    """A run of six steps that was stopped after its checkpoint of the third."""
    recipe = tiny_runs.recipe(tmp_path, save_steps=3)
    folder = train(recipe).parent
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / "step-000006")
    return recipe


def kept(recipe: Recipe) -> dict[str, Any]:
    return yaml.safe_load((Path(recipe.output_dir) / KEPT_RECIPE).read_text())


def said(recipe: Recipe, **changes: Any) -> str:
    """What is said of a recipe that goes on with changes; the plain one is what the folder keeps."""
    keep_recipe(recipe, Path(recipe.output_dir))
    told: list[str] = []
    check_changes(dataclasses.replace(recipe, **changes), told.append)
    return "\n".join(told)


def test_what_would_make_it_another_run_is_refused_all_at_once_and_nothing_is_written(stopped: Recipe) -> None:
    before = kept(stopped)
    changed = dataclasses.replace(stopped, seed=9, batch_seconds=1.5, ctc_weight=0.9, learning_rate=1e-2)
    told = (
        r"run holds a run of another recipe; changed since: batch_seconds from 3\.0 to 1\.5; ctc_weight from 0\.3 to "
        r"0\.9; seed from 1 to 9\. Undo that, or change output_dir to start a new run\. .* may change .*max_steps, "
    )
    with pytest.raises(TrainingError, match=told):
        train(changed)
    assert kept(stopped) == before
    assert [row["step"] for row in tiny_runs.losses(stopped.output_dir)] == [1, 2, 3, 4, 5, 6]


def test_a_part_that_was_at_rest_cannot_begin_to_learn_midway(stopped: Recipe) -> None:
    still = dataclasses.replace(stopped, encoder_learning_rate_scale=0.0)
    assert "encoder_learning_rate_scale from 1.0 to 0.5" in said(stopped, encoder_learning_rate_scale=0.5)
    for before, now in ((still, 0.5), (stopped, 0.0)):
        with pytest.raises(TrainingError, match=r"changed since: encoder_learning_rate_scale from"):
            said(before, encoder_learning_rate_scale=now)


def test_a_longer_run_at_another_rate_goes_on_and_says_so(
    stopped: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    train(dataclasses.replace(stopped, max_steps=8, learning_rate=1e-3, gradient_accumulation_steps=2))
    told = capsys.readouterr().err
    assert (
        "the recipe has changed since this run began: learning_rate from 0.003 to 0.001; max_steps from 6 to 8; "
        "gradient_accumulation_steps from 1 to 2" in told
    )
    assert "steps 3 to 8" in told
    assert [row["step"] for row in tiny_runs.losses(stopped.output_dir)] == list(range(1, 9))
    assert kept(stopped)["max_steps"] == 8


def test_an_unchanged_recipe_goes_on_without_a_word_of_it(stopped: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    train(stopped)
    assert "changed" not in capsys.readouterr().err


def test_a_finished_run_says_so_and_keeps_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_runs.recipe(tmp_path)
    train(recipe)
    before = kept(recipe)
    train(dataclasses.replace(recipe, learning_rate=1.0, logging_steps=3))
    told = capsys.readouterr().err
    assert "run is done: step 6 of 6, nothing is left to train; to train on, raise max_steps, num_train_epo" in told
    assert "steps 6 to 6" not in told
    assert kept(recipe) == before
    with pytest.raises(TrainingError, match=r"is at step 6, but max_steps .* ends it at step 5; set max_steps to 6"):
        train(dataclasses.replace(recipe, max_steps=5))
    assert kept(recipe) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optimizer": "muon"}, "optimizer from auto to muon"),
        ({"model": {"alignment_heads": 2}}, r"alignment_heads from 4 to 2; .*alignment_dropout from 0\.1 to null"),
        ({"lora": LoraRecipe(r=8)}, "lora.r from null to 8"),
        ({"stage": "shrinking"}, "stage from alignment to shrinking"),
        ({"mixture": "dynamic"}, "mixture from none to dynamic"),
        ({"llm_quantization": "4bit"}, "llm_quantization from none to 4bit"),
        ({"stream_buffer_size": 7}, "stream_buffer_size from 512 to 7"),
        ({"train": [DataSource("a.jsonl", speeds=[0.9])]}, r"train\[0\]\.speeds from \[1\.0\] to \[0\.9\]"),
        ({"train": [DataSource("b.jsonl")]}, r"train\[0\]\.manifest from a\.jsonl to b\.jsonl"),
        ({"train": [DataSource("a.jsonl")] * 2}, r"train from \['a\.jsonl'\] to \['a\.jsonl', 'a\.jsonl'\]"),
        ({"start_from": "mini"}, "start_from from null to mini"),
    ],
)
def test_data_order_model_loss_and_optimizer_stay(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    recipe = Recipe(
        output_dir=str(tmp_path), train=[DataSource("a.jsonl")], model={"alignment_heads": 4, "alignment_dropout": 0.1}
    )
    with pytest.raises(TrainingError, match=told):
        said(recipe, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_train_epochs": 3.0}, {"eval_steps": 7, "save_steps": 7}, {"evaluation": [DataSource("dev.jsonl")]},
        {"on_nan": "skip", "on_bad_audio": "stop", "on_bad_shard": "stop"}, {"devices": 8}, {"batches_per_step": 2},
        {"optimizer": "adamw_fused"}, {"features": None}, {"gradient_checkpointing": True},
    ],
)
def test_what_is_harmless_is_said_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    told = said(Recipe(output_dir=str(tmp_path)), **changes)
    assert "\n" not in told
    assert all(f"{name} from " in told for name in changes)


def test_no_option_of_data_order_model_or_loss_may_change() -> None:
    assert {field.name for field in dataclasses.fields(Recipe)} - set(FREE) == {
        "stage", "output_dir", "start_from", "audio_tower", "language_model", "model", "ctc_vocabulary_size",
        "merge_words", "train", "mixture", "mixture_temperature_step", "batch_seconds", "max_batch_size", "ctc_weight",
        "kl_weight", "kl_temperature", "ctc_label_smoothing", "intermediate_ctc_weight", "time_masks",
        "time_mask_frames", "feature_dropout", "augmentation", "lora", "optimizer", "llm_quantization", "seed",
        "stream_buffer_size",
    }


def test_a_run_whose_folder_or_data_were_moved_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.jsonl").write_text("")
    before = Recipe(output_dir=str(tmp_path), train=[DataSource(str(tmp_path / "old" / "a.jsonl"))])
    moved = [DataSource(str(tmp_path / "new" / "a.jsonl"))]
    assert "train[0].manifest from " in said(before, train=moved)
    monkeypatch.chdir(tmp_path)
    here = dataclasses.replace(before, train=moved)
    assert said(here, train=[DataSource("new/a.jsonl")]) == ""  # the same file
    with pytest.raises(TrainingError, match=r"train\[0\]\.manifest from "):  # the old one is still there
        said(here, train=[DataSource(str(tmp_path / "other" / "a.jsonl"))])
    shutil.copytree(tmp_path / "new", tmp_path / "copy", dirs_exist_ok=True)
    (tmp_path / "copy" / KEPT_RECIPE).write_text((tmp_path / KEPT_RECIPE).read_text())
    check_changes(dataclasses.replace(here, output_dir=str(tmp_path / "copy")), pytest.fail)


def test_stored_features_stay_stored_where_waveforms_are_changed(tmp_path: Path) -> None:
    louder = Augmentation(volume=VolumeAugmentation(probability=0.5))
    recipe = Recipe(output_dir=str(tmp_path), augmentation=louder)
    assert "features from " in said(recipe, features="elsewhere")
    with pytest.raises(TrainingError, match="features from runs/features to null"):
        said(recipe, features=None)


def test_options_that_the_kept_recipe_did_not_know_are_not_compared(tmp_path: Path) -> None:
    recipe = Recipe(output_dir=str(tmp_path))
    (tmp_path / KEPT_RECIPE).write_text("seed: 1\ngone: 3\n")
    check_changes(recipe, pytest.fail)
    (tmp_path / KEPT_RECIPE).unlink()
    check_changes(recipe, pytest.fail)


@pytest.mark.parametrize("content", ["a: [", "half", ""])
def test_a_damaged_kept_recipe_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / KEPT_RECIPE).write_text(content)
    with pytest.raises(TrainingError, match=r"recipe\.yaml .*; delete it, and the same command goes on without compar"):
        precision_of("auto", tmp_path)


def test_a_checkpoint_of_other_shapes_is_refused_even_where_the_values_are_as_many(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, TrainedState({"weight": torch.zeros(6, 4)}, {}), Position(step=1))
    with pytest.raises(TrainingError, match=r"weight has the shape \(6, 4\) there, and \(4, 6\) by the recipe; undo"):
        load_checkpoint(saved, torch.nn.Linear(6, 4, bias=False), None)  # type: ignore[arg-type]


def test_what_a_run_without_a_checkpoint_measured_is_measured_anew(tmp_path: Path) -> None:
    def mean_after(value: float, begun: bool) -> list[float]:
        whitening.write_whitening(tmp_path, [torch.full((8, 2), value)], 2, begun)
        return whitening.load_file(tmp_path / whitening.FILE)["mean"].tolist()

    assert mean_after(1.0, begun=False) == [1.0, 1.0]
    assert mean_after(2.0, begun=True) == [1.0, 1.0]
    assert mean_after(2.0, begun=False) == [2.0, 2.0]
