"""What a run checks, says and keeps before its first step and after its last."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
import yaml

from soundwave.errors import CheckpointError, ConfigurationError, DataError, TrainingError, WriteError
from soundwave.training import loop, objective
from soundwave.training.augmentation import Augmentation, NoiseAugmentation
from soundwave.training.loop import train, train_from_recipe
from soundwave.training.recipe import DataSource, LoraRecipe, Recipe
from soundwave.training.recipe_io import check_places
from soundwave.training.reporting import RunLog, held_out_names, read_metrics


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_runs.recipe(tmp_path)


@pytest.mark.parametrize(
    ("stage", "still"), [("shrinking", ""), ("instruction", ", which it does not train")]
)
def test_a_later_stage_over_a_random_alignment_adapter_is_warned_of(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], stage: str, still: str
) -> None:
    train(dataclasses.replace(recipe, stage=stage), dry_run=True)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert f"no start_from, so stage {stage} begins with a random alignment adapter{still}: " in warning
    assert warning.endswith("name the stage before, as in start_from: runs/stage1/final")


def test_a_stage_after_another_and_the_first_are_not_warned_of(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(dataclasses.replace(recipe, max_steps=1))
    after = {"stage": "shrinking", "start_from": str(first), "output_dir": str(tmp_path / "two")}
    train(dataclasses.replace(recipe, **after), dry_run=True)
    assert "warning" not in capsys.readouterr().err


def test_a_dry_run_checks_everything_and_trains_nothing(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, dry_run=True)
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "features" / "index.jsonl").is_file()


def test_a_run_keeps_its_recipe_its_curves_and_its_figures(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    final = train_from_recipe(path, ["max_steps=2", "logging_steps=2"])
    assert final == tmp_path / "run" / "final"
    kept = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    lora = LoraRecipe(4, 8, 0.05, ["q_proj", "k_proj", "v_proj", "o_proj"])  # nothing is left open
    assert kept == dataclasses.asdict(dataclasses.replace(recipe, max_steps=2, logging_steps=2, lora=lora))
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [2]


def test_two_held_out_manifests_of_one_folder_have_figures_of_their_own(recipe: Recipe, tmp_path: Path) -> None:
    rows = tiny_runs.clips(tmp_path / "dev")
    held_out = [
        DataSource(str(tiny_runs.manifest_of(tmp_path / "dev", rows[:4], "asr.jsonl"))),
        DataSource(str(tiny_runs.manifest_of(tmp_path / "dev", rows[4:], "translation.jsonl"))),
        DataSource(str(tmp_path / "data" / "manifest.jsonl")),
    ]
    train(dataclasses.replace(recipe, evaluation=held_out, max_steps=2, eval_steps=1))
    names = [name for row in tiny_runs.losses(recipe.output_dir) for name in row if name.endswith("_loss")]
    assert names == 2 * ["eval_dev_asr_loss", "eval_dev_translation_loss", "eval_data_loss"]


@pytest.mark.parametrize(
    ("manifests", "names"),
    [
        (["dev-a/manifest.jsonl", "x/dev-b/asr.jsonl"], ["dev-a", "dev-b"]),  # the folder, where that is enough
        (["dev/asr.jsonl", "dev/translation.jsonl", "b/c.jsonl"], ["dev_asr", "dev_translation", "b"]),
        (["asr.jsonl"], ["asr"]),
        (["a/dev/x.jsonl", "b/dev/x.jsonl", "dev_x/m.jsonl"], ["dev_x_2", "dev_x_3", "dev_x"]),
        (["dev/x.jsonl", "dev/x.jsonl"], ["dev_x", "dev_x_2"]),
        ([], []),
    ],
)
def test_held_out_figures_are_named_by_folder_or_by_folder_and_file(manifests: list[str], names: list[str]) -> None:
    assert held_out_names(manifests) == names


def test_audio_that_cannot_be_read_is_named_and_left_out(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "3.wav").write_text("no sound")
    train(recipe)
    told = capsys.readouterr().err
    assert "skipped: " in told
    assert "3.wav" in told
    assert "7 examples" in told


def test_bad_audio_can_stop_a_run(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "data" / "3.wav").write_text("no sound")
    with pytest.raises(TrainingError, match=r"3.wav.* \(set on_bad_audio=skip to leave such clips out\)"):
        train(dataclasses.replace(recipe, on_bad_audio="stop"))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"stage": "two"}, ConfigurationError, "stage='two' is not known"),
        ({"train": []}, ConfigurationError, r"names no training data; add `train: \[\{manifest: path\}\]`"),
        ({"train": [DataSource("gone.jsonl")]}, DataError, "gone.jsonl: no such manifest"),
        ({"start_from": "gone"}, ConfigurationError, "start_from=gone: no config.json there; train the stage before"),
        ({"model": {"alignment_layer": 2}}, ConfigurationError, "'alignment_layer' .* did you mean alignment_layers"),
        ({"model": {"zzz": 2}}, ConfigurationError, "'zzz' .* known are .*alignment_layers"),
        ({"model": {"run_pooling": "last"}}, ConfigurationError, "run_pooling is 'last'; give one of"),
        ({"language_model": "gpt-9"}, CheckpointError, "gpt-9"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    recipe: Recipe, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train(dataclasses.replace(recipe, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"output_dir": "$UNSET/run"}, "output_dir"),
        ({"features": "${UNSET}/features"}, "features"),
        ({"start_from": "$UNSET/final"}, "start_from"),
        ({"audio_tower": "$UNSET/tower"}, "audio_tower"),
        ({"train": [DataSource("a.jsonl"), DataSource("$UNSET/b.jsonl")]}, r"train\[1\]\.manifest"),
        ({"evaluation": [DataSource("$UNSET/b.jsonl")]}, r"evaluation\[0\]\.manifest"),
        ({"augmentation": Augmentation(noise=NoiseAugmentation(source="$UNSET/n"))}, r"augmentation\.noise\.source"),
    ],
)
def test_a_variable_that_is_not_set_is_told_before_any_folder_is_made_of_its_name(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], option: str
) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    told = rf"{option} is .*UNSET.*, but \$UNSET is not set; export UNSET=… before the run"
    with pytest.raises(ConfigurationError, match=told):
        train(dataclasses.replace(recipe, **changes))
    assert set(tmp_path.iterdir()) == before


def test_a_dry_run_needs_no_output_folder_and_a_pipe_has_variables_of_its_own(recipe: Recipe) -> None:
    train(dataclasses.replace(recipe, output_dir="$UNSET/run"), dry_run=True)
    own = [DataSource("pipe:for i in a b; do cat $i.tar; done")]
    check_places(dataclasses.replace(recipe, train=own, allow_commands=True, output_dir="runs/$5"))


def test_a_model_that_cannot_be_written_at_the_end_is_written_by_the_next_start(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_trained", full)
        with pytest.raises(TrainingError, match=r"final could not be written \(.*No space left.*\); free some space"):
            train(recipe)
    assert (train(recipe) / "adapters.safetensors").is_file()
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("full", ["metrics.jsonl", "frames.f16"])
def test_a_disk_that_is_full_is_named_whatever_is_written(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    opened = Path.open

    def fail(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if path.name == full and "a" in mode:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, mode, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(TrainingError, match=r"No space left on device\); free some space and start the same"):
            train(recipe)
    train(recipe)
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("full", ["recipe.yaml", "metrics.jsonl"])
def test_a_disk_that_is_full_at_the_start_is_named(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    write = Path.write_bytes

    def fail(path: Path, *arguments: Any, **options: Any) -> int:
        if full in path.name:  # a draft's name has it too
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        told = rf"run/{full} could not be written \(No space left on device\); free some space"
        with pytest.raises(WriteError, match=told):
            train(recipe)
    train(recipe)
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [1, 2, 3, 4, 5, 6]


def test_a_plot_that_cannot_be_written_is_named_and_drawn_by_the_next_start(
    recipe: Recipe, tmp_path: Path
) -> None:
    plot = tmp_path / "run" / "curves.png"
    plot.mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"curves\.png could not be written \(Is a directory\); .* nothing but"):
        train(recipe)
    plot.rmdir()
    assert (train(recipe) / "adapters.safetensors").is_file()
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("when", ["opened", "written"])
def test_a_run_goes_on_without_tensorboard_where_the_disk_does_not_take_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], when: str
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.summary.writer.record_writer import RecordWriter

    write, records = RecordWriter.write, []

    def fail(writer: RecordWriter, data: bytes) -> None:
        records.append(data)
        if when == "opened" or len(records) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(RecordWriter, "write", fail)
    train(recipe)
    told = capfd.readouterr().err
    assert told.count("tensorboard could not be written (No space left on device); the run goes on without") == 1
    assert "Traceback" not in told
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [1, 2, 3, 4, 5, 6]


def test_a_run_needs_no_audio_file_once_its_frames_are_stored(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = loop.report

    def vanish(self: Any, *arguments: Any) -> None:
        for clip in (tmp_path / "data").glob("*.wav"):
            clip.unlink()
        report(self, *arguments)

    monkeypatch.setattr(loop, "report", vanish)
    train(dataclasses.replace(recipe, save_steps=3))
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(DataError, match="8 of 8 audio files do not exist"):  # a new start looks for them
        train(recipe)


def test_a_run_that_skips_everything_stops(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(*terms: Any) -> torch.Tensor:
        calls.append(None)
        return whole(*terms) * (float("nan") if len(calls) > 4 else 1.0)  # after the two checks and two steps

    whole = objective.total_loss
    monkeypatch.setattr(objective, "total_loss", broken)
    with pytest.raises(TrainingError, match=r"20 steps in a row had no finite loss or gradient \(now at step 2\)"):
        train(dataclasses.replace(recipe, on_nan="skip"))


def test_figures_after_the_checkpoint_and_half_a_line_are_forgotten(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.add(step, loss=float(step), ctc=None)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    resumed = RunLog(tmp_path, step=2)
    resumed.add(3, loss=0.5)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 0.5}
    ]


def test_missing_audio_is_told_before_anything_is_trained(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "data" / "3.wav").unlink()
    with pytest.raises(DataError, match=r"1 of 8 audio files do not exist: .*3.wav"):
        train(recipe)
