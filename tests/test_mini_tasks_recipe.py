"""The making of mini's stage III data: what is held out, and that it was heard nowhere else."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tiny_data import clip, manifest, rows_of

RECIPE = Path(__file__).parents[1] / "recipes" / "mini"
if not RECIPE.is_dir():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(RECIPE))

make_commands = pytest.importorskip("make_commands")
make_translations = pytest.importorskip("make_translations")
words_of = make_commands.words_of
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def packed(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def commands() -> dict[str, list[str]]:
    return {intent: [f"{intent} number {number}." for number in NUMBERS] for intent in ("alarm", "tell_joke")}


# --- commands


def test_a_command_is_written_as_it_is_said() -> None:
    others = ["He flew to Dallas. By Volume two. A Volume."]
    spelling = make_commands.Spelling(["We called Alice at the volume."], others)
    assert make_commands.written("call alice in 10 minutes", spelling) == "Call Alice in ten minutes."
    assert make_commands.written("volume up for dallas", spelling) == "Volume up for Dallas."
    assert make_commands.written("turn the volume up", spelling) == "Turn the volume up."  # everyday sentences decide
    assert make_commands.written("what is 21 times 3", spelling) == "What is twenty-one times three?"
    assert make_commands.written("wake me at 6:30", spelling) == "Wake me at 6:30."  # nobody knows how it is said


def test_only_known_intents_and_readable_sentences_are_taken(tmp_path: Path) -> None:
    texts = [("ring at six", "alarm"), ("ring at six!", "alarm"), ("ring at 6:30", "alarm"), ("my rate", "apr")]
    texts += [("rign at six", "alarm")]  # misspelt
    path = packed(tmp_path / "c.gz", [{"text": text, "intent": intent} for text, intent in texts])
    found = make_commands.read_commands(path, make_commands.Spelling(["They ring at six."], []))
    assert {intent: pool for intent, pool in found.items() if pool} == {"alarm": ["Ring at six."]}


def test_commands_are_shared_out_evenly_and_nothing_is_in_both_parts() -> None:
    train, dev = make_commands.split(commands(), 12, 5, seed=1)
    assert Counter(line.fields["intent"] for line in train) == {"alarm": 6, "tell joke": 6}
    assert Counter(line.fields["intent"] for line in dev) == {"alarm": 3, "tell joke": 2}
    assert not {line.text for line in train} & {line.text for line in dev}


def test_few_sentences_are_said_again_rather_than_held_out_ones() -> None:
    train, dev = make_commands.split(commands(), 40, 4, seed=1)
    assert Counter(line.fields["intent"] for line in train) == {"alarm": 20, "tell joke": 20}
    assert not {line.text for line in train} & {line.text for line in dev}


def test_what_other_training_speech_says_is_never_held_out_and_test_texts_are_never_spoken() -> None:
    heard = [words_of(text) for text in commands()["alarm"][:8]]
    excluded = [words_of("alarm number nine")]
    train, dev = make_commands.split(commands(), 18, 10, seed=1, heard=heard, excluded=excluded)
    assert {line.text for line in dev if line.fields["intent"] == "alarm"} == {"alarm number ten."}
    assert "alarm number nine." not in {line.text for line in train + dev}


def test_a_sentence_of_two_intents_is_under_one() -> None:
    pool = {"alarm": ["Wake me.", "Ring."], "timer": ["Wake me.", "Count."]}
    train, dev = make_commands.split(pool, 4, 0, seed=1)
    assert sorted((line.text, line.fields["intent"]) for line in train) == [
        ("Count.", "timer"), ("Count.", "timer"), ("Ring.", "alarm"), ("Wake me.", "alarm"),
    ]
    assert dev == []


# --- translation


def pairs_of(folder: Path, *texts: tuple[str, str]) -> list[object]:
    return make_translations.read_pairs(packed(folder / "t.gz", [{"en": en, "de": de} for en, de in texts]))


def test_common_words_come_first_and_all_translations_are_kept(tmp_path: Path) -> None:
    pairs = pairs_of(
        tmp_path, ("He saw platypuses.", "Er sah Schnabeltiere."), ("He saw me.", "Er sah mich."),
        ("He saw me!", "Er hat mich gesehen."), ("He saw me.", "Er sah mich."), ("Go.", "Geh."),
        ("He saw 3 of us.", "Er sah 3."), ("She saw me.", "Sie sah mich."),
    )
    assert [(pair.english, pair.german) for pair in pairs if pair.english.startswith("He")] == [
        ("He saw me.", ("Er sah mich.", "Er hat mich gesehen.")), ("He saw platypuses.", ("Er sah Schnabeltiere.",)),
    ]


def test_a_held_out_sentence_shares_neither_words_nor_german(tmp_path: Path) -> None:
    texts = [(f"I have {number} books.", f"Ich habe Buch {number}.") for number in NUMBERS]
    texts += [("I own ten books.", "Ich habe Buch ten."), ("I own one book.", "Ich habe Buch one.")]
    for seed in range(8):
        train, dev = make_translations.split(pairs_of(tmp_path, *texts), 8, 3, seed)
        assert len(dev) == 3
        assert not {line.text for line in train} & {line.text for line in dev}
        german = [{answer for line in part for answer in line.fields["answers"]} for part in (train, dev)]
        assert not german[0] & german[1]


def test_translations_heard_elsewhere_are_not_held_out(tmp_path: Path) -> None:
    texts = [(f"I have {number} books.", f"Ich habe Buch {number}.") for number in NUMBERS]
    heard = [words_of(text) for text, _ in texts[1:]]
    _, dev = make_translations.split(
        pairs_of(tmp_path, *texts), 8, 3, 0, heard=heard, excluded=[words_of("I have ten books.")]
    )
    assert [line.text for line in dev] == ["I have one books."]


# --- the scripts


def told_by(script: str, *arguments: object) -> str:
    order = [sys.executable, RECIPE / script, *map(str, arguments)]
    done = subprocess.run(order, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_sounds_are_parted_by_fold(tmp_path: Path) -> None:
    clip(tmp_path / "in" / "a.wav")
    manifest(tmp_path / "in", *[
        {"audio": "a.wav", "text": None, "label": f"sound {fold}", "fold": fold} for fold in range(1, 6)
    ], name="manifest.jsonl")
    assert "sounds/dev: 1 clips" in told_by("make_sounds.py", "--sounds", tmp_path / "in", "--out", tmp_path / "out")
    parts = {name: rows_of(tmp_path / "out" / name / "manifest.jsonl") for name in ("train", "dev")}
    assert [row["fold"] for row in parts["train"]] == [1, 2, 3, 4]
    assert [row["fold"] for row in parts["dev"]] == [5]
    (row,) = parts["dev"]
    assert (tmp_path / "out" / "dev" / row["audio"]).resolve() == tmp_path / "in" / "a.wav"
    assert "text" not in row


@needs_espeak
def test_commands_are_spoken_with_their_intents_by_other_voices_in_each_part(tmp_path: Path) -> None:
    rows = [{"text": f"set an alarm for {number}", "intent": "alarm"} for number in NUMBERS]
    packed(tmp_path / "texts" / make_commands.SOURCE, rows)
    packed(tmp_path / "texts" / make_commands.EVERYDAY, [{"text": f"We saw {' '.join(NUMBERS)}."}])
    order = ["--texts", tmp_path / "texts", "--out", tmp_path / "out", "--train", "48", "--dev", "24"]
    order += ["--train-voices", "espeak:en-us", "--dev-voices", "espeak:en-gb"]
    assert "commands/dev: 1 clips" in told_by("make_commands.py", *order)
    parts = {name: rows_of(tmp_path / "out" / name / "manifest.jsonl") for name in ("train", "dev")}
    assert [row["intent"] for row in parts["train"]] == ["alarm", "alarm"]
    assert {row["speaker"].split("/")[0] for row in parts["train"]} == {"espeak:en-us"}
    assert {row["speaker"].split("/")[0] for row in parts["dev"]} == {"espeak:en-gb"}
    # The clips of a plan count by place: another plan must not go on in its folder.
    assert "made with" in told_by("make_commands.py", *order, "--seed", "7")
    assert "0 dropped" in told_by("make_commands.py", *order)
