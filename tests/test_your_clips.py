"""Your own clips in, a tuned mini out: recipes/finetune/your-clips.yaml, from recordings to a model that knows them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny_runs

import soundwave
from soundwave.training.loop import train
from soundwave.training.recipe_io import read_recipe
from soundwave.training.reporting import held_out_scores

RECIPE = Path(__file__).parents[1] / "recipes" / "finetune" / "your-clips.yaml"
NAMES = ["Zorvane", "Quillip", "Bexley Thorn", "Marrowick"]  # no text that mini was trained on has them
TAUGHT = [
    "{} is the first to arrive.", "Please call {} before noon.", "I met {} at the station.",
    "Where did {} put the keys?", "We should ask {} about it.", "{} and the doctor are waiting.",
]
HELD_OUT = ["I think {} is right.", "Please wait for {} at the station."]


def recorded(folder: Path, name: str, sentences: list[str]) -> Path:
    """Clips of one voice that mini was not trained on, and their manifest."""
    rows = []
    for number, text in enumerate(sentences):
        clip = folder / f"{name}-{number}.wav"
        subprocess.run(["espeak-ng", "-v", "en-gb+f4", "-s", "150", "-p", "70", "-w", clip, text], check=True)
        rows.append({"audio": clip.name, "text": text})
    return tiny_runs.manifest_of(folder, rows, f"{name}.jsonl")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")
def test_clips_become_a_model_that_makes_fewer_errors_on_others_of_their_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA", str(tmp_path))
    recorded(tmp_path, "train", [sentence.format(name) for sentence in TAUGHT for name in NAMES])
    recorded(tmp_path, "dev", [sentence.format(name) for sentence in HELD_OUT for name in NAMES])
    untrained = ["max_steps=1", "learning_rate=1e-9", "output_dir=untrained"]
    train(read_recipe(RECIPE, untrained))
    (before,) = held_out_scores(tiny_runs.losses("untrained"), "ctc_wer").values()
    final = train(read_recipe(RECIPE))
    scores = held_out_scores(tiny_runs.losses("runs/your-clips"), "ctc_wer")
    print(json.dumps({"before": before, "after": scores}))
    assert min(scores.values()) < 0.7 * before
    said = soundwave.load(str(final)).transcribe(tmp_path / "dev-0.wav").text
    assert len(said.split()) in range(3, 8)
