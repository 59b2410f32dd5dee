"""`data filter`: each of the paper's rules alone and together; dropped rows say why; a stopped pass goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import clip, manifest, rows_of, run, spelling, tokenizer_folder

from soundwave.data.example import AudioSpan
from soundwave.data.extras import extras_of
from soundwave.data.manifests import read_manifest, read_rows
from soundwave.data.probe import samples_of
from soundwave.datatools import decode
from soundwave.datatools.asr import Recogniser, resumable, whisper
from soundwave.datatools.filter import Limits, filter_manifest
from soundwave.datatools.shard import shard
from soundwave.errors import DataError

SAID = "The cat and the dog and the son are on the hill today."  # 54 characters, some merged: over 40 tokens
GOOD = {"audio": "clips/a.wav", "text": SAID, "duration": 4.0}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "all is well": (GOOD, []),
    "too short": ({**GOOD, "duration": 2.9}, ["duration"]),
    "too long": ({**GOOD, "duration": 30.5}, ["duration"]),
    "exactly as short and long as allowed": ({**GOOD, "duration": 3.0}, []),
    "length from the file": ({"audio": "clips/a.wav", "text": SAID}, []),
    "no such file": ({"audio": "clips/none.wav", "text": SAID}, ["audio"]),
    "too many tokens": ({**GOOD, "text": "dog " * 51, "duration": 20.0}, ["tokens"]),
    "too much audio for its text": ({**GOOD, "text": "A cat.", "duration": 4.0}, ["frames"]),
    "another text is heard": ({**GOOD, "asr_text": "The bat and the log and the son are on the hill."}, ["wer"]),
    "the same is heard, spelt otherwise": ({**GOOD, "asr_text": SAID.upper().replace(".", "")}, []),
    "one word of thirteen too many": ({**GOOD, "asr_text": SAID + " Yes."}, []),
    "nobody speaks": ({**GOOD, "text": ""}, []),
    "nobody speaks, but something is heard": ({**GOOD, "text": "", "asr_text": "Thank you."}, ["wer"]),
    "text only": (
        {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}, [],
    ),
    "a reply that is no transcript": ({**GOOD, "prompt": "Who speaks?", "text": "Anna."}, []),
    "no format": ({"x": 1}, ["format"]),
    "two rules": ({**GOOD, "text": "dog " * 51, "duration": 2.0}, ["duration", "tokens"]),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clip(tmp_path / "clips" / "a.wav", 4.0)
    clip(tmp_path / "clips" / "b.wav", 4.0, pitch=330.0)
    return tmp_path


@pytest.mark.parametrize(("row", "broken"), CASES.values(), ids=CASES)
def test_each_rule_drops_what_it_should_and_says_why(folder: Path, row: dict[str, Any], broken: list[str]) -> None:
    kept, dropped = folder / "new" / "kept.jsonl", folder / "new" / "dropped.jsonl"
    outcome = filter_manifest(manifest(folder, row), kept, dropped, Limits(), spelling(folder))
    assert (outcome.rows, outcome.kept) == (1, 0 if broken else 1)
    assert dict(outcome.broken) == dict.fromkeys(broken, 1)
    assert dict(outcome.first) == dict.fromkeys(broken[:1], 1)
    if broken:
        (left,) = rows_of(dropped)
        assert list(left["dropped"]) == broken
        assert left["line"] == 1
        assert rows_of(kept) == []
    else:
        (before,), (after,) = read_manifest(folder / "m.jsonl"), read_manifest(kept)
        assert after.messages == before.messages
        assert [Path(a.path).resolve() for a in after.audios] == [Path(a.path).resolve() for a in before.audios]


@pytest.mark.parametrize("rule", ["duration", "tokens", "frames", "wer", "audio"])
def test_a_rule_that_is_left_out_drops_nothing(folder: Path, rule: str) -> None:
    rows = [row for row, broken in CASES.values() if broken == [rule]]
    limits = Limits(skipped=frozenset({rule}))
    outcome = filter_manifest(manifest(folder, *rows), folder / "k.jsonl", folder / "d.jsonl", limits, spelling(folder))
    assert outcome.kept == outcome.rows == len(rows) > 0


def cut_off(path: Path) -> dict[str, Any]:
    """A row that states its duration, with a recording whose header is whole and whose sound breaks off."""
    clip(path.with_suffix(".flac"), 4.0)
    whole = path.with_suffix(".flac").read_bytes()
    path.with_suffix(".flac").write_bytes(whole[: len(whole) // 2])
    return {**GOOD, "audio": f"clips/{path.with_suffix('.flac').name}"}


@pytest.mark.parametrize("jobs", [1, 3])
def test_recordings_that_cannot_be_decoded_are_dropped_whatever_the_rows_state(folder: Path, jobs: int) -> None:
    beyond = {**GOOD, "start": 5.0, "end": 9.0}
    missing = {**GOOD, "audio": "clips/none.wav"}
    rows = [GOOD, missing, cut_off(folder / "clips" / "torn"), beyond, {**GOOD, "audio": "clips/b.wav"}]
    files = folder / "k.jsonl", folder / "d.jsonl"
    outcome = filter_manifest(manifest(folder, *rows), *files, Limits(), spelling(folder), jobs=jobs)
    assert (outcome.kept, outcome.broken) == (2, {"audio": 3})
    why = {row["line"]: row["dropped"]["audio"] for row in rows_of(files[1])}
    assert list(why) == [2, 3, 4]
    for line, told in ((2, "does not exist"), (3, "is cut off or damaged"), (4, "nothing from 5 s on; it is 4.00 s")):
        assert told in why[line]


def test_headers_alone_are_fast_and_tell_less(folder: Path) -> None:
    rows = [GOOD, {**GOOD, "audio": "clips/none.wav"}, cut_off(folder / "clips" / "torn")]
    files = folder / "k.jsonl", folder / "d.jsonl"
    run("filter", manifest(folder, *rows), files[0], "-m", tokenizer_folder(folder / "llm"), "--no-decode",
        "--dropped", files[1])  # fmt: skip
    assert [row["line"] for row in rows_of(files[1])] == [2]


def test_no_stated_recording_is_opened_where_the_audio_rule_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = decode.facts_of
    monkeypatch.setattr(decode, "facts_of", lambda path: opened.append(Path(path).name) or real(path))
    rows = [GOOD, {"audio": "clips/b.wav", "text": SAID}]
    limits = Limits(skipped=frozenset({"audio"}))
    filter_manifest(manifest(folder, *rows), folder / "k.jsonl", folder / "d.jsonl", limits, spelling(folder))
    assert opened == ["b.wav"]


def test_dropped_rows_never_overwrite_those_that_are_kept(folder: Path) -> None:
    with pytest.raises(DataError, match="the dropped rows would overwrite those that are kept"):
        filter_manifest(manifest(folder, GOOD), folder / "k", folder / "clips" / ".." / "k", Limits(), spelling(folder))


def test_rows_are_read_as_they_are_needed(folder: Path) -> None:
    """What is held are some rows, not all: those of shards have their sounds inside."""
    read: list[int] = []
    source = read_rows(manifest(folder, *[GOOD] * 100))
    counted = (read.append(row.number) or row for row in source)
    read_ahead = decode.decoded_rows(counted, decode.DecodeOptions(jobs=2))
    assert [next(read_ahead)[0].number for _ in range(3)] == [1, 2, 3]
    assert len(read) < 20
    assert len(list(read_ahead)) == 97


def test_what_is_heard_is_kept_in_the_rows_and_a_stopped_pass_goes_on(folder: Path) -> None:
    rows = [GOOD, {**GOOD, "audio": "clips/b.wav"}, {**GOOD, "duration": 2.0}, {**GOOD, "asr_text": SAID}]
    source, heard = manifest(folder, *rows), []

    def hear(samples: np.ndarray) -> str:
        heard.append(len(samples))
        if len(heard) == 2:
            raise KeyboardInterrupt
        return SAID if len(heard) == 1 else "Something else."

    files = folder / "out" / "kept.jsonl", folder / "out" / "dropped.jsonl"
    with pytest.raises(KeyboardInterrupt):
        filter_manifest(source, *files, Limits(), spelling(folder), recogniser=hear, recogniser_name="fake")
    assert not files[0].exists()
    outcome = filter_manifest(source, *files, Limits(), spelling(folder), recogniser=hear, recogniser_name="fake")
    assert heard == [64_000, 64_000, 64_000]  # the short row and the one with a text are not heard; the first only once
    assert [row["wer"] for row in rows_of(files[0])] == [0.0, 0.0]
    assert rows_of(files[0])[0]["asr_text"] == SAID
    assert [(row["line"], list(row["dropped"])) for row in rows_of(files[1])] == [(2, ["wer"]), (3, ["duration"])]
    assert rows_of(files[1])[0]["asr_text"] == "Something else."
    assert outcome.not_judged == 1


def hear_all(spans: list[AudioSpan], recogniser: Recogniser, name: str, notes: Path) -> dict[AudioSpan, str | None]:
    with resumable(recogniser, name, notes) as hear:
        return {span: hear(span) for span in spans}


def test_notes_of_another_recogniser_or_a_changed_clip_do_not_count(folder: Path) -> None:
    span, notes = AudioSpan(str(folder / "clips" / "a.wav")), folder / "notes.jsonl"
    gone = AudioSpan(str(folder / "none.wav"))
    assert hear_all([span, span, gone], lambda samples: "one", "first", notes) == {span: "one", gone: None}
    notes.write_bytes(notes.read_bytes() + b'{"key": "torn')
    assert hear_all([span], lambda samples: "two", "first", notes) == {span: "one"}
    assert hear_all([span], lambda samples: "two", "second", notes) == {span: "two"}
    clip(folder / "clips" / "a.wav", 1.0)
    assert hear_all([span], lambda samples: "three", "first", notes) == {span: "three"}
    with pytest.raises(DataError, match=r"no CTranslate2 model of Whisper \(model.bin, tokenizer.json\) there"):
        whisper(folder)


def test_lhotse_cuts_keep_what_is_heard_where_lhotse_keeps_it(folder: Path) -> None:
    run("convert", manifest(folder, GOOD), folder / "cuts.jsonl", "--to", "lhotse")
    filter_manifest(
        folder / "cuts.jsonl", folder / "kept.jsonl", folder / "d.jsonl", Limits(), spelling(folder),
        recogniser=lambda samples: SAID, recogniser_name="fake",
    )
    assert rows_of(folder / "kept.jsonl")[0]["custom"]["asr_text"] == SAID


def test_the_command_prints_a_table_and_writes_both_files(folder: Path) -> None:
    llm = tokenizer_folder(folder / "llm")
    source = manifest(folder, *(row for row, _ in CASES.values()))
    dropped = sum(bool(broken) for _, broken in CASES.values())
    result = run("filter", source, folder / "kept.jsonl", "-m", llm)
    assert result.exit_code == 0
    table = {line.split()[0]: line.split()[1] for line in result.stdout.splitlines() if line.strip()}
    assert table["kept"] == str(len(CASES) - dropped)
    assert table["duration"] == "3"
    assert table["wer"] == "2"
    assert len(rows_of(folder / "kept.jsonl.dropped.jsonl")) == dropped
    options = ["--skip", "wer", "--skip", "audio", "--min-seconds", 0, "--json", "--dropped", folder / "aside.jsonl"]
    there = run("filter", source, folder / "kept.jsonl", "-m", llm, *options)
    assert (there.exit_code, "--overwrite" in there.stderr) == (2, True)
    options.append("--overwrite")
    told = json.loads(run("filter", source, folder / "kept.jsonl", "-m", llm, *options).stdout)
    assert "wer" not in told["broken"]
    assert told["broken"]["duration"] == 1
    assert len(rows_of(folder / "aside.jsonl")) == told["rows"] - told["kept"]
    over = run("filter", source, source, "-m", llm)
    assert over.exit_code == 1
    assert "the filter would overwrite its source" in over.stderr
    assert run("filter", source, folder / "x", "--skip", "format").exit_code == 2


def test_a_line_that_is_no_utf_8_is_dropped_and_those_after_it_are_kept(folder: Path) -> None:
    source = manifest(folder, GOOD)
    source.write_bytes(source.read_bytes() + b'{"text": "caf\xe9"}\n' + source.read_bytes())
    outcome = filter_manifest(source, folder / "k.jsonl", folder / "d.jsonl", Limits(), spelling(folder))
    assert (outcome.rows, outcome.kept) == (3, 2)
    assert [(row["line"], list(row["dropped"])) for row in rows_of(folder / "d.jsonl")] == [(2, ["format"])]


def test_notes_with_any_sign_in_them_are_read_again(folder: Path) -> None:
    span, notes = AudioSpan(str(folder / "clips" / "a.wav")), folder / "notes.jsonl"
    text = "one\u2028two\x85three"  # str.splitlines takes both signs for ends of lines
    for _ in range(2):
        assert hear_all([span], lambda samples: text, "first", notes) == {span: text}


@pytest.mark.parametrize("layout", ["shar", "webdataset"])
def test_each_row_of_many_shards_is_judged_by_what_was_heard_in_itself(folder: Path, layout: str) -> None:
    texts = [SAID, SAID.replace("cat", "man"), SAID.replace("cat", "girl"), SAID.replace("cat", "boy")]
    rows = [{**GOOD, "text": text, "asr_text": text.lower()} for text in texts]
    rows[2]["asr_text"] = "the heat and the tin and the moon are in the mill some day"
    shard(manifest(folder, *rows), folder / "shards", layout=layout, shard_size=1)
    outcome = filter_manifest(folder / "shards", folder / "k.jsonl", folder / "d.jsonl", Limits(), spelling(folder))
    assert (outcome.rows, outcome.kept, outcome.not_judged) == (4, 3, 0)
    kept = [example.spoken for example in read_manifest(folder / "k.jsonl")]
    assert kept == [texts[0], texts[1], texts[3]]
    heard = [extras_of(row).get("asr_text") for row in rows_of(folder / "k.jsonl")]
    assert heard == [text.lower() for text in kept if text]
    (left,) = rows_of(folder / "d.jsonl")
    assert extras_of(left)["line"] == 3  # of all rows, not of its shard


def test_each_row_of_many_shards_gets_what_the_recogniser_hears_in_it(folder: Path) -> None:
    rows = [{**GOOD, "audio": f"clips/{name}.wav"} for name in "ab"]
    shard(manifest(folder, *rows), folder / "shards", shard_size=1)
    higher = samples_of(AudioSpan(str(folder / "clips" / "b.wav")))

    def hear(samples: np.ndarray) -> str:
        return SAID if np.allclose(samples, higher, atol=1e-3) else "Something else."

    files = folder / "k.jsonl", folder / "d.jsonl"
    outcome = filter_manifest(folder / "shards", *files, Limits(), spelling(folder), recogniser=hear)
    assert outcome.kept == 1
    assert extras_of(rows_of(files[0])[0])["wer"] == 0.0
    assert extras_of(rows_of(files[1])[0])["line"] == 1
