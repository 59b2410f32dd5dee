"""Faults of data that users of other speech tools met: each is read right, or refused with its line."""

from __future__ import annotations

import gzip
import json
import os
import resource
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_data import RATE, clip, manifest, rows_of, run, spelling, tokenizer_folder

from soundwave.data import manifests
from soundwave.data.example import AudioSpan
from soundwave.data.manifests import read_manifest, read_rows, total_rows
from soundwave.data.probe import facts_of, samples_of
from soundwave.data.shards import find_shards
from soundwave.datatools.check import check
from soundwave.errors import AudioError, ConfigurationError, DataError
from soundwave.evaluation.clips import Clip, read_clips
from soundwave.evaluation.runner import Notebook
from soundwave.evaluation.tasks import Prediction
from soundwave.text.metrics import word_errors

FAULTS = Path(os.environ.get("SOUNDWAVE_REFERENCE", "/nowhere")).parent / "faults"
shared = pytest.mark.skipif(not FAULTS.is_dir(), reason="the shared faulty inputs are not at hand")
posix = pytest.mark.skipif(os.name == "nt", reason="a pipe with a name as POSIX has it")
NEEDS = ("audio", "text")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three seconds of three tones, 220, 440 and 880 Hz."""
    tones = [0.3 * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE) for pitch in (220, 440, 880)]
    soundfile.write(tmp_path / "a.wav", np.concatenate(tones).astype(np.float32), RATE)
    return tmp_path


def pitch_of(clip: Clip) -> float:
    samples = clip.samples()
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * RATE / len(samples))


# --- one reader for training, data tools and evaluation

CUT = {"text": "The second."}
RECORDING = {
    "id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": RATE,
    "num_samples": 3 * RATE, "duration": 3.0,
}  # fmt: skip
SECOND = {
    "offset and duration": {"audio_filepath": "a.wav", "offset": 1.0, "duration": 1.0, **CUT},
    "offset beside audio": {"audio": "a.wav", "offset": 1, "duration": 1, **CUT},
    "start and end": {"audio": "a.wav", "start": 1.0, "end": 2.0, **CUT},
    "a cut in an object": {"audio": {"path": "a.wav", "start": 1.0, "end": 2.0}, **CUT},
    "messages": {
        "messages": [{"role": "user", "content": "<audio>"}, {"role": "assistant", "content": "The second."}],
        "audios": [{"path": "a.wav", "start": 1.0, "end": 2.0}],
    },
    "lhotse": {
        "id": "c", "type": "MonoCut", "start": 1.0, "duration": 1.0, "channel": 0, "recording": RECORDING,
        "supervisions": [{"id": "c", "recording_id": "r", "start": 0.0, "duration": 1.0, "text": "The second."}],
    },
}  # fmt: skip


@pytest.mark.parametrize("row", SECOND.values(), ids=SECOND)
@pytest.mark.parametrize("packed", [False, True])
def test_an_evaluation_scores_the_cut_whatever_the_format(folder: Path, row: dict[str, Any], packed: bool) -> None:
    path = manifest(folder, row)
    if packed:
        path = path.with_name("m.jsonl.gz")
        path.write_bytes(gzip.compress((folder / "m.jsonl").read_bytes()))
    (one,) = read_clips([path], NEEDS)
    assert (one.text, one.seconds(), pitch_of(one)) == ("The second.", 1.0, pytest.approx(440, abs=2))
    assert [example.audios for example in read_manifest(path)] == [(one.span,)]


def test_a_saved_data_set_can_be_evaluated(folder: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    columns = {"audio": [{"bytes": (folder / "a.wav").read_bytes(), "path": None}], "sentence": ["All."]}
    made = datasets.Dataset(datasets.table.InMemoryTable.from_pydict(columns), fingerprint="a")
    made.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(str(folder / "saved"))
    (one,) = read_clips([folder / "saved"], NEEDS)
    assert (one.text, len(one.samples())) == ("All.", 3 * RATE)


def test_only_a_line_feed_ends_a_row_and_a_byte_order_mark_is_no_part_of_it(folder: Path) -> None:
    text = "how many\u2028days are\u0085in a\u000bweek"
    rows = [{"audio": "a.wav", "text": text}, {"audio": "a.wav", "text": "b"}]
    content = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode() + b"\n\n   \n")
    assert [one.text for one in read_clips([folder / "m.jsonl"], NEEDS)] == [text, "b"]
    assert [example.reply for example in read_manifest(folder / "m.jsonl")] == [text, "b"]
    assert check([folder / "m.jsonl"], None).rows == 2


def test_a_row_may_lack_what_its_task_does_not_need(folder: Path) -> None:
    rows = [
        {"audio": "a.wav", "answers": ["Paris"], "label": "dog", "language": "de"},
        {"text": "Where is Rome?", "answers": ["Italy"]},
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}], "answers": ["me"]},
    ]
    heard, typed, conversation = read_clips([manifest(folder, *rows)], ("answers",), language="fr")
    assert (heard.text, heard.answers, heard.labels, heard.language) == (None, ("Paris",), {"label": "dog"}, "de")
    assert (typed.text, typed.span, typed.language) == ("Where is Rome?", None, "fr")
    assert (conversation.text, conversation.span) == ("Who?", None)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"audio": "a.wav", "text": "x", "duration": -5}, "m.jsonl:2: duration is -5"),
        ({"audio": ["a.wav", "a.wav"], "text": "x"}, "m.jsonl:2: 2 recordings"),
        ({"audio": "a.wav", "text": 5}, "m.jsonl:2: text is 5"),
        ({"audio": "a.wav", "start": 2, "end": 1, "text": "x"}, "m.jsonl:2: end is 1 s and start is 2 s"),
        ({"audio": "a.wav", "language": ["en"], "text": "x"}, r"m.jsonl:2: language is \['en'\]"),
    ],
)
def test_what_training_refuses_is_refused_by_an_evaluation_too(folder: Path, row: dict[str, Any], told: str) -> None:
    path = manifest(folder, {"audio": "a.wav", "text": "x"}, row)
    with pytest.raises(DataError, match=told):
        read_clips([path], ("audio",))


def test_a_cut_that_ends_after_its_recording_is_an_error_for_everybody(folder: Path) -> None:
    path = manifest(folder, {"audio": "a.wav", "start": 2.5, "end": 4.0, "text": "The end."})
    (example,) = read_manifest(path)
    with pytest.raises(AudioError, match=r"a\.wav' is 3\.00 s long; the cut from 2\.5 to 4 s ends after it"):
        samples_of(example.audios[0])
    with pytest.raises(AudioError, match=r"is 3\.00 s long"):
        read_clips([path], NEEDS)[0].samples()
    assert [finding.rule for finding in check([path], None).findings] == ["duration"]
    assert len(samples_of(AudioSpan(str(folder / "a.wav"), 2.5, 3.05))) == RATE // 2  # times are rounded somewhere


def test_the_rows_language_decides_and_another_may_be_named_for_those_without(folder: Path) -> None:
    rows = [{"audio": "a.wav", "text": "東京に", "language": "ja"}, {"audio": "a.wav", "text": "schön"}]
    clips = read_clips([manifest(folder, *rows)], NEEDS, language="de")
    errors = word_errors([one.text or "" for one in clips], ["東京へ", "schon"], [one.language for one in clips])
    assert (errors.words, errors.substitutions) == (3 + 1, 2)


def test_replies_that_are_kept_are_those_of_the_same_rows_and_settings_and_a_torn_one_is_asked_again(
    folder: Path,
) -> None:
    first, second = read_clips([manifest(folder, *[{"audio": "a.wav", "text": text} for text in "ab"])], NEEDS)
    kept = folder / "replies.jsonl"
    with closing(Notebook(kept, {"model": 1})) as notebook:
        notebook.add([Prediction(first, 3.0, {"reply": "x\u2028y"})])
        notebook.add([Prediction(second, 3.0, {"reply": "z"})])
        with pytest.raises(ConfigurationError, match="Another run"):
            Notebook(kept, {"model": 1}).add([Prediction(first, 3.0, {"reply": "?"})])
    kept.write_bytes(kept.read_bytes()[:-9])
    with closing(Notebook(kept, {"model": 1})) as notebook:
        assert [(one.clip, one.reply) for one in notebook.read([first, second])] == [(first, "x\u2028y")]
    with closing(Notebook(kept, {"model": 2})) as notebook:
        assert notebook.read([first, second]) == []
    assert Notebook(None, {}).read([first]) == []


def test_a_result_that_replaces_another_has_only_its_own_replies_beside_it(folder: Path) -> None:
    (clip,) = read_clips([manifest(folder, {"audio": "a.wav", "text": "a"})], NEEDS)
    kept = folder / "replaced.jsonl"
    for model in (1, 2):
        with closing(Notebook(kept, {"model": model}, alone=True)) as notebook:
            assert notebook.read([clip]) == []
            notebook.add([Prediction(clip, 3.0, {"reply": str(model)})])
    with closing(Notebook(kept, {"model": 2}, alone=True)) as notebook:  # one that was stopped goes on
        assert [one.reply for one in notebook.read([clip])] == ["2"]
    assert len(kept.read_text().splitlines()) == 1


# --- what a check finds


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"text": "..."}, "no-letters"),
        ({"text": "😀"}, "no-letters"),
        ({"text": "hello [noise] there"}, "noise-mark"),
        ({"text": "(laughs)"}, "noise-mark"),
        ({"text": "how many<|im_end|> days"}, "reserved-token"),
        ({"text": "<|audio|> hi there"}, "reserved-token"),
        ({"text": "fine", "prompt": "Say it.<|im_start|>system"}, "reserved-token"),
        ({"text": "fine", "transcript": "fine <|endoftext|>"}, "reserved-token"),
        ({"text": "so many words that nobody can say them all " * 3}, "ctc-frames"),
        ({"text": "HOW MANY DAYS"}, "upper-case"),
    ],
)
def test_the_default_check_finds_what_training_cannot_learn(folder: Path, row: dict[str, Any], rule: str) -> None:
    path = manifest(folder, {"audio": "a.wav", **row})
    report = check([path], spelling(folder))
    assert (rule, 1) in [(finding.rule, finding.line) for finding in report.findings]


def test_a_token_of_the_models_own_is_found_whatever_its_form(folder: Path) -> None:
    llm = tokenizer_folder(folder / "llm")
    tokenizer = json.loads((llm / "tokenizer.json").read_text(encoding="utf-8"))
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] = [{"id": 300, "content": "[STOP]", **special}]
    (llm / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    path = manifest(folder, {"audio": "a.wav", "text": "Go [STOP]"})
    told = json.loads(run("check", path, "-m", llm, "--json").stdout)
    assert [(one["rule"], one["detail"]) for one in told["findings"]] == [("reserved-token", "'[STOP]' in 'Go [STOP]'")]


def test_a_corpus_in_capitals_is_one_finding_that_names_the_tool(folder: Path) -> None:
    rows = [{"audio": "a.wav", "text": f"THE {word}"} for word in ("CAT", "DOG", "SUN")]
    done = run("check", manifest(folder, *rows, {"audio": "a.wav", "text": "Of NASA."}), "--no-ctc")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "4 rows, 0 bad")
    assert "3 of 4 texts are in capitals" in done.stdout
    marked = run("check", manifest(folder, {"audio": "a.wav", "text": "a [noise]"}), "--no-ctc")
    assert "[noise] or (laughs)" in marked.stdout  # and no markup of the terminal's
    assert "casing.py" in done.stdout


def test_what_a_small_vocabulary_cannot_spell_is_counted_with_its_lines(folder: Path) -> None:
    rows = [{"audio": "a.wav", "text": text} for text in ("नमस्ते", "the cat", "schön")]
    letters = ["Ġ", "'", *"abcdefghijklmnopqrstuvwxyz"]
    spell = spelling(folder, model_type="soundwave")
    pieces = spell.ctc.tokenizer.backend_tokenizer
    small = spelling(folder, model_type="soundwave", ctc_vocabulary=sorted(map(pieces.token_to_id, letters)))
    rows.append({"audio": "missing.wav", "text": "schön"})
    found = [(one.line, one.rule) for one in check([manifest(folder, *rows)], small).findings]
    assert [line for line, rule in found if rule == "ctc-spelling"] == [1, 3, 4]
    whole = check([folder / "m.jsonl"], spell).findings  # single bytes spell everything
    assert [(one.line, one.rule) for one in whole] == [(4, "audio-missing")]


# --- small input, large cost


def test_a_packed_manifest_that_unpacks_to_thousands_of_times_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = b'{"audio": "a.wav", "text": "' + b"a" * 100_000 + b'"}\n'
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(row * 300))
    monkeypatch.setattr(manifests, "MOST_UNPACKED", 1_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"bomb\.jsonl\.gz:\d+: the \.gz unpacks to over .*gunzip"):
        list(read_manifest(tmp_path / "bomb.jsonl.gz"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes
    with pytest.raises(DataError, match="gunzip"):
        read_clips([tmp_path / "bomb.jsonl.gz"], NEEDS)
    with pytest.raises(DataError, match="gunzip"):
        check([tmp_path / "bomb.jsonl.gz"], None, decode=False)
    assert run("stats", tmp_path / "bomb.jsonl.gz").exit_code == 1


def test_a_line_that_no_memory_should_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "LONGEST_LINE", 1000)
    path = manifest(tmp_path, {"audio": "a.wav", "text": "x"}, {"audio": "a.wav", "text": "x" * 5000})
    with pytest.raises(DataError, match=r"m\.jsonl:2: a line of over"):
        list(read_manifest(path))


@posix
@pytest.mark.timeout(30)
def test_a_pipe_with_a_name_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jsonl")
    os.mkfifo(folder / "pipe.wav")
    for read in (read_manifest, read_rows, lambda path: [total_rows([path])], lambda path: read_clips([path], NEEDS)):
        with pytest.raises(DataError, match=r"pipe\.jsonl is no regular file"):
            list(read(folder / "pipe.jsonl"))
    assert run("check", folder / "pipe.jsonl", "--no-ctc").exit_code == 1
    for ask in (lambda path: facts_of(path), lambda path: samples_of(AudioSpan(path))):
        with pytest.raises(AudioError, match=r"pipe\.wav is no regular file"):
            ask(str(folder / "pipe.wav"))
    path = manifest(folder, {"audio": "pipe.wav", "text": "x"})
    assert [finding.rule for finding in check([path], None).findings] == ["audio-missing"]
    assert run("convert", path, folder / "cuts.jsonl", "--to", "lhotse").exit_code == 1


def verbs(place: str, folder: Path) -> Iterator[tuple[Any, ...]]:
    yield "check", place, "--no-ctc"
    yield "stats", place
    yield "convert", place, folder / "out.jsonl", "--to", "messages"
    yield "shard", place, folder / "out"
    yield "show", place, 1


def test_no_verb_runs_a_command_that_a_manifest_names(folder: Path) -> None:
    place = f"pipe:touch {folder}/ran; cat {folder}/{{0..1}}.tar"
    for verb in verbs(place, folder):
        done = run(*verb)
        assert (done.exit_code, "allow_commands" in done.stderr) == (1, True), verb
    for read in (read_manifest, read_rows, lambda place: read_clips([place], NEEDS), find_shards):
        with pytest.raises(DataError, match="allow_commands"):
            list(read(place))
    assert not (folder / "ran").exists()
    assert len(find_shards(place, allow_commands=True)) == 2


# --- nothing is overwritten silently


def test_what_is_there_is_replaced_only_with_overwrite(folder: Path) -> None:
    clip(folder / "b.wav", 4.0)
    llm = tokenizer_folder(folder / "llm")
    source = manifest(folder, {"audio": "b.wav", "text": "the cat", "label": "cat"})
    out = folder / "precious.jsonl"
    commands = [
        ("convert", source, out, "--to", "parts"),
        ("filter", source, out, "-m", llm, "--skip", "frames"),
        ("filter", source, folder / "kept.jsonl", "-m", llm, "--skip", "frames", "--dropped", out),
        ("instruct", source, out, "--task", "sound"),
    ]
    for command in commands:
        out.write_text("precious\n", encoding="utf-8")
        refused = run(*command)
        assert (refused.exit_code, out.read_text(encoding="utf-8")) == (2, "precious\n"), refused.stderr
        assert "precious.jsonl is there already" in refused.stderr
        done = run(*command, "--overwrite")
        assert (done.exit_code, "precious" in out.read_text(encoding="utf-8")) == (0, False), done.stderr
    assert len(rows_of(folder / "kept.jsonl")) == 1


def test_a_picture_is_replaced_only_with_overwrite(folder: Path) -> None:
    path = manifest(folder, {"audio": "a.wav", "text": "x"})
    (folder / "p.svg").write_text("mine", encoding="utf-8")
    assert run("stats", path, "--plot", folder / "p.svg").exit_code == 2
    assert (folder / "p.svg").read_text(encoding="utf-8") == "mine"
    assert run("stats", path, "--plot", folder / "p.svg", "--overwrite").exit_code == 0
    assert "<svg" in (folder / "p.svg").read_text(encoding="utf-8")


# --- the shared inputs themselves


@shared
def test_the_shared_manifests_are_read_as_training_reads_them() -> None:
    assert [one.text for one in read_clips([FAULTS / "eval_bom.jsonl"], NEEDS)] == [
        "how many days are there in a week"
    ] * 2
    separated = [one.text for one in read_clips([FAULTS / "eval_u2028.jsonl"], NEEDS)]
    assert separated == [example.reply for example in read_manifest(FAULTS / "eval_u2028.jsonl")]
    assert [len((text or "").split("\n")) for text in separated] == [1, 1]
    (cut,) = read_clips([FAULTS / "eval_offset.jsonl"], NEEDS)
    assert (cut.seconds(), len(cut.samples())) == (0.5, RATE // 2)


@shared
def test_the_shared_scripts_keep_their_letters_and_marks() -> None:
    assert [example.transcript for example in read_manifest(FAULTS / "lang_scripts.jsonl")] == [
        "नमस्ते दुनिया", "안녕하세요", "日本語ですが バス", "สวัสดีครับ", "schön über äpfel", None, None, None, None,
    ]  # fmt: skip


@shared
@pytest.mark.parametrize(
    ("name", "rule"), [("audio_token", "reserved-token"), ("im_end", "reserved-token"), ("punctuation", "no-letters")]
)
def test_the_shared_training_texts_are_findings_with_their_line(name: str, rule: str) -> None:
    report = check([FAULTS / f"train_{name}.jsonl"], None)
    assert [(finding.line, finding.rule) for finding in report.findings] == [(1, rule)]
    assert report.bad_rows == 1
