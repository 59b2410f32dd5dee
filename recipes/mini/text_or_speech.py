"""Stages II and III from speech alone, from text alone and from both, at equal steps; then questions, from the audio.

    SPEECH=… WORK=… python recipes/mini/text_or_speech.py --out runs/text-or-speech

`speech` learns from what stage2.yaml and stage3.yaml name, `text` from stage2-text.yaml and stage3-text.yaml, `both`
from half of each. All else is as in the latter, the alignment adapter at rest in all three. A run that was stopped goes
on; so does its evaluation. `text.sh` makes what is needed.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from soundwave.data.manifests import read_manifest
from soundwave.training.loop import train
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.recipe_io import read_recipe

HERE = Path(__file__).parent
ARMS = ("speech", "text", "both")


def examples(sources: list[DataSource]) -> float:
    """How many an epoch has."""
    return sum(source.repeat * sum(1 for _ in read_manifest(source.manifest)) for source in sources)


def arm_of(stage: int, arm: str) -> Recipe:
    """The recipe of a stage, with the data of an arm, and what both kinds of data need."""
    text, speech = read_recipe(HERE / f"stage{stage}-text.yaml"), read_recipe(HERE / f"stage{stage}.yaml")
    recipe = replace(
        text, time_masks=speech.time_masks, time_mask_frames=speech.time_mask_frames,
        feature_dropout=speech.feature_dropout, ctc_weight=0.0,
    )
    if arm == "speech":
        return replace(recipe, train=speech.train)
    if arm == "text":
        return recipe
    share = examples(speech.train) / examples(text.train)
    half = [replace(source, repeat=source.repeat * share) for source in text.train]
    return replace(recipe, train=[*speech.train, *half])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and their scores")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--steps", type=int, nargs=2, default=(650, 150), help="of stage II and III (%(default)s)")
    parser.add_argument("--questions", default="$SPEECH/dev-questions/manifest.jsonl", help="what is asked in the end")
    arguments = parser.parse_args()
    for arm in arguments.arms:
        folder = arguments.out / arm
        for stage, steps in zip((2, 3), arguments.steps, strict=True):
            recipe = replace(arm_of(stage, arm), output_dir=str(folder / f"stage{stage}"), max_steps=steps)
            if stage == 3:
                recipe.start_from = str(folder / "stage2" / "final")
            train(recipe)
        questions = read_recipe(HERE / "stage2-text.yaml", [f"train=[{{manifest: {arguments.questions}}}]"])
        score = arguments.out / f"{arm}.json"
        subprocess.run([
            sys.executable, "-m", "soundwave", "eval", questions.train[0].manifest, "--model",
            str(folder / "stage3" / "final"), "--task", "questions", "--via", "audio", "--out", str(score),
        ], check=True)
        result = json.loads(score.read_text(encoding="utf-8"))
        print(f"{arm}: {result['counts']['right']} of {result['clips']} questions answered from the audio", flush=True)


if __name__ == "__main__":
    main()
