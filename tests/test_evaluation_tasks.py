"""The tasks of stage III: intents, sounds and translations, and answers that begin with the question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from listening import ListeningEngine, judge, manifest_of
from typer.testing import CliRunner

import soundwave
from soundwave.checkpoints import catalog
from soundwave.cli.app import app
from soundwave.datatools.wordings import read_wording
from soundwave.errors import DataError
from soundwave.evaluation import TaskName
from soundwave.evaluation.tasks import TASKS


@pytest.mark.parametrize(
    ("task", "taught"), [("intent", "intent"), ("sounds", "sound"), ("translate", "translation")]
)
def test_evaluations_ask_what_the_training_data_calls_the_standard_instruction(task: str, taught: str) -> None:
    assert TASKS[TaskName(task)].asking.prompt == read_wording(taught).instructions[0]


def test_an_intent_is_read_after_the_transcript(tmp_path: Path) -> None:
    lines = [
        {"text": "Set an alarm.", "intent": "alarm"},
        {"text": "What is an alarm?", "intent": "definition"},
        {"text": "Play music.", "intent": "play music"},
        {"text": "Wake me.", "intent": "alarm"},
    ]
    engine = ListeningEngine(
        'You are saying "Set an alarm." and the intent is alarm.',
        'You are asking "What is an alarm?" and the intent is alarm.',  # the right word is nowhere
        "Play music.",  # only repeated: the label is in the command
        "The intent is alarm or definition.",
    )
    done = judge("intent", engine, manifest_of(tmp_path, *lines))
    score = done.task.score(done.predictions)
    assert set(engine.prompts) == {"What is the intent of the speaker?"}
    assert engine.options == {"via": "auto", "temperature": 0, "max_new_tokens": 64}
    assert score.value == 1 / 4
    assert score.counts == {"right": 1, "named_no_label": 2, "labels": 3, "transcribed_first": 3}
    assert score.also == {"word_error_rate_of_transcribed": 0.0}


def test_a_sound_is_named_by_its_label_alone(tmp_path: Path) -> None:
    lines = [{"label": label} for label in ("rain", "dog bark", "clock tick", "rain")]
    engine = ListeningEngine("rain", "The sound is: dog bark.", "B. rain", "rain, or a dog bark")
    score = (done := judge("sounds", engine, manifest_of(tmp_path, *lines))).task.score(done.predictions)
    assert (score.value, score.counts) == (0.5, {"right": 2, "named_no_label": 1, "labels": 3})
    assert score.also == {}


def test_translations_are_scored_against_every_reference_there_is(tmp_path: Path) -> None:
    lines = [
        {"text": "I am here now.", "translation": "Ich bin jetzt hier."},
        {"text": "You are very nice.", "translation": "Du bist sehr nett.",
         "answers": ["Du bist sehr nett.", "Sie sind sehr nett."]},
    ]
    engine = ListeningEngine("Ich bin jetzt hier.", "Sie sind sehr nett.")
    score = (done := judge("translate", engine, manifest_of(tmp_path, *lines))).task.score(done.predictions)
    assert score.value == pytest.approx(1.0)
    assert score.also["chrf"] == pytest.approx(1.0)
    assert score.counts == {"exact": 2}
    assert set(score.signatures) == {"bleu", "chrf"}


def test_a_question_is_not_answered_by_being_repeated(tmp_path: Path) -> None:
    question = {"text": "Is Rome in Italy or in Spain?", "answers": ["Italy"]}
    engine = ListeningEngine(
        'You are asking "Is Rome in Italy or in Spain?" and I can tell you: it is in Italy.',
        'You are asking "Is Rome in Italy or in Spain?" and I can tell you: it is in Spain.',
        'You are asking "Is Rome in Italy or in Spain?"',
        "Is Rome in Italy or in Spain?",
        "In Italy.",
    )
    done = judge("questions", engine, manifest_of(tmp_path, *[question] * 5))
    assert done.task.score(done.predictions).counts == {"right": 2, "only_repeated": 2}


@pytest.mark.parametrize(("task", "label"), [("intent", "intent"), ("sounds", "label"), ("translate", "translation")])
def test_a_line_without_its_label_is_refused(task: str, label: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f":1: no '{label}', which this task compares with"):
        judge(task, ListeningEngine("x"), manifest_of(tmp_path, {"text": "x", label: 3}))


def test_the_result_holds_sacrebleus_signatures_and_no_normaliser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundwave, "load", lambda *_, **__: ListeningEngine("Ja.", "Nein."))
    monkeypatch.setattr(catalog, "download", lambda name, progress=None: Path(name))
    lines = [{"text": "Yes.", "translation": "Ja."}, {"text": "No.", "translation": "Nein."}]
    path = manifest_of(tmp_path / "dev", *lines)
    told = CliRunner().invoke(app, ["eval", str(path), "--task", "translate", "--out", str(tmp_path / "r.json")])
    assert told.exit_code == 0, told.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert result["manifests"][0]["signatures"] == result["signatures"]
    assert result["normaliser"] is None
    assert "sacrebleu" in result["versions"]
    assert result["prompt"] == "What is the German translation of this English speech?"


def test_a_transcript_that_is_answered_has_an_error_rate_of_their_own(tmp_path: Path) -> None:
    lines = [{"text": "Is Rome in Italy?", "answers": ["yes"]}, {"text": "Is Rome old?", "answers": ["yes"]}]
    engine = ListeningEngine("Yes.", "No.")
    engine.transcript = "Is Rome in Italy?"
    evaluation = judge("questions", engine, manifest_of(tmp_path, *lines))
    score = TASKS[TaskName.questions].score(evaluation.predictions)
    assert score.counts["right"] == 1
    assert score.also["word_error_rate_of_transcript"] == pytest.approx(2 / 7)  # "in Italy" stands there for "old"
