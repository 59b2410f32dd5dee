"""The recipes of fine-tuning do what their headers say, and need what they say; so do accelerate's configurations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from soundwave.training.build import stage_of
from soundwave.training.cost.estimate_table import estimate
from soundwave.training.recipe_io import read_recipe

ROOT = Path(__file__).parents[1] / "recipes"
RECIPES = sorted((ROOT / "finetune").glob("*.yaml"))


def gigabytes(path: Path, *overrides: str) -> float:
    (value,) = [row.value for row in estimate(read_recipe(path, overrides)) if row.what == "memory of a device"]
    return float(value.split()[0])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_header_gives_the_command_and_the_memory_that_the_estimate_gives(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"soundwave train recipes/finetune/{path.name}\n" in header
    (stated,) = re.findall(r"Memory, an estimate: (\d+) GB", header)
    assert int(stated) == pytest.approx(gigabytes(path), abs=0.51)


def test_one_gpu_of_24_gb_is_enough_for_qlora_and_just_enough_for_lora() -> None:
    assert gigabytes(ROOT / "finetune" / "qlora-9b-24gb.yaml") < 16
    small = ["features=f", "max_batch_size=1", "batch_seconds=30"]
    assert 20 < gigabytes(ROOT / "finetune" / "lora-9b.yaml", *small) < 24
    assert gigabytes(ROOT / "finetune" / "lora-9b.yaml") > 24


@pytest.mark.parametrize(
    ("name", "trained", "lora"),
    [
        ("lora-9b", ("shrinking.",), True), ("qlora-9b-24gb", ("shrinking.",), True),
        ("adapters-9b", ("alignment.", "shrinking."), False), ("language-9b", ("alignment.", "shrinking."), True),
    ],
)
def test_what_is_trained_is_what_the_header_says(name: str, trained: tuple[str, ...], lora: bool) -> None:
    stage = stage_of(read_recipe(ROOT / "finetune" / f"{name}.yaml"))
    assert (stage.trained, stage.lora) == (trained, lora)


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero1", "DEEPSPEED")])
def test_accelerate_reads_its_configurations(name: str, kind: str) -> None:
    config = load_config_from_file(str(ROOT / "paper" / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert config.mixed_precision == "bf16"
