"""`soundwave transcribe`: which recordings are read, what is written where, and what a bad one does to the others."""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_runs import run, start
from fake_engine import FakeEngine
from recordings import tone

from soundwave.data.manifests import read_manifest
from soundwave.inference.options import AudioOptions

pytestmark = pytest.mark.usefixtures("recordings")


def test_one_recording_gives_its_words(engine: FakeEngine) -> None:
    assert run("transcribe", "a.wav").stdout == "Words of a\n"


def test_several_recordings_give_a_line_each_with_their_names(engine: FakeEngine) -> None:
    assert run("transcribe", "a.wav", "b.wav").stdout == "a.wav: Words of a\nb.wav: Words of b\n"


def test_a_bad_recording_among_good_ones_is_reported_and_the_rest_are_done(engine: FakeEngine) -> None:
    result = run("transcribe", "a.wav", "bad.wav", "b.wav")
    assert result.exit_code == 1
    assert result.stdout == "a.wav: Words of a\nb.wav: Words of b\n"
    assert result.stderr == (
        "error: bad.wav is not a recording: FFmpeg finds no sound in it\n"
        "error: 1 of 3 recordings could not be transcribed\n"
    )


def test_the_only_recording_being_bad_is_told_once(engine: FakeEngine) -> None:
    result = run("transcribe", "bad.wav")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "llm", "backend"),
    [([], None, "torch"), (["--llm"], True, "torch"), (["--no-llm"], False, "none"), (["--ctc"], False, "none")],
)
def test_the_llm_has_a_say_or_is_not_even_loaded(
    engine: Any, flags: list[str], llm: bool | None, backend: str
) -> None:
    run("transcribe", "a.wav", *flags)
    assert engine.batches[0][1]["llm"] is llm
    assert engine.loaded[0][1]["backend"] == backend


@pytest.mark.parametrize("verb", ["ask", "transcribe"])
def test_a_cut_a_channel_and_a_track_are_read_of_a_recording(
    engine: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    left, right = tone(16_000, 2.0, level=0.5), tone(16_000, 2.0, level=0.1)
    soundfile.write("stereo.wav", np.stack([left, right], 1), 16_000)
    assert run(verb, "stereo.wav", "--channels", "2", "--start", "0.5", "--end", "1.75", "--track", "1").exit_code == 0
    wanted = {"channels": "2", "start": 0.5, "end": 1.75, "track": "1"}
    if verb == "ask":
        assert engine.asked[0][2].items() >= wanted.items()
    else:
        assert engine.batches[0][0][0].sound == AudioOptions(**wanted)


def test_hotwords_are_separated_by_commas_and_given_as_often_as_wanted(engine: FakeEngine) -> None:
    run("transcribe", "a.wav", "--hotwords", "Nguyen, New Delhi,", "--hotwords", "Ångström")
    assert engine.batches[0][1]["hotwords"] == ("Nguyen", "New Delhi", "Ångström")


def test_recordings_are_handed_over_many_at_a_time(engine: FakeEngine) -> None:
    run("transcribe", *["a.wav"] * 33, "b.wav")
    assert [len(batch) for batch, _ in engine.batches] == [32, 2]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (".", ["a.wav", "b.flac", "b.wav", "bad.wav", "c.wav"]),
        ("y", ["y/a.mp3"]),
        ("*.wav", ["a.wav", "b.wav", "bad.wav", "c.wav"]),
        ("**/a.*", ["a.wav", "x/a.wav", "y/a.mp3"]),
        ("[bc].wav", ["b.wav", "c.wav"]),
    ],
)
def test_a_folder_or_a_pattern_stands_for_its_recordings(engine: FakeEngine, name: str, read: list[str]) -> None:
    run("transcribe", name)
    assert [listening.audio for listening in engine.batches[0][0]] == read


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(engine: FakeEngine) -> None:
    Path("take[1].wav").touch()
    run("transcribe", "take[1].wav")
    assert [listening.audio for listening in engine.batches[0][0]] == ["take[1].wav"]


@pytest.mark.parametrize("name", ["empty", "*.opus"])
def test_a_folder_or_pattern_without_recordings_is_an_error(engine: Any, name: str) -> None:
    Path("empty").mkdir()
    result = run("transcribe", name)
    assert (result.exit_code, result.stdout, engine.loaded) == (1, "", [])
    assert repr(name) in result.stderr


