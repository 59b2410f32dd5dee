"""The comparison of switches: every row trains and is measured, a row is one switch, a second start runs nothing."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_runs
from tiny_data import rows_of

SWITCHES = Path(__file__).parents[1] / "recipes" / "switches"
if not SWITCHES.is_dir():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(SWITCHES))

import compare  # noqa: E402
import question_data  # noqa: E402
import results_table  # noqa: E402

from soundwave.checkpoints.native import adapter_tensors, save_trained  # noqa: E402

SIZES = ["alignment_heads=4", "alignment_ffn_dim=40", "look_back_heads=4"]
SMALL = ["max_steps=2", "batch_seconds=4", "max_batch_size=4", "logging_steps=1", "ctc_vocabulary_size=60"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """$SPEECH, $TEXTS and $WORK in small, and tiny parts."""
    folder = tmp_path_factory.mktemp("switches")
    encoder, language_model = tiny.part_folders(folder)
    speech, texts, work = folder / "speech", folder / "texts", folder / "work"
    rows = tiny_runs.clips(speech / "train-read")
    tiny_runs.manifest_of(speech / "train-read", rows)
    questions = [{**row, "text": f"{row['transcript']}?", "kind": "question"} for row in rows[:4]]
    for row in questions:
        del row["transcript"]  # as in train-piper
    people = [speech / f"train-{name}" for name in ("librispeech", "common-voice", "single-speakers", "speechocean")]
    made = [work / "synth" / name for name in ("flite-questions", "piper-questions", "festival")]
    tasks = [work / "tasks" / name / "train" for name in ("commands", "translation")]
    for copy in (*people, *made, *tasks):
        shutil.copytree(speech / "train-read", copy)
    for place, held in (
        (work / "synth" / "piper", [*questions, {**rows[4], "kind": "prose"}]), (speech / "dev-librispeech", rows[:3]),
    ):
        shutil.copytree(speech / "train-read", place)
        tiny_runs.manifest_of(place, held)
    shutil.copytree(speech / "train-read", speech / "dev-questions")
    asked = [{**row, "answers": ["cat"], "text_llm_reply": "A cat. And a"} for row in rows[:2]]
    tiny_runs.manifest_of(speech / "dev-questions", asked)
    (work / "labels").mkdir(parents=True)
    for name in ("train-read", "train-many-speakers-untranscribed"):
        labelled = [{**row, "audio": str(speech / "train-read" / row["audio"])} for row in rows]
        tiny_runs.manifest_of(work / "labels", labelled, f"{name}.jsonl")
    texts.mkdir()
    given = {"qa-web.jsonl.gz": {"question": "The cat", "answers": ["On"]}, "qa-trivia.jsonl.gz": {
        "question": "A son?", "answer": "The person."}}
    for name, row in given.items():
        with gzip.open(texts / name, "wt") as file:
            file.write(json.dumps(row) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SPEECH", speech), ("TEXTS", texts), ("WORK", work)):
            patch.setenv(name, str(value))
        patch.setattr(question_data, "part_folder", lambda name: folder)
        patch.setattr(question_data, "plain_model", lambda folder: lambda texts: [f"It is {t[:-1]}." for t in texts])
        parts = [f"audio_tower={encoder}", f"language_model={language_model}"]
        yield folder, [*parts, *SMALL, *(f"model.{size}" for size in SIZES)]


def start(folder: Path, options: list[str], *arguments: str) -> dict[str, Any]:
    """The command; gives what it wrote."""
    out = folder / "switches.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compare.py", *arguments, "--out", str(out), "--set", *options])
        compare.main()
    return json.loads(out.read_text())


def test_every_row_trains_and_is_measured(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, options = world
    with pytest.MonkeyPatch.context() as patch:
        # a whole vocabulary and another size of it are changes of these rows: the small one of --set comes before them
        patch.setitem(compare.CHANGES, "alignment", [*compare.CHANGES["alignment"][:-1], ["ctc_vocabulary_size=80"]])
        # the tiny encoder has two layers, the adapter one
        of_six = [changes for changes in compare.CHANGES["further"] if "intermediate" not in str(changes)]
        of_two = [[re.sub(r"(upper_layers)=\d", r"\1=2", change) for change in changes] for changes in of_six]
        patch.setitem(compare.CHANGES, "further", [one for i, one in enumerate(of_two) if one not in of_two[:i]])
        result = start(folder, options, *compare.CHANGES)
        rows = result["rows"]
        assert [row["changed"] for row in rows if row["group"] == "vocabulary"] == [
            "nothing", "ctc_vocabulary_size=null"]
        assert len(rows) == sum(map(len, compare.CHANGES.values()))
        for row in rows:
            expected = {"alignment": "ctc_nats_per_character", "shrinking": "next_token", "targets": "next_token"}
            assert row[expected.get(row["group"], "ctc_wer")] >= 0
            assert (row["steps"], row["seed"]) == (2, 1)
            assert {"settings", "commit", "date", "run_seconds", "times_real_time", "batch_seconds"} <= set(row)
        targets = [row for row in rows if row["group"] == "targets"]
        assert all(0 <= row["answered"] <= 1 for row in targets)
        assert ["kl" in row for row in targets] == [False, True, True, False]
        assert all(row["start_from"].startswith("$WORK/switches/alignment/") for row in targets)
        assert len({row["loss"] for row in rows if row["group"] == "shrinking"}) > 4  # the switches change something
        assert {"command", "commit", "date", "cores", "threads", "held_out", "decoding"} <= set(result)
        printed = capsys.readouterr().out
        assert "| model.run_pooling=peak | " in printed

        patch.setattr(compare, "train", lambda recipe: pytest.fail("a row that is there was run again"))
        assert start(folder, options, *compare.CHANGES)["rows"] == rows


def test_a_row_that_was_lost_is_measured_from_its_run_and_other_settings_are_another_run(world: Any) -> None:
    folder, options = world
    first = start(folder, options, "alignment", "--only", "frame")["rows"]
    out = folder / "switches.json"
    whole = json.loads(out.read_text())
    kept = [row for row in whole["rows"] if "frame" not in row["changed"]]
    out.write_text(json.dumps(whole | {"rows": kept}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "train", lambda recipe: pytest.fail("it was trained again"))
        again = start(folder, options, "alignment", "--only", "frame")["rows"]
    wer = {row["changed"]: row["ctc_wer"] for row in first if row["group"] == "alignment"}
    assert {row["changed"]: row["ctc_wer"] for row in again if row["group"] == "alignment"} == wer
    longer = start(folder, [*options, "max_steps=3"], "alignment", "--only", "frame")["rows"]
    changed = [row for row in longer if row["group"] == "alignment" and row["changed"] in ("nothing", *wer)]
    assert {row["steps"] for row in changed if "frame" in row["changed"] or row["changed"] == "nothing"} == {3}


def test_both_kinds_of_answers_are_to_the_same_questions(world: Any) -> None:
    folder, _ = world
    data = folder / "made"
    question_data.make(data)
    own, given, dev = (rows_of(data / name) for name in ("own.jsonl", "given.jsonl", "dev.jsonl"))
    assert [row["text"] for row in own] == ["It is the cat.", "It is a son."]
    assert [row["text"] for row in given] == ["On.", "The person."]
    assert [row["transcript"] for row in own] == [row["transcript"] for row in given] == ["the cat?", "a son?"]
    assert [row["text"] for row in dev] == ["A cat.", "A cat."]
    assert all(Path(row["audio"]).is_file() for row in [*own, *given, *dev])


@pytest.mark.parametrize("group", compare.CHANGES)
def test_each_row_differs_from_its_recipe_in_one_switch_and_what_it_needs(world: Any, group: str) -> None:
    base = dataclasses.asdict(compare.recipe_of(group, [], 1, None, []))
    for changes in compare.CHANGES[group][1:]:
        changed = dataclasses.asdict(compare.recipe_of(group, changes, 1, None, []))
        different = {name for name in base if base[name] != changed[name]} - {"output_dir"}
        assert different == {change.partition("=")[0].split(".")[0] for change in changes}
        assert len(changes) == 1 or group == "further"  # how, in which layers, at which rate


def test_a_table_tells_the_difference_and_the_mean_over_seeds() -> None:
    rows = [
        {"group": "g", "changed": "nothing", "seed": 1, "steps": 5, "ctc_wer": 0.50, "times_real_time": 90.0},
        {"group": "g", "changed": "nothing", "seed": 2, "steps": 5, "ctc_wer": 0.54, "times_real_time": 110.0},
        {"group": "g", "changed": "x=1", "seed": 1, "steps": 5, "ctc_wer": 0.60, "times_real_time": 50.0},
        {"group": "g", "changed": "x=1", "seed": 2, "steps": 5, "ctc_wer": 0.58, "times_real_time": 50.0},
    ]
    lines = results_table.markdown(rows, ["none", "g"]).splitlines()
    assert lines[0] == "`g`, 5 steps, seeds 1, 2:"
    assert lines[2] == "| changed | CTC word errors, % | times real time |"
    assert lines[4:] == ["| nothing | 52.0 | 100 |", "| x=1 | 59.0 (+7.0) | 50 |"]


def test_of_a_finished_model_the_alignment_adapter_alone_is_taken(world: Any, tmp_path: Path) -> None:
    model = tmp_path / "finished"
    made = tiny.model(tiny.config())
    save_trained(made, model)
    start = compare.aligned(model)
    names = {name for name, _ in adapter_tensors(start)}
    assert names == {f"alignment.{name}" for name in made.alignment.state_dict()}
    assert json.loads((start / "config.json").read_text())["ctc_merges"] == 0
    assert not (start / "lora").exists()
