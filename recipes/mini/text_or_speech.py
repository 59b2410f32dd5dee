"""Stages II and III from speech alone, from text alone and from both, at equal steps; then questions, from the audio.

    SPEECH=… WORK=… python recipes/mini/text_or_speech.py --out runs/text-or-speech --steps 130 80

After `reproduce.sh`, whose stage I, bank and data are used. `both` is stage2.yaml and stage3.yaml as they are, `speech`
what they have of recordings, `text` what a bank of units says. A run that was stopped goes on; so does its evaluation.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from soundwave.training.loop import train
from soundwave.training.recipe import Recipe
from soundwave.training.recipe_io import read_recipe

HERE = Path(__file__).parent
ARMS = ("speech", "text", "both")


def arm_of(stage: int, arm: str) -> Recipe:
    """The recipe of a stage with the data of an arm."""
    recipe = read_recipe(HERE / f"stage{stage}.yaml")
    kept = [source for source in recipe.train if arm == "both" or (source.simulate is None) == (arm == "speech")]
    return replace(recipe, train=kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and their scores")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--steps", type=int, nargs=2, default=(500, 420), help="of stage II and III (%(default)s)")
    parser.add_argument("--start", help="what stage II starts from, instead of what its recipe names")
    parser.add_argument("--questions", default="$SPEECH/dev-questions/manifest.jsonl", help="what is asked in the end")
    arguments = parser.parse_args()
    for arm in arguments.arms:
        folder = arguments.out / arm
        for stage, steps in zip((2, 3), arguments.steps, strict=True):
            recipe = replace(arm_of(stage, arm), output_dir=str(folder / f"stage{stage}"), max_steps=steps)
            if stage == 3:
                recipe.start_from = str(folder / "stage2" / "final")
            elif arguments.start:
                recipe.start_from = arguments.start
            train(recipe)
        questions = read_recipe(HERE / "stage2.yaml", [f"train=[{{manifest: {arguments.questions}}}]"])
        score = arguments.out / f"{arm}.json"
        subprocess.run([
            sys.executable, "-m", "soundwave", "eval", questions.train[0].manifest, "--model",
            str(folder / "stage3" / "final"), "--task", "questions", "--via", "audio", "--out", str(score),
        ], check=True)
        result = json.loads(score.read_text(encoding="utf-8"))
        print(f"{arm}: {result['counts']['right']} of {result['clips']} questions answered from the audio", flush=True)


if __name__ == "__main__":
    main()