def test_what_is_missing_does_not_stop_the_others(engine: FakeEngine) -> None:
    result = run("transcribe", "none.wav", "a.wav")
    assert (result.exit_code, result.stdout) == (1, "a.wav: Words of a\n")
    assert result.stderr.splitlines()[-1] == "error: 1 of 2 recordings could not be transcribed"


def test_a_transcript_that_cannot_be_written_does_not_stop_the_others(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "out" / "a.txt").mkdir(parents=True)  # a folder stands where the file should
    result = run("transcribe", "a.wav", "b.wav", "--output-dir", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "a.txt" in result.stderr.splitlines()[0]
    assert (tmp_path / "out" / "b.txt").read_text() == "Words of b\n"


def test_the_longest_name_that_the_disk_takes_is_written(engine: FakeEngine, tmp_path: Path) -> None:
    name = "n" * 246 + ".wav"  # 250 bytes
    Path(name).touch()
    assert run("transcribe", name, "a.wav", "--output-dir", str(tmp_path)).exit_code == 0
    assert (tmp_path / f"{'n' * 246}.txt").exists()


@pytest.mark.parametrize("how", [["--output-format", "json"], ["--json"]])
def test_json_is_one_object_a_recording_on_a_line_of_its_own(engine: FakeEngine, how: list[str]) -> None:
    lines = run("transcribe", "a.wav", "b.wav", *how).stdout.splitlines()
    assert [json.loads(line)["audio"] for line in lines] == ["a.wav", "b.wav"]
    transcript = json.loads(lines[0])
    known = {"audio": "a.wav", "text": "Words of a", "ctc_text": "words of a", "duration": 2.0, "source": "ctc+llm"}
    assert transcript.items() >= known.items()
    assert [(one["start"], one["end"], one["text"]) for one in transcript["segments"]] == [(0.5, 1.5, "Words of a")]


def test_json_of_recordings_is_a_manifest_to_train_on(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text(run("transcribe", "a.wav", "b.wav", "--json").stdout)
    examples = list(read_manifest(tmp_path / "clips.jsonl"))
    assert [(example.reply, example.transcript) for example in examples] == [
        ("Words of a", "words of a"), ("Words of b", "words of b"),
    ]
    assert [Path(example.audios[0].path) for example in examples] == [tmp_path / "a.wav", tmp_path / "b.wav"]


def test_an_output_folder_gets_a_file_a_recording(engine: FakeEngine, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    result = run("transcribe", "x/a.wav", "b.flac", "bad.wav", "--output-dir", str(folder))
    assert (result.exit_code, result.stdout) == (1, "")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "a.txt": "Words of a\n",
        "b.txt": "Words of b\n",
    }
    run("transcribe", "a.wav", "--output-dir", str(folder), "--output-format", "json")
    assert json.loads((folder / "a.json").read_text())["text"] == "Words of a"


def test_two_recordings_never_write_the_same_file(engine: Any, tmp_path: Path) -> None:
    result = run("transcribe", "x/a.wav", "y/a.mp3", "--output-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "x/a.wav and y/a.mp3 would both be written to" in " ".join(result.stderr.split())
    assert engine.loaded == []


def test_a_folder_that_cannot_be_written_is_one_line(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("transcribe", "a.wav", "--output-dir", str(tmp_path / "file" / "folder"))
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}/file/folder: Not a directory\n"


def test_who_watches_sees_a_bar_and_who_pipes_gets_clean_text() -> None:
    screen, terminal = pty.openpty()
    with start("transcribe", "a.wav", "b.wav", "c.wav", stderr=terminal) as process:
        out, _ = process.communicate(timeout=30)
    os.close(terminal)
    assert out == b"a.wav: Words of a\nb.wav: Words of b\nc.wav: Words of c\n"
    shown = os.read(screen, 100_000).decode()
    assert "transcribing" in shown
    assert "100%" in shown


def test_one_recording_has_its_bar_too() -> None:
    screen, terminal = pty.openpty()
    with start("transcribe", "a.wav", stderr=terminal) as process:
        out, _ = process.communicate(timeout=30)
    os.close(terminal)
    assert out == b"Words of a\n"
    assert "transcribing a.wav" in os.read(screen, 100_000).decode()


def test_quiet_shows_nothing_even_to_who_watches() -> None:
    screen, terminal = pty.openpty()
    with start("transcribe", "a.wav", "b.wav", "-q", stderr=terminal) as process:
        process.communicate(timeout=30)
    os.set_blocking(screen, False)
    with pytest.raises(BlockingIOError):
        os.read(screen, 100)
    os.close(terminal)
