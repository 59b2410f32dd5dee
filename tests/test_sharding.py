"""`soundwave data shard`: what goes into shards comes out again, whole shards or none, and a stopped run goes on."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_conversion import PLAIN, RICH
from tiny_data import clip, manifest, run, served, tokenizer_folder

from soundwave.data.example import Example
from soundwave.data.extras import extras_of
from soundwave.data.manifests import read_manifest, read_rows
from soundwave.data.probe import samples_of
from soundwave.datatools import shard as sharding
from soundwave.datatools.convert import convert
from soundwave.datatools.shard import shard
from soundwave.datatools.show import row_at
from soundwave.errors import AudioError, ConfigurationError, DataError

ROWS = [row for name, row in {**PLAIN, **RICH}.items() if name != "a sound inside the manifest"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clip(tmp_path / "clips" / "a.wav", 1.0)
    clip(tmp_path / "clips" / "long.wav", 3.0, pitch=500.0)
    return tmp_path


def facts(example: Example) -> list[Any]:
    """What an example teaches, apart from its sound."""
    return [example.messages, example.transcript, example.spoken, example.task, example.language]


def heard(example: Example) -> list[np.ndarray]:
    return [samples_of(span) for span in example.audios]


@pytest.mark.parametrize("encoding", ["flac", "wav", "opus"])
@pytest.mark.parametrize("layout", ["shar", "webdataset"])
def test_examples_come_out_of_shards_as_they_went_in(folder: Path, layout: str, encoding: str) -> None:
    first = manifest(folder, *ROWS)
    done = shard(first, folder / "shards", layout=layout, encoding=encoding, shard_size=4, jobs=2)
    assert (done.made, done.before, done.skipped) == (3, 0, 0)
    before, after = list(read_manifest(first)), list(read_manifest(folder / "shards"))
    assert [facts(one) for one in after] == [facts(one) for one in before]
    for one, other in zip(before, after, strict=True):
        for sound, again in zip(heard(one), heard(other), strict=True):
            assert abs(len(sound) - len(again)) <= 1
            most = min(len(sound), len(again)) - 100  # a lossy codec rings at the ends
            np.testing.assert_allclose(again[100:most], sound[100:most], atol=0.05 if encoding == "opus" else 1e-4)
        if other.audios:
            assert other.duration == pytest.approx(sum(map(len, heard(one))) / 16_000, abs=1e-3)
    extras = [extras_of(row.fields) for row in read_rows(first)]
    assert [extras_of(row.fields) | {"messages": 0, "audios": 0} for row in read_rows(folder / "shards")] == [
        one | {"messages": 0, "audios": 0} for one in extras
    ]


def test_a_shar_is_lhotse_s_own(folder: Path) -> None:
    from lhotse import CutSet

    shard(manifest(folder, *ROWS), folder / "shar", shard_size=4)
    assert sorted(path.name for path in (folder / "shar").iterdir()) == [
        *(f"cuts.{i:06d}.jsonl.gz" for i in range(3)), *(f"recording.{i:06d}.tar" for i in range(3)),
    ]
    cuts = list(CutSet.from_shar(in_dir=folder / "shar"))
    assert len(cuts) == len(ROWS)
    assert cuts[0].supervisions[0].text == "Good morning, Anna."
    assert cuts[0].load_audio().shape == (1, 16_000)
    assert cuts[1].id == "a1"
    assert not next(cut for cut in cuts if cut.custom.get("task") == "text").has_recording


def test_a_shar_that_lhotse_wrote_is_read(folder: Path) -> None:
    from lhotse import CutSet

    convert(manifest(folder, PLAIN["transcript only"], PLAIN["a cut"]), folder / "cuts.jsonl", "lhotse", absolute=True)
    (folder / "shar").mkdir()
    CutSet.from_file(folder / "cuts.jsonl").to_shar(folder / "shar", fields={"recording": "flac"}, shard_size=1)
    one, other = read_manifest(folder / "shar")
    assert (one.reply, other.reply) == ("Good morning, Anna.", "Hello.")
    assert (len(heard(one)[0]), len(heard(other)[0])) == (16_000, 24_000)


def test_a_foreign_webdataset_is_read(folder: Path) -> None:
    (folder / "more").mkdir()
    for name, (suffix, content) in {
        "0001": (".txt", "the cat"), "0002": (".json", json.dumps({"transcription": "A dog.", "speaker": 7})),
        "0003": (".json", json.dumps({"audio_filepath": "elsewhere/x.flac", "text": "So."})),
    }.items():  # fmt: skip
        clip(folder / "more" / f"{name}.flac", 0.5)
        (folder / "more" / f"{name}{suffix}").write_text(content)
    with tarfile.open(folder / "tars-000.tar", "w") as tar:
        tar.add(folder / "more", "more")
    examples = list(read_manifest(folder / "tars-{000..000}.tar"))
    assert [example.reply for example in examples] == ["the cat", "A dog.", "So."]
    assert [example.id for example in examples] == ["more/0001", "more/0002", "more/0003"]
    assert [example.duration for example in examples] == [0.5, 0.5, 0.5]


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = manifest(folder, *ROWS)
    joined, calls = sharding.joined, list[str]()

    def dies(example: Example) -> sharding.Sound:
        calls.append(example.where)
        if len(calls) == 7:  # in the second shard
            raise KeyboardInterrupt
        return joined(example)

    monkeypatch.setattr(sharding, "joined", dies)
    with pytest.raises(KeyboardInterrupt):
        shard(first, folder / "out", shard_size=4)
    assert not (folder / "out").exists()
    begun = calls.copy()
    done = shard(first, folder / "out", shard_size=4)
    assert (done.made, done.before) == (2, 1)
    assert calls[len(begun) :] == begun[4:6] + calls[len(begun) + 2 :]  # the second shard from its beginning
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "m.jsonl", "out"]
    shutil.copytree(folder / "out", folder / "stopped")
    shard(first, folder / "straight", shard_size=4)
    for path in (folder / "straight").glob("*.tar"):
        assert path.read_bytes() == (folder / "stopped" / path.name).read_bytes()


def test_other_rows_or_settings_do_not_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(example: Example) -> sharding.Sound:
        raise KeyboardInterrupt

    monkeypatch.setattr(sharding, "joined", dies)
    with pytest.raises(KeyboardInterrupt):
        shard(manifest(folder, *ROWS), folder / "out", shard_size=4)
    with pytest.raises(ConfigurationError, match="made with shard_size 4, not 5"):
        shard(manifest(folder, *ROWS), folder / "out", shard_size=5)
    with pytest.raises(ConfigurationError, match="made with rows "):
        shard(manifest(folder, *ROWS[1:]), folder / "out", shard_size=4)


def test_audio_that_cannot_be_used_is_named_and_left_out(folder: Path) -> None:
    (folder / "clips" / "bad.wav").write_bytes(b"RIFF")
    rows = [{"audio": "clips/bad.wav", "text": "Hi."}, PLAIN["transcript only"]]
    done = run("shard", manifest(folder, *rows), folder / "out", "--quiet")
    assert done.exit_code == 1
    assert f"skipped: {folder / 'm.jsonl'}:1: " in done.stderr
    assert "1 shards made now, 0 before, 1 rows skipped" in done.stdout
    assert [example.reply for example in read_manifest(folder / "out")] == ["Good morning, Anna."]
    again = run("shard", folder / "m.jsonl", folder / "out")
    assert (again.exit_code, "out exists; shards are written into a new folder" in again.stderr) == (1, True)
    nothing = run("shard", manifest(folder, rows[0]), folder / "none")
    assert (nothing.exit_code, "no row has audio that can be used" in nothing.stderr) == (1, True)


@pytest.mark.parametrize("layout", ["shar", "webdataset"])
def test_what_a_stopped_run_left_out_is_told_by_the_run_that_ends(
    folder: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "clips" / "bad.wav").write_bytes(b"RIFF")
    good, bad = PLAIN["transcript only"], {"audio": "clips/bad.wav", "text": "Hi."}
    rows = manifest(folder, bad, good, good, bad)
    joined = sharding.joined

    def stops(example: Example) -> sharding.Sound:
        if example.where.endswith(":3"):
            raise KeyboardInterrupt
        return joined(example)

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "joined", stops)
        assert run("shard", rows, folder / "out", "--to", layout, "--shard-size", 2).exit_code != 0
    done = run("shard", rows, folder / "out", "--to", layout, "--shard-size", 2)
    assert done.exit_code == 1
    assert "1 shards made now, 1 before, 2 rows skipped" in done.stdout
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [f"{rows}:1", f"{rows}:4"]
    assert [example.reply for example in read_manifest(folder / "out")] == ["Good morning, Anna."] * 2


def test_the_other_verbs_read_shards(folder: Path) -> None:
    shard(manifest(folder, *ROWS), folder / "shar", shard_size=4)
    assert f"{len(ROWS)} rows, 0 bad" in run("check", folder / "shar", "--no-ctc").stdout
    assert json.loads(run("stats", folder / "shar", "--json").stdout)["rows"] == len(ROWS)
    assert run("convert", folder / "shar", folder / "back.jsonl", "--to", "messages").exit_code == 0
    assert [facts(one) for one in read_manifest(folder / "back.jsonl")] == [
        facts(one) for one in read_manifest(folder / "m.jsonl")
    ]


@pytest.mark.parametrize("layout", ["shar", "webdataset"])
def test_every_verb_reads_shards_at_an_address(folder: Path, layout: str) -> None:
    pytest.importorskip("smart_open", reason="the package smart-open is not installed")
    pytest.importorskip("requests", reason="smart-open reads http with the package requests")
    llm = tokenizer_folder(folder / "llm")
    name = "cuts.{000000..000002}.jsonl.gz" if layout == "shar" else "{000000..000002}.tar"
    shard(manifest(folder, *ROWS), folder / "out", layout=layout, shard_size=4)
    with served(folder / "out") as address:
        place = f"{address}/{name}"
        assert run("check", place, "--no-ctc").stdout.splitlines()[-1] == f"{len(ROWS)} rows, 0 bad"
        assert json.loads(run("stats", place, "--json").stdout)["rows"] == len(ROWS)
        assert run("filter", place, folder / "k.jsonl", "-m", llm, "--skip", "duration").exit_code == 0
        assert run("convert", place, folder / "b.jsonl", "--to", "messages").exit_code == 0
        assert len(list(read_manifest(folder / "b.jsonl"))) == len(ROWS)
        assert row_at(place, 5).where.startswith(place.partition("{")[0])
        gone = run("check", f"{address}/nowhere/{name}", "--no-ctc")
        assert gone.exit_code == 1
        assert f"{address}/nowhere/" in gone.stdout
        assert gone.stdout.splitlines()[-1] == "3 rows, 3 bad"


# What is wrong with a shard


def broken(folder: Path, layout: str, how: str) -> Path:
    """Shards of two examples each, the second of which is spoilt; how: "none" leaves it whole."""
    shard(manifest(folder, *[{**PLAIN["transcript only"], "speaker": str(i)} for i in range(6)]), folder / "out",
          layout=layout, shard_size=2)  # fmt: skip
    tar = folder / "out" / ("recording.000001.tar" if layout == "shar" else "000001.tar")
    with tarfile.open(tar) as whole:
        members = whole.getmembers()
    if how == "gone":
        tar.unlink()
    elif how == "cut within a file":
        tar.write_bytes(tar.read_bytes()[: members[-1].offset_data + 10])
    elif how == "cut between files":
        tar.write_bytes(tar.read_bytes()[: members[2].offset])
    elif how == "overwritten":
        content = bytearray(tar.read_bytes())
        content[members[2].offset : members[2].offset + 512] = b"?" * 512
        tar.write_bytes(content)
    return folder / "out"


@pytest.mark.parametrize("how", ["gone", "cut within a file", "cut between files", "overwritten"])
@pytest.mark.parametrize("layout", ["shar", "webdataset"])
def test_a_broken_shard_is_named_and_what_comes_before_is_given(folder: Path, layout: str, how: str) -> None:
    place, found = broken(folder, layout, how), list[Example]()
    if (layout, how) == ("webdataset", "gone"):
        place = place / "{000000..000002}.tar"
    with pytest.raises(DataError, match=r"/(recording\.)?000001\.tar(:\d+)?: .*; copy or make this shard again"):
        found.extend(read_manifest(place))
    assert len(list(read_until(place))) == (2 if how == "gone" else 3)


@pytest.mark.parametrize("how", ["gone", "cut within a file", "cut between files", "overwritten"])
@pytest.mark.parametrize("layout", ["shar", "webdataset"])
def test_a_broken_shard_is_one_bad_row_and_those_after_it_are_read(folder: Path, layout: str, how: str) -> None:
    place = broken(folder, layout, how)
    if (layout, how) == ("webdataset", "gone"):
        place = place / "{000000..000002}.tar"
    rows = list(read_rows(place))
    (bad,) = [row for row in rows if row.example is None]
    tar = folder / "out" / ("recording.000001.tar" if layout == "shar" else "000001.tar")
    assert bad.where == f"{tar}:{1 if how == 'gone' else 2}"
    assert "copy or make this shard again" in (bad.problem or "")
    assert [row.fields.get("speaker") or extras_of(row.fields).get("speaker") for row in rows if row.example] == [
        *"01", *("2" if how != "gone" else ""), *"45",
    ]  # fmt: skip
    assert [row.position for row in rows] == list(range(1, len(rows) + 1))


def test_cuts_and_sounds_that_are_not_as_many_are_told(folder: Path) -> None:
    place = broken(folder, "shar", "none")
    first, second = (place / f"recording.{number:06d}.tar" for number in (0, 1))
    with tarfile.open(first) as whole, tarfile.open(second, "w") as half:
        for member in whole.getmembers()[:2]:
            half.addfile(member, whole.extractfile(member))
    (place / "cuts.000001.jsonl.gz").write_bytes((place / "cuts.000000.jsonl.gz").read_bytes())
    cuts = place / "cuts.000002.jsonl.gz"
    cuts.write_bytes(gzip.compress(gzip.decompress(cuts.read_bytes()).splitlines()[0]))
    told = {Path(row.manifest).name: row.problem for row in read_rows(place) if row.example is None}
    assert told == {
        "recording.000001.tar": "it ends after 1 of 2 sounds; copy or make this shard again.",
        "recording.000002.tar": "it has more sounds than there are cuts (1); copy or make this shard again.",
    }


def test_cuts_that_break_off_are_named_themselves(folder: Path) -> None:
    cuts = broken(folder, "shar", "none") / "cuts.000001.jsonl.gz"
    cuts.write_bytes(cuts.read_bytes()[:-20])
    (bad,) = [row for row in read_rows(folder / "out") if row.example is None]
    assert bad.where == f"{cuts}:1"


def test_a_filter_says_which_shard_is_broken_and_keeps_the_rows_of_the_others(folder: Path) -> None:
    llm, place = tokenizer_folder(folder / "llm"), broken(folder, "webdataset", "cut within a file")
    told = run("filter", place, folder / "k.jsonl", "-m", llm, "--min-seconds", "0", "--json")
    assert json.loads(told.stdout)["kept"] == 5
    (left,) = [json.loads(line) for line in (folder / "k.jsonl.dropped.jsonl").read_text().splitlines()]
    assert (left["line"], left["shard"]) == (4, f"{place}/000001.tar:2")
    assert list(left["dropped"]) == ["format"]


def read_until(place: Path) -> Any:
    examples = read_manifest(place)
    while True:
        try:
            yield next(examples)
        except (DataError, StopIteration):
            return


def test_a_folder_without_shards_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shards; give a folder with cuts"):
        list(read_manifest(tmp_path / "*.tar"))


def test_a_sound_over_thirty_seconds_has_no_place_in_a_shard(folder: Path) -> None:
    clip(folder / "clips" / "talk.wav", 31.0)
    told: list[str] = []
    rows = [{"audio": "clips/talk.wav", "text": "Hi."}, PLAIN["transcript only"]]
    shard(manifest(folder, *rows), folder / "out", on_bad=told.append)
    assert len(told) == 1
    assert "31 s long; at most 30 s are allowed" in told[0]
    with pytest.raises(AudioError, match="at most 30 s"):
        sharding.joined(next(iter(read_manifest(folder / "m.jsonl"))))
