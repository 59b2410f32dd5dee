"""The command line: what is printed where, and with which exit code, whatever the model says."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cli_runs import run, start
from fake_engine import FakeEngine

import soundwave
from soundwave.checkpoints import catalog
from soundwave.cli.app import exit_code_of
from soundwave.doctor import Finding
from soundwave.inference.options import AskOptions

COMMAND = Path(sys.executable).with_name("soundwave")
MOST_OF_A_BARE_COMMAND = 2.0  # help against a process that imports Typer and Rich alone
pytestmark = pytest.mark.usefixtures("recordings")


# --- the command itself


def processor_seconds(*command: str | Path) -> float:
    """Of the processor: the clock on the wall tells what else the machine is doing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_at_once() -> None:
    bare = (sys.executable, "-c", "import typer, rich.console, rich.table")
    ratios = [processor_seconds(COMMAND, "--help") / processor_seconds(*bare) for _ in range(5)]
    assert min(ratios) < MOST_OF_A_BARE_COMMAND


def test_help_imports_nothing_that_computes() -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "soundwave", "--help"], check=True, capture_output=True, text=True
    ).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "transformers", "numpy", "av", "onnxruntime", "fastapi", "gradio"}


def test_the_package_is_the_command_too() -> None:
    told = subprocess.run([sys.executable, "-m", "soundwave", "--version"], check=True, capture_output=True, text=True)
    assert told.stdout == f"soundwave {soundwave.__version__}\n"


@pytest.mark.parametrize(
    "verb", ["ask", "transcribe", "doctor", "download", "train", "eval", "export", "lora", "data"]
)
def test_every_verb_has_a_summary_and_help(verb: str) -> None:
    summary = next(line for line in run("--help").stdout.splitlines() if line.strip().startswith(verb))
    assert summary.endswith(".")
    assert not summary.endswith("...")
    assert run(verb, "-h").exit_code == 0


def test_version_is_the_packages() -> None:
    assert run("--version").stdout == f"soundwave {soundwave.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["aks", "a.wav"], "No such command 'aks'. Did you mean 'ask'?"),
        (["ask"], "soundwave ask --no-audio"),
        (["ask", "a.wav", "--temperature", "-1"], "Invalid value for '--temperature'"),
        (["ask", "a.wav", "--top-p", "2"], "Invalid value for '--top-p'"),
        (["ask", "a.wav", "--max-new-tokens", "0"], "Invalid value for '--max-new-tokens'"),
        (["ask", "a.wav", "--seed", str(2**70)], "Invalid value for '--seed'"),
        (["ask", "a.wav", "--seed", "a"], "Invalid value for '--seed'"),
        (["ask", "a.wav", "--via", "ears"], "'ears' is not one of 'auto', 'audio', 'transcript'"),
        (["ask", "a.wav", "--tempo", "1"], "No such option"),
        (["ask", "--no-audio"], "--no-audio takes the prompt alone"),
        (["ask", "--no-audio", "a.wav", "Why?"], "--no-audio takes the prompt alone"),
        (["ask", "--no-audio", "Why?", "--via", "audio"], "--via"),
        (["ask", "--no-audio", "Why?", "--start", "1"], "--start"),
        (["ask", "a.wav", "--start", "-1"], "Invalid value for '--start'"),
        (["ask", "a.wav", "--start", "2", "--end", "1"], "end is 1, but start is 2"),
        (["ask", "a.wav", "--channels", "left"], "channels is 'left'"),
        (["transcribe", "a.wav", "--track", "0"], "track is '0'"),
        (["transcribe", "-", "-"], "- is given twice"),
        (["transcribe", "a.wav", "--ctc", "--llm"], "--ctc"),
        (["transcribe", "a.wav", "--output-format", "doc"], "'doc' is not one of 'txt', 'srt', "),
    ],
)
def test_a_wrong_use_ends_with_2_and_says_why(engine: FakeEngine, arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (soundwave.SoundwaveError, 1),
        (soundwave.AudioError, 1),
        (soundwave.CheckpointError, 1),
        (soundwave.DataError, 1),
        (soundwave.TrainingError, 1),
        (soundwave.ConfigurationError, 2),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, problem: type[soundwave.SoundwaveError], code: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise problem("what was wrong,\nand what to do")

    monkeypatch.setattr(soundwave, "load", fail)
    result = run("ask", "a.wav")
    assert exit_code_of(problem("")) == code
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "error: what was wrong, and what to do\n"


# --- ask


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ([], "answered from the words that were found: Words of a\n"),
        (["--via", "audio"], "answered from the audio itself\n"),
        (["--quiet"], ""),
    ],
)
def test_ask_prints_the_answer_and_says_elsewhere_which_way_was_taken(
    engine: FakeEngine, options: list[str], way: str
) -> None:
    result = run("ask", "a.wav", "What colour is it?", *options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "The answer is blue.\n", way)


def test_a_question_may_be_typed(engine: FakeEngine) -> None:
    result = run("ask", "--no-audio", "What colour is it?")
    assert (result.exit_code, result.stdout) == (0, "The answer is blue.\n")
    assert result.stderr == "answered without a recording\n"
    assert engine.asked[0][:2] == (None, "What colour is it?")


@pytest.mark.parametrize("verb", ["ask", "transcribe"])
def test_a_file_that_is_not_there_is_told_before_a_model_is_loaded(engine: Any, verb: str) -> None:
    result = run(verb, "none.wav")
    assert (result.exit_code, result.stdout, engine.loaded) == (1, "", [])
    assert result.stderr.count("\n") == 1
    assert "'none.wav'" in result.stderr


