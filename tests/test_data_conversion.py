"""Conversions: every format both ways gives the same example, and what a format cannot hold is said and refused."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_data import clip, manifest, rows_of, run

from soundwave.data.extras import beside, extras_of
from soundwave.data.manifests import read_manifest, read_rows
from soundwave.data.probe import facts_of, samples_of
from soundwave.data.writers import WRITERS, relocated
from soundwave.datatools import convert as converting
from soundwave.datatools.convert import convert
from soundwave.datatools.shard import shard
from soundwave.errors import AudioError, DataError, WriteError

TEXT_FORMATS = [name for name in WRITERS if name != "datasets"]
HOLD_EVERYTHING = ["messages", "parts"]
PLAIN: dict[str, dict[str, Any]] = {
    "transcript only": {"audio": "clips/a.wav", "text": "Good morning, Anna."},
    "all that the short form has": {
        "audio": "clips/a.wav", "text": "It is five.", "prompt": "What time is it?", "transcript": "What's the time",
        "duration": 1.0, "task": "question", "language": "en", "id": "a1",
    },
    "digits in the transcript": {"audio": "clips/a.wav", "text": "At 5 o'clock."},
    "a reply that is no transcript": {"audio": "clips/a.wav", "text": "A man.", "prompt": "Who speaks?"},
    "the usual prompt, and no transcript": {"audio": "clips/a.wav", "text": "Um.", "transcript": None},
    "nobody speaks": {"audio": "clips/a.wav", "text": ""},
    "a cut": {"audio": "clips/long.wav", "text": "Hello.", "start": 1.0, "end": 2.5},
    "what no format defines": {
        "audio": "clips/a.wav", "text": "Hello.", "speaker": "7", "licence": "CC0", "kind": "prose", "snr": 12.5,
    },
}  # fmt: skip
RICH: dict[str, dict[str, Any]] = {
    "several turns and a system text": {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "<audio>What is said?"}, {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "And here?<audio>"}, {"role": "assistant", "content": "Bye."},
        ],
        "audios": ["clips/a.wav", {"path": "clips/long.wav", "start": 0.5, "end": 1.5}], "transcript": "hello",
    },
    "text only": {
        "messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}], "task": "text",
    },
    "a sound inside the manifest": {
        "messages": [
            {"role": "user", "content": [
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                {"type": "text", "text": "What is said?"},
            ]},
            {"role": "assistant", "content": "Hello."},
        ],
    },
}  # fmt: skip


def cut(*supervisions: dict[str, Any], custom: dict[str, Any] | None = None) -> dict[str, Any]:
    """A second of a.wav as a cut of lhotse with these supervisions."""
    source = {"type": "file", "channels": [0], "source": "clips/a.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16_000, "num_samples": 16_000, "duration": 1.0}
    said = [
        {"id": f"s{number}", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, **one}
        for number, one in enumerate(supervisions)
    ]
    return {
        "id": "c", "type": "MonoCut", "start": 0.0, "duration": 1.0, "channel": 0, "supervisions": said,
        "recording": recording, "custom": custom or {},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clip(tmp_path / "clips" / "a.wav", 1.0)
    clip(tmp_path / "clips" / "long.wav", 3.0)
    return tmp_path


def facts(path: Path) -> list[tuple[Any, ...]]:
    """What a manifest says, with audio by the place of its file."""
    return [
        (
            example.messages, example.transcript, example.task, example.language,
            [(Path(a.path).resolve() if a.path[:5] != "data:" else a.path, a.start, a.end) for a in example.audios],
        )
        for example in read_manifest(path)
    ]


@pytest.mark.parametrize("to", TEXT_FORMATS)
@pytest.mark.parametrize("row", PLAIN.values(), ids=PLAIN)
def test_every_format_gives_back_what_was_written(folder: Path, row: dict[str, Any], to: str) -> None:
    first = manifest(folder, row)
    there, back = folder / "elsewhere" / "there.jsonl", folder / "back.jsonl"
    done = convert(first, there, to)
    assert (done.rows, done.losses) == (1, {})
    convert(there, back, "short")
    assert facts(there) == facts(first) == facts(back)
    (before,), (between,), (after,) = map(list, map(read_rows, (first, there, back)))
    assert extras_of(before.fields) == extras_of(between.fields) == extras_of(after.fields)
    assert before.example is not None
    assert after.example is not None
    assert after.example.spoken == before.example.spoken  # with its capitals
    if before.example.duration is not None:
        assert after.example.duration == pytest.approx(before.example.duration)
    if "id" in row:
        assert after.example.id == row["id"]


@pytest.mark.parametrize("to", HOLD_EVERYTHING)
@pytest.mark.parametrize("row", RICH.values(), ids=RICH)
def test_messages_and_parts_hold_everything(folder: Path, row: dict[str, Any], to: str) -> None:
    first, there = manifest(folder, row), folder / "deep" / "er" / "there.jsonl.gz"
    assert convert(first, there, to).losses == {}
    assert facts(there) == facts(first)
    with gzip.open(there, "rt") as lines:
        assert json.loads(lines.read())["messages"]


def test_the_upstream_form_holds_several_turns(folder: Path) -> None:
    first, there = manifest(folder, *RICH.values()), folder / "there.jsonl"
    assert convert(first, there, "conversations").losses == {}
    assert facts(there) == facts(first)


@pytest.mark.parametrize(
    ("to", "row", "told"),
    [
        ("short", "several turns and a system text", "turns or their layout.*audio that is left out"),
        ("nemo", "text only", "whole rows: a NeMo row holds one audio file, this one holds none"),
        ("lhotse", "a sound inside the manifest", "a MonoCut holds one audio file, this one holds sound inside"),
    ],
)
def test_what_would_be_lost_is_said_and_nothing_is_written(folder: Path, to: str, row: str, told: str) -> None:
    first, there = manifest(folder, PLAIN["nobody speaks"], RICH[row]), folder / "there.jsonl"
    with pytest.raises(DataError, match=f"as {to} this would lose .*{told}.*--allow-loss writes the rest"):
        convert(first, there, to)
    assert not there.exists()
    done = convert(first, there, to, allow_loss=True)
    assert done.losses
    assert done.rows + done.skipped == 2
    assert len(list(read_manifest(there))) == done.rows


OWN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "what other formats define": (
        {"audio": "clips/a.wav", "text": "Hi.", "type": "read", "channel": "web", "custom": {"k": 1}, "lang": "of old"},
        ["messages", "parts", "short", "conversations", "lhotse"],
    ),
    "text and start beside messages": (
        {"messages": RICH["text only"]["messages"], "text": "as it was", "start": 5},
        ["messages", "parts", "conversations"],
    ),
    "fields of turns": (
        {"messages": [
            {"role": "user", "content": "Hi.", "name": "bob"}, {"role": "assistant", "content": "So.", "loss": False},
            {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."},
        ]},
        ["messages", "parts", "conversations"],
    ),
    "a transcript for each turn": (
        {"conversations": [
            {"from": "user", "value": "What?", "audio": "clips/a.wav"},
            {"from": "assistant", "value": "That.", "transcription": "first"},
            {"from": "user", "value": "What?", "audio": "clips/long.wav"},
            {"from": "assistant", "value": "This.", "transcription": "second"},
        ]},
        ["messages", "parts", "conversations"],
    ),
    "what a supervision says": (
        cut({"text": "see that", "speaker": "A", "custom": {"emotion": "sad"},
             "alignment": {"word": [["see", 0, 1, None]]}},
            custom={"dataid": "7", "start": 4.5}),
        ["messages", "parts", "conversations", "lhotse"],
    ),
    "supervisions one by one": (
        cut({"text": "first", "start": 0.0, "duration": 0.25, "speaker": "A"},
            {"text": "second", "start": 0.5, "duration": 0.5, "speaker": "B"}),
        ["lhotse"],
    ),
    "features": ({**cut({"text": "see that"}), "features": {"type": "fbank"}}, []),
    "a supervision of a part": (cut({"text": "see that", "start": 0.25, "duration": 0.5}), ["lhotse"]),
    "a field of an audio": (
        {"audio": {"path": "clips/a.wav", "snr": 9}, "text": "Hi."}, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("to", TEXT_FORMATS)
@pytest.mark.parametrize(("row", "held_by"), OWN.values(), ids=OWN)
def test_what_a_user_adds_goes_along_or_is_named_as_lost(
    folder: Path, row: dict[str, Any], held_by: list[str], to: str
) -> None:
    first, there = manifest(folder, row), folder / "there.jsonl"
    if to not in held_by:
        with pytest.raises(DataError, match=f"as {to} this would lose"):
            convert(first, there, to)
        return
    assert convert(first, there, to).losses == {}
    (made,) = rows_of(there)
    assert beside(made) == beside(row)
    assert facts(there) == facts(first)


@pytest.mark.parametrize(
    ("name", "to", "told"),
    [
        ("what other formats define", "nemo", ["the field 'lang'"]),
        ("fields of turns", "short", ["the field 'name' of a turn", "the field 'loss' of a turn"]),
        ("text and start beside messages", "short", ["the field 'text'", "the field 'start'"]),
        ("what a supervision says", "short", ["the field 'start'"]),
        ("supervisions one by one", "parts", ["text of a supervision", "start of a supervision", "speaker of a"]),
        ("features", "lhotse", ["the field 'features'"]),
        ("a field of an audio", "short", ["the field 'snr' of an audio or part"]),
    ],
)
def test_each_lost_field_is_named(folder: Path, name: str, to: str, told: list[str]) -> None:
    done = convert(
        manifest(folder, OWN[name][0], PLAIN["nobody speaks"]), folder / "there.jsonl", to, allow_loss=True
    )
    assert all(any(loss.startswith(one) for loss in done.losses) for one in told)


def test_shards_keep_what_turns_and_supervisions_say(folder: Path) -> None:
    names = ["fields of turns", "a transcript for each turn", "what a supervision says", "supervisions one by one"]
    rows = [OWN[name][0] for name in names]
    shard(manifest(folder, *rows), folder / "shar")
    assert [beside(row.fields) for row in read_rows(folder / "shar")] == [beside(row) for row in rows]


def test_a_lhotse_cut_states_the_facts_of_its_recording(folder: Path) -> None:
    clip(folder / "clips" / "cd.wav", 0.5, rate=44_100)
    convert(manifest(folder, {"audio": "clips/cd.wav", "text": "Hi."}), folder / "cuts.jsonl", "lhotse")
    (cut,) = rows_of(folder / "cuts.jsonl")
    assert cut["recording"]["sampling_rate"] == 44_100
    assert cut["recording"]["num_samples"] == 22_050
    assert cut["recording"]["sources"] == [{"type": "file", "channels": [0], "source": "clips/cd.wav"}]
    assert (cut["start"], cut["duration"], cut["supervisions"][0]["text"]) == (0.0, 0.5, "Hi.")


def test_a_cut_of_lhotse_is_no_mix_of_channels(folder: Path) -> None:
    soundfile.write(folder / "clips" / "stereo.wav", np.zeros((800, 2)), 16_000)
    first = manifest(folder, {"audio": "clips/stereo.wav", "text": "Hi."})
    with pytest.raises(DataError, match=r"a MonoCut is one channel, this recording is the mix of 2 .--audio-dir DIR"):
        convert(first, folder / "cuts.jsonl", "lhotse")
    convert(first, folder / "cuts.jsonl", "lhotse", audio_dir=folder / "mono")
    ((span,),) = [example.audios for example in read_manifest(folder / "cuts.jsonl")]
    assert (facts_of(span.path).channels, len(samples_of(span))) == (1, 800)


@pytest.mark.parametrize("to", TEXT_FORMATS)
def test_sounds_inside_the_data_become_files(folder: Path, to: str) -> None:
    shard(manifest(folder, PLAIN["transcript only"], PLAIN["a cut"]), folder / "shar")
    sound = base64.b64encode((folder / "clips" / "long.wav").read_bytes()).decode()
    cut_inside = {"audio": {"path": f"data:audio/wav;base64,{sound}", "start": 0.5, "end": 1.5}, "text": "Hi."}
    for source, count in ((folder / "shar", 2), (manifest(folder, cut_inside, cut_inside, name="inside.jsonl"), 1)):
        there, sounds = folder / "there" / f"{count}.jsonl", folder / "sounds" / f"{count}"
        assert convert(source, there, to, audio_dir=sounds).losses == {}
        assert len(list(sounds.iterdir())) == count
        for before, after in zip(read_manifest(source), read_manifest(there), strict=True):
            assert (after.messages, after.transcript) == (before.messages, before.transcript)
            (old,), (new,) = before.audios, after.audios
            assert Path(new.path).resolve().parent == sounds
            assert (new.start, new.end) == (old.start, old.end)
            np.testing.assert_allclose(samples_of(new), samples_of(old), atol=1e-4)


def test_a_conversion_that_was_stopped_writes_only_the_sounds_that_are_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(manifest(folder, PLAIN["transcript only"], PLAIN["a cut"]), folder / "shar")
    written, loaded = list[str](), converting.load_audio

    def dies(source: str, **options: Any) -> Any:
        written.append(source)
        if len(written) == 2:
            raise KeyboardInterrupt
        return loaded(source, **options)

    monkeypatch.setattr(converting, "load_audio", dies)
    with pytest.raises(KeyboardInterrupt):
        convert(folder / "shar", folder / "there.jsonl", "nemo", audio_dir=folder / "sounds")
    assert not (folder / "there.jsonl").exists()
    assert convert(folder / "shar", folder / "there.jsonl", "nemo", audio_dir=folder / "sounds").rows == 2
    assert written[1:] == [written[1]] * 2  # the first sound is not decoded again
    assert [path.suffix for path in (folder / "sounds").iterdir()] == [".flac"] * 2


def test_a_sound_that_cannot_be_written_names_its_row(folder: Path) -> None:
    broken = manifest(folder, RICH["a sound inside the manifest"])
    with pytest.raises(AudioError, match=r"m.jsonl:1: "):
        convert(broken, folder / "there.jsonl", "nemo", audio_dir=folder / "sounds")
    shard(manifest(folder, PLAIN["transcript only"]), folder / "shar")
    (folder / "file").touch()
    with pytest.raises(WriteError, match=r"\.flac could not be written"):
        convert(folder / "shar", folder / "there.jsonl", "nemo", audio_dir=folder / "file")


def test_paths_are_relative_to_the_new_file_or_absolute(folder: Path) -> None:
    first = manifest(folder, PLAIN["transcript only"])
    convert(first, folder / "x" / "y.jsonl", "short")
    convert(first, folder / "x" / "z.jsonl", "short", absolute=True)
    assert rows_of(folder / "x" / "y.jsonl")[0]["audio"] == "../clips/a.wav"
    assert rows_of(folder / "x" / "z.jsonl")[0]["audio"] == str(folder / "clips" / "a.wav")


@pytest.mark.parametrize("to", TEXT_FORMATS)
def test_a_row_that_moves_to_another_folder_still_names_its_recordings(folder: Path, to: str) -> None:
    convert(manifest(folder, PLAIN["a cut"]), folder / "one.jsonl", to)
    (row,) = rows_of(folder / "one.jsonl")
    moved = manifest(folder / "far" / "off", relocated(row, folder, folder / "far" / "off"))
    assert facts(moved) == facts(folder / "one.jsonl")


def test_a_saved_data_set_goes_both_ways(folder: Path) -> None:
    pytest.importorskip("datasets", reason="the package datasets is not installed")
    first = manifest(folder, *PLAIN.values())
    assert convert(first, folder / "saved", "datasets").rows == len(PLAIN)
    convert(folder / "saved", folder / "back.jsonl", "messages")
    assert facts(folder / "saved") == facts(folder / "back.jsonl")
    for saved, before in zip(read_manifest(folder / "saved"), read_manifest(first), strict=True):
        assert (saved.messages, saved.transcript, saved.task) == (before.messages, before.transcript, before.task)
        (copy,), (original,) = saved.audios, before.audios  # a saved data set holds the sounds themselves
        assert (copy.start, copy.end) == (original.start, original.end)
        assert len(samples_of(copy)) == len(samples_of(original))
    assert extras_of(rows_of(folder / "back.jsonl")[-1]) == extras_of(PLAIN["what no format defines"])
    with pytest.raises(DataError, match="saved exists; a data set is saved into a new folder"):
        convert(first, folder / "saved", "datasets")


def test_the_command_says_what_is_lost_and_where_rows_are_bad(folder: Path) -> None:
    first = manifest(folder, *PLAIN.values(), *RICH.values())
    refused = run("convert", first, folder / "short.jsonl", "--to", "short")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "Nothing was written; --allow-loss writes the rest" in refused.stderr
    done = run("convert", first, folder / "short.jsonl", "--to", "short", "--allow-loss")
    assert done.exit_code == 0
    assert "lost in 1 rows: turns or their layout" in done.stderr
    assert f"{len(PLAIN) + len(RICH)} rows in" in done.stdout
    bad = run("convert", manifest(folder, {"audio": "a"}, name="bad.jsonl"), folder / "x.jsonl", "--to", "parts")
    assert bad.exit_code == 1
    assert "bad.jsonl:1: no text; the short form is audio and text" in bad.stderr
    assert "(1 of 1 rows are bad; `soundwave data check` lists them all.)" in bad.stderr
    assert run("convert", first, first, "--to", "parts").exit_code == 2
    assert run("convert", first, folder / "x", "--to", "csv").exit_code == 2
