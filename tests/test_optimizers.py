"""Muon for the adapters' matrices beside AdamW: what each steps, by how much, and that a run resumes with both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_runs
import torch
from torch import nn

from soundwave.training.loop import train
from soundwave.training.optim import MUON_SCALE, Muon, make_optimizers
from soundwave.training.recipe import Recipe


class Parts(nn.Module):
    """Named as in a model: an adapter with a matrix and a vector, and a LoRA factor."""

    def __init__(self) -> None:
        super().__init__()
        self.alignment = nn.Linear(6, 4)
        self.shrinking = nn.Linear(4, 4, bias=False)
        self.lora_A = nn.Linear(4, 2, bias=False)


def names_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, float]:
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)]: group["scale"] for group in optimizer.param_groups for p in group["params"]}


def test_muon_steps_the_adapters_matrices_and_adamw_the_rest() -> None:
    module = Parts()
    recipe = Recipe(optimizer="muon", alignment_learning_rate_scale=0.5)
    muon, adamw = make_optimizers(module, recipe, on_cuda=False)
    assert names_of(muon, module) == {"alignment.weight": 0.5 * MUON_SCALE, "shrinking.weight": MUON_SCALE}
    assert names_of(adamw, module) == {"alignment.bias": 0.5, "lora_A.weight": 1.0}


def test_without_muon_there_is_one_optimizer() -> None:
    module = Parts()
    (adamw,) = make_optimizers(module, Recipe(optimizer="adamw"), on_cuda=False)
    assert isinstance(adamw, torch.optim.AdamW)
    assert set(names_of(adamw, module)) == {name for name, _ in module.named_parameters()}


def test_a_step_of_muon_is_even_in_all_directions_and_as_large_as_adamws() -> None:
    module = nn.ModuleDict({"alignment": nn.Linear(64, 64, bias=False)})
    weight = module["alignment"].weight
    before = weight.detach().clone()
    (muon,) = make_optimizers(module, Recipe(optimizer="muon", learning_rate=1e-2, weight_decay=0.0), on_cuda=False)
    scales = torch.logspace(0, -2, 64)  # a gradient that is a hundred times weaker in its last direction
    weight.grad = torch.linalg.qr(torch.randn(64, 64)).Q * scales
    muon.step()
    step = before - weight.detach()
    assert step.pow(2).mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.3)
    values = torch.linalg.svdvals(step)
    assert (values.max() / values.min()).item() < 3


def losses_of(recipe: Recipe) -> list[float]:
    train(recipe)
    return [row["loss"] for row in tiny_runs.losses(recipe.output_dir)]


def test_a_run_with_muon_learns_and_resumes_to_the_same_losses(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, optimizer="muon", save_steps=3, max_steps=6)
    straight = losses_of(recipe)
    assert straight[-1] < straight[0]
    checkpoints = Path(recipe.output_dir) / "checkpoints"
    shutil.rmtree(checkpoints / "step-000006")
    shutil.rmtree(Path(recipe.output_dir) / "final")
    assert losses_of(recipe) == pytest.approx(straight, abs=1e-6)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon to compare with")
@pytest.mark.parametrize("shape", [(48, 20), (20, 48), (32, 32)])
def test_its_steps_are_those_of_pytorchs_muon_but_for_the_precision(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(1)
    ours, theirs = (nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    begun = ours.detach().clone()
    mine = Muon([ours], lr=1e-2, momentum=0.9, weight_decay=0.1)
    torchs = torch.optim.Muon(
        [theirs], lr=1e-2, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        ours.grad = theirs.grad = torch.randn(shape, generator=draw)
        mine.step()
        torchs.step()
    assert (ours - theirs).norm() < 0.02 * (theirs - begun).norm()  # bfloat16 has two to three digits
    assert mine.state[ours]["momentum_buffer"].equal(torchs.state[theirs]["momentum_buffer"])  # checkpoints fit both


@pytest.mark.parametrize(
    ("precision", "on_cuda", "dtype"),
    [("no", False, torch.float32), ("bf16", False, torch.bfloat16), ("no", True, torch.bfloat16)],
)
def test_muon_iterates_in_bfloat16_where_the_run_is_in_bfloat16(
    precision: str, on_cuda: bool, dtype: torch.dtype
) -> None:
    module = nn.ModuleDict({"alignment": nn.Linear(8, 8, bias=False)})
    (muon,) = make_optimizers(module, Recipe(optimizer="muon", mixed_precision=precision), on_cuda=on_cuda)
    assert isinstance(muon, Muon)
    assert muon.dtype == dtype
    before = module["alignment"].weight.detach().clone()
    module["alignment"].weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    muon.step()
    assert module["alignment"].weight.dtype == torch.float32
    assert not module["alignment"].weight.equal(before)
