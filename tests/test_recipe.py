"""Recipes: YAML and overrides to values, and what a person is told about a mistake."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from soundwave.errors import ConfigurationError
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.recipe_io import read_recipe

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
    assert (recipe.lora.r, recipe.lora.lora_alpha, recipe.lora.lora_dropout) == (8, 32, None)


def test_a_recipe_that_was_written_reads_the_same(tmp_path: Path) -> None:
    recipe = read(tmp_path, "train: [{manifest: a.jsonl}]\nmodel: {alignment_layers: 2}")
    assert read(tmp_path, yaml.safe_dump(dataclasses.asdict(recipe))) == recipe


@pytest.mark.parametrize("path", [
    *sorted((ROOT / "recipes").rglob("*stage*.yaml")), *sorted((ROOT / "recipes" / "finetune").glob("*.yaml"))
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
        ("a: [", [], "recipe.yaml is not valid YAML "),
        ("", ["learning_rate={"], r"The override 'learning_rate=\{' is not valid YAML"),
        ("", ["max_steps"], "'max_steps' is no override; write key=value, such as learning_rate=1e-3"),
        ("stage: alignment", ["stage.name=x"], "stage.name cannot be set: stage has no parts"),
        ("on_nan: ignore", [], "on_nan is 'ignore'; give one of stop, skip"),
        ("mixed_precision: fp8", [], "mixed_precision is 'fp8'; give one of auto, bf16, no"),
        ("mixture: equal", [], "mixture is 'equal'; give one of none, dynamic"),
        ("mixture_temperature_step: 0", [], "mixture_temperature_step is 0.0; give .* above 0"),
        ("batches_per_step: 0", [], "batches_per_step is 0; give .* above 0"),
        ("train: [{manifest: a, task: 3}]", [], r"train\[0\]: task must be str, but is 3"),
        ("on_bad_audio: cry", [], "on_bad_audio is 'cry'; give one of skip, stop"),
        ("lora: {r: -1}", [], "lora.r is -1; give .* at least 0"),
        ("optimizer: sgd", [], "optimizer is 'sgd'; give one of auto, adamw, adamw_fused, muon"),
        ("llm_quantization: 8bit", [], "llm_quantization is '8bit'; give one of none, 4bit"),
        ("max_steps: 0", [], "max_steps is 0; give .* above 0"),
        ("gradient_accumulation_steps: 0", [], "gradient_accumulation_steps is 0; give .* above 0"),
        ("batch_seconds: -1", [], "batch_seconds is -1.0; give .* above 0"),
        ("train: [{repeat: 2}]", [], r"train\[0\] names no manifest"),
        ("evaluation: [{manifest: a, speeds: []}]", [], r"evaluation\[0\].speeds is \[\]; name one"),
        ("train: [{manifest: a, repeat: 0}]", [], r"train\[0\].repeat is 0.0; give .* above 0"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, text, *overrides)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("max_grad_norm=-1", "max_grad_norm is -1.0; give .* at least 0"),
        ("feature_dropout=2", "feature_dropout is 2.0; give .* at least 0 and below 1"),
        ("feature_dropout=1", "feature_dropout is 1.0; give .* at least 0 and below 1"),
        ("warmup_ratio=5", "warmup_ratio is 5.0; give .* at least 0 and at most 1"),
        ("ctc_weight=-1", "ctc_weight is -1.0; give .* at least 0"),
        ("ctc_vocabulary_size=-5", "ctc_vocabulary_size is -5; give .* above 0"),
        ("time_masks=-3", "time_masks is -3; give .* at least 0"),
        ("adam_beta2=1.5", "adam_beta2 is 1.5; give .* at least 0 and below 1"),
        ("weight_decay=-1", "weight_decay is -1.0; give .* at least 0"),
        ("learning_rate=.nan", "learning_rate is nan; give .* above 0"),
        ("learning_rate=.inf", "learning_rate is inf; give .* above 0"),
        ("seed=4294967296", "seed is 4294967296; give .* at least 0 and at most 4294967295"),
        ("lora.lora_dropout=7", "lora.lora_dropout is 7.0; give .* at least 0 and below 1"),
        ("lora.lora_alpha=0", "lora.lora_alpha is 0; give .* above 0"),
        ("augmentation.volume.probability=2", "augmentation.volume.probability is 2.0; give .* at most 1"),
        ("train=[{manifest: a}, {manifest: b, repeat: -1}]", r"train\[1\].repeat is -1.0; give .* above 0"),
        ("evaluation=[{manifest: a, speeds: [1, 9]}]", r"evaluation\[0\].speeds is \[1.0, 9.0\]; give .* at most 4"),
    ],
)
def test_a_number_out_of_its_range_is_named_with_what_is_allowed(tmp_path: Path, option: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"recipe.yaml: {told}"):
        read(tmp_path, "", option)


@pytest.mark.parametrize("option", [
    "max_grad_norm=0", "warmup_ratio=1", "weight_decay=0", "ctc_weight=0", "lora.r=0", "seed=0",
    "alignment_learning_rate_scale=0", "ctc_vocabulary_size=null", "max_steps=null", "time_masks=0", "adam_beta1=0",
])
def test_the_ends_of_a_range_and_null_are_allowed(tmp_path: Path, option: str) -> None:
    read(tmp_path, "", option)


def options_of(kind: type, path: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Path, type and field of all options."""
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        hint = hints[one.name]
        parts = [part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)]
        for part in parts:
            yield from options_of(part, f"{path}{one.name}.")
        if not parts:
            yield path + one.name, hint, one


def test_every_option_says_what_it_is_and_every_number_its_range() -> None:
    for name, hint, one in options_of(Recipe):
        assert one.metadata.get("help"), name
        if {int, float} & {hint, *typing.get_args(hint)}:
            assert any(one.metadata[bound] is not None for bound in ("least", "most", "above", "below")), name


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no recipe .*gone.yaml; give the path of a YAML file"):
        read_recipe(tmp_path / "gone.yaml")


def test_no_needs_no_quotes(tmp_path: Path) -> None:
    assert read(tmp_path, "mixed_precision: no").mixed_precision == "no"
    assert read(tmp_path, "", "mixed_precision=no").mixed_precision == "no"
