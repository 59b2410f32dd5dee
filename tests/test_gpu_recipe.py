"""Mini's stages on a machine with a GPU and no network: parcels, stages by the clock, results in pieces."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import tiny_runs
import yaml
from safetensors.torch import load_file

from soundwave.data.manifests import read_manifest
from soundwave.errors import DataError
from soundwave.training import loop
from soundwave.training.checkpoint import list_checkpoints

RECIPE = Path(__file__).parents[1] / "recipes" / "mini"
if not RECIPE.is_dir():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(RECIPE))

gpu_stages = pytest.importorskip("gpu_stages")
pack_parcels = pytest.importorskip("pack_parcels")
parcels = pytest.importorskip("parcels")

MOST = 4000  # bytes of a parcel


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Parcels of two manifests, one in another folder than its sounds, and of a folder."""
    rows = tiny_runs.clips(tmp_path / "human" / "train", 3)
    tiny_runs.manifest_of(tmp_path / "human" / "train", rows)
    (tmp_path / "made").mkdir()
    there = str(tmp_path / "human" / "train" / "1.wav")
    cut = {"audio": there, "text": "What?", "transcript": "so", "prompt": "Say it.", "start": 0.1, "end": 0.4}
    tiny_runs.manifest_of(tmp_path / "made", [cut | {"label": 7}], "labels.jsonl")
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "note.txt").write_text("kept " * 999)
    for name, folder in (("SPEECH", "human"), ("WORK", "made")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    recipe = tmp_path / "stage.yaml"
    named = ["$SPEECH/train/manifest.jsonl", "$WORK/labels.jsonl", "$WORK/lost.jsonl"]
    recipe.write_text(yaml.safe_dump({"train": [{"manifest": name} for name in named]}))
    made: list[Path] = pack_parcels.pack([recipe], {"models/extra": tmp_path / "extra"}, tmp_path / "parcels", MOST)
    return made


def test_parcels_are_small_and_arrive_in_any_order_and_twice(packed: list[Path], tmp_path: Path) -> None:
    assert len(packed) > 2
    assert all(sum(file.stat().st_size for file in parcel.iterdir()) <= MOST + 1000 for parcel in packed)
    place = tmp_path / "place"
    first, *others = reversed(packed)
    assert [parcels.unpack(parcel, place) for parcel in (first, first, *others)] == [False] * len(packed) + [True]
    assert (place / "models" / "extra" / "note.txt").read_text() == "kept " * 999
    (place / "models" / "extra" / "note.txt").write_text("changed there")
    assert parcels.unpack(first, place)
    assert (place / "models" / "extra" / "note.txt").read_text() == "changed there"


def test_examples_are_the_same_where_they_are_unpacked_and_their_sounds_are_opus(
    packed: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "moved" / "place"
    for parcel in packed:
        parcels.unpack(parcel, place)
    for folder, place_of, name in (("human", "speech", "train/manifest.jsonl"), ("made", "work", "labels.jsonl")):
        here, there = Path(folder, name), Path(place_of, name)
        before, after = list(read_manifest(tmp_path / here)), list(read_manifest(place / there))
        assert [(one.messages, one.transcript) for one in before] == [(one.messages, one.transcript) for one in after]
        for one, other in zip(before, after, strict=True):
            (old,), (new,) = one.audios, other.audios
            assert (old.start, old.end) == (new.start, new.end)
            assert Path(new.path).resolve().is_relative_to(place)
            assert soundfile.info(new.path).subtype == "OPUS"
            assert soundfile.info(new.path).duration == pytest.approx(soundfile.info(old.path).duration, abs=0.01)
    assert json.loads((place / "work" / "labels.jsonl").read_text())["label"] == 7
    assert len(list((place / "audio").rglob("*.ogg"))) == 3  # 1.wav is in both manifests


def test_what_is_not_there_is_named_and_a_place_that_cannot_travel_refused(
    packed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pack_parcels.pack([tmp_path / "stage.yaml"], {}, tmp_path / "again", MOST)
    assert "left out: work/lost.jsonl" in capsys.readouterr().out
    (tmp_path / "far.yaml").write_text("train: [{manifest: /data/x.jsonl}]")
    with pytest.raises(DataError, match=r"/data/x.jsonl: a manifest to pack begins with \$SPEECH/"):
        pack_parcels.pack([tmp_path / "far.yaml"], {}, tmp_path / "again", MOST)
    monkeypatch.setenv("SPEECH", "/nowhere")
    monkeypatch.setenv("WORK", "/nowhere")
    with pytest.raises(DataError, match="None of the 3 manifests"):
        pack_parcels.pack([tmp_path / "stage.yaml"], {}, tmp_path / "again", MOST)


def test_a_damaged_parcel_is_refused(packed: list[Path], tmp_path: Path) -> None:
    piece = packed[0] / "piece"
    piece.write_bytes(piece.read_bytes()[:-1] + b"x")
    with pytest.raises(parcels.ParcelError, match="was damaged: its hash is"):
        parcels.unpack(packed[0], tmp_path / "place")
    with pytest.raises(parcels.ParcelError, match="is no parcel"):
        parcels.unpack(tmp_path, tmp_path / "place")


# Stages by the clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a tenth of a second after the one before, however busy the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr(gpu_stages, "OVERHEAD_MINUTES", 0.0)
    for module in (loop, gpu_stages):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 10))


@pytest.fixture
def stages(clock: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Recipes of three tiny stages; the third has no data."""
    plain = dataclasses.asdict(tiny_runs.recipe(tmp_path, max_steps=10_000, save_steps=100, report_to=[], lora=None))
    monkeypatch.setenv("WORK", str(tmp_path))
    made = []
    for number, stage in enumerate(gpu_stages.SHARES, 1):
        content: dict[str, Any] = plain | {"stage": stage, "output_dir": f"$WORK/runs/stage{number}"}
        content |= {"lora": {"r": 4, "lora_alpha": 8}, "train": [*plain["train"], {"manifest": "$WORK/lost.jsonl"}]}
        if number == 2:
            content |= {"start_from": "$WORK/runs/stage1/final", "model": {}}
        if number == 3:
            content |= {"train": [{"manifest": "$WORK/lost.jsonl"}]}
        made.append(tmp_path / f"gpu-stage{number}.yaml")
        made[-1].write_text(yaml.safe_dump(content))
    return made


def minutes_in(run: Path) -> float:
    return float(gpu_stages.minutes_of(run))


def test_stages_share_the_minutes_and_a_stage_without_data_is_left_out(
    stages: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_stages.train_stages(stages, 0.5, tmp_path / "out", [])
    assert "gpu-stage3.yaml: none of its training data is here" in capsys.readouterr().out
    one, two = (tmp_path / "runs" / f"stage{number}" for number in (1, 2))
    assert minutes_in(one) + minutes_in(two) == pytest.approx(0.5, abs=0.03)
    assert minutes_in(one) / minutes_in(two) == pytest.approx(0.65 / 0.25, abs=0.8)  # loading takes a part of seconds
    gpu_stages.collect(tmp_path / "out", tmp_path / "back")
    back = [file.relative_to(tmp_path / "back") for file in (tmp_path / "back").rglob("*") if file.is_file()]
    assert sorted(map(str, back)) == [
        "stage1/curves.png", "stage1/metrics.jsonl", "stage1/recipe.yaml", "stage2/curves.png",
        "stage2/final/adapters.safetensors", "stage2/final/config.json", "stage2/final/inference.json",
        "stage2/final/lora/adapter_config.json", "stage2/final/lora/adapter_model.safetensors",
        "stage2/final/ngram.npz", "stage2/metrics.jsonl", "stage2/recipe.yaml",
    ]  # fmt: skip
    weights = load_file(tmp_path / "back" / "stage2" / "final" / "adapters.safetensors")
    matrices = {str(value.dtype) for name, value in weights.items() if name.endswith(".weight") and value.dim() == 2}
    assert matrices == {"torch.int8"}  # as mini is shipped


def test_a_call_that_was_stopped_goes_on_and_its_minutes_come_on_top(
    stages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = gpu_stages.train, tmp_path / "runs" / "stage1"

    def stopped(recipe: Any, dry_run: bool = False) -> Path:
        if dry_run:
            return Path(whole(recipe, dry_run=True))
        whole(dataclasses.replace(recipe, max_steps=3))
        (run / "final" / "config.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gpu_stages, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            gpu_stages.train_stages(stages[:1], 0.1, tmp_path / "out", [])
    before, steps = minutes_in(run), list_checkpoints(run / "checkpoints")[-1].name
    assert steps == "step-000003"
    gpu_stages.train_stages(stages[:1], 0.05, tmp_path / "out", [])
    assert minutes_in(run) == pytest.approx(before + 0.05, abs=0.02)
    assert len((run / "metrics.jsonl").read_text().splitlines()) > 3
    assert (tmp_path / "out" / "results-1").is_file()


def test_without_minutes_left_it_says_so(stages: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no minutes are left for it"):
        gpu_stages.train_stages(stages[:1], 1e-6, tmp_path / "out", [])


def test_results_come_in_pieces(stages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_stages, "PIECE_BYTES", 3000)
    run = tmp_path / "runs" / "stage1"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1}\n' * 2000)
    gpu_stages.write_results([run], tmp_path / "out")
    pieces = list((tmp_path / "out").iterdir())
    assert len(pieces) > 9
    assert max(piece.stat().st_size for piece in pieces) <= 3000
    gpu_stages.collect(tmp_path / "out", tmp_path / "back")
    assert (tmp_path / "back" / "stage1" / "metrics.jsonl").read_text() == '{"step": 1}\n' * 2000
    with pytest.raises(SystemExit, match="holds no results-1"):
        gpu_stages.collect(tmp_path, tmp_path / "back")


def test_the_script_says_how_it_is_used() -> None:
    ended = subprocess.run([RECIPE / "gpu.sh", "train", "8"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert all(f"gpu.sh {verb}" in ended.stdout for verb in ("pack", "unpack", "train", "bench", "collect", "rehearse"))


SHARED = os.environ.get("SOUNDWAVE_SPEECH"), os.environ.get("SOUNDWAVE_TEXTS")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(None in SHARED, reason="SOUNDWAVE_SPEECH and SOUNDWAVE_TEXTS name no folders of speech and texts")
def test_the_whole_way_to_a_gpu_and_back_is_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    environment = os.environ | {"SCALE": "0.002", "PYTHON": sys.executable}
    subprocess.run([RECIPE / "gpu.sh", "rehearse", *map(str, SHARED), tmp_path], env=environment, check=True)
    assert (tmp_path / "results" / "gpu-stage3" / "final" / "adapters.safetensors").is_file()
