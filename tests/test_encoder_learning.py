"""The encoder's last layers learn: in two parts as in one, from any start as before, saved, resumed, merged."""

from __future__ import annotations

import dataclasses
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_runs
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from soundwave.checkpoints.loading import load_checkpoint, load_speech_encoder
from soundwave.checkpoints.native import save_trained
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import TrainingError
from soundwave.export.huggingface import export
from soundwave.model.whisper import (
    LoraLinear,
    encode_upper,
    encode_window,
    keep_lower,
    keep_upper,
    make_tower,
    merge_lora,
    upper_frames,
)
from soundwave.training.build import build_encoder, build_model, stage_of, trained_config
from soundwave.training.collate import Batch
from soundwave.training.loop import train
from soundwave.training.objective import StageModule
from soundwave.training.optim import MUON_SCALE, make_optimizers
from soundwave.training.prepare import prepare
from soundwave.training.recipe import Recipe
from soundwave.training.stages import ALIGNMENT, mark_trained

CPU = torch.device("cpu")
LORA = {"encoder_upper_layers": 1, "encoder_training": "lora", "encoder_lora_r": 4, "encoder_lora_alpha": 8}
FULL = {"encoder_upper_layers": 1, "encoder_training": "full"}
SUM = {"encoder_upper_layers": 2, "encoder_layer_sum": True}
WAYS = {"lora": LORA, "full": FULL, "sum": SUM, "lora and sum": LORA | {"encoder_layer_sum": True}}
QUESTION = [tiny.user("What does the person say?", tiny.sound(1.3, 4))]


def ways(*names: str) -> Any:
    return pytest.mark.parametrize("switches", [WAYS[name] for name in names or WAYS], ids=names or list(WAYS))


def tower_of(seed: int = 3, **switches: Any) -> tuple[SoundwaveConfig, Any]:
    """An encoder whose additions matter."""
    config = tiny.config(**switches)
    tower = make_tower(config)
    tiny.randomise(tower, seed)
    return config, tower.eval().requires_grad_(False)


def parts_of(seed: int = 3, **switches: Any) -> tuple[SoundwaveConfig, Any, Any]:
    """The lower and the upper part of the same encoder."""
    config, lower = tower_of(seed, **switches)
    upper = tower_of(seed, **switches)[1]
    keep_lower(lower, config.encoder_depth)
    keep_upper(upper, config.encoder_depth)
    return config, lower, upper


def mels(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 80, T) ragged log-mel, and which of it exists (N, T)."""
    features = torch.randn(len(lengths), 80, max(lengths), generator=torch.Generator().manual_seed(0))
    return features, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def weighty(recipe: Recipe) -> Any:
    """The model that a recipe trains, before its first step but as if the encoder had learned."""
    stage = stage_of(recipe)
    model = build_model(recipe, stage, trained_config(recipe)[0], CPU, "no").eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in mark_trained(model, stage) and name.startswith("audio_tower."):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model


@pytest.fixture
def base(tmp_path: Path) -> Recipe:
    """A finished stage I without any of this."""
    recipe = tiny_runs.recipe(tmp_path, max_steps=2, time_masks=0)
    train(recipe)
    return recipe


def further(base: Recipe, folder: str, **changes: Any) -> Recipe:
    """A run that starts from it, into a folder beside its own."""
    parent = Path(base.output_dir).parent
    plain: dict[str, Any] = {
        "start_from": str(Path(base.output_dir) / "final"), "audio_tower": None, "language_model": None,
        "ctc_vocabulary_size": None, "output_dir": str(parent / folder), "features": None,
    }
    return dataclasses.replace(base, **plain | changes)


def logits(folder: Path) -> torch.Tensor:
    """CTC's, by the speech encoder alone."""
    encoder, processor, _ = load_speech_encoder(folder, "cpu", torch.float32)
    features = processor.apply_chat_template(QUESTION)
    return encoder.ctc_logits(features["input_features"], features["feature_attention_mask"])


@pytest.mark.parametrize(
    ("depth", "more"),
    [(2, {}), *product([0, 1], [{}, {"encoder_training": "lora"}, {"encoder_layer_sum": True}])], ids=str,
)
def test_the_lower_and_the_upper_part_are_the_whole_to_the_bit(depth: int, more: dict[str, Any]) -> None:
    switches = {"encoder_upper_layers": 2 - depth} | more
    config, lower, upper = parts_of(**switches)
    whole = tower_of(**switches)[1]
    for lengths in ((40, 40), (100, 24, 62)):
        features, mel_mask = mels(*lengths)
        mask = None if len(set(lengths)) == 1 else mel_mask
        expected = encode_window(whole, features, mask)
        hidden = encode_window(lower, features, mask)
        again = encode_upper(upper, hidden, None if mask is None else mask[:, ::2], config.encoder_depth)
        assert torch.equal(again, expected)


