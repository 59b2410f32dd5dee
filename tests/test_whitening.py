"""Whitened encoder frames: measured once when stage I begins, the same after resuming, in training and in the model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import tiny_runs
import torch
from safetensors.torch import load_file

from soundwave.checkpoints.native import load_native
from soundwave.errors import ConfigurationError, TrainingError
from soundwave.model.adapters import AlignmentAdapter
from soundwave.training.loop import train
from soundwave.training.recipe import DataSource
from soundwave.training.whitening import FILE, measure

SWITCHES = {"alignment_heads": 4, "alignment_ffn_dim": 40, "look_back_heads": 4, "alignment_whitening": True}


def test_whitened_frames_have_no_mean_are_even_and_do_not_go_together() -> None:
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=draw) * torch.tensor([30.0, 1, 1, 1, 1, 1])  # one direction beyond all others
    frames = torch.randn(20_000, 6, generator=draw) @ mixing.T + 5
    mean, whitener = measure(frames.split(3000), 6)
    white = (frames - mean) @ whitener
    assert white.mean(0).abs().max() < 1e-3
    values = torch.linalg.eigvalsh(torch.cov(white.T))
    before = torch.linalg.eigvalsh(torch.cov(frames.T))
    assert before.max() / before.min() > 1000
    assert values.max() <= 1.001
    # what is far smaller than a hundredth of the mean variance stays small; the rest is of one size
    assert values[before > 0.2 * before.mean()].min() > 0.9


def test_without_frames_everything_stays_as_it_is() -> None:
    mean, whitener = measure([], 6)
    assert not mean.any()
    assert whitener.equal(torch.eye(6))


def test_what_is_no_number_is_not_measured() -> None:
    frames = torch.randn(3, 50, 6, generator=torch.Generator().manual_seed(0))
    good = measure([frames[0], frames[2]], 6)
    frames[1, 7, 2] = float("nan")
    for one, other in zip(measure(frames, 6), good, strict=True):
        assert one.equal(other)


def test_a_run_on_text_alone_leaves_frames_as_they_are(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, stage="instruction", model=SWITCHES, max_steps=1)
    talk = [{"role": "user", "content": "so"}, {"role": "assistant", "content": "the cat"}]
    recipe.train = [DataSource(str(tiny_runs.manifest_of(tmp_path / "data", [{"messages": talk}] * 4, "text.jsonl")))]
    final = train(recipe)
    assert load_file(final / "adapters.safetensors")["alignment.frame_whitener"].equal(torch.eye(tiny.ENCODER_WIDTH))


def test_the_adapter_reads_whitened_frames() -> None:
    adapter = AlignmentAdapter(tiny.config(alignment_whitening=True))
    plain = AlignmentAdapter(tiny.config())
    plain.load_state_dict(adapter.state_dict(), strict=False)
    frames = torch.randn(2, 8, tiny.ENCODER_WIDTH, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(adapter.eval()(frames, None), plain.eval()(frames, None), atol=1e-6)  # nothing measured yet
    mean, whitener = measure([frames.flatten(0, 1)], tiny.ENCODER_WIDTH)
    adapter.frame_mean.copy_(mean)
    adapter.frame_whitener.copy_(whitener)
    assert torch.allclose(adapter(frames, None), plain((frames - mean) @ whitener, None), atol=1e-5)


def test_a_run_measures_once_resumes_with_the_same_and_hands_it_on(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, model=SWITCHES, save_steps=3, max_steps=6)
    final = train(recipe)
    straight = [row["loss"] for row in tiny_runs.losses(recipe.output_dir)]
    measured = load_file(Path(recipe.output_dir) / FILE)
    trained = load_file(final / "adapters.safetensors")
    assert trained["alignment.frame_whitener"].equal(measured["whitener"])
    assert not measured["whitener"].equal(torch.eye(tiny.ENCODER_WIDTH))
    shutil.rmtree(Path(recipe.output_dir) / "checkpoints" / "step-000006")
    shutil.rmtree(final)
    train(recipe)
    assert [row["loss"] for row in tiny_runs.losses(recipe.output_dir)] == pytest.approx(straight, abs=1e-6)

    after = tiny_runs.recipe(tmp_path, stage="shrinking", start_from=str(final), output_dir=str(tmp_path / "run2"))
    after.model = {}
    after.ctc_vocabulary_size = None
    after.audio_tower = after.language_model = None
    second = train(after)
    assert not (tmp_path / "run2" / FILE).exists()  # the stages after go on with stage I's
    assert load_file(second / "adapters.safetensors")["alignment.frame_whitener"].equal(measured["whitener"])
    model, _ = load_native(second, "cpu", torch.float32)
    assert model.alignment.frame_whitener.equal(measured["whitener"])


def test_what_was_measured_must_fit_and_a_later_stage_cannot_change_it(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, model=SWITCHES, max_steps=1)
    final = train(recipe)
    (Path(recipe.output_dir) / FILE).write_bytes(b"half")
    with pytest.raises(TrainingError, match=r"whitening\.safetensors does not fit this run .*delete that folder"):
        train(recipe)
    after = tiny_runs.recipe(
        tmp_path, stage="shrinking", start_from=str(final), model={"alignment_whitening": False},
        ctc_vocabulary_size=None, audio_tower=None, language_model=None, output_dir=str(tmp_path / "run2"),
    )
    with pytest.raises(ConfigurationError, match=r"alignment_whitening=False, but .* was trained with True"):
        train(after)
