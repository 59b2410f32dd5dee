"""A run computes in what was asked for, or in what its device computes faster, and keeps to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_runs
import torch
import yaml

from soundwave.training import distributed
from soundwave.training.distributed import precision_of
from soundwave.training.loop import train


@pytest.fixture
def cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


@pytest.mark.parametrize("asked", ["bf16", "no"])
def test_what_is_asked_for_is_taken(asked: str, tmp_path: Path) -> None:
    assert precision_of(asked, tmp_path) == asked


@pytest.mark.parametrize(("bfloat16", "expected"), [(0.5, "bf16"), (1.0, "no"), (2.0, "no")])
@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_a_cpu_computes_in_what_it_is_faster_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bfloat16: float, expected: str
) -> None:
    monkeypatch.setattr(distributed, "seconds", lambda dtype: bfloat16 if dtype == torch.bfloat16 else 1.0)
    assert precision_of("auto", tmp_path) == expected


def test_a_product_takes_time() -> None:
    assert distributed.seconds(torch.float32) > 0


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_a_run_that_goes_on_keeps_its_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, mixed_precision="auto", max_steps=1)
    monkeypatch.setattr(distributed, "seconds", lambda dtype: 1.0)
    train(recipe)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["mixed_precision"] == "no"
    monkeypatch.setattr(distributed, "seconds", lambda dtype: 0.1 if dtype == torch.bfloat16 else 1.0)
    assert precision_of("auto", tmp_path / "run") == "no"
