"""What a run may be told for memory and speed changes neither its losses nor what it learns."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_runs
import torch
from accelerate.state import AcceleratorState
from torch import nn

from soundwave.checkpoints import four_bit
from soundwave.checkpoints.lora import attach_lora
from soundwave.checkpoints.native import new_config
from soundwave.errors import ConfigurationError, DataError, TrainingError
from soundwave.training.build import build_model
from soundwave.training.loop import train
from soundwave.training.prepare import prepare
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.sampler import batches, epoch_items
from soundwave.training.stages import SHRINKING

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Stage I, done."""
    recipe = tiny_runs.recipe(tmp_path_factory.mktemp("options"), max_steps=3)
    train(recipe)
    return recipe


def second(first: Recipe, folder: Path, **changes: Any) -> Recipe:
    """Stage II over it."""
    shared = {"stage": "shrinking", "start_from": f"{first.output_dir}/final", "output_dir": str(folder / "two")}
    return dataclasses.replace(first, **{**shared, "max_steps": 4, **changes})


def losses_of(recipe: Recipe) -> list[float]:
    train(recipe)
    return [row["loss"] for row in tiny_runs.losses(recipe.output_dir)]


def test_features_on_the_fly_train_as_stored_ones(first: Recipe, tmp_path: Path) -> None:
    flying = dataclasses.replace(first, features=None, output_dir=str(tmp_path / "fly"))
    stored = [row["loss"] for row in tiny_runs.losses(first.output_dir)]
    assert losses_of(flying) == pytest.approx(stored, rel=2e-3)  # float16 of other batches
    assert not (tmp_path / "features").exists()
    found = tiny_runs.weights(tmp_path / "fly" / "final")
    for name, value in tiny_runs.weights(Path(first.output_dir) / "final").items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-2)


def test_features_on_the_fly_are_made_beside_bfloat16(first: Recipe, tmp_path: Path) -> None:
    flying = dataclasses.replace(
        first, features=None, mixed_precision="bf16", output_dir=str(tmp_path / "low"), max_steps=2
    )
    AcceleratorState._reset_state()  # one process has one precision
    try:
        assert losses_of(flying)[0] == pytest.approx(tiny_runs.losses(first.output_dir)[0]["loss"], rel=0.02)
    finally:
        AcceleratorState._reset_state()


def test_a_batch_on_the_fly_is_the_stored_one_to_float16s_rounding(first: Recipe) -> None:
    stored, flying = (
        prepare(dataclasses.replace(first, features=features), CPU, "no", main=False)
        for features in (first.features, None)
    )
    items = stored.train[0].items(seed=1, epoch=0)
    one, other = stored.collator(items, "seed"), flying.collator(items, "seed")
    assert one.encoder_frames is not None
    assert other.encoder_frames is not None
    assert one.frame_mask is not None
    assert torch.equal(one.frame_mask, other.frame_mask)
    assert torch.equal(one.encoder_frames == 0, other.encoder_frames == 0)  # padding and SpecAugment's masks
    torch.testing.assert_close(other.encoder_frames, one.encoder_frames, rtol=2e-3, atol=2e-3)


def test_a_clip_that_cannot_be_read_on_the_fly_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_runs.recipe(tmp_path, features=None, max_steps=3)
    (tmp_path / "data" / "3.wav").write_text("no sound")
    train(recipe)
    assert "skipped: " in (told := capsys.readouterr().err)
    assert "3.wav" in told
    with pytest.raises(TrainingError, match=r"3.wav.* \(set on_bad_audio=skip to leave such clips out\)"):
        train(dataclasses.replace(recipe, on_bad_audio="stop", output_dir=str(tmp_path / "stop")))


@pytest.fixture
def alone(tmp_path: Path) -> tuple[Recipe, list[Path]]:
    """A run whose batches are a clip each, and the files in their order."""
    recipe = tiny_runs.recipe(tmp_path, features=None, max_steps=4, max_batch_size=1, save_steps=2, eval_steps=2)
    recipe.evaluation = recipe.train
    prepared = prepare(recipe, torch.device("cpu"), "no", main=False)
    order = batches(epoch_items(prepared.train, recipe, 0), recipe, recipe.seed, 0)
    return recipe, [Path(item.clips[0].path) for (item,) in order]


