"""Evaluation: what is asked, what is kept of the replies, and what stands beside a score."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from listening import STEP, ListeningEngine, judge, manifest_of
from typer.testing import CliRunner

import soundwave
from soundwave.checkpoints import catalog
from soundwave.cli.app import app
from soundwave.errors import ConfigurationError, DataError
from soundwave.evaluation import TaskName, provenance, tasks
from soundwave.evaluation.clips import read_clips
from soundwave.evaluation.runner import Notebook, evaluate
from soundwave.evaluation.tasks import TASKS, Asking
from soundwave.inference_config import InferenceConfig, TranscribeConfig

# --- what the tasks ask and count


def test_transcribing_scores_the_text_and_tells_the_ctc_path_beside_it(tmp_path: Path) -> None:
    path = manifest_of(tmp_path, {"text": "A CAT"}, {"text": "A DOG"})
    done = judge("transcribe", ListeningEngine("a cat", "a frog"), path)
    score = done.task.score(done.predictions)
    assert score.value == pytest.approx(1 / 4)
    assert score.counts == {"words": 4, "substitutions": 1, "insertions": 0, "deletions": 0}
    assert score.also == {"ctc_word_error_rate": pytest.approx(3 / 4)}


def test_the_ctc_task_reads_the_ctc_path_alone(tmp_path: Path) -> None:
    engine = ListeningEngine("a cat")
    done = judge("ctc", engine, manifest_of(tmp_path, {"text": "A CAT CTC"}))
    assert done.task.score(done.predictions).value == 0
    assert (engine.prompts, engine.options) == ([], {"llm": False})


@pytest.mark.parametrize("llm", [None, True, False])
def test_a_transcript_is_made_as_the_model_does_best_unless_told_otherwise(tmp_path: Path, llm: bool | None) -> None:
    engine, task = ListeningEngine("a cat"), TASKS[TaskName.transcribe]
    clips = read_clips([manifest_of(tmp_path, {"text": "a cat"})], task.needs)
    evaluate(engine, task, clips, task.ask_with(llm=llm), Notebook(None, {}))  # type: ignore[arg-type]
    assert engine.options == {"llm": llm}


def test_questions_are_asked_to_be_answered_greedily_and_echoes_are_counted(tmp_path: Path) -> None:
    lines = [{"text": f"What is {n}?", "answers": ["Paris", "blue"]} for n in ("a", "b", "c")]
    engine = ListeningEngine("It is Paris.", "What is b", "Red.")
    done = judge("questions", engine, manifest_of(tmp_path, *lines))
    assert done.task.score(done.predictions).counts == {"right": 1, "only_repeated": 1}
    assert set(engine.prompts) == {None}  # what is said is itself the prompt
    assert engine.options == {"via": "auto", "temperature": 0, "max_new_tokens": 64}


@pytest.mark.parametrize(("language", "right"), [("ja", 1), (None, 0)])
def test_answers_are_compared_as_their_language_is_written(tmp_path: Path, language: str | None, right: int) -> None:
    line = {"text": "日本の首都はどこですか？", "answers": ["東京"], "language": language}
    done = judge("questions", ListeningEngine("東京です。"), manifest_of(tmp_path, line))
    assert done.task.score(done.predictions).counts["right"] == right


def test_silence_is_scored_by_the_share_of_empty_replies(tmp_path: Path) -> None:
    path = manifest_of(tmp_path, {"text": None}, {"text": ""}, {})
    done = judge("no-speech", ListeningEngine("", "Thank you.", " "), path)
    assert done.task.score(done.predictions).value == pytest.approx(2 / 3)


def test_typed_questions_are_compared_with_the_plain_model_and_no_recording_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tasks, "plain_reply", lambda engine, question, limit: "re: one? " if "one" in question else "else"
    )
    lines = [{"text": text, "answers": ["one"], "audio": "missing.wav"} for text in ("one?", "two?")]
    engine = ListeningEngine()
    done = judge("typed-questions", engine, manifest_of(tmp_path, *lines))
    score = done.task.score(done.predictions)
    assert engine.prompts == ["one?", "two?"]
    assert (score.value, score.also["same_as_plain_model"]) == (0.5, 0.5)
    assert [prediction.seconds for prediction in done.predictions] == [0, 0]


def test_the_plain_reply_is_the_language_models_own_without_lora(tmp_path: Path) -> None:
    from soundwave.checkpoints.lora import attach_lora

    model = tiny.model()
    before = tasks.plain_reply(tiny.engine(model=model), "the cat", 6)
    attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
    for name, parameter in model.language_model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.5)
    for text_only, same in (("plain", True), ("adapted", False)):
        engine = tiny.engine(model=model, inference=InferenceConfig(text_only=text_only))  # type: ignore[arg-type]
        assert tasks.plain_reply(engine, "the cat", 6) == before
        assert (engine.ask(None, "the cat", temperature=0, max_new_tokens=6).text == before) is same


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ctc", {"prompt": "Say it."}), ("typed-questions", {"prompt": "Say it."}),
        ("transcribe", {"max_new_tokens": 9}), ("transcribe", {"via": "audio"}), ("typed-questions", {"via": "audio"}),
        ("ctc", {"llm": True}), ("questions", {"llm": False}),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(name: str, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{next(iter(setting))} changes nothing in the task {name}"):
        TASKS[TaskName(name)].ask_with(**setting)


def test_another_prompt_for_transcripts_is_asked_like_a_question(tmp_path: Path) -> None:
    task = TASKS[TaskName.transcribe]
    asking = task.ask_with("Repeat.", 9)
    assert asking == Asking("Repeat.", 9)
    engine = ListeningEngine("a cat")
    path = manifest_of(tmp_path, {"text": "a cat"})
    evaluate(engine, task, read_clips([path], task.needs), asking, Notebook(None, {}))  # type: ignore[arg-type]
    assert engine.prompts == ["Repeat."]


# --- manifests


@pytest.mark.parametrize(
    ("line", "needs", "told"),
    [
        ("{", ("audio",), "m.jsonl:1: not JSON"),
        ("[]", ("audio",), "m.jsonl:1: the line is list, not an object"),
        ('{"text": "a"}', ("audio",), "m.jsonl:1: no 'audio'"),
        ('{"audio": "a.wav"}', ("audio", "text"), "m.jsonl:1: no 'text'"),
        ('{"audio": "a.wav"}', ("audio", "answers"), "m.jsonl:1: no 'answers'"),
        ('{"audio": "a.wav", "text": "Hi"}', ("no text",), "it says 'Hi'; this task takes clips in which nobody"),
        ('{"audio": 3}', ("audio",), "the audio is 3; it must be a path"),
        ('{"audio": "a.wav", "duration": "x"}', ("audio",), "duration is 'x'; it must be a number of seconds"),
        ('{"audio": "a.wav", "answers": "x"}', ("audio",), "'answers' is 'x'; give a list of strings"),
        ("", ("audio",), "the manifest has no lines"),
    ],
)
def test_a_manifest_that_does_not_fit_the_task_is_refused_by_line(
    tmp_path: Path, line: str, needs: tuple[str, ...], told: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(line)
    with pytest.raises(DataError) as problem:
        read_clips([path], needs)
    assert told in str(problem.value)
    assert str(path) in str(problem.value)


def test_a_manifest_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such manifest"):
        read_clips([tmp_path / "nowhere"], ())
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_clips([tmp_path / "bytes"], ())


def test_an_empty_text_is_a_reference_too_and_a_limit_takes_the_first_lines(tmp_path: Path) -> None:
    path = manifest_of(tmp_path, {"text": ""}, {"text": "a"}, {"text": "b"})
    assert [clip.text for clip in read_clips([path, path], ("audio", "text"), limit=2)] == ["", "a", "", "a"]


# --- running


def test_clips_are_asked_longest_first_and_told_in_the_manifests_order(tmp_path: Path) -> None:
    path = manifest_of(tmp_path, *({"text": word} for word in "abc"))
    engine = ListeningEngine("a", "b", "c")
    done = judge("transcribe", engine, path)
    assert engine.batches == [[3, 2], [1]]
    assert [prediction.reply for prediction in done.predictions] == ["a", "b", "c"]
    assert done.asked_seconds == pytest.approx(6 * STEP)


def test_a_stopped_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    path, kept = manifest_of(tmp_path, *({"text": word} for word in "abcd")), tmp_path / "kept.jsonl"
    with pytest.raises(RuntimeError, match="power"):
        judge("transcribe", ListeningEngine(*"abcd", breaks_at=1), path, notebook=kept)
    with open(kept, "a") as file:
        file.write('{"settings": "cut o')  # the power went while it was written
    engine = ListeningEngine(*"abxx")  # what it would say about clips 3 and 4 now must not matter
    done = judge("transcribe", engine, path, notebook=kept)
    assert engine.batches == [[2, 1]]
    assert [prediction.reply for prediction in done.predictions] == ["a", "b", "c", "d"]
    assert (done.asked_clips, done.asked_seconds) == (2, pytest.approx(3 * STEP))
    again = ListeningEngine()
    assert [p.reply for p in judge("transcribe", again, path, notebook=kept).predictions] == ["a", "b", "c", "d"]
    assert again.batches == []


def test_replies_to_other_settings_are_not_taken(tmp_path: Path) -> None:
    path, kept = manifest_of(tmp_path, {"text": "a"}), tmp_path / "kept.jsonl"
    judge("transcribe", ListeningEngine("old"), path, notebook=kept, dtype="float32")
    assert judge("transcribe", ListeningEngine("new"), path, notebook=kept, dtype="bf16").predictions[0].reply == "new"
    assert judge("transcribe", ListeningEngine(), path, notebook=kept, dtype="float32").predictions[0].reply == "old"
    path.write_text(path.read_text().replace('"a"', '"b"'))  # another manifest, though of the same name
    assert judge("transcribe", ListeningEngine("b"), path, notebook=kept, dtype="float32").predictions[0].reply == "b"


def test_a_bad_clip_is_told_and_the_rest_of_its_batch_is_done(tmp_path: Path) -> None:
    path = manifest_of(tmp_path, {"text": "a"}, {"text": "b", "audio": "none.wav"}, {"text": "c"}, {"text": "d"})
    done = judge("transcribe", ListeningEngine(*"abcd", refuses=(3,)), path)
    assert [prediction.reply for prediction in done.predictions] == ["a", "d"]
    assert [failure.clip.line for failure in done.failures] == [2, 3]
    assert "none.wav" in done.failures[0].reason
    assert done.failures[1].reason == "the engine refuses one of these"


# --- the command


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ListeningEngine:
    fake = ListeningEngine("a cat", "a frog", "a cow")
    monkeypatch.setattr(soundwave, "load", lambda *_, **__: fake)
    monkeypatch.setattr(catalog, "download", lambda name, progress=None: Path(name))
    return fake


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    words = [str(argument) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["soundwave", *words])
    return CliRunner().invoke(app, words)


def test_the_file_holds_the_score_and_all_that_decides_it(
    engine: ListeningEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = manifest_of(tmp_path / "cats", {"text": "A CAT"})
    second = manifest_of(tmp_path / "more", {"text": "A CAT"}, {"text": "a cat"}, {"text": "x", "audio": "none.wav"})
    out = tmp_path / "results" / "cats.json"
    told = run(monkeypatch, "eval", first, second, "--out", out, "--batch-size", 4)
    assert told.exit_code == 1  # one clip was bad
    assert "error: 1 of 4 clips could not be used; the score leaves them out" in told.stderr
    assert "all" in told.stdout
    result = json.loads(out.read_text())
    assert (result["task"], result["measure"], result["score"]) == ("transcribe", "word error rate", 1 / 6)
    assert result["counts"] == {"words": 6, "substitutions": 1, "insertions": 0, "deletions": 0}
    assert (result["clips"], result["audio_seconds"]) == (3, pytest.approx(0.4))
    assert [(m["name"], m["clips"], m["score"]) for m in result["manifests"]] == [
        ("cats/manifest.jsonl", 1, 0), ("more/manifest.jsonl", 2, 1 / 4),
    ]
    assert result["failed"][0]["audio"] == "more/none.wav"
    assert (result["prompt"], result["decoding"]["method"]) == ("Write it down.", "greedy")
    assert result["normaliser"].endswith("EnglishTextNormalizer")
    assert {"python", "torch", "jiwer", "whisper-normalizer"} <= set(result["versions"])
    assert (result["model"]["name"], result["dtype"], result["machine"]["device"]) == ("fake", "float32", "cpu")
    assert result["speed"]["times_real_time"] > 0
    assert result["command"].startswith("soundwave eval cats/manifest.jsonl more/manifest.jsonl --out")
    assert {"commit", "code_sha256", "date", "batch_size"} <= set(result)
    assert str(tmp_path) not in out.read_text()  # results are published: no folder of anybody's disk


def test_scores_are_told_by_speaker_the_worst_first(
    engine: ListeningEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They hear: a cat, a frog, a cow.
    said = [{"text": "a cat", "speaker": 7}, {"text": "the dog", "speaker": "Ann"}, {"text": "a cow", "speaker": "Ann"}]
    path, out = manifest_of(tmp_path, *said, {"text": "x", "speaker": "Bo", "audio": "none.wav"}), tmp_path / "out.json"
    assert run(monkeypatch, "eval", path, "--out", out).exit_code == 1
    assert "by" not in json.loads(out.read_text())
    table = run(monkeypatch, "eval", path, "--out", out, "--by", "speaker").stdout
    assert table.index("speaker Ann") < table.index("speaker 7")
    by = json.loads(out.read_text())["by"]
    assert by["field"] == "speaker"
    assert [(one["name"], one["score"], one["clips"]) for one in by["groups"]] == [("Ann", 0.5, 2), ("7", 0.0, 1)]
    assert by["groups"][0]["counts"]["substitutions"] == 2
    assert engine.batches == [[3], [2], [1]]  # the second time, replies are those of the first
    nowhere = run(monkeypatch, "eval", path, "--by", "colour")
    assert nowhere.exit_code == 1
    assert "no row has the field 'colour'" in nowhere.stderr


@pytest.mark.parametrize(
    ("options", "method", "prompt"),
    [
        ([], "greedy CTC; the transcript is answered greedily, as if typed", "what is said"),
        (["--via", "audio"], "greedy", "The model's own prompt."),
        (["--via", "audio", "--prompt", "Why?"], "greedy", "Why?"),
    ],
)
def test_the_file_tells_which_way_a_question_was_answered(
    engine: ListeningEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], method: str,
    prompt: str,
) -> None:
    engine.inference = InferenceConfig(transcribe=TranscribeConfig(llm=False))
    path = manifest_of(tmp_path, {"text": "Is it?", "answers": ["cat"]})
    result = json.loads(run(monkeypatch, "eval", path, "--task", "questions", *options, "--json").stdout)
    assert (result["decoding"]["method"], result["prompt"], result["cascade"]) == (method, prompt, None)


def test_a_cascade_is_told_in_the_file_and_read_out_with_the_table(
    engine: ListeningEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Whisper:
        def __init__(self, folder: str, **_: Any) -> None:
            assert Path(folder).name == "whisper-x"

        def transcribe(self, samples: Any, **_: Any) -> Any:
            return [SimpleNamespace(text=" Is it?", start=0.0, end=0.1)], SimpleNamespace(duration=0.1)

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Whisper))
    (tmp_path / "whisper-x").mkdir()
    (tmp_path / "whisper-x" / "model.bin").write_bytes(b"abc")
    path = manifest_of(tmp_path, {"text": "Is it?", "answers": ["yes"]})
    cascade = ("eval", path, "--cascade", tmp_path / "whisper-x")
    result = json.loads(run(monkeypatch, *cascade, "--task", "questions", "--json").stdout)
    assert engine.prompts == ["Is it?"]  # the LLM reads what Whisper wrote, as if typed
    assert result["also"]["word_error_rate_of_transcript"] == 0
    assert (result["cascade"]["whisper"], result["cascade"]["beam_size"]) == ("whisper-x", 5)
    assert result["cascade"]["sha256"].startswith("ba7816bf")  # of "abc"
    assert result["decoding"]["method"].startswith("Whisper's own beam search (5 beams)")
    transcribed = run(monkeypatch, *cascade)
    assert "cascade: whisper-x transcribes" in transcribed.stdout
    assert "ctc" not in transcribed.stdout.replace("ctc_", "")
    for useless in (["--llm"], ["--task", "ctc"], ["--task", "questions", "--via", "audio"]):
        assert run(monkeypatch, *cascade, *useless).exit_code == 2


def test_the_command_says_what_it_cannot_do(
    engine: ListeningEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = manifest_of(tmp_path, {"text": "a cat"})
    assert run(monkeypatch, "eval", path, "--task", "singing").exit_code == 2
    assert run(monkeypatch, "eval", path, "--task", "questions").exit_code == 1
    assert run(monkeypatch, "eval", path, "--task", "ctc", "--prompt", "x").exit_code == 2
    for module in ("clips", "provenance", "report", "runner", "tasks"):  # as if none had been imported yet
        monkeypatch.delitem(sys.modules, f"soundwave.evaluation.{module}")
        monkeypatch.delattr(soundwave.evaluation, module)
    monkeypatch.setitem(sys.modules, "jiwer", None)
    monkeypatch.delitem(sys.modules, "soundwave.text.metrics")
    told = run(monkeypatch, "eval", path)
    assert told.exit_code == 1
    assert "run: pip install 'soundwave-llm[eval]'" in told.stderr


def test_every_weight_file_is_named_by_its_hash_and_no_folder_is(tmp_path: Path) -> None:
    encoder, language = tiny.part_folders(tmp_path)
    (tmp_path / "own" / "lora").mkdir(parents=True)
    for name in ("adapters.safetensors", "lora/adapter_model.safetensors", "inference.json", "ngram.npz", "notes.txt"):
        (tmp_path / "own" / name).write_bytes(b"abc")
    of_engine: Any = ListeningEngine()
    of_engine.folder = tmp_path / "own"
    config = SimpleNamespace(audio_tower_source=str(encoder), language_model_source=str(language))
    of_engine.encoder = SimpleNamespace(config=config)
    of_engine.inference = InferenceConfig(transcribe=TranscribeConfig(ngram="ngram.npz"))
    hashes = provenance.weights_of(of_engine)
    assert set(hashes) == {
        "adapters.safetensors", "lora/adapter_model.safetensors", "tiny-whisper/model.safetensors",
        "tiny-llm/model.safetensors", "inference.json", "ngram.npz",
    }
    assert hashes["adapters.safetensors"].startswith("ba7816bf")  # sha256 of "abc"


def test_folders_that_a_variable_names_are_told_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH", str(tmp_path))
    manifest = tmp_path / "tasks" / "sounds" / "manifest.jsonl"
    assert provenance.command_line(["eval", str(manifest)]) == "soundwave eval $SPEECH/tasks/sounds/manifest.jsonl"
    assert provenance.shown_path(str(tmp_path.parent / "other" / "a.jsonl")) == "other/a.jsonl"
    monkeypatch.setenv("SPEECH", "")
    assert provenance.shown_path(str(manifest)) == "sounds/manifest.jsonl"


def test_absolute_paths_are_cut_out_of_the_command_line() -> None:
    assert provenance.command_line(["eval", "/a/b/c.jsonl", "--prompt", "Say it."]) == (
        'soundwave eval b/c.jsonl --prompt "Say it."'
    )
