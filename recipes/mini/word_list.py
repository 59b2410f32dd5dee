"""The package's list of English words: those that occur at least twice in the recipe's texts, the most common first.

    python recipes/mini/word_list.py --texts TEXTS --out src/soundwave/inference/words/english.txt

`transcribe` puts these words where something was spelt by ear (`inference/lexicon.py`). The list is part of the package
and need not be made anew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from pathlib import Path

WORD = re.compile(r"[a-z](?:[a-z']*[a-z])?")
FIELDS = ("text", "question", "en")
LEAST = 2  # occurrences


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the .jsonl.gz text files")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    files = sorted(arguments.texts.glob("*.jsonl.gz"))
    if not files:
        parser.error(f"{arguments.texts} holds no .jsonl.gz files")
    words = common_words(files)
    arguments.out.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    print(f"{len(words)} words in {arguments.out}")


def common_words(files: list[Path]) -> list[str]:
    """Words of several letters, and a and i; equally common ones in alphabetical order."""
    counts: Counter[str] = Counter()
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                values = json.loads(line)
                for field in FIELDS:
                    if isinstance(values.get(field), str):
                        counts.update(WORD.findall(values[field].lower().replace("’", "'")))
    kept = (word for word, count in counts.items() if count >= LEAST and (len(word) > 1 or word in "ai"))
    return sorted(kept, key=lambda word: (-counts[word], word))


if __name__ == "__main__":
    main()