@pytest.mark.parametrize("first", [0, 1])
def test_where_nothing_of_a_batch_can_be_read_the_first_that_can_stands_in(
    alone: tuple[Recipe, list[Path]], capsys: pytest.CaptureFixture[str], first: int
) -> None:
    recipe, files = alone
    for lost in files[first:4]:
        lost.write_text("no sound")
    train(recipe)
    told = capsys.readouterr().err
    assert all(lost.name in told for lost in files[first:4])
    straight = tiny_runs.losses(recipe.output_dir)
    assert [row["step"] for row in straight if "loss" in row] == [1, 2, 3, 4]
    folder = Path(recipe.output_dir)
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    train(recipe)
    again = tiny_runs.losses(recipe.output_dir)
    for row in (*straight, *again):
        row.pop("times_real_time", None)
    assert again == straight


@pytest.mark.parametrize(("clips_of_a_batch", "lost"), [(3, 5), *((1, i) for i in range(8))])
def test_held_out_figures_are_of_what_can_be_read(tmp_path: Path, clips_of_a_batch: int, lost: int) -> None:
    recipe = tiny_runs.recipe(tmp_path, features=None, max_steps=2, max_batch_size=clips_of_a_batch)
    recipe.keep_best = "eval_data_ctc_wer"
    rows = tiny_runs.clips(tmp_path / "data")
    readable = DataSource(str(tiny_runs.manifest_of(
        tmp_path / "data", [row for i, row in enumerate(rows) if i != lost], "readable.jsonl"
    )))
    (tmp_path / "data" / f"{lost}.wav").write_text("no sound")
    rates = []
    for held_out in (readable, recipe.train[0]):
        folder = str(tmp_path / Path(held_out.manifest).stem)
        train(dataclasses.replace(recipe, train=[readable], evaluation=[held_out], output_dir=folder))
        rates += [row["eval_data_ctc_wer"] for row in tiny_runs.losses(folder) if "eval_data_ctc_wer" in row]
    assert len(rates) == 2
    assert rates[0] == rates[1] > 0


def test_held_out_data_of_which_nothing_can_be_read_is_named(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, features=None, max_steps=2)
    (tmp_path / "data" / "6.wav").write_text("no sound")
    rows = [json.loads(line) for line in (tmp_path / "data" / "manifest.jsonl").read_text().splitlines()]
    lost = DataSource(str(tiny_runs.manifest_of(tmp_path / "data", rows[6:7], "lost.jsonl")))
    with pytest.raises(DataError, match=r"No audio of .*lost.jsonl can be read; see what was left out above"):
        train(dataclasses.replace(recipe, evaluation=[lost]))


def test_a_run_of_which_nothing_can_be_read_is_told(alone: tuple[Recipe, list[Path]]) -> None:
    recipe, files = alone
    for lost in files:
        lost.write_text("no sound")
    with pytest.raises(DataError, match=r"No audio of a batch can be read \(.*manifest.jsonl:\d.*\); see what"):
        train(recipe)


