"""Manifests: every format of the field gives the same example, and every mistake says where it is and what to write."""

import base64
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from soundwave.data.readers import DEFAULT_PROMPT, AudioSpan, Example, check_audio_files, read_manifest, read_manifests
from soundwave.errors import DataError
from soundwave.text.normalizer import normalise_transcript

ASKED = "What does the person say?"
SAID = "Good morning, Anna."
USER = {"role": "user", "content": f"<audio>{ASKED}"}
REPLY = {"role": "assistant", "content": SAID}
KNOWN = {"transcript": "good morning anna", "duration": 1.5, "language": "en"}
CUT = {
    "id": "a",
    "type": "MonoCut",
    "start": 0.0,
    "duration": 1.5,
    "channel": 0,
    "supervisions": [{"id": "a", "recording_id": "a", "start": 0.0, "duration": 1.5, "text": SAID, "language": "en"}],
    "recording": {
        "id": "a",
        "sources": [{"type": "file", "channels": [0], "source": "clips/a.wav"}],
        "sampling_rate": 16000,
        "num_samples": 24000,
        "duration": 1.5,
    },
}


def parts(kind: dict[str, Any]) -> dict[str, Any]:
    """A row whose user message is this audio part and the question."""
    return {"messages": [{"role": "user", "content": [kind, {"type": "text", "text": ASKED}]}, REPLY], **KNOWN}


def cut_of(**recording: Any) -> dict[str, Any]:
    """The cut, with more said of its recording."""
    return {**CUT, "recording": {**CUT["recording"], **recording}}


SAME_EXAMPLE: dict[str, dict[str, Any]] = {
    "ms-swift": {"messages": [USER, REPLY], "audios": ["clips/a.wav"], **KNOWN},
    "ms-swift, a line break after the mark": {
        "messages": [{"role": "user", "content": f"<audio>\n{ASKED}"}, REPLY],
        "audios": ["clips/a.wav"],
        **KNOWN,
    },
    "part with path": parts({"type": "audio", "path": "clips/a.wav"}),
    "part with url": parts({"type": "audio", "url": "clips/a.wav"}),
    "part with audio": parts({"type": "audio", "audio": "clips/a.wav"}),
    "part with audio_url": parts({"type": "audio_url", "audio_url": {"url": "clips/a.wav"}}),
    "part that takes its file from the list": {**parts({"type": "audio"}), "audios": ["clips/a.wav"]},
    "short": {"audio": "clips/a.wav", "text": SAID, "duration": 1.5, "language": "en"},
    "short, prompt written out": {
        "audio": "clips/a.wav",
        "text": SAID,
        "prompt": ASKED,
        "duration": 1.5,
        "language": "en",
    },
    "conversations": {
        "conversations": [
            {"from": "user", "value": ASKED, "audio": "clips/a.wav"},
            {"from": "assistant", "value": SAID, "transcription": SAID},
        ],
        "duration": 1.5,
        "language": "en",
    },
    "conversations, human and gpt, marked": {
        "conversations": [
            {"from": "human", "value": f"<audio>{ASKED}", "audio": ["clips/a.wav"]},
            {"from": "gpt", "value": SAID, "transcription": SAID},
        ],
        "duration": 1.5,
        "language": "en",
    },
    "NeMo": {"audio_filepath": "clips/a.wav", "duration": 1.5, "text": SAID, "lang": "en"},
    "lhotse": CUT,
    "lhotse, the second channel alone in its file": {**cut_of(channel_ids=[1]), "channel": 1},
    "lhotse, at training's own rate": cut_of(
        transforms=[{"name": "Resample", "kwargs": {"source_sampling_rate": 44100, "target_sampling_rate": 16000}}]
    ),
}


def write(folder: Path, *rows: Any, name: str = "m.jsonl") -> Path:
    """A manifest with these rows; texts are written as they are."""
    path = folder / name
    text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def only(path: Path) -> Example:
    (example,) = read_manifest(path)
    return example


