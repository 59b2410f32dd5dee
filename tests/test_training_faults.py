"""Faults that runs of other tools had, or ours: each is named, or does not happen."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
import yaml
from accelerate.state import AcceleratorState

from soundwave.errors import ConfigurationError, SoundwaveError
from soundwave.training import validate
from soundwave.training.collate import frames_needed
from soundwave.training.cost.estimate_table import estimate, estimate_text
from soundwave.training.loop import train
from soundwave.training.prepare import prepare
from soundwave.training.recipe import DataSource, LoraRecipe, Recipe
from soundwave.training.recipe_io import read_recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_runs.recipe(tmp_path)


def read(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return read_recipe(tmp_path / "recipe.yaml", overrides)


# Evaluation


def test_bfloat16_features_on_the_fly_and_evaluation_go_together(recipe: Recipe) -> None:
    together = {"mixed_precision": "bf16", "features": None, "evaluation": recipe.train, "eval_steps": 1}
    AcceleratorState._reset_state()  # one process has one precision
    try:
        train(dataclasses.replace(recipe, max_steps=2, **together))
    finally:
        AcceleratorState._reset_state()
    held_out = [row for row in tiny_runs.losses(recipe.output_dir) if "eval_data_loss" in row]
    assert [row["step"] for row in held_out] == [1, 2]


def test_a_dry_run_evaluates_one_batch_of_each_held_out_manifest(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, batches = validate.evaluate, []

    def evaluate(*arguments: Any) -> dict[str, float]:
        batches.append(arguments[-1])
        return whole(*arguments)

    monkeypatch.setattr(validate, "evaluate", evaluate)
    train(dataclasses.replace(recipe, evaluation=recipe.train * 2), dry_run=True)
    assert batches == [1, 1]


# The model


def test_a_lora_of_another_size_than_the_one_that_is_trained_further_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    before = train(dataclasses.replace(recipe, stage="shrinking", max_steps=1))
    after = {"stage": "instruction", "start_from": str(before), "output_dir": str(tmp_path / "two"), "max_steps": 1}
    for lora in (LoraRecipe(r=8), LoraRecipe(lora_alpha=16), LoraRecipe(target_modules=["q_proj"])):
        with pytest.raises(ConfigurationError, match=r"lora\.(r is 8|lora_alpha is 16|target_modules is ).* has "):
            train(dataclasses.replace(recipe, lora=lora, **after))
    train(dataclasses.replace(recipe, lora=LoraRecipe(), **after))
    told = yaml.safe_load((tmp_path / "two" / "recipe.yaml").read_text())["lora"]
    assert (told["r"], told["lora_alpha"]) == (4, 8)
    assert set(told["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_a_lora_that_is_trained_further_takes_the_recipes_dropout(recipe: Recipe, tmp_path: Path) -> None:
    before = train(dataclasses.replace(recipe, stage="shrinking", max_steps=1))
    after = dataclasses.replace(
        recipe, stage="instruction", start_from=str(before), lora=LoraRecipe(lora_dropout=0.5), output_dir="unused"
    )
    model = prepare(after, torch.device("cpu"), "no", False).model
    shares = {m.p for name, m in model.named_modules() if name.endswith("lora_dropout.default")}
    assert shares == {0.5}


def test_mini_laptop_trains_the_lora_that_mini_has() -> None:
    rows = {row.what.strip(): row.value for row in estimate(read_recipe(ROOT / "recipes/finetune/mini-laptop.yaml"))}
    assert rows["LoRA"] == "2.8M"  # r 24: 24 x (576 + 576, 576 + 192 twice, 576 + 576) x 30 layers
    with pytest.raises(ConfigurationError, match=r"lora\.r is 32, .*start_from=mini has 24"):
        estimate(read_recipe(ROOT / "recipes/finetune/mini-laptop.yaml", ["lora.r=32"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [("model.alignment_layer=2", "'alignment_layer' .* did you mean alignment_layers"),
     ("model.run_pooling=last", "run_pooling is 'last'")],
)
def test_a_mistake_in_the_models_switches_is_told_by_the_estimate_too(setting: str, message: str) -> None:
    for recipe in ("mini/stage1.yaml", "finetune/mini-laptop.yaml"):
        with pytest.raises(ConfigurationError, match=message):
            estimate_text(ROOT / "recipes" / recipe, [setting])


def test_laptop_recipes_have_a_row_for_a_cpu_and_the_papers_have_none() -> None:
    told = estimate_text(ROOT / "recipes/finetune/mini-laptop.yaml", [])
    (row,) = [line for line in told.splitlines() if "laptop CPU" in line]
    assert " s a step; " in row
    assert "laptop CPU" not in estimate_text(ROOT / "recipes/paper/stage1.yaml", [])


# Data


def test_an_override_replaces_one_setting_of_one_manifest(tmp_path: Path) -> None:
    text = "train: [{manifest: a, repeat: 2}, {manifest: b}]"
    recipe = read(tmp_path, text, "train.0.manifest=x", "train.1.speeds=[0.9]")
    assert recipe.train == [DataSource("x", repeat=2.0), DataSource("b", speeds=[0.9])]
    for wrong in ("train.2.manifest=x", "train.first.manifest=x", "evaluation.0.manifest=x"):
        with pytest.raises(ConfigurationError, match=wrong.partition("=")[0]):
            read(tmp_path, f"{text}\nevaluation: []", wrong)


@pytest.mark.parametrize("changed", [True, False])
def test_a_manifest_that_changed_before_a_run_goes_on_is_mentioned(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], changed: bool
) -> None:
    train(dataclasses.replace(recipe, max_steps=2))
    manifest = Path(recipe.train[0].manifest)
    rows = manifest.read_text()
    manifest.write_text(rows.replace("Cat.", "Dog.") if changed else rows)  # written again, or really changed
    train(dataclasses.replace(recipe, max_steps=3))
    told = [line for line in capsys.readouterr().err.splitlines() if "changed since this run began" in line]
    assert [str(manifest) in line for line in told if line.startswith("warning")] == ([True] if changed else [])


def test_an_end_beyond_the_file_is_skipped_and_named(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tiny_runs.clips(tmp_path / "data")
    rows[3] |= {"start": 0.1, "end": 9.0}
    rows[4] |= {"start": 0.1, "end": rows[4]["duration"] + 0.05}  # rounding
    tiny_runs.manifest_of(tmp_path / "data", rows)
    train(dataclasses.replace(recipe, max_steps=1))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    assert [("3.wav" in line, "to 9 s ends after it" in line) for line in told] == [(True, True)]


def test_clips_too_short_for_their_text_are_named_and_counted(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tiny_runs.clips(tmp_path / "data")
    rows[2]["transcript"] = rows[2]["text"] = "the person on the cat and so on " * 4
    tiny_runs.manifest_of(tmp_path / "data", rows)
    train(recipe)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert [line.startswith("skipped: CTC of ") and "manifest.jsonl:3" in line for line in told] == [True, False]
    assert told[1].startswith("skipped, each as named above: 1, met ")


@pytest.mark.parametrize(("classes", "frames"), [([], 0), ([5], 1), ([5, 6, 5], 3), ([5, 5], 3), ([1, 1, 1, 2], 6)])
def test_frames_that_a_ctc_target_needs(classes: list[int], frames: int) -> None:
    assert frames_needed(classes) == frames


# Commands and secrets


def test_no_command_runs_unless_the_recipe_allows_it(recipe: Recipe, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for manifest in (f"pipe:touch {mark}", f"{{pipe:touch {mark};,b}}.tar"):
        text = yaml.safe_dump(dataclasses.asdict(recipe) | {"train": [{"manifest": manifest}]})
        (tmp_path / "r.yaml").write_text(text)
        assert "nothing below was measured" in estimate_text(tmp_path / "r.yaml", [])
        with pytest.raises(ConfigurationError, match=r"train\[0\]\.manifest is .*pipe:touch.*allow_commands=true"):
            train(read_recipe(tmp_path / "r.yaml"), dry_run=True)
        assert not mark.exists()


def test_an_estimate_runs_no_command_even_where_training_may(recipe: Recipe, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    allowed = dataclasses.replace(recipe, train=[DataSource(f"pipe:touch {mark}")], allow_commands=True)
    estimate(allowed)
    assert not mark.exists()


@pytest.mark.parametrize("option", ["start_from", "audio_tower", "language_model"])
def test_what_a_variable_holds_is_never_the_name_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    from soundwave.checkpoints import catalog

    asked: list[str] = []
    monkeypatch.setattr(catalog, "_hub_folder", lambda name, **_: asked.append(name))
    monkeypatch.setenv("SECRET", "abc/def123")
    recipe = read(tmp_path, f"{option}: $SECRET\nmixed_precision: no\ntrain: [{{manifest: a.jsonl}}]")
    assert getattr(recipe, option) == os.path.join(".", "abc/def123")  # a path
    with contextlib.suppress(SoundwaveError):  # it does without, where it knows enough
        estimate(recipe)
    with pytest.raises(SoundwaveError, match="abc/def123"):
        train(recipe)
    assert asked == []


def test_only_paths_are_read_with_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "abc")
    recipe = read(tmp_path, "hub_model_id: $SECRET/x\ntrain: [{manifest: $SECRET/a, prompts: [It costs $SECRET]}]")
    assert (recipe.hub_model_id, recipe.train[0].prompts) == ("$SECRET/x", ["It costs $SECRET"])


# Files in any encoding, YAML of any shape


def test_recipes_and_logs_are_utf_8_whatever_the_systems_encoding(tmp_path: Path) -> None:
    text = 'train: [{manifest: a.jsonl, prompts: ["Was hört man? 何"]}]  # ä'
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    code = (
        "import sys, locale, pathlib; assert locale.getpreferredencoding(False) != 'UTF-8'\n"
        "from soundwave.training.recipe_io import read_recipe\n"
        "from soundwave.training.resume import keep_recipe, read_kept\n"
        "from soundwave.training.reporting import RunLog, read_metrics\n"
        "folder = pathlib.Path(sys.argv[1]); recipe = read_recipe(folder / 'r.yaml'); keep_recipe(recipe, folder)\n"
        "assert read_kept(folder)['train'][0]['prompts'] == recipe.train[0].prompts\n"
        "RunLog(folder, report_to=()).add(1, **{'eval_h\\u00f6r_loss': 1.0})\n"
        "assert read_metrics(folder / 'metrics.jsonl') == [{'step': 1, 'eval_h\\u00f6r_loss': 1.0}]\n"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, tmp_path], env=os.environ | ascii_only, check=True)
    assert "Was hört man? 何" in (tmp_path / "recipe.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1180591620717411303424", r"seed is 1180591620717411303424; give .* at most 4294967295"),  # 2**70
        ("seed: a", "seed must be int, but is 'a'"),
        ("seed: 1.0", "seed must be int"),
        (f"learning_rate: {'9' * 400}", "learning_rate must be float"),
        (f"seed: {'9' * 5000}", "not valid YAML|seed is"),
        (f"model: {'[' * 5000}", "nested too deeply|not valid YAML"),
        (f"train: {'[' * 90}{']' * 90}", r"train\[0\]: expected `key: value` pairs"),
        ("seed: 2024-99-99", "not valid YAML"),
        ("1: 2", "1 is not a known option"),
        ("? [a, b]\n: 1", "not valid YAML"),
        ("seed: !!python/object:os.system x", "not valid YAML"),
        ("prompts: \x00", "not valid YAML"),
        ("lora: [1]", "lora: expected `key: value` pairs"),
        ("report_to: [mail]", r"report_to is \['mail'\]; give some of tensorboard, wandb"),
        ("augmentation: {volume: {decibels: [3, 1]}}", r"augmentation\.volume\.decibels is \[3\.0, 1\.0\]; give \[low"),
        ("augmentation: {noise: {colours: []}}", r"augmentation\.noise\.colours is \[\]; name one"),
        ("augmentation: {codec: {codecs: [aac]}}", r"augmentation\.codec\.codecs is \['aac'\]; give some of opus"),
    ],
)
def test_a_recipe_of_any_shape_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) < 1500


def test_a_recipe_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"stage: \xff\xfe")
    with pytest.raises(ConfigurationError, match=r"r\.yaml cannot be read .*UTF-8"):
        read_recipe(tmp_path / "r.yaml")
