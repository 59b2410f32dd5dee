"""The data-efficiency curve: amounts lie inside each other, every point is a run, a second start runs nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import yaml
from tiny_data import rows_of

EFFICIENCY = Path(__file__).parents[1] / "recipes" / "efficiency"
if not EFFICIENCY.is_dir():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(EFFICIENCY))

import curve  # noqa: E402


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A stage I over tiny parts: 6.8 s of speech in eight clips."""
    made = tiny_runs.recipe(tmp_path, max_steps=2)
    values = dataclasses.asdict(made) | {"evaluation": [dataclasses.asdict(made.train[0])]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["curve.py", *map(str, arguments)])
    curve.main()


def test_a_smaller_amount_lies_inside_a_larger_one(recipe: Path, tmp_path: Path) -> None:
    (source,) = curve.read_recipe(recipe).train
    quarter, half = (curve.cut(source, share, tmp_path / f"{share}.jsonl", seed=3) for share in (0.25, 0.5))
    small, large = ([row["audio"] for row in rows_of(Path(one.manifest))] for one in (quarter, half))
    assert large[: len(small)] == small
    assert len(small) < len(large) < 8
    whole = curve.hours_of(source.manifest)
    assert curve.hours_of(half.manifest) == pytest.approx(whole / 2, abs=1.3 / 3600)  # the longest clip
    assert all(Path(audio).is_file() for audio in large)


def test_every_point_is_a_run_and_stands_in_the_file(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "curve"
    run(monkeypatch, "--hours", 0.0005, 0.001, "--out", out, "--recipe", recipe)
    points = json.loads(out.with_suffix(".json").read_text())["points"]
    assert [point["hours"] for point in points] == [0.0005, 0.001]
    assert all(0 <= point["ctc_wer"] <= 5 for point in points)
    assert out.with_suffix(".png").stat().st_size > 1000
    monkeypatch.setattr(curve, "train", lambda recipe: pytest.fail("it was done already"))
    run(monkeypatch, "--hours", 0.0005, 0.001, "--out", out, "--recipe", recipe)


def test_peoples_speech_and_made_speech_are_told_apart(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.safe_load(recipe.read_text())
    monkeypatch.setenv("WORK", str(tmp_path))
    made = shutil.copytree(Path(values["train"][0]["manifest"]).parent, tmp_path / "synth" / "voice")
    values["train"].append(values["train"][0] | {"manifest": str(made / "manifest.jsonl")})
    recipe.write_text(yaml.safe_dump(values))
    heard: list[list[str]] = []
    monkeypatch.setattr(curve, "measured", lambda recipe, *_: heard.append(
        [Path(source.manifest).parent.name for source in recipe.train]) or {"ctc_wer": 0.5})  # fmt: skip
    for speech in ("human", "made", "all"):
        run(monkeypatch, "--hours", 0.0005, "--speech", speech, "--seeds", 1, 2, "--out", tmp_path / "curve",
            "--recipe", recipe)  # fmt: skip
    assert heard == [["data"], ["data"], ["voice"], ["voice"], ["data", "voice"], ["data", "voice"]]
    points = json.loads((tmp_path / "curve.json").read_text())["points"]
    assert [(point["speech"], point["seed"]) for point in points] == [
        (speech, seed) for speech in ("all", "human", "made") for seed in (1, 2)
    ]


def test_more_hours_than_there_are_is_an_error(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--hours", 30, "--out", tmp_path / "curve", "--recipe", recipe)
    assert "--hours 30: the manifests hold 0.0 h; add more to the recipe" in capsys.readouterr().err
