"""Recipes: YAML and overrides to values, and what a person is told about a mistake."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from soundwave.errors import ConfigurationError
from soundwave.training.recipe import DataSource, Recipe, read_recipe

ROOT = Path(__file__).parents[1]


def read(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return read_recipe(file, overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "name", "value"),
    [
        ("", [], "learning_rate", 1e-4),  # an empty recipe is all defaults
        ("learning_rate: 1e-3", [], "learning_rate", 1e-3),  # YAML reads this as text
        ("learning_rate: 0.001", ["learning_rate=5e-4"], "learning_rate", 5e-4),
        ("max_steps: 10", ["max_steps=null"], "max_steps", None),
        ("", ["max_steps=7"], "max_steps", 7),
        ("num_train_epochs: 2", [], "num_train_epochs", 2.0),
        ("", ["start_from=runs/stage1/final"], "start_from", "runs/stage1/final"),
        ("model: {alignment_layers: 2}", ["model.ctc_head=x"], "model", {"alignment_layers": 2, "ctc_head": "x"}),
        ("", ["on_nan=skip"], "on_nan", "skip"),
    ],
)
def test_values_and_overrides(tmp_path: Path, text: str, overrides: list[str], name: str, value: Any) -> None:
    assert getattr(read(tmp_path, text, *overrides), name) == value


def test_lists_and_parts_become_their_own_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPS", "/data/clips")
    text = "train: [{manifest: $CLIPS/a.jsonl, speeds: [0.9, 1]}, {manifest: b.jsonl}]\nlora: {r: 8}"
    recipe = read(tmp_path, text, "lora.lora_alpha=32")
    assert recipe.train == [DataSource("/data/clips/a.jsonl", speeds=[0.9, 1.0]), DataSource("b.jsonl")]
    assert (recipe.lora.r, recipe.lora.lora_alpha, recipe.lora.lora_dropout) == (8, 32, 0.05)


def test_a_recipe_that_was_written_reads_the_same(tmp_path: Path) -> None:
    recipe = read(tmp_path, "train: [{manifest: a.jsonl}]\nmodel: {alignment_layers: 2}")
    assert read(tmp_path, yaml.safe_dump(dataclasses.asdict(recipe))) == recipe


@pytest.mark.parametrize("path", [
    *sorted((ROOT / "recipes").rglob("stage*.yaml")), *sorted((ROOT / "recipes" / "finetune").glob("*.yaml"))
], ids=lambda path: path.name)
def test_the_recipes_that_we_ship_are_valid(path: Path) -> None:
    assert read_recipe(path).train


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("learning_rat: 1", [], r"recipe.yaml: 'learning_rat' is not a known option; did you mean learning_rate\?"),
        ("zzz: 1", [], "'zzz' is not a known option; known are stage, output_dir, "),
        ("lora: {rr: 1}", [], r"recipe.yaml: lora: 'rr' is not a known option; did you mean r\?"),
        ("train: [{manifst: a}]", [], r"train\[0\]: 'manifst' is not a known option; did you mean manifest\?"),
        ("", ["lora.lora_dropot=1"], r"lora: 'lora_dropot' is not a known option; did you mean lora_dropout\?"),
        ("learning_rate: fast", [], "recipe.yaml: learning_rate must be float, but is 'fast'"),
        ("max_steps: 1.5", [], "max_steps must be int, but is 1.5"),
        ("max_steps: true", [], "max_steps must be int, but is True"),
        ("learning_rate: true", [], "learning_rate must be float, but is True"),
        ("stage: 2", [], "stage must be str, but is 2"),
        ("train: a.jsonl", [], "train must be a list, but is 'a.jsonl'"),
        ("train: [a.jsonl]", [], r"train\[0\]: expected `key: value` pairs, but found 'a.jsonl'"),
        ("train: [{speeds: [fast]}]", [], r"speeds\[0\] must be float, but is 'fast'"),
        ("lora: 64", [], "lora: expected `key: value` pairs, but found 64"),
        ("model: big", [], "model must be `key: value` pairs, but is 'big'"),
        ("- 1", [], "recipe.yaml must hold `key: value` lines, but holds a list"),
        ("a: [", [], "recipe.yaml is not valid YAML: "),
        ("", ["max_steps"], "'max_steps' is no override; write key=value, such as learning_rate=1e-3"),
        ("stage: alignment", ["stage.name=x"], "stage.name cannot be set: stage has no parts"),
        ("on_nan: ignore", [], "on_nan='ignore' is not known; choose one of stop, skip"),
        ("mixed_precision: fp8", [], "mixed_precision='fp8' is not known; choose one of auto, bf16, no"),
        ("mixture: equal", [], "mixture='equal' is not known; choose one of none, dynamic"),
        ("mixture_temperature_step: 0", [], "mixture_temperature_step is 0.0; it must be above 0"),
        ("batches_per_step: 0", [], "batches_per_step is 0; it must be above 0"),
        ("train: [{manifest: a, task: 3}]", [], r"train\[0\]: task must be str, but is 3"),
        ("on_bad_audio: cry", [], "on_bad_audio='cry' is not known; choose one of skip, stop"),
        ("lora: {r: -1}", [], "lora.r is -1; it must be above 0, or 0 to train no LoRA"),
        ("optimizer: sgd", [], "optimizer='sgd' is not known; choose one of auto, adamw, adamw_fused, muon"),
        ("llm_quantization: 8bit", [], "llm_quantization='8bit' is not known; choose one of none, 4bit"),
        ("max_steps: 0", [], "max_steps is 0; it must be above 0"),
        ("gradient_accumulation_steps: 0", [], "gradient_accumulation_steps is 0; it must be above 0"),
        ("batch_seconds: -1", [], "batch_seconds is -1.0; it must be above 0"),
        ("train: [{repeat: 2}]", [], r"train\[0\] names no manifest; add `manifest: path`"),
        ("evaluation: [{manifest: a, speeds: []}]", [], r"evaluation\[0\] has repeat 1.0 and speeds \[\]; both mu"),
        ("train: [{manifest: a, repeat: 0}]", [], r"train\[0\] has repeat 0.0 and speeds \[1.0\]; both must be abo"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, text, *overrides)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no recipe .*gone.yaml; give the path of a YAML file"):
        read_recipe(tmp_path / "gone.yaml")


def test_no_needs_no_quotes(tmp_path: Path) -> None:
    assert read(tmp_path, "mixed_precision: no").mixed_precision == "no"
    assert read(tmp_path, "", "mixed_precision=no").mixed_precision == "no"