@pytest.mark.parametrize("row", SAME_EXAMPLE.values(), ids=SAME_EXAMPLE)
def test_every_format_gives_the_same_example(tmp_path: Path, row: dict[str, Any]) -> None:
    assert only(write(tmp_path, row)) == Example(
        messages=[
            {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": ASKED}]},
            {"role": "assistant", "content": [{"type": "text", "text": SAID}]},
        ],
        audios=(AudioSpan(str(tmp_path / "clips" / "a.wav")),),
        transcript="good morning anna",
        duration=1.5,
        language="en",
    )


def test_packed_and_plain_manifests_read_alike_and_may_mix_formats(tmp_path: Path) -> None:
    rows = [SAME_EXAMPLE["short"], "", SAME_EXAMPLE["NeMo"]]
    plain, packed = write(tmp_path, *rows), write(tmp_path, *rows, name="m.jsonl.gz")
    assert list(read_manifest(plain)) == list(read_manifest(packed))
    assert [example.where for example in read_manifest(plain)] == [f"{plain}:1", f"{plain}:3"]
    assert len(read_manifests([plain, packed])) == 4


def test_inline_sound_is_kept_as_a_data_text(tmp_path: Path) -> None:
    data = base64.b64encode(b"RIFF").decode()
    row = parts({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    assert only(write(tmp_path, row)).audios == (AudioSpan(f"data:audio/wav;base64,{data}"),)


def test_several_audios_and_turns_keep_their_order(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<audio><audio>Same voice?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "And this? <audio>"},
        {"role": "assistant", "content": "Yes."},
    ]
    example = only(write(tmp_path, {"messages": messages, "audios": ["a.wav", "b.wav", "c.wav"]}))
    assert [Path(span.path).name for span in example.audios] == ["a.wav", "b.wav", "c.wav"]
    kinds = [[part.get("text", "<audio>") for part in message["content"]] for message in example.messages]
    assert kinds == [["Be brief."], ["<audio>", "<audio>", "Same voice?"], ["No."], ["And this?", "<audio>"], ["Yes."]]
    assert example.reply == "Yes."


def test_an_example_without_audio_is_a_text_example(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Capital of Italy?"}, {"role": "assistant", "content": "Rome."}]}
    example = only(write(tmp_path, row))
    assert (example.audios, example.transcript) == ((), None)


def test_only_the_short_form_has_a_default_prompt_and_audio_comes_first(tmp_path: Path) -> None:
    asked = only(write(tmp_path, {"audio": "a.wav", "text": "Hello."})).messages[0]["content"]
    assert asked == [{"type": "audio"}, {"type": "text", "text": DEFAULT_PROMPT}]
    own = only(write(tmp_path, {"audio": "a.wav", "text": "Rome.", "prompt": "Answer."})).messages[0]["content"]
    assert own == [{"type": "audio"}, {"type": "text", "text": "Answer."}]
    bare = {"conversations": [{"from": "user", "value": "", "audio": "a.wav"}, {"from": "assistant", "value": "Rome."}]}
    assert {"type": "text", "text": DEFAULT_PROMPT} not in only(write(tmp_path, bare)).messages[0]["content"]


@pytest.mark.parametrize(
    ("row", "transcript"),
    [
        ({"text": "It's Anna."}, "it's anna"),
        ({"text": "Rome.", "prompt": "Answer the question."}, None),
        ({"text": "Rome.", "prompt": "Answer.", "transcript": "The capital of Italy?"}, "the capital of italy"),
        ({"text": "Flight 12.", "transcript": "Flight twelve."}, "flight twelve"),
        ({"text": "Flight 12."}, None),
        ({"text": "Flight twelve.", "transcript": None}, None),
        ({"text": ""}, ""),
    ],
)
def test_the_transcript_is_given_or_is_the_reply_to_the_default_prompt_and_is_never_faked(
    tmp_path: Path, row: dict[str, Any], transcript: str | None
) -> None:
    assert only(write(tmp_path, {"audio": "a.wav", **row})).transcript == transcript


@pytest.mark.parametrize(
    ("row", "span", "duration"),
    [
        ({"audio": "a.wav", "text": "x", "start": 2, "end": 5.5}, (2.0, 5.5), 3.5),
        ({"audio": "a.wav", "text": "x", "end": 5.5}, (None, 5.5), 5.5),
        ({"audio_filepath": "a.wav", "text": "x", "offset": 2, "duration": 3.5}, (2.0, 5.5), 3.5),
        ({**CUT, "start": 0.5, "duration": 1.0}, (0.5, 1.5), 1.0),
        ({"audio": {"path": "a.wav", "start": 2, "end": 5.5}, "text": "x"}, (2.0, 5.5), 3.5),
    ],
)
def test_a_part_of_a_file_has_its_start_end_and_length(
    tmp_path: Path, row: dict[str, Any], span: tuple[float | None, float], duration: float
) -> None:
    example = only(write(tmp_path, row))
    assert ((example.audios[0].start, example.audios[0].end), example.duration) == (span, duration)


def test_examples_are_named_by_their_id_or_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, {"audio": "a.wav", "text": "x", "id": 7, "task": "asr"}, {"audio": "a.wav", "text": "x"})
    first, second = read_manifest(path)
    assert (first.id, first.task, second.id) == ("7", "asr", f"{path}:2")


def test_manifests_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    cases = {
        tmp_path / "none.jsonl": "no such manifest; give a .jsonl or .jsonl.gz file",
        write(tmp_path, "", name="empty.jsonl"): "the manifest has no lines",
        tmp_path: "a folder, but not one saved by datasets .*give the manifest file in it",
        tmp_path / "latin.jsonl": "latin.jsonl:1: not UTF-8 text",
        tmp_path / "torn.jsonl.gz": "the .gz file is cut off or broken; copy it again",
    }
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    whole = write(tmp_path, *[{"audio": f"{n}.wav", "text": str(n * n)} for n in range(99)], name="whole.jsonl.gz")
    (tmp_path / "torn.jsonl.gz").write_bytes(whole.read_bytes()[:-40])
    for path, message in cases.items():
        with pytest.raises(DataError, match=message):
            list(read_manifest(path))


def test_a_saved_data_set_without_the_package_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package datasets; pip install datasets, or write a manifest"):
        list(read_manifest(tmp_path))


def test_a_saved_data_set_is_read_by_its_audio_column(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")

    def saved(name: str, columns: dict[str, Any]) -> Any:
        # A fingerprint of our own: some pairs of datasets and pyarrow cannot compute one.
        return datasets.Dataset(datasets.table.InMemoryTable.from_pydict(columns), fingerprint=name)

    sound = {"sound": [{"bytes": b"RIFF", "path": None}], "sentence": ["Hello."]}
    saved("a", sound).cast_column("sound", datasets.Audio(decode=False)).save_to_disk(str(tmp_path / "saved"))
    example = only(tmp_path / "saved")
    assert (example.reply, example.audios[0].path) == ("Hello.", "data:audio/any;base64,UklGRg==")
    saved("b", {"text": ["Hello."]}).save_to_disk(str(tmp_path / "mute"))
    with pytest.raises(DataError, match="no Audio column; the columns are text"):
        list(read_manifest(tmp_path / "mute"))
    datasets.DatasetDict({"train": saved("c", {"text": ["x"]})}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(DataError, match="a data set of the splits train; give one of them"):
        list(read_manifest(tmp_path / "splits"))


def test_classes_of_a_saved_data_set_are_known_by_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    columns = {"audio": [{"bytes": b"RIFF", "path": None}] * 2, "text": ["Hallo.", "Oh."], "language": [1, -1]}
    made = datasets.Dataset(datasets.table.InMemoryTable.from_pydict(columns), fingerprint="a")
    made = made.cast_column("audio", datasets.Audio(decode=False))
    made = made.cast_column("language", datasets.ClassLabel(names=["en", "de"]))
    made.save_to_disk(str(tmp_path / "saved"))
    assert [example.language for example in read_manifest(tmp_path / "saved")] == ["de", None]


def test_missing_audio_files_are_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "0.wav").touch()
    path = write(tmp_path, *[{"audio": f"{n}.wav", "text": "x"} for n in range(9)])
    with pytest.raises(DataError, match=r"8 of 9 audio files do not exist: .*1.wav \(.*m.jsonl:2\); .* and 3 more"):
        check_audio_files(read_manifest(path))
    check_audio_files(read_manifest(write(tmp_path, {"audio": "0.wav", "text": "x"})))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("O'Neil's well-known", "o'neil's well known"),
        ("“Don’t!” she said…", "don't she said"),
        ("Café Über naïve", "cafe uber naive"),
        ("the students' 'tis", "the students tis"),
        ("  Yes —\nno.  ", "yes no"),
        ("", ""),
        ("...", ""),
        ("At 5 o'clock", None),
        ("½ an hour", None),
        ("salt & pepper", None),
        ("well known", "well known"),
    ],
)
def test_transcripts_become_lower_case_words_or_nothing_where_the_spoken_form_is_unknown(
    text: str, words: str | None
) -> None:
    assert normalise_transcript(text) == words
    assert words is None or normalise_transcript(words) == words
