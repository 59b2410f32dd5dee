"""The mean of trained folders: weight by weight, loadable, and only of folders of the same shapes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file, save_file

from soundwave.checkpoints.loading import load_speech_encoder
from soundwave.training.loop import train

SCRIPT = Path(__file__).parents[1] / "recipes" / "mini" / "average.py"
if not SCRIPT.is_file():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
WEIGHTS = "adapters.safetensors"


def average(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trained folder, and one whose weights have moved on."""
    folder = tmp_path_factory.mktemp("average")
    first = train(tiny_runs.recipe(folder, max_steps=2))
    second = shutil.copytree(first, folder / "second")
    moved = {n: t + 0.5 if t.is_floating_point() else t for n, t in load_file(first / WEIGHTS).items()}
    save_file(moved, second / WEIGHTS, metadata={"format": "pt"})
    return first, second


def test_each_weight_is_the_mean_and_the_folder_loads(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = folders
    done = average(first, second, "--out", tmp_path / "mean")
    assert done.returncode == 0, done.stderr
    before, after = load_file(first / WEIGHTS), load_file(tmp_path / "mean" / WEIGHTS)
    assert before.keys() == after.keys()
    for name, value in after.items():
        torch.testing.assert_close(value, before[name] + 0.25 if value.is_floating_point() else before[name])
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "mean", second)]
    assert configs[0] == configs[1]
    load_speech_encoder(tmp_path / "mean", "cpu", torch.float32)


def test_folders_of_other_shapes_are_refused_by_name(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(folders[0], tmp_path / "other")
    tensors = load_file(other / WEIGHTS)
    tensors.pop("alignment.project.bias")
    save_file(tensors, other / WEIGHTS)
    done = average(folders[0], other, "--out", tmp_path / "mean")
    assert done.returncode == 1
    assert "differ in alignment.project.bias; give folders of the same shapes" in done.stderr


def test_what_is_no_folder_and_an_out_that_is_one_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for given, out, told in (
        ([folders[0], tmp_path / "none"], tmp_path / "mean", "none"), (folders, folders[0], "is one of the folders"),
    ):
        done = average(*given, "--out", out)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "mean").exists()
