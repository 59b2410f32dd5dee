"""What is saved comes back the same: whole models, and what was trained over frozen parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from soundwave.checkpoints.loading import load_checkpoint
from soundwave.checkpoints.lora import attach_lora
from soundwave.checkpoints.native import TRAINED_FILE, load_native, new_config, save_trained
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor

LORA_WEIGHTS = Path("lora", "adapter_model.safetensors")
QUESTION = [tiny.user("What does the person say?", tiny.sound(1.3, 4))]


def add_lora(model: Any) -> None:
    attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
    draw = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # halves of small numbers are exact in float16
            parameter.data.copy_(torch.randint(-3, 4, parameter.shape, generator=draw) / 2)
    model.eval()


def logits(model: Any, processor: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**processor.apply_chat_template(QUESTION)).logits


def answer(model: Any, processor: Any) -> list[int]:
    batch = processor.apply_chat_template(QUESTION)
    return model.generate(**batch, max_new_tokens=6, do_sample=False)[0].tolist()


def by_auto_classes(folder: Path) -> tuple[Any, Any]:
    return AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def by_our_classes(folder: Path) -> tuple[Any, Any]:
    return SoundwaveForConditionalGeneration.from_pretrained(folder), SoundwaveProcessor.from_pretrained(folder)


def by_load(folder: Path) -> tuple[Any, Any]:
    return load_checkpoint(folder, "cpu", torch.float32)[:2]


# Whole models


@pytest.mark.parametrize("read", [by_auto_classes, by_our_classes, by_load])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("lora", [False, True], ids=["no LoRA", "LoRA"])
def test_a_saved_model_gives_the_same_results(read: Any, tied: bool, lora: bool, tmp_path: Path) -> None:
    model, processor = tiny.model(tiny.config(tied)), tiny.processor()
    if lora:
        add_lora(model)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = read(tmp_path)
    assert not again.training
    assert again.has_lora == lora
    assert torch.equal(logits(again, processor_again), logits(model, processor))
    assert answer(again, processor_again) == answer(model, processor)


def test_a_released_checkpoint_becomes_one_of_our_format_with_the_same_results(tmp_path: Path) -> None:
    model, processor = by_load(tiny.released_folder(tmp_path / "released"))
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    again, processor_again = by_load(tmp_path / "ours")
    assert torch.equal(logits(again, processor_again), logits(model, processor))
    assert answer(again, processor_again) == answer(model, processor)
    defaults = [one.language_model.generation_config.to_dict() for one in (again, model)]
    assert defaults[0] == defaults[1]


def test_weights_have_their_plain_names_and_the_lora_is_a_peft_folder(tmp_path: Path) -> None:
    model = tiny.model()
    plain = set(model.state_dict())
    add_lora(model)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as tensors:
        assert set(tensors.keys()) == plain
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert sorted(path.name for path in tmp_path.rglob("*.bin")) == []


def test_saving_does_not_change_the_model(tmp_path: Path) -> None:
    config = tiny.config(audio_tower_source="one", language_model_source="two")
    model = tiny.model(config)
    add_lora(model)
    before = logits(model, tiny.processor())
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(model, tiny.processor()), before)
    assert model.config.language_model_source == "two"  # this model's; the folder is complete and names none
    assert AutoConfig.from_pretrained(tmp_path).language_model_source is None


def test_a_model_can_be_saved_over_the_folder_it_was_read_from(tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    model, processor = by_load(tmp_path)  # its weights may still be pages of the file
    before = logits(model, processor).clone()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(model, processor), before)
    assert torch.equal(logits(*by_load(tmp_path)), before)


def test_the_auto_classes_know_us(tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SoundwaveConfig)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), SoundwaveForConditionalGeneration)


def test_a_folder_can_be_read_in_another_type(tmp_path: Path) -> None:
    model = tiny.model()
    add_lora(model)
    model.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    half, processor, _ = load_checkpoint(tmp_path, "cpu", torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.isfinite(logits(half, processor).float()).all()


# What was trained over frozen parts


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    return tiny.part_folders(tmp_path)


def over(parts: tuple[Path, Path], folder: Path) -> Any:
    """A model over the parts' weights with made adapters, saved as training saves it."""
    config = new_config(
        str(parts[0]), str(parts[1]), alignment_heads=4, look_back_heads=4, alignment_ffn_dim=40, alignment_layers=2
    )
    model = tiny.model(config)
    save_trained(model, folder, torch.float32)
    return load_native(folder, "cpu", torch.float32)


