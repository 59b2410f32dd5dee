"""Make spoken English sentences with their German translations: a training folder, and a held-out one.

    python recipes/mini/make_translations.py --texts texts --out tasks/translation --exclude speech/dev-*/manifest.jsonl

Sentences are Tatoeba's, short, and of the words that its short sentences use most: a small language model meets each
word often enough to learn its German. Each of `OUT/train` and `OUT/dev` gets FLAC clips and `manifest.jsonl` with
`text`, `translation`, and `answers`: all German sentences that Tatoeba gives for it. Sentences that other
training speech says already are never held out. A stopped run goes on.
"""

import argparse
import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from make_commands import DEV_VOICES, digest, say, words_of
from sentences import PLAIN, UNREADABLE, manifest_texts, tidy

from soundwave.datatools.synthesize import Line, Made, synthesise
from soundwave.datatools.voices import check_voices
from soundwave.files import claim_folder
from soundwave.text.normalizer import normalise_transcript

SOURCE = "translation-en-de.jsonl.gz"
TRAIN_VOICES = (
    "flite:awb,flite:rms,flite:slt,flite:slt,espeak:en-us,espeak:en-gb,espeak:en-us+m3,espeak:en-us+f1,"
    "espeak:en-gb+m2,espeak:en-us+f4"
)
FEWEST_WORDS, MOST_WORDS = 3, 8
SAID = 12000
POOL = 2.0  # sentences are drawn from so many times as many of the commonest ones, for some breadth
GERMAN = re.compile(r"[A-ZÄÖÜa-zäöüß ,.!?-]+")


@dataclass(frozen=True)
class Pair:
    """One English sentence, its words, and its German ones, the one of the commonest words first."""

    english: str
    words: tuple[str, ...]
    german: tuple[str, ...]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help=f"folder with {SOURCE}")
    parser.add_argument("--out", type=Path, required=True, help="folder for train/ and dev/")
    parser.add_argument("--train", type=int, default=2000, help="clips to train on (%(default)s)")
    parser.add_argument("--dev", type=int, default=100, help="clips to score with (%(default)s)")
    parser.add_argument("--train-voices", default=TRAIN_VOICES, help="(%(default)s)")
    parser.add_argument("--dev-voices", default=DEV_VOICES, help="(%(default)s)")
    parser.add_argument("--heard", type=Path, nargs="*", default=[], help="manifests of other training speech")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="manifests whose texts are not spoken")
    parser.add_argument("--said", type=Path, help=f"also write {SAID} more training sentences, for a bank of units")
    parser.add_argument("--seed", type=int, default=12, help="fixes sentences, voices, speeds (%(default)s)")
    return parser.parse_args()


def read_pairs(path: Path) -> list[Pair]:
    """Readable short sentences, each once, those of common words first."""
    found: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            english, german = tidy(row["en"], "prose"), " ".join(row["de"].split())
            words = tuple((normalise_transcript(english) or "").split())
            readable = PLAIN.fullmatch(english) and not UNREADABLE.search(english) and GERMAN.fullmatch(german)
            if readable and FEWEST_WORDS <= len(words) <= MOST_WORDS:
                found.setdefault(words, (english, []))[1].append(german)
    english_count = Counter(word for words in found for word in words)
    german_count = Counter(word for _, texts in found.values() for word in _words(texts[0]))

    def rarest(words: Iterable[str], count: Counter[str]) -> int:
        return min((count[word] for word in words), default=0)

    pairs = []
    for words, (english, texts) in found.items():
        common_first = sorted(dict.fromkeys(texts), key=lambda text: -rarest(_words(text), german_count))
        pairs.append(Pair(english, words, tuple(common_first)))
    return sorted(
        pairs, key=lambda pair: -min(rarest(pair.words, english_count), rarest(_words(pair.german[0]), german_count))
    )


def split(
    pairs: list[Pair], train: int, dev: int, seed: int, *,
    heard: Iterable[tuple[str, ...]] = (), excluded: Iterable[tuple[str, ...]] = (),
) -> tuple[list[Line], list[Line]]:
    """Training lines and held-out ones, drawn alike from the commonest; no sentence is in both.

    A held-out sentence shares its German with no training sentence either: it cannot be answered from memory.

    Args:
        pairs: from `read_pairs`.
        train, dev: how many of each, at most.
        seed: fixes the choice and the order.
        heard: word sequences that are not held out.
        excluded: word sequences that are not spoken at all.
    """
    known, unwanted = set(heard), set(excluded)
    pool = [pair for pair in pairs if pair.words not in unwanted][: round(POOL * (train + dev))]
    random.Random(seed).shuffle(pool)
    held = [pair for pair in pool if pair.words not in known][:dev]
    answers = {german for pair in held for german in pair.german}  # of the held-out sentences too
    spoken = [pair for pair in pool if answers.isdisjoint(pair.german)][:train]
    return [_line(pair) for pair in spoken], [_line(pair) for pair in held]


def apart(pairs: Iterable[Pair], held: Iterable[Line], unwanted: Container[tuple[str, ...]]) -> list[Line]:
    """All sentences that share neither their English nor their German with held-out ones."""
    english = {words_of(line.text) for line in held}
    german = {text for line in held for text in line.fields["answers"]}
    return [
        _line(pair) for pair in pairs
        if pair.words not in english and pair.words not in unwanted and german.isdisjoint(pair.german)
    ]


def _line(pair: Pair) -> Line:
    fields = {"translation": pair.german[0], "answers": list(pair.german), "kind": "translation", "language": "en"}
    return Line(pair.english, {**fields, "source": SOURCE, "licence": "texts CC BY 2.0 FR (Tatoeba)"})


def _words(text: str) -> list[str]:
    return re.findall(r"[a-zäöüß]+", text.lower())


def main() -> None:
    arguments = parse_arguments()
    voices = {"train": arguments.train_voices.split(","), "dev": arguments.dev_voices.split(",")}
    check_voices([*voices["train"], *voices["dev"]])
    pairs, unwanted = read_pairs(arguments.texts / SOURCE), set(manifest_texts(arguments.exclude))
    train, dev = split(
        pairs, arguments.train, arguments.dev, arguments.seed, heard=manifest_texts(arguments.heard), excluded=unwanted
    )
    if arguments.said:
        say(apart(pairs, dev, unwanted)[:SAID], arguments.said)
    plan = digest([*train, *dev])
    claim_folder(arguments.out, {"lines": plan, "train_voices": voices["train"], "dev_voices": voices["dev"]})
    for name, lines, seed in (("train", train, arguments.seed), ("dev", dev, arguments.seed + 1)):
        def told(made: Made, name: str = name, count: int = len(lines)) -> None:
            if made.clips % 200 == 0:
                print(f"translation/{name}: {made.before + made.clips} of {count} clips", flush=True)

        made = synthesise(lines, arguments.out / name, voices[name], seed=seed, progress=told)
        hours = f"{made.seconds / 3600:.2f} h"
        print(f"translation/{name}: {made.before + made.clips} clips, {hours}, {made.dropped} dropped")


if __name__ == "__main__":
    main()