def test_checkpointed_gradients_are_the_same_and_layers_run_twice(
    first: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama import modeling_llama

    calls: list[int] = []
    plain_mlp = modeling_llama.LlamaMLP.forward

    def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return plain_mlp(self, x)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", counted)
    made, counts = {}, {}
    for checkpointing in (False, True):
        calls.clear()
        folder = tmp_path / str(checkpointing)
        made[checkpointing] = losses_of(second(first, folder, gradient_checkpointing=checkpointing, max_steps=3))
        counts[checkpointing] = len(calls)
    assert made[True] == pytest.approx(made[False], abs=1e-5)
    assert counts[True] - counts[False] == 3 * 2  # each step, each of the two layers, once more


@pytest.mark.parametrize("optimizer", ["adamw_fused", "auto"])
def test_the_fused_optimizer_makes_the_same_steps_and_resumes(first: Recipe, tmp_path: Path, optimizer: str) -> None:
    plain = losses_of(second(first, tmp_path / "plain", optimizer="adamw"))
    recipe = second(first, tmp_path / "fused", optimizer=optimizer, save_steps=2)
    straight = losses_of(recipe)
    assert straight == pytest.approx(plain, abs=1e-5)
    shutil.rmtree(tmp_path / "fused" / "two" / "checkpoints" / "step-000004")
    assert losses_of(recipe) == pytest.approx(straight, abs=1e-6)


def test_without_lora_the_adapters_alone_are_trained(first: Recipe, tmp_path: Path) -> None:
    recipe = second(first, tmp_path, lora=dataclasses.replace(first.lora, r=0))
    train(recipe)
    assert not (tmp_path / "two" / "final" / "lora").exists()


def test_a_lora_of_the_stage_before_stays_when_none_is_trained(first: Recipe, tmp_path: Path) -> None:
    before = train(second(first, tmp_path))
    adapters = second(
        first, tmp_path, start_from=str(before), output_dir=str(tmp_path / "three"),
        lora=dataclasses.replace(first.lora, r=0),
    )
    after = train(adapters)
    old, new = tiny_runs.weights(before), tiny_runs.weights(after)
    assert any("lora_" in name for name in old)
    for name in old:
        if "lora_" in name:
            assert torch.equal(old[name], new[name])
    assert not torch.equal(old["alignment.project.weight"], new["alignment.project.weight"])


def test_what_is_frozen_is_in_low_precision_and_what_is_trained_is_not(first: Recipe) -> None:
    config = new_config(first.audio_tower, first.language_model, ctc_head="projection", **first.model)
    model = build_model(dataclasses.replace(first, start_from=None), SHRINKING, config, CPU, "bf16")
    assert model.alignment.ctc_projection.weight.dtype == torch.bfloat16
    kinds = {name: p.dtype for name, p in model.named_parameters() if "ctc_projection" not in name}
    for name, kind in kinds.items():
        trained = name.startswith(("alignment.", "shrinking.")) or "lora_" in name
        assert kind == (torch.float32 if trained else torch.bfloat16), name


# 4 bits


def test_four_bits_need_a_gpu_and_say_so_before_anything_is_trained(first: Recipe, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    with pytest.raises(ConfigurationError, match="llm_quantization=4bit needs a CUDA GPU, and this run is on cpu; set"):
        train(second(first, tmp_path, llm_quantization="4bit"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(ConfigurationError, match=r"needs the package bitsandbytes, .* pip install 'soundwave-llm\[q"):
        four_bit.require_four_bit(torch.device("cuda"))


def test_the_configuration_is_that_of_qlora() -> None:
    config = four_bit.quantisation_config()
    assert config.load_in_4bit
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_every_matrix_of_the_layers_is_packed_and_nothing_else() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed (the extra `qlora`)")
    import bitsandbytes as bnb
    from peft.tuners.lora.bnb import Linear4bit


    model = tiny.model(tiny.config(tied=False))
    name = "model.layers.0.mlp.up_proj"
    before = model.language_model.get_submodule(name).weight.clone()
    four_bit.quantise(model.language_model, four_bit.quantisation_config(torch.float32), CPU)
    layers = [m for m in model.language_model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(layers) == 2 * 7  # layers x (q, k, v, o, gate, up, down)
    assert all(layer.weight.dtype == torch.uint8 for layer in layers)
    assert type(model.language_model.lm_head) is nn.Linear
    packed = model.language_model.get_submodule(name).weight
    after = bnb.functional.dequantize_4bit(packed.data, packed.quant_state)
    assert (after - before).norm() < 0.12 * before.norm()  # 16 levels for normally distributed weights
    attach_lora(model, 4, 8, 0.0, ["q_proj"])
    adapted = [m for m in model.language_model.modules() if isinstance(m, Linear4bit)]
    assert len(adapted) == 2
    model.language_model(input_ids=torch.tensor([[4, 8, 15]])).logits.sum().backward()
    assert all(m.lora_B["default"].weight.grad is not None for m in adapted)


# Clipping


def test_a_clipping_of_zero_clips_nothing(tmp_path: Path) -> None:
    def trained(limit: float) -> dict[str, torch.Tensor]:
        recipe = tiny_runs.recipe(
            tmp_path, output_dir=str(tmp_path / f"{limit}"), max_steps=3, max_grad_norm=limit, optimizer="muon"
        )
        return tiny_runs.weights(train(recipe))

    none, endless, some = trained(0.0), trained(1e9), trained(1e-9)
    assert all(none[name].equal(endless[name]) for name in none)
    assert not all(none[name].equal(some[name]) for name in none)


# What LoRA is attached to


@pytest.mark.parametrize("names", [["foo"], ["q_proj", "foo"], ["mlp", "foo"]])  # PEFT takes the second
def test_a_module_that_the_llm_does_not_have_is_named_beside_those_that_it_has(names: list[str]) -> None:
    told = r"target_modules names (mlp, )?foo, but the language model has down_proj, .*, q_proj, .*; choose from these"
    with pytest.raises(ConfigurationError, match=told):
        attach_lora(tiny.model(), 4, 8, 0.0, names)