def test_ask_prints_the_answer_while_it_is_made(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with start("ask", "a.wav", engine=f"gate=__import__('pathlib').Path({str(gate)!r})") as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"The answer"  # the engine has not said more yet
        gate.touch()
        assert process.stdout.read() == b" is blue.\n"
    assert process.returncode == 0


def test_ask_hands_every_option_to_the_engine(engine: Any) -> None:
    run(
        *("ask", "a.wav", "Why?", "--model", "folder", "--device", "cpu", "--dtype", "float32"),
        *("--temperature", "0", "--top-p", "0.5", "--max-new-tokens", "7", "--seed", "3"),
        *("--via", "audio"),
    )
    assert engine.loaded == [("folder", {"device": "cpu", "dtype": "float32", "backend": "torch"})]
    options = {"temperature": 0, "top_p": 0.5, "max_new_tokens": 7, "seed": 3, "via": "audio"}
    assert engine.asked == [("a.wav", "Why?", options)]


def test_ask_without_a_prompt_leaves_it_to_the_model(engine: FakeEngine) -> None:
    run("ask", "a.wav")
    assert engine.asked[0][1] is None


def test_the_defaults_are_those_of_the_settings(engine: FakeEngine) -> None:
    run("ask", "a.wav")
    assert engine.asked[0][2] == {item.name: item.default for item in fields(AskOptions)}


def test_ask_as_json_is_the_whole_reply(engine: FakeEngine) -> None:
    reply = json.loads(run("ask", "a.wav", "--json").stdout)
    assert reply["text"] == "The answer is blue."
    assert reply["finish_reason"] == "stop"
    assert reply["token_ids"] == [1, 2, 3]
    assert reply["usage"]["audio_tokens"] == 12
    assert reply["timings"]["first_token"] == 0.2
    assert (reply["via"], reply["transcript"]) == ("transcript", "Words of a")


def test_a_dash_reads_the_recording_from_standard_input(engine: FakeEngine) -> None:
    assert "8 bytes" in run("ask", "-", stdin=b"RIFF....").stderr


def test_a_bad_recording_is_one_line_and_1(engine: FakeEngine) -> None:
    result = run("ask", "bad.wav")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: bad.wav is not a recording: FFmpeg finds no sound in it\n"


def test_ctrl_c_ends_with_130_and_one_line() -> None:
    with start("ask", "a.wav", engine="end='interrupt'") as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert out == b"The answer"
    assert err == b"\nstopped\n"


def test_a_reader_that_went_away_is_no_error(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with start("ask", "a.wav", engine=f"gate=__import__('pathlib').Path({str(gate)!r})") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 100)
        process.stdout.close()
        gate.touch()
        assert process.stderr.read() == b""


# --- download, doctor, train


def test_download_prints_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "download", lambda name, progress=None: Path("/models") / name)
    assert run("download", "mini").stdout == "/models/mini\n"


def test_download_of_an_unknown_model_says_which_there_are() -> None:
    result = run("download", "mimi")
    assert result.exit_code == 1
    assert "Did you mean 'mini'?" in result.stderr


def test_doctor_shows_marks_and_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("python", "ok", "3.12"), Finding("weights mini", "warn", "not here", "run: soundwave download")]
    monkeypatch.setattr("soundwave.doctor.examine", lambda models: findings)
    result = run("doctor")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines == ["ok python 3.12", "warn weights mini not here", "→ run: soundwave download"]


def test_doctor_ends_with_1_where_something_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundwave.doctor.examine", lambda models: [Finding("torch", "fail", "no", "install it")])
    assert run("doctor").exit_code == 1


def test_doctor_as_json_is_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundwave.doctor.examine", lambda models: [Finding("x", "ok", "y", details={"bytes": 3})])
    told = json.loads(run("doctor", "--json").stdout)
    assert told == [{"name": "x", "mark": "ok", "value": "y", "advice": "", "details": {"bytes": 3}}]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the training loop was called with, instead of training."""
    calls: list[Any] = []
    loop: Any = ModuleType("soundwave.training.loop")

    def train_from_recipe(*arguments: Any, **options: Any) -> Path:
        calls.append((arguments, options))
        return Path("runs/trained")

    loop.train_from_recipe = train_from_recipe
    monkeypatch.setitem(sys.modules, "soundwave.training.loop", loop)
    return calls


def test_train_hands_recipe_and_settings_to_the_loop(trained: list[Any]) -> None:
    assert run("train", "r.yaml", "seed=3", "lora.r=5").stdout == "runs/trained\n"
    assert run("train", "r.yaml", "--dry-run", "--no-resume").exit_code == 0
    assert trained == [
        ((Path("r.yaml"), ["seed=3", "lora.r=5"]), {"dry_run": False, "resume": True}),
        ((Path("r.yaml"), []), {"dry_run": True, "resume": False}),
    ]


def test_train_without_its_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("soundwave.training")]:  # as if none was imported yet
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(soundwave, "training", raising=False)
    monkeypatch.setitem(sys.modules, "yaml", None)
    result = run("train", "r.yaml")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "'yaml'" in result.stderr
    assert "pip install 'soundwave-llm[train]'" in result.stderr


def test_of_several_processes_of_a_training_the_first_prints(
    trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run("train", "r.yaml").stdout == ""
    monkeypatch.setenv("RANK", "0")
    assert run("train", "r.yaml").stdout == "runs/trained\n"
