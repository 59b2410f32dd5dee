"""An encoder that learns: what it is estimated to cost, and what does not go together."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_encoder_learning import FULL, LORA, SUM, base, further, ways, weighty  # noqa: F401
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from soundwave.checkpoints.loading import load_checkpoint
from soundwave.checkpoints.native import save_trained
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.training.build import PAPER_LORA, trained_config
from soundwave.training.collate import Batch
from soundwave.training.cost import estimate as sums
from soundwave.training.objective import StageModule
from soundwave.training.recipe import Recipe
from soundwave.training.stages import ALIGNMENT, INSTRUCTION, SHRINKING, Stage, mark_trained


@ways()
@pytest.mark.parametrize("stage", [ALIGNMENT, SHRINKING, INSTRUCTION], ids=lambda stage: stage.name)
def test_the_estimate_counts_what_the_encoder_learns(switches: dict[str, Any], stage: Stage) -> None:
    model = tiny.model(tiny.config(**switches))
    lora = dataclasses.replace(PAPER_LORA, r=0)
    parts = sums.count_parameters(model.config, lora)
    trained = set(mark_trained(model, stage))
    assert parts.trained(stage) == sum(p.numel() for name, p in model.named_parameters() if name in trained)
    assert any(name.startswith("audio_tower.") for name in trained) == (stage is not INSTRUCTION)
    work = sums.Workload(clips=2, seconds=4.0, frames=200, aligned=100, positions=30, audio_positions=8, replied=10)
    stored, flying = (
        sums.memory(model.config, Recipe(features=where), stage, parts, work) for where in ("stored", None)
    )
    assert flying.frozen - stored.frozen == 2 * (parts.audio_tower - parts.upper)


@ways("lora", "full")
def test_the_estimates_flops_are_near_those_that_torch_counts(switches: dict[str, Any]) -> None:
    switches = switches | {"encoder_upper_layers": 2}
    plain, learning = (tiny.model(tiny.config(**more)) for more in ({}, switches))
    counted, derived = [], []
    frames = torch.randn(2, 80, tiny.ENCODER_WIDTH, generator=torch.Generator().manual_seed(0))
    for model in (plain, learning):
        mark_trained(model, ALIGNMENT)
        module = StageModule(model, ALIGNMENT, 0.3)
        batch = Batch(["a", "b"], frames, torch.ones(2, 40).bool(), ctc=[[5, 6]] * 2)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            module(batch).total.backward()
        counted.append(counter.get_total_flops())
        parts = sums.count_parameters(model.config, dataclasses.replace(PAPER_LORA, r=0))
        work = sums.Workload(2, 1.6, 80, 40, 0, 0, 0)
        derived.append(2 * sums.flops(model.config, ALIGNMENT, parts, work, encode=False).total)
    assert derived[1] - derived[0] == pytest.approx(counted[1] - counted[0], rel=0.05)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"encoder_upper_layers": 3}, "encoder_upper_layers=3, but the encoder has 2 layers; choose 0 to 2"),
        ({"encoder_training": "lora"}, "encoder_training=lora is about .*encoder_upper_layers=0.* 1 to 2, or"),
        ({"encoder_layer_sum": True}, "encoder_layer_sum=True is about .* or encoder_layer_sum to False"),
        ({"encoder_training": "some"}, "encoder_training is 'some'; give one of none, lora, full"),
        ({"encoder_lora_r": 0}, "encoder_lora_r is 0; give a whole number of at least 1"),
    ],
)
def test_switches_that_do_not_go_together_are_told(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tiny.config(**switches)


@pytest.mark.parametrize(
    ("learned", "wanted", "message"),
    [
        (LORA, {"encoder_training": "full"}, "encoder_training=full, but .* was trained with lora"),
        (LORA, {"encoder_lora_r": 8}, "encoder_lora_r=8, but .* was trained with 4"),
        (LORA, {"encoder_lora_alpha": 4}, "encoder_lora_alpha=4, but .* was trained with 8"),
        (FULL, {"encoder_upper_layers": 0, "encoder_training": "none"}, "encoder_training=none, but .* with full"),
        (FULL, {"encoder_upper_layers": 0}, "encoder_upper_layers=0, but .* was trained with 1"),
        (SUM, {"encoder_layer_sum": False}, "encoder_layer_sum=False, but .* was trained with True"),
        (SUM, {"encoder_upper_layers": 1}, "encoder_upper_layers=1, but .* was trained with 2"),
    ],
)
def test_what_was_learned_cannot_be_left_out(
    base: Recipe, learned: dict[str, Any], wanted: dict[str, Any], message: str, tmp_path: Path  # noqa: F811
) -> None:
    recipe = further(base, "next", model=learned)
    save_trained(weighty(recipe), tmp_path / "learned", torch.float32)
    with pytest.raises(ConfigurationError, match=f"{message}.*goes on as it is; leave it out, or start from what"):
        trained_config(further(base, "after", start_from=str(tmp_path / "learned"), model=wanted))


def test_a_folder_that_lacks_what_its_encoder_learned_is_refused(base: Recipe, tmp_path: Path) -> None:  # noqa: F811
    recipe = further(base, "next", model=LORA)
    save_trained(weighty(recipe), tmp_path / "learned", torch.float32)
    shutil.copy(Path(recipe.start_from or "") / "adapters.safetensors", tmp_path / "learned" / "adapters.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 12 tensors that the model needs, audio_tower\.layers\.1\."):
        load_checkpoint(tmp_path / "learned", "cpu", torch.float32)
