"""Make the manifests of everyday sounds: folds 1 to 4 to train on, fold 5 to score with (ESC-10's own rule).

    python recipes/mini/make_sounds.py --sounds speech/sounds-esc10 --out tasks/sounds

Writes `OUT/train/manifest.jsonl` and `OUT/dev/manifest.jsonl`; the clips stay where they are. `label` is the answer.
Clips of one recording share a fold, so nothing that is scored was heard in training.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from soundwave.data.manifests import read_rows, write_rows
from soundwave.data.writers import relocated

DEV_FOLD = 5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, required=True, help="folder with manifest.jsonl: audio, label, fold")
    parser.add_argument("--out", type=Path, required=True, help="folder for train/ and dev/")
    return parser.parse_args()


def of_folds(rows: Iterable[dict[str, Any]], dev: bool) -> list[dict[str, Any]]:
    """The rows of the fold to score with, or of all others. Their empty text goes: nobody is known to be silent."""
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in rows
        if (row["fold"] == DEV_FOLD) == dev
    ]


def main() -> None:
    arguments = parse_arguments()
    for name in ("train", "dev"):
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        rows = (relocated(row.fields, row.folder, folder) for row in read_rows(arguments.sounds / "manifest.jsonl"))
        count = write_rows(folder / "manifest.jsonl", of_folds(rows, dev=name == "dev"))
        print(f"sounds/{name}: {count} clips")


if __name__ == "__main__":
    main()
