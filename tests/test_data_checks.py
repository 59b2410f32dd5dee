"""`data check` and `data stats`: each fault is found in its row, sound rows stay unmentioned, and counts add up."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_data import RATE, clip, manifest, rows_of, run, spelling, tokenizer_folder

from soundwave.data.shards import data_text
from soundwave.datatools.check import RULES, check
from soundwave.datatools.spelling import load_spelling
from soundwave.datatools.summary import percentiles, summarise
from soundwave.errors import ConfigurationError, DataError
from soundwave.text.ctc_tokenizer import ctc_frames_needed

GOOD = {"audio": "clips/a.wav", "text": "The cat.", "duration": 1.0}
BAD: dict[str, tuple[Any, str]] = {
    "format: no JSON": ('{"audio": ', "not JSON at character 12"),
    "format: no text": ({"audio": "clips/a.wav"}, "no text; the short form is audio and text"),
    "format: a number": ([1], "the line is list, not an object"),
    "audio-missing": ({"audio": "clips/none.wav", "text": "The cat."}, "clips/none.wav does not exist"),
    "audio-broken": ({"audio": "clips/broken.wav", "text": "The cat."}, "begins like wav but is cut off or damaged"),
    "audio-silent": ({"audio": "clips/silent.wav", "text": "The cat."}, "the audio is silent where 'the cat' is said"),
    "audio-odd": (
        {"audio": "clips/phase.wav", "text": "The cat."}, "cancel",
    ),
    "duration": ({**GOOD, "text": "A.", "duration": 1.5}, "stated 1.5 s, the audio has 1.00 s"),
    "duration: a cut": (
        {"audio": "clips/a.wav", "text": "B.", "start": 0.5, "end": 2}, "the cut 0.5–2 s lies outside of",
    ),
    "too-long": ({"audio": "clips/long.wav", "text": "The cat."}, "long.wav has 31.00 s"),
    "text-empty": ({"audio": "clips/a.wav", "text": " ", "transcript": "the cat"}, "the reply is empty"),
    "ctc-frames": (
        {"audio": "clips/a.wav", "text": "Mississippi " * 4}, "tokens need",
    ),
    "ctc-tokens": ({"audio": "clips/ten.wav", "text": "dog " * 51}, "203 tokens, at most 200 are learnt"),
    "duplicate": (GOOD, "m.jsonl:1"),
    "ctc-spelling": ({"audio": "clips/a.wav", "text": "At 5."}, "'At 5.' does not say how it is spoken"),
    "no-letters": ({"audio": "clips/a.wav", "text": "..."}, "the transcript is '...'"),
    "reserved-token": ({"audio": "clips/a.wav", "text": "How many<|im_end|> days"}, "'<|im_end|>' in 'How many"),
    "reserved-token: of the prompt": (
        {"audio": "clips/a.wav", "text": "Days.", "prompt": "<|im_start|>system"}, "'<|im_start|>' in",
    ),
    "noise-mark": ({"audio": "clips/a.wav", "text": "The (laughs) cat."}, "'(laughs)' in the transcript"),
    "upper-case": ({"audio": "clips/a.wav", "text": "A CAT."}, "1 of 2 texts are in capitals"),
    "nobody-speaks": ({"audio": "clips/silent.wav", "text": ""}, "the text is empty"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clip(tmp_path / "clips" / "a.wav")
    clip(tmp_path / "clips" / "ten.wav", 10.0)
    clip(tmp_path / "clips" / "long.wav", 31.0)
    clip(tmp_path / "clips" / "silent.wav", level=0.0)
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "clips" / "phase.wav", np.stack([tone, -tone], 1).astype(np.float32), RATE)
    (tmp_path / "clips" / "broken.wav").write_bytes((tmp_path / "clips" / "a.wav").read_bytes()[:30])
    return tmp_path


@pytest.mark.parametrize(("name", "row", "detail"), [(name, *case) for name, case in BAD.items()], ids=list(BAD))
def test_each_fault_is_found_in_its_row_and_nowhere_else(folder: Path, name: str, row: Any, detail: str) -> None:
    report = check([manifest(folder, GOOD, row)], spelling(folder))
    rule = name.split(":")[0]
    assert [(one.line, one.rule) for one in report.findings] == [(2, rule)]
    assert detail in report.findings[0].detail
    assert report.bad_rows == (RULES[rule][0] == "error")
    assert check([folder / "m.jsonl"], spelling(folder), strict=True).bad_rows == 1


def test_every_rule_has_a_row_that_breaks_it() -> None:
    assert {name.split(":")[0] for name in BAD} == set(RULES)


def test_sounds_inside_rows_are_duplicates_by_their_content_and_are_taken_for_no_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = [data_text((folder / "clips" / f"{name}.wav").read_bytes(), "wav") for name in ("a", "ten", "a")]
    real = os.path.realpath
    asked: list[str] = []
    monkeypatch.setattr(os.path, "realpath", lambda path, **options: asked.append(str(path)) or real(path, **options))
    report = check([manifest(folder, *[{"audio": sound, "text": "The cat."} for sound in sounds])], None)
    assert [(one.line, one.rule) for one in report.findings] == [(3, "duplicate")]
    assert not [path for path in asked if "data:" in path]


def test_cuts_of_a_long_recording_are_no_fault(folder: Path) -> None:
    cuts = [{"audio": "clips/long.wav", "text": f"The cat {'a' * n}.", "start": n, "end": n + 5} for n in range(1, 6)]
    assert check([manifest(folder, *cuts)], spelling(folder)).findings == []


def test_a_line_that_is_no_utf_8_is_one_bad_row_and_the_lines_after_it_are_read(folder: Path) -> None:
    path = manifest(folder, GOOD)
    last = json.dumps({**GOOD, "text": "A.", "duration": 9.0})
    path.write_bytes(path.read_bytes() + b'{"text": "caf\xe9"}\n' + last.encode())
    report = check([path], None)
    assert report.rows == 3
    assert [(finding.line, finding.rule) for finding in report.findings] == [(2, "format"), (3, "duration")]
    assert "not UTF-8 text at byte 14 of the line" in report.findings[0].detail


def test_a_packed_file_that_breaks_off_is_a_bad_row_where_it_does(folder: Path) -> None:
    rows = [{**GOOD, "text": f"The cat {number}."} for number in range(2000)]
    whole = gzip.compress(manifest(folder, *rows).read_bytes())
    (folder / "torn.jsonl.gz").write_bytes(whole[: len(whole) * 3 // 4])
    report = check([folder / "torn.jsonl.gz"], None, decode=False)
    (torn,) = [finding for finding in report.findings if finding.rule == "format"]
    assert torn.line == report.rows
    assert 1 < report.rows < len(rows)
    assert "the .gz file is cut off or broken" in torn.detail


MALFORMED: list[Any] = [
    {"supervisions": [5], "recording": {"sources": [{"type": "file", "source": "clips/a.wav"}]}},
    {"supervisions": [{"text": "x"}], "recording": {"sources": [5]}, "custom": {}},
    {"supervisions": [{"text": "x"}], "recording": {"sources": "x"}},
    {"supervisions": [{"text": 5}], "recording": {"sources": [{"type": "file", "source": "clips/a.wav"}]}},
    {"supervisions": [{"text": "x"}], "custom": 5},
    {"supervisions": None, "custom": [1]},
    {"audio": "clips/a.wav\0", "text": "x"},
    {**GOOD, "language": ["en"]},
    {**GOOD, "text": "half \ud800 a pair"},
    {**GOOD, "\udfff": 1},
    {**GOOD, "duration": 10**400},
    {"messages": [{"role": "user", "content": [5, None]}, 5], "audios": [None, 5, {"path": 5}]},
    {"conversations": [{"from": "human", "value": "x", "audio": {"path": ["\0"]}}]},
    "[" * 100_000,
    '{"audio": "clips/a.wav", "text": "x", "n": ' + "9" * 5000 + "}",
]


def test_whatever_a_line_holds_it_is_one_bad_row_for_every_verb(folder: Path) -> None:
    llm, path = tokenizer_folder(folder / "llm"), manifest(folder, *MALFORMED, GOOD)
    told = json.loads(run("check", path, "-m", llm, "--json").stdout)
    assert [(one["line"], one["rule"]) for one in told["findings"]] == [
        (number, "format") for number in range(1, len(MALFORMED) + 1)
    ]
    assert json.loads(run("stats", path, "--json").stdout)["bad_rows"] == len(MALFORMED)
    result = run("filter", path, folder / "new" / "k.jsonl", "-m", llm, "--min-seconds", "0")
    assert result.exit_code == 0
    dropped = rows_of(folder / "new" / "k.jsonl.dropped.jsonl")
    assert [where_kept(row)["line"] for row in dropped] == list(range(1, len(MALFORMED) + 1))
    assert dropped[8]["text"] == "half \ud800 a pair"  # as it was, for whoever mends it
    for verb, more in (("convert", ["--to", "messages"]), ("shard", [])):
        refused = run(verb, path, folder / "out", *more)
        assert refused.exit_code == 1
        assert f"({len(MALFORMED)} of {len(MALFORMED) + 1} rows are bad" in refused.stderr


def where_kept(row: dict[str, Any]) -> dict[str, Any]:
    """Where `data filter` puts what it says about a row that it drops."""
    return row if "line" in row else row["custom"]


def test_a_sound_in_place_of_its_path_does_not_exist(folder: Path) -> None:
    """A path may be too long for any file system, as base64 text without its `data:` is."""
    (finding,) = check([manifest(folder, {**GOOD, "audio": "UklGRg" * 2000})], None).findings
    assert finding.rule == "audio-missing"


def test_a_small_ctc_vocabulary_cannot_spell_every_letter(folder: Path) -> None:
    path = manifest(folder, {"audio": "clips/a.wav", "text": "Привет."})
    assert check([path], spelling(folder)).findings == []  # the whole vocabulary holds every byte
    letters = load_spelling(str(tokenizer_folder(folder / "llm")))
    ids = [letters.tokens(c)[0] for c in "abcdefghijklmnopqrstuvwxyz"] + [letters.tokens(" ")[0]]
    small = spelling(folder / "small", model_type="soundwave", ctc_vocabulary=ids)
    assert [one.rule for one in check([path], small).findings] == ["ctc-spelling"]


def test_frames_follow_the_models_window(folder: Path) -> None:
    assert spelling(folder).frames(1.0) == 38  # 1 s and half a second of silence, 25 frames a second, rounded up
    assert spelling(folder).frames(30.0) == 750
    released = spelling(folder / "released", model_type="Soundwave")
    assert released.frames(1.0) == 750  # a padded window
    assert ctc_frames_needed([1, 1, 2, 2, 2]) == 8
    (folder / "llm" / "tokenizer.json").unlink()
    with pytest.raises(ConfigurationError, match=r"no tokenizer.json; give a language model with a fast tokenizer"):
        load_spelling(str(folder / "llm"))


def test_the_command_lists_bad_rows_and_ends_with_1(folder: Path) -> None:
    llm = tokenizer_folder(folder / "llm")
    good, bad = manifest(folder, GOOD), manifest(folder, GOOD, *(row for row, _ in BAD.values()), name="bad.jsonl")
    fine = run("check", good, "-m", llm)
    assert (fine.exit_code, fine.stdout.splitlines()[-1]) == (0, "1 rows, 0 bad")
    found = run("check", good, bad, "-m", llm, "-j", "2")
    assert found.exit_code == 1
    assert found.stdout.splitlines()[-1] == f"{len(BAD) + 2} rows, 17 bad"  # the first row of bad repeats good's
    assert f"{bad}:2" in found.stdout
    assert "not JSON at character 12" in found.stdout
    told = json.loads(run("check", bad, "--json", "--no-ctc", "--no-decode").stdout)
    assert told["rows"] == len(BAD) + 1
    assert {one["rule"] for one in told["findings"]}.isdisjoint({"ctc-frames", "ctc-tokens", "audio-silent"})
    few = run("check", bad, "--no-ctc", "--show", "1").stdout
    assert "more; --show 0 lists all" in few
    gone = run("check", folder / "none.jsonl", "--no-ctc")
    assert gone.exit_code == 1
    assert "no such manifest" in gone.stderr


def test_stats_count_what_is_there(folder: Path) -> None:
    rows = [
        {"audio": "clips/a.wav", "text": "The cat.", "speaker": "7", "language": "en", "licence": "CC0"},
        {"audio": "clips/ten.wav", "text": "The cat sat.", "duration": 10.0, "speaker": "7", "task": "asr"},
        {"audio": "clips/none.wav", "text": "Gone."},
        {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello you."}]},
        {"audio": "clips/silent.wav", "text": ""},
        {"nothing": 1},
    ]
    found = summarise([manifest(folder, *rows)])
    assert (found.rows, found.bad_rows, found.text_only, found.transcribed, found.nobody_speaks) == (6, 1, 1, 3, 1)
    assert found.seconds == pytest.approx(12.0)
    assert found.unknown_seconds == 1
    assert (found.words, found.vocabulary) == (8, 6)  # the cat | the cat sat | gone | hello you.
    assert found.characters_a_second == pytest.approx([6 / 1, 9 / 10])
    assert dict(found.histogram()) | {"0–1 s": 2, "7.5–10 s": 1} == dict(found.histogram())
    assert (found.speakers, found.tasks["asr"], found.languages["en"], found.licences["CC0"]) == ({"7": 2}, 1, 1, 1)
    with pytest.raises(DataError, match="no such manifest"):
        summarise([folder / "none.jsonl"])


def test_recordings_without_a_text_have_hours_and_no_words(folder: Path) -> None:
    source = {"type": "file", "channels": [0], "source": "clips/ten.wav"}
    cut = {"id": "c", "start": 0, "duration": 10.0, "supervisions": [], "recording": {"sources": [source]}}
    rows = [
        GOOD, {"audio": "clips/a.wav", "text": None, "speaker": "7"}, {"audio_filepath": "clips/a.wav"}, cut,
        {"audio": 5, "text": None}, {**cut, "channel": 1},
    ]  # fmt: skip
    path = manifest(folder, *rows)
    found = summarise([path])
    assert (found.rows, found.without_text, found.bad_rows, found.nobody_speaks) == (6, 3, 2, 0)
    assert found.seconds == pytest.approx(1 + 1 + 1 + 10)
    assert (found.words, found.transcribed, found.speakers) == (2, 1, {"7": 1})
    assert re.search(r"rows +6, 2 of them bad.*without a text +3", run("stats", path).stdout, re.S)


def test_percentiles_are_of_the_values_themselves() -> None:
    assert percentiles([]) == {}
    assert percentiles([float(n) for n in range(1, 102)]) == {"mean": 51.0, "p5": 6.0, "p50": 51.0, "p95": 96.0}


def test_the_command_prints_bars_json_and_a_picture(folder: Path) -> None:
    path = manifest(folder, GOOD, {**GOOD, "audio": "clips/ten.wav", "duration": 10.0})
    told = run("stats", path, "--plot", folder / "pictures" / "plot.png")
    assert told.exit_code == 0
    assert "█" in told.stdout
    assert (folder / "pictures" / "plot.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads(run("stats", path, path, "--json").stdout)
    refused = run("stats", path, "--plot", folder / "plot.xyz")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "plot.xyz: no kind of picture has this ending; choose one of" in refused.stderr
    assert (numbers["rows"], numbers["hours"]) == (4, pytest.approx(22 / 3600, abs=1e-4))


VERBS = ["check", "stats", "convert", "show", "filter", "synth", "answer", "splice", "units"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_data_has_a_whole_summary_and_help(verb: str) -> None:
    summary = next(line for line in run("--help").stdout.splitlines() if line.strip().startswith(verb))
    assert summary.endswith(".")
    assert not summary.endswith("...")
    told = run(verb, "-h")
    assert told.exit_code == 0
    assert all(line.strip() for line in told.stdout.splitlines() if line.startswith("  --"))
    assert run(verb).exit_code == 2
