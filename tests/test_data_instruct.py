"""`data instruct`: shipped wordings for every task of stage III, and labels that become instructions and answers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_data import manifest, rows_of, run

from soundwave.data.manifests import read_manifest
from soundwave.datatools.instruct import CUES, instruct
from soundwave.datatools.wordings import FOLDER, Wording, read_wording, task_names

# The tasks of stage III (the paper, instruction tuning), and the tags of everyday sounds.
STAGE_THREE = {
    "asr", "translation", "grounding", "language", "gender", "emotion", "age", "entity", "intent", "speaker-count",
    "synthesized", "vocal-sound", "scene", "question", "instruction", "sound",
}
# What the paper's evaluation asks.
ASKED = {
    "asr": "What does the person say?",
    "translation": "What is the German translation of this English speech?",
    "vocal-sound": "Where's the sound in this clip originating from?",
    "question": "Please answer the question that the person asks.",
}
COMMANDS = [
    {"audio": f"{n}.wav", "text": f"Say number {word}.", "intent": intent, "duration": 1.0, "speaker": "ann"}
    for n, (word, intent) in enumerate(
        [("one", "alarm"), ("two", "timer"), ("three", "play_music"), ("four", "weather"), ("five", "alarm")]
    )
]


def exchanges(path: Path) -> list[tuple[str, str]]:
    return [tuple(message["content"] for message in row["messages"]) for row in rows_of(path)]


def made(folder: Path, rows: list[dict[str, Any]], *options: object) -> list[tuple[str, str]]:
    done = run("instruct", manifest(folder, *rows), folder / "out.jsonl", "--overwrite", *options)
    assert done.exit_code == 0, done.output
    return exchanges(folder / "out.jsonl")


# --- what is shipped


def test_every_task_of_stage_three_has_its_file() -> None:
    assert set(task_names()) == STAGE_THREE


@pytest.mark.parametrize("task", sorted(STAGE_THREE))
def test_a_task_has_fifty_different_instructions_in_tidy_english(task: str) -> None:
    wording = read_wording(task)
    plain = {re.sub(r"[^a-z{} ]", "", text.lower()) for text in wording.instructions}
    assert len(plain) == len(wording.instructions) >= 50
    for text in wording.instructions:
        assert text == " ".join(text.split())
        assert text[-1] in ".?", text
        assert text[0].isupper() or text.startswith('"'), text
        assert ("{word}" in text) == (task == "grounding"), text
    lengths = {len(text.split()) for text in wording.instructions}
    assert max(lengths) - min(lengths) >= 5  # short and long ones


@pytest.mark.parametrize("task", sorted(STAGE_THREE))
def test_answers_say_the_answer_once_and_the_words_before_it(task: str) -> None:
    wording = read_wording(task)
    assert wording.usual in wording.formats
    assert wording.about
    for text in wording.sentences:
        assert text.count("{answer}") == 1, text
    for text in wording.transcript_first:
        assert re.fullmatch(r'[^"{}]+"\{transcript\}" [^"{}]*"?\{answer\}"?\.?', text), text


@pytest.mark.parametrize(("task", "prompt"), ASKED.items())
def test_the_papers_evaluation_prompts_come_first(task: str, prompt: str) -> None:
    assert read_wording(task).instructions[0] == prompt


def test_three_forms_of_answer_and_the_papers_fourth() -> None:
    assert read_wording("emotion").formats == ("direct", "choice", "sentence")
    assert read_wording("intent").formats == ("direct", "choice", "sentence", "transcript")
    assert {"intent", "question"} == {task for task in task_names() if read_wording(task).usual == "transcript"}


def test_the_files_are_inside_the_package() -> None:
    assert FOLDER.parent.name == "datatools"
    assert FOLDER.parents[1].name == "soundwave"


# --- what a row becomes


def test_a_direct_answer_is_the_label_with_the_audio_before_the_instruction(tmp_path: Path) -> None:
    (asked, answer), *_ = made(tmp_path, COMMANDS, "--task", "intent", "--formats", "direct", "--standard-share", 1)
    assert (asked, answer) == ("<audio>What is the intent of the speaker?", "alarm")
    row = rows_of(tmp_path / "out.jsonl")[2]
    assert row["messages"][1]["content"] == "play music"  # a data set's name for programs, as people write it
    assert row["audios"] == ["2.wav"]
    assert (row["transcript"], row["task"], row["duration"]) == ("Say number three.", "intent", 1.0)
    assert (row["speaker"], row["intent"], row["answer_format"]) == ("ann", "play_music", "direct")
    example = list(read_manifest(tmp_path / "out.jsonl"))[2]
    assert example.transcript == "say number three"
    assert [part["type"] for part in example.messages[0]["content"]] == ["audio", "text"]


def test_the_transcript_comes_first_as_in_the_paper(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": 'What "colour" is it?', "answer": "The sky is blue."}]
    ((_, answer),) = made(tmp_path, rows, "--task", "question", "--formats", "transcript", "--seed", 4)
    assert answer.count('"') == 2  # what is said ends where the quotation does
    assert '"What \'colour\' is it?"' in answer
    assert answer.endswith("The sky is blue.")


def test_a_choice_has_four_lines_of_labels_with_the_right_one_anywhere(tmp_path: Path) -> None:
    asked = made(tmp_path, COMMANDS * 20, "--task", "intent", "--formats", "choice")
    letters = Counter()
    for (question, answer), row in zip(asked, COMMANDS * 20, strict=True):
        instruction, *lines = question.split("\n")
        assert [line[:3] for line in lines] == ["A. ", "B. ", "C. ", "D. "]
        assert {line[3:] for line in lines} == {"alarm", "timer", "play music", "weather"}
        assert answer in lines
        assert answer[3:] == row["intent"].replace("_", " ")
        assert instruction.startswith("<audio>")
        letters[answer[0]] += 1
    assert min(letters.values()) > 10


def test_fewer_than_four_labels_are_filled_up_from_the_tasks_own(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": None, "label": "rain"}, {"audio": "b.wav", "text": None, "label": "thunder"}]
    (question, _), _ = made(tmp_path, rows, "--task", "sound", "--formats", "choice")
    options = {line[3:] for line in question.split("\n")[1:]}
    assert len(options) == 4
    assert "rain" in options
    assert options <= {"rain", "thunder", *read_wording("sound").options}


def test_two_labels_make_a_choice_of_two(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": None, "gender": "F"}, {"audio": "b.wav", "text": None, "gender": "M"}]
    (question, answer), _ = made(tmp_path, rows, "--task", "gender", "--formats", "choice")
    assert sorted(line[3:] for line in question.split("\n")[1:]) == ["female", "male"]
    assert answer[3:] == "female"
    assert "transcript" not in rows_of(tmp_path / "out.jsonl")[0]  # not known, not empty


def test_forms_are_told_apart_by_the_instruction(tmp_path: Path) -> None:
    options = ("--task", "sound", "--label-field", "tag", "--takes", 30)
    asked = made(tmp_path, [{"audio": "a.wav", "text": None, "tag": "rain"}], *options)
    forms = [row["answer_format"] for row in rows_of(tmp_path / "out.jsonl")]
    assert {*forms} == {"direct", "choice", "sentence"}
    for (question, answer), form in zip(asked, forms, strict=True):
        cued = any(question.endswith(cue) for cue in CUES["sentence"])
        assert cued == (form == "sentence")
        assert ("\nA. " in question) == (form == "choice")
        assert (answer == "rain") == (form == "direct")
    assert len(set(asked)) == 30  # a clip is not asked the same twice


def test_shares_of_forms_and_of_the_standard_question(tmp_path: Path) -> None:
    options = ("--task", "intent", "--formats", "transcript=3,direct", "--standard-share", 0.5)
    asked = made(tmp_path, COMMANDS * 40, *options)
    forms = Counter(row["answer_format"] for row in rows_of(tmp_path / "out.jsonl"))
    assert forms["transcript"] / 200 == pytest.approx(0.75, abs=0.1)
    standard = sum(question.startswith("<audio>What is the intent of the speaker?") for question, _ in asked)
    assert standard / 200 == pytest.approx(0.5, abs=0.1)


def test_the_time_of_a_word(tmp_path: Path) -> None:
    times = [("the", 0.0, 0.2), ("cat", 0.2, 0.5), ("and", 0.5, 0.6), ("the", 0.6, 0.7), ("dog", 0.7, 1.1)]
    words = [{"word": word, "start": start, "end": end} for word, start, end in times]
    rows = [{"audio": "a.wav", "text": "the cat and the dog", "words": words}]
    ((question, answer),) = made(tmp_path, rows, "--task", "grounding", "--formats", "direct")
    (word,) = re.findall(r'"(\w+)"', question)
    right = {"cat": "0.20 to 0.50 seconds", "and": "0.50 to 0.60 seconds", "dog": "0.70 to 1.10 seconds"}
    assert answer == right[word]  # never "the", which is said twice
    ((question, answer),) = made(tmp_path, rows, "--task", "grounding", "--formats", "choice")
    assert len(question.split("\n")) == 5
    assert answer[3:] in right.values()


def test_transcripts_are_labels_too_and_silence_is_an_empty_one(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "Hello there."}, {"audio": "b.wav", "text": ""}]
    asked = made(tmp_path, rows, "--task", "asr", "--formats", "direct,sentence=0")
    assert [answer for _, answer in asked] == ["Hello there.", ""]


def test_a_reply_of_an_earlier_manifest_can_be_the_label(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "prompt": "Answer.", "text": "It is Paris.", "transcript": "What is it?"}]
    ((_, answer),) = made(tmp_path, rows, "--task", "question", "--label-field", "text", "--formats", "transcript")
    assert '"What is it?"' in answer
    assert answer.endswith("It is Paris.")


def test_a_mark_inside_a_text_is_no_mark(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "Say {answer}.", "answer": "{transcript}"}]
    ((_, answer),) = made(tmp_path, rows, "--task", "question", "--formats", "transcript")
    assert '"Say {answer}."' in answer
    assert answer.endswith("{transcript}")


def test_the_same_command_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    source = manifest(tmp_path, *COMMANDS)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("instruct", source, tmp_path / name, "--task", "intent", "--takes", 3, "--seed", seed)
    contents = [(tmp_path / name).read_bytes() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_row_does_not_depend_on_what_stands_after_it(tmp_path: Path) -> None:
    wording = read_wording("intent")
    instruct(manifest(tmp_path, *COMMANDS), tmp_path / "five.jsonl", wording, formats={"direct": 1})
    instruct(manifest(tmp_path, *COMMANDS[:2]), tmp_path / "two.jsonl", wording, formats={"direct": 1})
    assert exchanges(tmp_path / "five.jsonl")[:2] == exchanges(tmp_path / "two.jsonl")


def test_paths_follow_the_new_place_and_rows_without_a_label_are_counted(tmp_path: Path) -> None:
    source = manifest(tmp_path / "in", COMMANDS[0], {"audio": "x.wav", "text": "No label."})
    done = run("instruct", source, tmp_path / "out" / "m.jsonl", "--task", "intent", "--formats", "direct")
    assert "1 rows in" in done.output
    assert "1 direct; 1 rows without a label" in done.output
    assert rows_of(tmp_path / "out" / "m.jsonl")[0]["audios"] == ["../in/0.wav"]


def test_a_wording_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "pitch.json"
    own.write_text('{"label": "pitch", "instructions": ["High or low?"], "sentences": ["It is {answer}."]}')
    asked = made(tmp_path, [{"audio": "a.wav", "text": None, "pitch": 7}], "--task", own, "--formats", "sentence")
    assert asked == [("<audio>High or low?", "It is 7.")]
    assert rows_of(tmp_path / "out.jsonl")[0]["task"] == "pitch"


# --- mistakes


@pytest.mark.parametrize(
    ("options", "told", "code"),
    [
        (["--task", "intend"], "no instructions for the task 'intend'; there are some for age, asr, emotion", 2),
        (["--task", "asr", "--formats", "choice"], "no answers of the form 'choice'; name some of those that it", 2),
        (["--task", "asr", "--formats", "long"], "The task asr has no answers of the form 'long'; name some", 2),
        (["--task", "asr", "--formats", "direct=no"], "--formats direct=no: 'no' is no number; write direct=2", 2),
        (["--task", "asr", "--formats", "direct=0"], "are not all 0 or more with one above", 2),
        (
            ["--task", "emotion"],
            "no row has the label 'emotion'; the fields are audio, text, intent, duration, speaker. --label-field "
            "names the one that tells the speaker's feeling",
            1,
        ),
    ],
)
def test_a_wrong_option_is_explained(tmp_path: Path, options: list[str], told: str, code: int) -> None:
    done = run("instruct", manifest(tmp_path, COMMANDS[0]), tmp_path / "out.jsonl", *options)
    assert done.exit_code == code
    assert told in " ".join(done.output.split())
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "task", "told"),
    [
        ({"audio": "a.wav", "text": "x", "label": ""}, "sound", "m.jsonl:1: the label 'label' is empty; write it"),
        ({"audio": "a.wav", "text": "x", "label": {"a": 1}}, "sound", "it must be a text, a number, a list of texts"),
        ({"audio": "a.wav", "text": "x", "words": [{"w": 1}]}, "grounding", "each word is {\"word\": text, \"start\""),
        (
            {"audio": "a.wav", "text": "x", "words": [{"word": "a", "start": 0, "end": 1}] * 2}, "grounding",
            "every word of 'words' is said more than once; remove the row",
        ),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}], "label": "y"},
            "sound", "no audio, but the task sound asks about a recording",
        ),
        ({"audio": 3, "text": "x", "label": "y"}, "sound", "m.jsonl:1: the audio is 3"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], task: str, told: str) -> None:
    done = run("instruct", manifest(tmp_path, row), tmp_path / "out.jsonl", "--task", task)
    assert done.exit_code == 1
    assert told in " ".join(done.output.split())


def test_a_form_that_a_row_cannot_have_is_refused(tmp_path: Path) -> None:
    source = manifest(tmp_path, {"audio": "a.wav", "text": None, "intent": "alarm"})
    done = run("instruct", source, tmp_path / "out.jsonl", "--task", "intent", "--formats", "transcript")
    assert done.exit_code == 1
    assert "an answer of the form transcript needs what the row has not: a transcript" in done.output


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    source = manifest(tmp_path, *COMMANDS)
    done = run("instruct", source, source, "--task", "intent")
    assert done.exit_code == 2
    assert "would overwrite their source; write to another file" in done.output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not JSON"),
        ("[]", "no `label` or no `instructions`"),
        ('{"label": "x"}', "no `label` or no `instructions`"),
        ('{"label": "x", "instructions": ["Y?"], "anwers": []}', "unknown 'anwers'; known are about, choice,"),
    ],
)
def test_a_wording_that_is_not_one_is_explained(tmp_path: Path, content: str, told: str) -> None:
    own = tmp_path / "own.json"
    own.write_text(content)
    done = run("instruct", manifest(tmp_path, *COMMANDS), tmp_path / "out.jsonl", "--task", own)
    assert done.exit_code == 1
    assert told in " ".join(done.output.split())


def test_a_wording_needs_little() -> None:
    assert Wording("x", "", "label", ("What?",)).formats == ("direct",)
