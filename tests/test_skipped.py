"""What cannot be read is named once in a run, and counted at its end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny_runs

from soundwave.training.loop import train
from soundwave.training.reporting import Skipped


def test_the_same_is_named_once_and_counted_at_the_end() -> None:
    told: list[str] = []
    skipped = Skipped(told.append)
    for name in ("a.tar", "b.tar", "a.tar", "a.tar"):
        skipped.name(name, f"{name}: it breaks off")
    assert told == ["skipped: a.tar: it breaks off", "skipped: b.tar: it breaks off"]
    skipped.count()
    assert told[2:] == ["skipped, each as named above: 2, met 4 times in all"]


def test_nothing_is_said_at_the_end_of_what_was_met_once_or_never() -> None:
    told: list[str] = []
    skipped = Skipped(told.append)
    skipped.count()
    skipped.name("a.tar", "a.tar: it breaks off")
    skipped.count()
    assert told == ["skipped: a.tar: it breaks off"]


def test_a_clip_that_is_met_in_each_epoch_is_named_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_runs.recipe(tmp_path, features=None, max_steps=12)
    (tmp_path / "data" / "3.wav").write_text("no sound")
    train(dataclasses.replace(recipe, train=[dataclasses.replace(recipe.train[0], speeds=[0.9, 1.0])]))
    told = capfd.readouterr().err
    assert told.count("3.wav") == 1
    assert "skipped, each as named above: 1, met " in told