@ways()
def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(switches: dict[str, Any]) -> None:
    config, lower, upper = parts_of(**switches)
    lengths = (100, 24, 64)
    features, mel_mask = mels(*lengths)
    hidden = encode_window(lower, features, mel_mask)
    hidden[~mel_mask[:, ::2]] = 1e3  # whatever stands there
    frames = upper_frames(config, upper, hidden, mel_mask[:, ::4])
    for i, length in enumerate(lengths):
        alone = upper_frames(config, upper, hidden[i : i + 1, : length // 2], None)
        torch.testing.assert_close(frames[i, : length // 2], alone[0], rtol=1e-4, atol=1e-4)


def test_a_merged_lora_gives_what_it_gave_apart_by_plain_layers() -> None:
    _, tower = tower_of(**LORA)
    plain = tower_of()[1]
    features, _ = mels(60)
    apart = encode_window(tower, features, None)
    assert sum(isinstance(module, LoraLinear) for module in tower.modules()) == 6  # q, k, v, out, fc1, fc2
    assert not torch.allclose(apart, encode_window(plain, features, None), atol=0.1)
    merge_lora(tower)
    assert not any(isinstance(module, LoraLinear) for module in tower.modules())
    torch.testing.assert_close(encode_window(tower, features, None), apart, rtol=1e-4, atol=1e-4)


@ways()
def test_a_model_that_starts_from_another_gives_exactly_its_frames_at_first(
    base: Recipe, switches: dict[str, Any]
) -> None:
    recipe = further(base, "next", model=switches)
    config, _ = trained_config(recipe)
    lower = build_encoder(config, CPU, "no")
    model = build_model(recipe, stage_of(recipe), config, CPU, "no")
    before, _, _ = load_checkpoint(Path(recipe.start_from or ""), "cpu", torch.float32)
    features, _ = mels(80)
    with torch.no_grad():
        frames = upper_frames(config, model.audio_tower, encode_window(lower, features, None), None)
    assert torch.equal(frames, encode_window(before.audio_tower, features, None))
    assert torch.equal(model.alignment.project.weight, before.alignment.project.weight)


@ways()
def test_what_is_said_to_learn_learns_and_lowers_the_loss_and_nothing_else_changes(
    base: Recipe, switches: dict[str, Any]
) -> None:
    recipe = further(
        base, "next", model=switches, max_steps=8, learning_rate=1e-2, alignment_learning_rate_scale=0.0,
        max_batch_size=8, batch_seconds=20.0,
    )
    final = train(recipe)
    losses = [row["loss"] for row in tiny_runs.losses(recipe.output_dir)]
    assert losses[-1] < losses[0]  # of the encoder alone: the adapter stays
    old, new = tiny_runs.weights(Path(recipe.start_from or "")), tiny_runs.weights(final)
    assert all(torch.equal(new[name], old[name]) for name in old)
    top = "audio_tower.layers.1."
    stored = {name for name in new if name.startswith("audio_tower.")}
    if switches.get("encoder_training") == "full":
        base_tower = load_file(Path(base.audio_tower or "") / "model.safetensors")
        assert {name.removeprefix("audio_tower.") for name in stored} == {
            name for name in base_tower if name.startswith(("layers.1.", "layer_norm."))
        }
        assert not any(torch.equal(new[name], base_tower[name.removeprefix("audio_tower.")]) for name in stored)
    elif "encoder_training" in switches:
        factors = {name for name in stored if name.startswith(top)}
        assert len(factors) == 12
        assert stored - factors == ({"audio_tower.layer_sum"} if "encoder_layer_sum" in switches else set())
        assert all(new[name].any() for name in factors if name.endswith(".up"))
    if "encoder_layer_sum" in switches:
        assert not torch.equal(new["audio_tower.layer_sum"], torch.eye(switches["encoder_upper_layers"] + 1)[-1])
    loaded, _, _ = load_checkpoint(final, "cpu", torch.float32)
    before, _, _ = load_checkpoint(Path(recipe.start_from or ""), "cpu", torch.float32)
    changed = {
        name for name, value in before.audio_tower.named_parameters()
        if not torch.equal(value, loaded.audio_tower.get_parameter(name))
    }
    assert all(name.startswith(("layers.1.", "layer_norm.")) for name in changed)
    assert bool(changed) == ("encoder_training" in switches)


@ways()
def test_a_saved_model_gives_what_it_gave_in_training(
    base: Recipe, switches: dict[str, Any], tmp_path: Path
) -> None:
    recipe = further(base, "next", model=switches)
    trained = weighty(recipe)
    save_trained(trained, tmp_path / "saved", torch.float32)
    loaded, _, _ = load_checkpoint(tmp_path / "saved", "cpu", torch.float32)
    lower = build_encoder(trained.config, CPU, "no")
    features, mel_mask = mels(80, 48)
    batch = Batch(["a", "b"], encode_window(lower, features, mel_mask), mel_mask[:, ::4], ctc=[[1], [2]])
    module = StageModule(trained, ALIGNMENT, 0.3).eval()
    with torch.no_grad():
        aligned = module.alignment(module.adapter_input(batch), batch.frame_mask)
        wanted = trained.alignment.ctc_logits(aligned, module.ctc_embeddings)
        got = loaded.speech_encoder.ctc_logits(features, mel_mask)
    exists = mel_mask[:, ::4]
    torch.testing.assert_close(got[exists], wanted[exists], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(got, load_checkpoint(Path(recipe.start_from or ""), "cpu", torch.float32)[
        0].speech_encoder.ctc_logits(features, mel_mask), atol=1e-2)
    # what was loaded can be saved again, LoRA's factors included
    save_trained(loaded, tmp_path / "again", torch.float32)
    assert torch.equal(logits(tmp_path / "again"), logits(tmp_path / "saved"))
    # and written whole, in plain weights
    whole = export(str(tmp_path / "saved"), tmp_path / "whole", dtype="float32")
    names = load_file(whole / "model.safetensors")
    assert not any(name.endswith((".down", ".up")) for name in names)
    torch.testing.assert_close(logits(whole), logits(tmp_path / "saved"), rtol=1e-5, atol=1e-5)


def test_a_model_that_is_saved_before_its_lora_is_merged_is_saved_with_it(tmp_path: Path) -> None:
    model = tiny.model(tiny.config(**LORA))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    features, _ = mels(60)
    torch.testing.assert_close(
        encode_window(again.audio_tower, features, None), encode_window(model.audio_tower, features, None),
        rtol=1e-4, atol=1e-4,
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@ways("lora and sum", "full")
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    base: Recipe, switches: dict[str, Any], optimizer: str
) -> None:
    recipe = further(base, "next", model=switches, optimizer=optimizer, save_steps=3, max_steps=6, time_masks=4)
    final = train(recipe)
    straight, weights = tiny_runs.losses(recipe.output_dir), tiny_runs.weights(final)
    shutil.rmtree(Path(recipe.output_dir) / "checkpoints" / "step-000006")
    shutil.rmtree(final)
    resumed = tiny_runs.weights(train(dataclasses.replace(recipe, encoder_learning_rate_scale=1.0)))
    assert [row["loss"] for row in tiny_runs.losses(recipe.output_dir)] == [row["loss"] for row in straight]
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)


def test_later_stages_go_on_with_what_the_encoder_learned(base: Recipe) -> None:
    first = train(further(base, "next", model=LORA, learning_rate=1e-2))
    shrinking = further(base, "second", stage="shrinking", start_from=str(first), model={}, learning_rate=1e-2)
    second = train(shrinking)
    third = train(dataclasses.replace(
        shrinking, stage="instruction", start_from=str(second), output_dir=f"{shrinking.output_dir}-third"
    ))
    name = "audio_tower.layers.1.fc1.up"
    one, two, three = (tiny_runs.weights(folder)[name] for folder in (first, second, third))
    assert not torch.equal(one, two)  # stage II trains the alignment adapter, and this with it
    assert torch.equal(two, three)
    assert logits(third).isfinite().all()


def test_more_layers_may_begin_to_learn_and_a_whole_model_may_begin_otherwise(base: Recipe, tmp_path: Path) -> None:
    first = train(further(base, "next", model=LORA, learning_rate=1e-2))
    wider = further(base, "wider", start_from=str(first), model={"encoder_upper_layers": 2}, max_steps=1)
    features, _ = mels(80)

    def frames(recipe: Recipe) -> torch.Tensor:
        config, _ = trained_config(recipe)
        lower = build_encoder(config, CPU, "no")
        upper = build_model(recipe, stage_of(recipe), config, CPU, "no").audio_tower
        with torch.no_grad():
            return upper_frames(config, upper, encode_window(lower, features, None), None)

    before = encode_window(load_checkpoint(first, "cpu", torch.float32)[0].audio_tower, features, None)
    torch.testing.assert_close(frames(wider), before, rtol=1e-5, atol=1e-5)
    whole = export(str(first), tmp_path / "whole", dtype="float32")
    other = further(base, "other", start_from=str(whole), model={"encoder_training": "full"}, max_steps=1)
    torch.testing.assert_close(frames(other), before, rtol=1e-5, atol=1e-5)
    assert "audio_tower.layer_norm.weight" in tiny_runs.weights(train(other))


def test_stored_features_are_those_below_and_another_depth_is_refused(base: Recipe, tmp_path: Path) -> None:
    stored = further(base, "stored", model=FULL, features=str(tmp_path / "below"), time_masks=4)
    flying = dataclasses.replace(stored, features=None, output_dir=str(tmp_path / "flying"))
    for recipe in (stored, flying):
        train(recipe)
    one, other = ([row["loss"] for row in tiny_runs.losses(recipe.output_dir)] for recipe in (stored, flying))
    assert one == pytest.approx(other, rel=1e-2)  # float16
    deeper = dataclasses.replace(stored, model=SUM, output_dir=str(tmp_path / "deeper"))
    with pytest.raises(TrainingError, match=r'features of .*"upper_layers": 1.* "upper_layers": 2.* is wanted; choose'):
        train(deeper)


@ways()
def test_training_in_bfloat16_has_nearly_the_losses_of_float32(base: Recipe, switches: dict[str, Any]) -> None:
    exact = further(base, "exact", model=switches, max_steps=3)
    low = dataclasses.replace(exact, mixed_precision="bf16", output_dir=f"{exact.output_dir}-low")
    train(exact)
    AcceleratorState._reset_state()  # one process has one precision
    try:
        train(low)
    finally:
        AcceleratorState._reset_state()
    one, other = ([row["loss"] for row in tiny_runs.losses(recipe.output_dir)] for recipe in (exact, low))
    assert other == pytest.approx(one, rel=0.05)


def test_masks_lie_on_what_the_adapter_reads_and_are_those_of_a_frozen_encoder(base: Recipe) -> None:
    masking = {"time_masks": 20, "feature_dropout": 0.3}
    plain, upper = (
        prepare(further(base, "next", model=model, **masking), CPU, "no", main=False) for model in ({}, LORA)
    )
    items = plain.train[0].items(seed=1, epoch=0)
    (one, without), (other, with_lora) = (
        (it.collator(items, "seed"), StageModule(it.model, it.stage, 0.3).eval()) for it in (plain, upper)
    )
    assert one.masking is None
    with torch.no_grad():
        read, same = without.adapter_input(one), with_lora.adapter_input(other)
    assert read is not None
    assert same is not None
    exists = one.frame_mask.repeat_interleave(2, 1)
    assert (read[exists] == 0).any()
    torch.testing.assert_close(same[exists], read[exists], rtol=2e-2, atol=2e-2)  # both stored in float16
    assert torch.equal(same[exists] == 0, read[exists] == 0)


def test_a_new_models_whitening_is_of_what_the_adapter_reads(tmp_path: Path) -> None:
    sizes = tiny_runs.recipe(tmp_path).model | {"alignment_whitening": True}
    plain, upper = (
        tiny_runs.recipe(tmp_path, model=sizes | more, output_dir=str(tmp_path / f"run{i}"), features=None, max_steps=1)
        for i, more in enumerate(({}, FULL))
    )
    measured = [tiny_runs.weights(train(recipe))["alignment.frame_whitener"] for recipe in (plain, upper)]
    torch.testing.assert_close(measured[0], measured[1], rtol=1e-2, atol=1e-2)


def test_without_the_switches_nothing_of_the_encoder_is_kept(base: Recipe) -> None:
    assert not any(name.startswith("audio_tower.") for name in tiny_runs.weights(Path(base.output_dir) / "final"))
    assert set(make_tower(tiny.config()).state_dict()) == set(tiny.model().audio_tower.state_dict())


def test_the_encoder_has_a_rate_of_its_own_and_muon_takes_its_matrices(base: Recipe) -> None:
    for switches, taken in ((FULL, {"weight"}), (LORA, set())):
        recipe = further(base, "next", model=switches, optimizer="muon", encoder_learning_rate_scale=0.5)
        prepared = prepare(recipe, CPU, "no", main=False)
        module = StageModule(prepared.model, prepared.stage, 0.3)
        names = {id(p): name for name, p in module.named_parameters()}
        found = [
            {names[id(p)]: group["scale"] for group in one.param_groups for p in group["params"]}
            for one in make_optimizers(module, recipe, on_cuda=False)
        ]
        muon, adamw = ({n: s for n, s in one.items() if n.startswith("audio_tower.")} for one in found)
        assert {name.rpartition(".")[2] for name in muon} == taken
        assert set(muon.values()) <= {0.5 * MUON_SCALE}
        assert set(adamw.values()) == {0.5}
        assert found[0]["alignment.project.weight"] == MUON_SCALE
