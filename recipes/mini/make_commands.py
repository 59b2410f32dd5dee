"""Make spoken commands with their intents: a training folder, and a held-out one of other sentences and other voices.

    python recipes/mini/make_commands.py --texts texts --out tasks/commands --heard speech/*/manifest.jsonl

Texts are CLINC150's, of two dozen intents that are frequent and clearly apart. Each of `OUT/train` and `OUT/dev` gets
FLAC clips and `manifest.jsonl` with `text` and `intent`. Sentences that other training speech says already are never
held out. A stopped run goes on.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from casing import WORD, Truecase
from num2words import num2words
from sentences import PLAIN, UNREADABLE, manifest_texts, tidy

from soundwave.data.example import WRITTEN
from soundwave.data.manifests import write_rows
from soundwave.datatools.synthesize import Line, Made, synthesise
from soundwave.datatools.voices import check_voices
from soundwave.files import claim_folder
from soundwave.text.normalizer import normalise_transcript

SOURCE = "commands-clinc150.jsonl.gz"
EVERYDAY = "prose-common-voice.jsonl.gz"
OTHERS = ("prose-books.jsonl.gz", "prose-mixed.jsonl.gz")  # books write some words with capitals of their own
WELL_KNOWN = 4  # commands
INTENTS = (
    "alarm", "timer", "weather", "time", "date", "play_music", "next_song", "change_volume", "make_call", "text",
    "directions", "traffic", "flip_coin", "roll_dice", "tell_joke", "find_phone", "translate", "spelling",
    "definition", "book_flight", "restaurant_reservation", "shopping_list_update", "calories", "smart_home",
)
TRAIN_VOICES = (
    "flite:awb,flite:rms,flite:slt,flite:slt,espeak:en-us,espeak:en-gb,espeak:en-us+m1,espeak:en-us+f2,"
    "espeak:en-gb+m4,espeak:en-gb+f3,espeak:en-gb-scotland"
)
# One person's voice, who reads prose elsewhere in mini's training, and machines that are heard nowhere else in it.
DEV_VOICES = "piper:joe,piper:joe,flite:kal16,espeak:en-us+m5,espeak:en-us+f5,espeak:en-gb-x-rp"
MOST_WORDS = 14
SMALL_NUMBER = re.compile(r"(?<![\d:.,$#])\b\d{1,2}\b(?![\d:.,%]\d|:|%)")  # "10 minutes", not "6:30" or "$10"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help=f"folder with {SOURCE}")
    parser.add_argument("--out", type=Path, required=True, help="folder for train/ and dev/")
    parser.add_argument("--train", type=int, default=1500, help="clips to train on (%(default)s)")
    parser.add_argument("--dev", type=int, default=150, help="clips to score with (%(default)s)")
    parser.add_argument("--train-voices", default=TRAIN_VOICES, help="(%(default)s)")
    parser.add_argument("--dev-voices", default=DEV_VOICES, help="(%(default)s)")
    parser.add_argument("--heard", type=Path, nargs="*", default=[], help="manifests of other training speech")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="manifests whose texts are not spoken")
    parser.add_argument("--said", type=Path, help="also write all training sentences, each once, for a bank of units")
    parser.add_argument("--seed", type=int, default=11, help="fixes sentences, voices, speeds (%(default)s)")
    return parser.parse_args()


def prose_of(folder: Path, name: str) -> list[str]:
    """The cased sentences of a text file, if it is there: they show which words there are, and which are names."""
    if not (folder / name).exists():
        return []
    with gzip.open(folder / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


class Spelling:
    """How a word is written in everyday sentences; in other prose, where it is not among those."""

    def __init__(self, everyday: Iterable[str], others: Iterable[str]) -> None:
        everyday, others = list(everyday), list(others)
        self.words = vocabulary(everyday)
        self.others = vocabulary(others)
        self._everyday, self._others = Truecase(everyday), Truecase(others)

    def __call__(self, word: str) -> str:
        return self._everyday(word) if word.lower() in self.words else self._others(word)


def vocabulary(texts: Iterable[str]) -> set[str]:
    return {word.lower() for text in texts for word in WORD.findall(text)}


def written(text: str, spelling: Spelling) -> str:
    """The command as a written sentence, names with capitals and small whole numbers as words."""
    spelt = SMALL_NUMBER.sub(lambda number: num2words(int(number.group())), text)
    return tidy(WORD.sub(lambda word: spelling(word.group()), spelt), "command")


def read_commands(path: Path, spelling: Spelling) -> dict[str, list[str]]:
    """Intent to its readable sentences, each once.

    A word that is in no prose and not in several commands is likely misspelt, or a name whose capital is lost:
    sentences with such words are left out.
    """
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    counts = Counter(word for row in rows for word in vocabulary([row["text"]]))
    known = spelling.words | spelling.others | {word for word, count in counts.items() if count >= WELL_KNOWN}
    found: dict[str, dict[tuple[str, ...], str]] = {intent: {} for intent in INTENTS}
    for row in rows:
        text = written(row["text"], spelling)
        words = words_of(text)
        readable = PLAIN.fullmatch(text) and not UNREADABLE.search(text) and known.issuperset(vocabulary([text]))
        if row["intent"] in found and readable and 2 <= len(words) <= MOST_WORDS:
            found[row["intent"]].setdefault(words, text)
    return {intent: list(texts.values()) for intent, texts in found.items()}


def split(
    commands: dict[str, list[str]], train: int, dev: int, seed: int, *,
    heard: Iterable[tuple[str, ...]] = (), excluded: Iterable[tuple[str, ...]] = (),
) -> tuple[list[Line], list[Line]]:
    """Training lines and held-out ones, every intent as often; no sentence is in both.

    Args:
        commands: from `read_commands`.
        train, dev: how many of each; an intent with fewer sentences is said several times by other voices.
        seed: fixes the choice and the order.
        heard: word sequences that are not held out.
        excluded: word sequences that are not spoken at all.
    """
    draw = random.Random(seed)
    known, unwanted = set(heard), set(excluded)
    # One sentence can be under two intents; it belongs to the first.
    texts, taken = {}, set(unwanted)
    for intent, pool in commands.items():
        texts[intent] = [text for text in pool if words_of(text) not in taken]
        taken |= {words_of(text) for text in pool}
    lines: tuple[list[Line], list[Line]] = ([], [])
    for number, (intent, pool) in enumerate(texts.items()):
        draw.shuffle(pool)
        held = [text for text in pool if words_of(text) not in known][: _share(dev, len(texts), number)]
        rest = [text for text in pool if text not in held]
        spoken = [rest[i % len(rest)] for i in range(_share(train, len(texts), number) if rest else 0)]
        for target, chosen in zip(lines, (spoken, held), strict=True):
            fields = {"intent": intent.replace("_", " "), "kind": "command", "language": "en", "source": SOURCE}
            target += [Line(text, fields) for text in chosen]
    for target in lines:
        draw.shuffle(target)
    return lines


def say(lines: Iterable[Line], path: Path) -> None:
    """Writes sentences, each once, as rows whose words stand in the place of a recording."""
    rows = {
        line.text: {"audio": f"{WRITTEN}{' '.join(words_of(line.text))}", "text": line.text, **line.fields}
        for line in lines
    }
    print(f"{write_rows(path, rows.values())} texts to say in {path}")


def digest(lines: Iterable[Line]) -> str:
    """Names a plan: a folder that was begun with another one is not gone on with, since its clips count by place."""
    return hashlib.sha256("\n".join(line.text for line in lines).encode()).hexdigest()[:16]


def words_of(text: str) -> tuple[str, ...]:
    return tuple((normalise_transcript(text) or "").split())


def _share(count: int, parts: int, number: int) -> int:
    """How many of `count` fall to one of `parts` that are as alike as can be."""
    return count // parts + (number < count % parts)


def main() -> None:
    arguments = parse_arguments()
    voices = {"train": arguments.train_voices.split(","), "dev": arguments.dev_voices.split(",")}
    check_voices([*voices["train"], *voices["dev"]])
    spelling = Spelling(
        prose_of(arguments.texts, EVERYDAY), (text for name in OTHERS for text in prose_of(arguments.texts, name))
    )
    commands = read_commands(arguments.texts / SOURCE, spelling)
    known = {"heard": list(manifest_texts(arguments.heard)), "excluded": list(manifest_texts(arguments.exclude))}
    train, dev = split(commands, arguments.train, arguments.dev, arguments.seed, **known)
    if arguments.said:
        every = len(commands) * max(map(len, commands.values()))  # each sentence of the largest intent, and so of all
        say(split(commands, every, arguments.dev, arguments.seed, **known)[0], arguments.said)
    plan = digest([*train, *dev])
    claim_folder(arguments.out, {"lines": plan, "train_voices": voices["train"], "dev_voices": voices["dev"]})
    for name, lines, seed in (("train", train, arguments.seed), ("dev", dev, arguments.seed + 1)):
        def told(made: Made, name: str = name, count: int = len(lines)) -> None:
            if made.clips % 200 == 0:
                print(f"commands/{name}: {made.before + made.clips} of {count} clips", flush=True)

        made = synthesise(lines, arguments.out / name, voices[name], seed=seed, progress=told)
        print(f"commands/{name}: {made.before + made.clips} clips, {made.seconds / 3600:.2f} h, {made.dropped} dropped")


if __name__ == "__main__":
    main()
