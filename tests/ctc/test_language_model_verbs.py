"""`soundwave lm` from texts to files and back, and how texts become spoken words."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from soundwave.cli.language_model import lm
from soundwave.ctc.ngram import Ngram
from soundwave.datatools.spoken_text import read_texts, sentences
from soundwave.errors import DataError, SoundwaveError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(lm, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The café opened!", ["the cafe opened"]),
        ("I saw Tom. So Tom ran", ["I saw Tom", "so Tom ran"]),
        ("It’s Jones's", ["it's Jones's"]),
        ("in 1905, 1,250 men", ["in nineteen oh five one thousand two hundred and fifty men"]),
        ("the 3rd costs $12", ["the third costs twelve dollars"]),
        ("pi is 3.5 & more", ["pi is three point five and more"]),
        ("5% of 40 million", ["five percent of forty million"]),
        ("come here at 12:30 or so", ["come here at", "or so"]),  # who knows how that is read
        ("Stop.", []),
    ],
)
def test_a_text_becomes_the_words_that_are_spoken(text: str, words: list[str]) -> None:
    assert sentences([text]) == [sentence.split() for sentence in words]


def test_a_word_has_the_casing_that_it_mostly_has_inside_sentences() -> None:
    texts = ["Bill paid the bill to Bill.", "Did Bill come?", "STOP BILL", "ask bill", "The end."]
    assert sentences(texts)[2:] == [["stop", "Bill"], ["ask", "Bill"], ["the", "end"]]


def test_texts_are_read_from_lines_and_from_known_fields(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one line\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"question": "who is it", "answer": "me", "id": 5, "de": "nein"}) + "\n")
    texts = read_texts([tmp_path / "a.txt", tmp_path / "b.jsonl.gz"])
    assert [text.strip() for text in texts] == ["one line", "who is it", "me"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "x"), ("a.jsonl", "[1]"), ("a.jsonl", "{"), ("missing.txt", None)]
)
def test_what_is_no_text_is_refused(name: str, content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name):
        list(read_texts([tmp_path / name]))


def test_an_ngram_is_trained_converted_and_looked_at(tmp_path: Path) -> None:
    texts, words = tmp_path / "texts.txt", tmp_path / "words.txt"
    texts.write_text("Then Tom sat down.\nThen Tom ran away.\nThen he sat away.\n")
    words.write_text("zebra\n")
    out = tmp_path / "ngram.npz"
    assert run("train", texts, "--out", out, "--order", 2, "--words", words).strip() == str(out)
    assert set(Ngram.load(out).words[3:]) == {"then", "Tom", "sat", "away", "zebra"}
    run("convert", out, tmp_path / "ngram.arpa.gz")
    assert Ngram.load(tmp_path / "ngram.arpa.gz").words == Ngram.load(out).words
    told = json.loads(run("info", out, "--text", texts, "--json"))
    assert told["order"] == 2
    assert told["n-grams"][0] == 8
    assert 1 < told["perplexity"] < 8
    assert "order: 2" in run("info", out)


@pytest.mark.parametrize("verb", [["train", "x.txt", "--out"], ["convert", "x.npz"]])
def test_a_file_of_no_known_kind_is_not_written(verb: list[str], tmp_path: Path) -> None:
    with pytest.raises(SoundwaveError, match=r"ngram\.bin"):
        run(*verb, tmp_path / "ngram.bin")
