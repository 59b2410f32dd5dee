"""Matrices that are stored in 8 bits: what they cost, what they keep, and that all who read weights read them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from soundwave.checkpoints.eight_bit import SCALE_ENDING, pack, unpack
from soundwave.checkpoints.loading import load_checkpoint, load_speech_encoder
from soundwave.checkpoints.native import TRAINED_FILE, adapter_tensors, new_config, save_trained
from soundwave.checkpoints.weights import read_shapes, read_tensors
from soundwave.errors import CheckpointError
from soundwave.export.huggingface import export

QUESTION = [tiny.user("What does the person say?", tiny.sound(1.3, 4))]
RECIPE = Path(__file__).parents[1] / "recipes" / "mini"


def matrix(rows: int, columns: int, seed: int = 1, size: float = 1.0) -> Tensor:
    return size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_a_matrix_takes_half_of_float16_and_is_off_by_half_a_step_at_most() -> None:
    before = matrix(64, 512)
    stored = pack("a.weight", before)
    assert sum(value.nbytes for value in stored.values()) <= 0.51 * before.half().nbytes
    after = unpack(stored["a.weight"], stored["a.weight" + SCALE_ENDING])
    step = before.abs().amax(dim=1, keepdim=True) / 127
    assert ((after - before).abs() <= 0.5001 * step).all()


@given(rows=st.integers(1, 5), columns=st.integers(1, 9), seed=st.integers(0, 99), power=st.integers(-30, 30))
def test_what_was_packed_packs_again_to_the_same(rows: int, columns: int, seed: int, power: int) -> None:
    stored = pack("a", matrix(rows, columns, seed, 10.0**power))
    once = unpack(*stored.values())
    assert torch.isfinite(once).all()
    assert torch.equal(unpack(*pack("a", once).values()), once)


def test_rows_of_nothing_stay_nothing() -> None:
    assert torch.equal(unpack(*pack("a", torch.zeros(2, 3)).values()), torch.zeros(2, 3))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A trained folder whose upper encoder layer has learned."""
    parts = tiny.part_folders(tmp_path)
    config = new_config(
        str(parts[0]), str(parts[1]), alignment_heads=4, look_back_heads=4, alignment_ffn_dim=40,
        encoder_upper_layers=1, encoder_training="full",
    )
    save_trained(tiny.model(config), tmp_path / "trained", torch.float32)
    return tmp_path / "trained"


@pytest.fixture
def small(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as mini is shipped."""
    if not RECIPE.is_dir():
        pytest.skip("the recipes are not part of this copy")
    monkeypatch.syspath_prepend(str(RECIPE))
    sys.modules.pop("ship", None)
    import ship

    ship.ship(trained, tmp_path / "small")
    return tmp_path / "small"


def test_a_shipped_folder_is_half_as_large_and_every_reader_reads_it(small: Path, trained: Path) -> None:
    stored, whole = load_file(small / TRAINED_FILE), dict(read_tensors([trained / TRAINED_FILE]))
    packed = {name for name, value in stored.items() if value.dtype == torch.int8}
    assert packed == {name for name, value in whole.items() if name.endswith(".weight") and value.dim() == 2}
    assert any(name.startswith("audio_tower.") for name in packed)
    assert read_shapes([small / TRAINED_FILE]) == {name: tuple(value.shape) for name, value in whole.items()}
    expected = {name: unpack(stored[name], stored[name + SCALE_ENDING]) for name in packed}
    started = dict(adapter_tensors(small))  # where training begins
    model, _, _ = load_checkpoint(small, "cpu", torch.float32)
    encoder, _, _ = load_speech_encoder(small, "cpu", torch.float32)
    for name in packed:
        assert torch.equal(started[name], expected[name])
        assert torch.equal(model.get_parameter(name), expected[name])
        assert torch.equal(encoder.get_parameter(name), expected[name])


def test_an_exported_model_holds_it_unpacked_and_says_the_same(small: Path, tmp_path: Path) -> None:
    out = export(str(small), tmp_path / "whole", "float32")
    assert not any(name.endswith(SCALE_ENDING) for name in load_file(out / "model.safetensors"))
    model, processor, _ = load_checkpoint(small, "cpu", torch.float32)
    again, _, _ = load_checkpoint(out, "cpu", torch.float32)
    batch = processor.apply_chat_template(QUESTION)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)


NAME = "alignment.project.weight"


def lose_the_scale(tensors: dict[str, Tensor]) -> None:
    del tensors[NAME + SCALE_ENDING]


def cut_the_scale(tensors: dict[str, Tensor]) -> None:
    tensors[NAME + SCALE_ENDING] = tensors[NAME + SCALE_ENDING][:-1].clone()


def widen_the_matrix(tensors: dict[str, Tensor]) -> None:
    tensors[NAME] = tensors[NAME].float()


def break_the_scale(tensors: dict[str, Tensor]) -> None:
    tensors[NAME + SCALE_ENDING][0] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lose_the_scale, "int8.*without its scale"), (cut_the_scale, "a scale of shape"),
        (widen_the_matrix, "int8 of shape"), (break_the_scale, "no numbers"),
    ],
)
def test_a_matrix_that_does_not_fit_its_scale_is_refused(
    small: Path, spoil: Callable[[dict[str, Tensor]], None], told: str
) -> None:
    tensors = load_file(small / TRAINED_FILE)
    spoil(tensors)
    save_file(tensors, small / TRAINED_FILE, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=told) as refused:
        load_checkpoint(small, "cpu", torch.float32)
    assert NAME in str(refused.value)
