"""The package's list of English words: those that occur at least twice in the recipe's texts, the most common first.

    python recipes/mini/word_list.py --texts TEXTS --out src/soundwave/inference/words/english.txt

Each is written as it mostly is inside a sentence: a name has a capital. `transcribe` puts these words where something
was spelt by ear (`inference/lexicon.py`) or misheard (`inference/rewording.py`). The list is part of the package and
need not be made anew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

WORD = re.compile(r"[A-Za-z](?:[A-Za-z']*[A-Za-z])?")
OPENING = " \"'(“"  # may stand before a sentence's first word
ENDS = ".?!:"
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
    """Words of several letters, and a and I, as they are written inside a sentence; equally common ones by alphabet."""
    counts: Counter[str] = Counter()
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    for text in _texts(files):
        for match in WORD.finditer(text):
            word, before = match.group(), text[: match.start()].rstrip(OPENING)
            counts[word.lower()] += 1
            if before and before[-1] not in ENDS and not text.isupper():
                forms[word.lower()][word] += 1
    kept = (word for word, count in counts.items() if count >= LEAST and (len(word) > 1 or word in "ai"))
    return [_usual(word, forms[word]) for word in sorted(kept, key=lambda word: (-counts[word], word))]


def _texts(files: list[Path]) -> Iterator[str]:
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                values = json.loads(line)
                for field in FIELDS:
                    if isinstance(values.get(field), str):
                        yield values[field].replace("’", "'")


def _usual(word: str, forms: Counter[str]) -> str:
    """How a word is mostly written; in small letters where that is as common, or not known."""
    return min(forms, key=lambda form: (-forms[form], form != word, form), default=word)


if __name__ == "__main__":
    main()
