"""A small part of a folder of speech, for a rehearsal: manifests with fewer lines, which name the clips where they are.

    python recipes/mini/cut_speech.py SPEECH --out WORK/speech --share 0.01
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

LEAST = 8  # clips of a manifest, where it has as many


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="holds folders with manifest.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--share", type=float, required=True, help="of each manifest's lines, between 0 and 1")
    arguments = parser.parse_args()
    if not 0 < arguments.share <= 1:
        parser.error(f"--share {arguments.share:g}: give a number above 0 and at most 1")
    manifests = sorted(arguments.speech.glob("*/manifest.jsonl"))
    if not manifests:
        parser.error(f"{arguments.speech} holds no folder with a manifest.jsonl")
    for manifest in manifests:
        kept = cut(manifest, arguments.share)
        target = arguments.out / manifest.parent.name / manifest.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
        print(f"{target.parent.name}: {len(kept)} clips")


def cut(manifest: Path, share: float) -> list[dict[str, object]]:
    """Some of a manifest's rows, from the first to the last, with absolute paths of their audio."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    wanted = min(len(rows), max(LEAST, round(len(rows) * share)))
    chosen = [rows[round(i * (len(rows) - 1) / max(1, wanted - 1))] for i in range(wanted)]
    return [row | {"audio": str((manifest.parent / row["audio"]).resolve())} for row in chosen]


if __name__ == "__main__":
    main()