@pytest.mark.parametrize("lora", [False, True], ids=["no LoRA", "LoRA"])
def test_what_was_trained_comes_back_over_its_parts(parts: tuple[Path, Path], lora: bool, tmp_path: Path) -> None:
    model, processor = over(parts, tmp_path / "first")
    if lora:
        add_lora(model)
    save_trained(model, tmp_path / "second", torch.float32)
    again, processor_again = by_load(tmp_path / "second")
    assert again.has_lora == lora
    assert torch.equal(logits(again, processor_again), logits(model, processor))


def test_only_what_was_trained_is_written(parts: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = over(parts, tmp_path / "first")
    add_lora(model)
    save_trained(model, tmp_path / "second")
    with safe_open(tmp_path / "second" / TRAINED_FILE, "pt") as tensors:
        names = set(tensors.keys())
        kinds = {name: tensors.get_tensor(name).dtype for name in names}
        assert {kind for kind in kinds.values() if kind.is_floating_point} == {torch.float16}
    adapters = {name for name in model.state_dict() if name.startswith(("alignment.", "shrinking."))}
    assert names == adapters
    files = sorted(path.name for path in (tmp_path / "second").rglob("*.*"))
    assert files == [
        "adapter_config.json", "adapter_model.safetensors", "adapters.safetensors", "config.json", "inference.json",
    ]


def test_what_goes_along_is_not_lost_silently_where_the_model_before_is_gone(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    model, _ = over(parts, tmp_path / "first")
    with pytest.raises(FileNotFoundError, match="the model that training began from is gone"):
        save_trained(model, tmp_path / "second", start=tmp_path / "nowhere")


def test_a_whole_model_can_be_made_of_a_trained_one(parts: tuple[Path, Path], tmp_path: Path) -> None:
    model, processor = over(parts, tmp_path / "trained")
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    for part in parts:
        part.rename(part.with_name(f"{part.name} is gone"))
    for read in (by_load, by_auto_classes):
        again, processor_again = read(tmp_path / "whole")
        assert torch.equal(logits(again, processor_again), logits(model, processor))


def test_from_pretrained_says_how_to_read_a_folder_without_the_frozen_parts(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    over(parts, tmp_path / "trained")
    with pytest.raises(ConfigurationError, match=r"holds only what was trained over .*tiny-whisper and .*; load"):
        AutoModel.from_pretrained(tmp_path / "trained")


def drop_a_lora_matrix(folder: Path) -> None:
    tensors = load_file(folder / LORA_WEIGHTS)
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]
    save_file(tensors, folder / LORA_WEIGHTS, metadata={"format": "pt"})


def narrow_a_lora_matrix(folder: Path) -> None:
    tensors = load_file(folder / LORA_WEIGHTS)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file(tensors | {name: tensors[name][:, :-1].contiguous()}, folder / LORA_WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / TRAINED_FILE).unlink(), r"holds no \*.safetensors"),
        (lambda folder: (folder / LORA_WEIGHTS).unlink(), "lora lacks adapter_model.safetensors"),
        (lambda folder: (folder / "lora" / "adapter_config.json").unlink(), "lora lacks adapter_config.json"),
        (lambda folder: (folder / LORA_WEIGHTS).write_bytes(b"x"), "is not an intact safetensors"),
        (drop_a_lora_matrix, "does not fit this language model; .*layers.0.self_attn.q_proj.lora_A.default.weight is"),
        (narrow_a_lora_matrix, "does not fit this language model"),
    ],
)
def test_a_trained_folder_that_is_incomplete_is_refused(
    parts: tuple[Path, Path], tmp_path: Path, spoil: Any, message: str
) -> None:
    model, _ = over(parts, tmp_path / "first")
    add_lora(model)
    save_trained(model, tmp_path / "second")
    spoil(tmp_path / "second")
    with pytest.raises(CheckpointError, match=message):
        by_load(tmp_path / "second")


def test_parts_of_the_hub_with_a_whole_whisper_give_their_encoder(parts: tuple[Path, Path], tmp_path: Path) -> None:
    expected = logits(*over(parts, tmp_path / "trained"))
    file = parts[0] / "model.safetensors"
    encoder = {f"model.encoder.{name}": value for name, value in load_file(file).items()}
    save_file({**encoder, "model.decoder.layer_norm.weight": torch.ones(16), "proj_out.weight": torch.ones(2, 2)}, file)
    assert torch.equal(logits(*by_load(tmp_path / "trained")), expected)
