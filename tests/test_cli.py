"""The command line: what is printed where, and with which exit code, whatever the model says."""

from __future__ import annotations

import inspect
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_engine import FakeEngine
from typer.testing import CliRunner

import soundwave
from soundwave.checkpoints import catalog
from soundwave.cli.app import app, exit_code_of
from soundwave.data.readers import read_manifest
from soundwave.doctor import Finding

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("soundwave")
HELP_SECONDS = 0.3
AS_A_PROCESS = """
import sys, pathlib
import soundwave
from fake_engine import FakeEngine
from soundwave.checkpoints import catalog
catalog.download = lambda name, progress=None: pathlib.Path(name)
soundwave.load = lambda *_, **__: FakeEngine({arguments})
from soundwave.cli.app import main
main()
"""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The fake, in the place of every model; what it was loaded with is in `loaded`."""
    fake: Any = FakeEngine()
    fake.loaded = []

    def load(model: str, **options: Any) -> FakeEngine:
        fake.loaded.append((model, options))
        return fake

    monkeypatch.setattr(soundwave, "load", load)
    monkeypatch.setattr(catalog, "download", lambda name, progress=None: Path(name))
    return fake


def run(*arguments: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def start(*arguments: str, engine: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """The command as a process of its own, with a fake engine made with the arguments `engine`."""
    code = AS_A_PROCESS.format(arguments=engine)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, **streams)


# --- the command itself


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([COMMAND, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < HELP_SECONDS


def test_the_package_is_the_command_too() -> None:
    told = subprocess.run([sys.executable, "-m", "soundwave", "--version"], check=True, capture_output=True, text=True)
    assert told.stdout == f"soundwave {soundwave.__version__}\n"


@pytest.mark.parametrize("verb", ["ask", "transcribe", "doctor", "download", "train"])
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
        (["ask"], "Missing argument"),
        (["ask", "a.wav", "--temperature", "-1"], "Invalid value for '--temperature'"),
        (["ask", "a.wav", "--top-p", "2"], "Invalid value for '--top-p'"),
        (["ask", "a.wav", "--max-new-tokens", "0"], "Invalid value for '--max-new-tokens'"),
        (["ask", "a.wav", "--tempo", "1"], "No such option"),
        (["transcribe", "a.wav", "--output-format", "doc"], "'doc' is not one of 'txt', 'json'"),
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


def test_ask_prints_the_answer_and_nothing_else(engine: FakeEngine) -> None:
    result = run("ask", "a.wav", "What colour is it?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "The answer is blue.\n", "")


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
    )
    assert engine.loaded == [("folder", {"device": "cpu", "dtype": "float32"})]
    assert engine.asked == [("a.wav", "Why?", {"temperature": 0, "top_p": 0.5, "max_new_tokens": 7, "seed": 3})]


def test_ask_without_a_prompt_uses_the_models_own(engine: FakeEngine) -> None:
    run("ask", "a.wav")
    assert engine.asked[0][1] == engine.default_prompt


def test_the_defaults_in_the_help_are_the_engines() -> None:
    engine = pytest.importorskip("soundwave.inference.engine")
    declared = inspect.signature(engine.Engine.ask).parameters
    from soundwave.cli.app import ask

    for name, option in inspect.signature(ask).parameters.items():
        if name in declared and option.kind is not inspect.Parameter.empty and name not in ("audio", "prompt"):
            assert option.default == declared[name].default, name


def test_ask_as_json_is_the_whole_reply(engine: FakeEngine) -> None:
    reply = json.loads(run("ask", "a.wav", "--json").stdout)
    assert reply["text"] == "The answer is blue."
    assert reply["finish_reason"] == "stop"
    assert reply["token_ids"] == [1, 2, 3]
    assert reply["usage"]["audio_tokens"] == 12
    assert reply["timings"]["first_token"] == 0.2


def test_a_dash_reads_the_recording_from_standard_input(engine: FakeEngine) -> None:
    run("ask", "-", stdin=b"RIFF....")
    assert engine.asked[0][0] == b"RIFF...."


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


# --- transcribe


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


def test_ctc_alone_reads_where_that_is_wanted(engine: FakeEngine) -> None:
    assert run("transcribe", "a.wav", "--ctc").stdout == "ctc: Words of a\n"


@pytest.mark.parametrize("how", [["--output-format", "json"], ["--json"]])
def test_json_is_one_object_a_recording_on_a_line_of_its_own(engine: FakeEngine, how: list[str]) -> None:
    lines = run("transcribe", "a.wav", "b.wav", *how).stdout.splitlines()
    assert [json.loads(line)["audio"] for line in lines] == ["a.wav", "b.wav"]
    assert json.loads(lines[0]) == {
        **{"audio": "a.wav", "text": "Words of a", "ctc_text": "words of a"},
        **{"duration": 2.0, "language": "en", "segments": []},
    }


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


def test_quiet_shows_nothing_even_to_who_watches() -> None:
    screen, terminal = pty.openpty()
    with start("transcribe", "a.wav", "b.wav", "-q", stderr=terminal) as process:
        process.communicate(timeout=30)
    os.set_blocking(screen, False)
    with pytest.raises(BlockingIOError):
        os.read(screen, 100)
    os.close(terminal)


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
    monkeypatch.setitem(sys.modules, "soundwave.training.loop", None)
    result = run("train", "r.yaml")
    assert result.exit_code == 1
    assert "pip install 'soundwave-llm[train]'" in result.stderr
