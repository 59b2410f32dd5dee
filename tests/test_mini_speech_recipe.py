"""The making of mini's speech: which sentences are read aloud, and how labels are written."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundwave.datatools import synthesize
from soundwave.datatools.asr import Heard
from soundwave.datatools.voices import Take
from soundwave.errors import DataError

RECIPE = Path(__file__).parents[1] / "recipes" / "mini"
if not RECIPE.is_dir():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(RECIPE))

casing = pytest.importorskip("casing")
label_speech = pytest.importorskip("label_speech")
make_piper = pytest.importorskip("make_piper")
sentences = pytest.importorskip("sentences")


def spoken(text: str, kind: str = "prose") -> object:
    return sentences.Sentence(text, tuple(casing.words_of(text)), kind, "test")


def test_text_is_tidied_to_a_written_sentence() -> None:
    assert sentences.tidy("“it’s  late--go home”", "prose") == "It's late, go home."
    assert sentences.tidy("what do i owe", "command") == "What do I owe?"
    assert sentences.tidy("play some music", "command") == "Play some music."


def test_only_sentences_that_sound_as_they_are_written_are_read(tmp_path: Path) -> None:
    lines = [
        "All is well here.",
        "Room 5 is free.",
        "The BBC said so.",
        "Ask J. Smith.",
        "Yes.",
        "Café is open.",
        "a & b",
    ]
    with gzip.open(tmp_path / "prose-harvard.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": line}) + "\n" for line in lines)
    assert [one.text for one in sentences.read_sentences(tmp_path)] == ["All is well here."]


def test_the_choice_prefers_words_not_heard_yet_and_never_takes_what_is_excluded() -> None:
    pool = [spoken("The dog ran home."), spoken("The dog ran away."), spoken("Seven purple comets burned.")]
    heard = [("the", "dog", "ran", "home", "away")] * 9
    assert next(sentences.choose(pool, {"prose": 1.0}, already=heard)).text == "Seven purple comets burned."
    chosen = sentences.choose(pool, {"prose": 1.0}, excluded=[("seven", "purple", "comets", "burned")])
    assert sorted(one.text for one in chosen) == ["The dog ran away.", "The dog ran home."]


def test_the_same_seed_gives_the_same_order() -> None:
    pool = [spoken(f"Word {'a' * n} comes now.") for n in range(2, 30)]
    first, second = (list(sentences.choose(pool, {"prose": 1.0}, seed=3)) for _ in range(2))
    assert first == second


def test_casing_is_taken_where_the_words_agree_and_the_words_never_change() -> None:
    truecase = casing.Truecase(["They met Anna in Rome.", "So Anna left."])
    table = {
        ("IT WAS ANNA'S IDEA HE SAID", "It was Anna's idea, he said."): "It was Anna's idea, he said.",
        ("WE SAW ANNA IN ROME", ""): "We saw Anna in Rome.",
        ("NORTHANGER ABBEY", "Norfanger Abbey"): "Northanger Abbey.",
        ("where are you going", ""): "Where are you going?",
        ("HE LEFT SHE STAYED", "He left. She stayed!"): "He left. She stayed!",
    }
    for (reference, heard), written in table.items():
        text, _ = casing.with_casing(reference, heard, truecase)
        assert text == written
        assert casing.words_of(text) == casing.words_of(reference)


def test_a_transcript_in_one_case_needs_casing_and_a_written_one_does_not() -> None:
    assert casing.needs_casing("NOW ARE YOU GOING")
    assert casing.needs_casing("not to stop more than ten minutes")
    assert not casing.needs_casing("Please call Stella.")


class Whisper:
    """Hears given texts, one a call, and notes the beams of each."""

    def __init__(self, *texts: str, logprob: float = -0.2) -> None:
        self.texts, self.logprob = list(texts), logprob
        self.calls: list[int] = []

    def __call__(self, samples: np.ndarray, beams: int) -> Heard:
        self.calls.append(beams)
        return Heard(self.texts.pop(0), self.logprob)


def labelled(tmp_path: Path, text: str | None, whisper: Whisper, most: float | None = None) -> Any:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    row = {"text": text, "audio": "a.wav"}
    return label_speech.label(row, tmp_path / "a.wav", whisper, casing.Truecase([]), -0.6, most)


def test_a_clip_without_text_gets_the_words_that_two_decodings_agree_on(tmp_path: Path) -> None:
    whisper = Whisper(" It's late, go home", "it is late; go home.")
    made = labelled(tmp_path, None, whisper)
    assert (made["text"], made["transcript"]) == ("It's late, go home.", "it's late go home")
    assert whisper.calls == [1, 5]
    assert labelled(tmp_path, None, Whisper("It's late.", "It's great.")) is None
    assert labelled(tmp_path, None, Whisper("It's late.", "It's late.", logprob=-0.7)) is None
    assert labelled(tmp_path, None, Whisper("...")) is None  # nothing was heard: it is not asked again


def test_a_clip_in_which_too_many_other_words_are_heard_is_dropped(tmp_path: Path) -> None:
    text = "the dog ran home"
    assert labelled(tmp_path, text, Whisper("The cat sat home."), most=0.5)["wer"] == 0.5
    assert labelled(tmp_path, text, Whisper("The cat sat there."), most=0.5) is None
    assert labelled(tmp_path, text, Whisper("Well, the dog ran home and did not come."), most=0.5) is None
    written = labelled(tmp_path, "The dog ran home", Whisper("The dog ran home."), most=0.5)
    assert (written["text"], written["labels"], written["wer"]) == ("The dog ran home.", "source", 0.0)
    unasked = Whisper()
    assert "wer" not in labelled(tmp_path, "The dog ran home", unasked)
    assert not unasked.calls  # what is written needs nobody to hear it


def test_piper_says_each_text_as_the_manifest_tells() -> None:
    row = {"text": "He left.", "speaker": "joe0.92", "kind": "prose", "audio": "00000.ogg", "duration": 1.2}
    line = make_piper.line_of(row, "m:1")
    assert line.take == Take("piper:joe", 1.0, 67.0, 0.92)
    assert (line.text, line.fields) == ("He left.", {"kind": "prose"})
    for wrong in ({"speaker": "slt0.92"}, {"text": ""}):
        with pytest.raises(DataError, match=r"m:1: give a text and a speaker such as joe0\.92"):
            make_piper.line_of(row | wrong, "m:1")


def test_a_line_with_a_take_of_its_own_is_spoken_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken_so = []

    def speak(text: str, take: Take, seed: int) -> np.ndarray:
        spoken_so.append(take)
        return np.full(16_000, 0.1, dtype=np.float32)

    monkeypatch.setattr(synthesize, "speak", speak)
    own = Take("piper:joe", 1.0, 67.0, 0.92)
    synthesize.synthesise([synthesize.Line("He left.", take=own)], tmp_path, ["flite:slt"])
    assert spoken_so == [own]


DRAWN = [
    ("All is well here.", "espeak:en-gb/tempo131.39/pitch58/tract1.00"),
    ("The dog ran home before the rain.", "espeak:en-gb/tempo186.30/pitch50/tract1.00"),
    ("Seven purple comets burned.", "espeak:en-gb/tempo156.01/pitch65/tract1.00"),
]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")
def test_the_speech_recipe_says_the_same_texts_in_the_same_way_for_a_seed(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "prose-harvard.jsonl.gz", "wt") as file:
        texts = ["The dog ran home before the rain.", "All is well here.", "Seven purple comets burned."]
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    settings = ["--texts", tmp_path, "--out", tmp_path / "out", "--hours", "1", "--voices", "espeak:en-us,espeak:en-gb"]
    order = [sys.executable, RECIPE / "make_speech.py", *settings, "--seed", "3", "--shares", "prose=1.0"]
    told = subprocess.run(order, capture_output=True, text=True, check=True).stdout
    assert "3 clips made now, 0 before, 0 dropped" in told
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    # As drawn when the shipped weights' data was made: the recipe must give it again.
    assert [(row["text"], row["speaker"]) for row in rows] == DRAWN
    assert {(row["kind"], row["source"]) for row in rows} == {("prose", "prose-harvard.jsonl.gz")}


def test_a_rehearsal_has_a_part_of_each_manifest_and_finds_its_clips(tmp_path: Path) -> None:
    for name, count in (("train-read", 200), ("dev-questions", 5)):
        (tmp_path / "speech" / name).mkdir(parents=True)
        rows = [{"audio": f"{i}.wav", "text": f"Ünö {i}", "speaker": str(i // 20)} for i in range(count)]
        (tmp_path / "speech" / name / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, RECIPE / "cut_speech.py", tmp_path / "speech", "--out", tmp_path / "cut", "--share"]
    subprocess.run([*command, "0.1"], check=True, capture_output=True)
    kept = {
        name: [json.loads(line) for line in (tmp_path / "cut" / name / "manifest.jsonl").read_text().splitlines()]
        for name in ("train-read", "dev-questions")
    }
    assert [len(rows) for rows in kept.values()] == [20, 5]
    assert len({row["speaker"] for row in kept["train-read"]}) == 10  # from all of it, not from its beginning
    assert kept["dev-questions"][2] == {
        "audio": str(tmp_path / "speech" / "dev-questions" / "2.wav"), "text": "Ünö 2", "speaker": "0",
    }


@pytest.mark.parametrize(("folder", "share", "told"), [("speech", "0", "above 0"), ("nowhere", "1", "no folder with")])
def test_a_rehearsal_of_nothing_is_refused(tmp_path: Path, folder: str, share: str, told: str) -> None:
    (tmp_path / "speech" / "a").mkdir(parents=True)
    (tmp_path / "speech" / "a" / "manifest.jsonl").write_text('{"audio": "a.wav"}\n')
    command = [sys.executable, RECIPE / "cut_speech.py", tmp_path / folder, "--out", tmp_path / "cut", "--share", share]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert told in ended.stderr


@pytest.mark.parametrize("script", sorted(RECIPE.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_have_no_syntax_error_and_say_how_they_are_called(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    ended = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert re.search(f"recipes/mini/{script.name} ([a-z]+ )?[A-Z]{{4}}", ended.stdout)
    assert "-euo" not in ended.stdout
