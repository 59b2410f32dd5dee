"""`soundwave transcribe --resume`: killed anywhere, the next run writes the same file; what has changed is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_runs import run
from coded_words import coded, reader
from test_longform import damaged, run_of_words

import soundwave
from soundwave.audio import SAMPLE_RATE
from soundwave.checkpoints import catalog

HERE = Path(__file__).parent
AS_A_PROCESS = """
import sys, pathlib
import soundwave
from test_longform_resume import CodedEngine
from soundwave.checkpoints import catalog
catalog.download = lambda name, progress=None: pathlib.Path(name)
soundwave.load = lambda *_, **__: CodedEngine(slowly={slowly})
from soundwave.cli.app import main
main()
"""
SPOKEN = run_of_words(100.0, 1, pause=0.5)


class CodedEngine:
    """Reads coded words; `slowly`: so many seconds for each part, in which it can be killed."""

    folder = None

    def __init__(self, slowly: float = 0.0):
        self.slowly, self.read, self.straight = slowly, 0, 0

    def transcribe_parts(self, recordings: Any, options: Any) -> Any:
        for part in reader().parts(recordings, options):
            self.read += bool(part.text)
            yield part
            time.sleep(self.slowly)

    def source(self, options: Any) -> str:
        return "ctc"

    def describe(self) -> dict[str, Any]:
        return {"device": "cpu", "dtype": "float32", "audio_tower_dtype": "float32", "backend": "none"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CodedEngine:
    made = CodedEngine()
    monkeypatch.setattr(soundwave, "load", lambda *_, **__: made)
    monkeypatch.setattr(catalog, "download", lambda name, progress=None: Path(name))
    monkeypatch.chdir(tmp_path)
    return made


def write(name: str, samples: np.ndarray) -> None:
    soundfile.write(name, samples, SAMPLE_RATE, "FLOAT")


def stopped(name: str, after: int, monkeypatch: pytest.MonkeyPatch, engine: CodedEngine, *more: str) -> None:
    """Transcribes into `out`, and stops as by Ctrl-C after so many parts."""
    whole = CodedEngine.transcribe_parts

    def some(self: CodedEngine, recordings: Any, options: Any) -> Any:
        for number, part in enumerate(whole(self, recordings, options)):
            if number == after:
                raise KeyboardInterrupt
            yield part

    with monkeypatch.context() as patched:
        patched.setattr(CodedEngine, "transcribe_parts", some)
        result = run("transcribe", name, "--output-dir", "out", "--output-format", "all", *more)
    assert result.exit_code == 130
    assert not Path("out/long.txt").exists()
    engine.read = 0


def resumed(name: str, *more: str) -> Any:
    return run("transcribe", name, "--output-dir", "out", "--output-format", "all", "--resume", *more)


def outputs(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def straight(engine: CodedEngine) -> dict[str, bytes]:
    """The files of a run that nothing stopped, of `long.wav`."""
    write("long.wav", coded(SPOKEN))
    assert run("transcribe", "long.wav", "--output-dir", "straight", "--output-format", "all").exit_code == 0
    assert sorted(outputs("straight")) == ["long.json", "long.srt", "long.tsv", "long.txt", "long.vtt"]
    engine.straight = engine.read
    return outputs("straight")


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_files(
    engine: CodedEngine, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    stopped("long.wav", after, monkeypatch, engine)
    assert [path for path in outputs("out") if not path.startswith(".")] == ["long.unfinished.jsonl"]
    assert resumed("long.wav").exit_code == 0
    assert outputs("out") == straight
    if after == 5:
        assert 0 < engine.read <= engine.straight - 2, "what was written is found again"


def kill_points(count: int) -> list[float]:
    return [random.Random(i).uniform(0.05, 1.2) for i in range(count)]


@pytest.mark.parametrize("delay", [
    *kill_points(2),
    *[pytest.param(one, marks=pytest.mark.slow(reason="a process each")) for one in kill_points(10)[2:]],
])  # fmt: skip
def test_killed_at_any_point_it_goes_on_to_the_same_files(straight: dict[str, bytes], delay: float) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    arguments = ["transcribe", "long.wav", "--output-dir", "out", "--output-format", "all", "--resume"]
    command = [sys.executable, "-c", AS_A_PROCESS.format(slowly=0.2), *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        state = Path("out/long.unfinished.jsonl")
        limit = time.monotonic() + 60
        while not state.exists() and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    assert process.returncode in (-signal.SIGKILL, 0)
    assert resumed("long.wav").exit_code == 0
    assert outputs("out") == straight


def test_a_line_that_was_being_written_is_made_again(
    engine: CodedEngine, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped("long.wav", 4, monkeypatch, engine)
    state = Path("out/long.unfinished.jsonl")
    for cut in (5, 40, 900):
        state.write_bytes(state.read_bytes()[:-cut])
    assert resumed("long.wav").exit_code == 0
    assert outputs("out") == straight


def test_other_options_are_refused(engine: CodedEngine, straight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped("long.wav", 3, monkeypatch, engine)
    result = resumed("long.wav", "--start", "5")
    assert result.exit_code == 2
    assert "was made with start 0.0, not 5.0; give the same to go on" in " ".join(result.stderr.split())
    assert resumed("long.wav").exit_code == 0, "the state is still there"
    assert outputs("out") == straight


def test_another_recording_is_refused_wherever_it_differs(
    engine: CodedEngine, straight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped("long.wav", 4, monkeypatch, engine)
    samples = coded(SPOKEN)
    samples[5 * SAMPLE_RATE] += 1e-6
    write("long.wav", samples)
    result = resumed("long.wav")
    assert result.exit_code == 2
    assert "was made of another recording than long.wav is now" in " ".join(result.stderr.split())
    write("long.wav", coded(SPOKEN))  # the same again, at another time
    assert resumed("long.wav").exit_code == 0
    assert outputs("out") == straight


def test_without_resume_it_begins_anew_and_says_so(
    engine: CodedEngine, straight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped("long.wav", 4, monkeypatch, engine)
    result = run("transcribe", "long.wav", "--output-dir", "out", "--output-format", "all")
    assert "--resume would have gone on with it" in " ".join(result.stderr.split())
    assert outputs("out") == straight


@pytest.mark.parametrize("after", [4, None])
def test_a_recording_that_has_grown_goes_on(
    engine: CodedEngine, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    samples = coded(SPOKEN)
    write("long.wav", samples[: 61 * SAMPLE_RATE])
    if after is not None:
        stopped("long.wav", after, monkeypatch, engine)
    else:  # it grows while its end is written down
        parts = CodedEngine.transcribe_parts

        def growing(self: CodedEngine, recordings: Any, options: Any) -> Any:
            for part in parts(self, recordings, options):
                if part.whole:
                    write("long.wav", samples)
                yield part

        with monkeypatch.context() as patched:
            patched.setattr(CodedEngine, "transcribe_parts", growing)
            result = run("transcribe", "long.wav", "--output-dir", "out", "--output-format", "all")
        assert "long.wav has grown meanwhile; --resume takes what is new" in result.stderr
        assert Path("out/long.txt").exists()
        engine.read = 0
    write("long.wav", samples)
    assert resumed("long.wav").exit_code == 0
    assert outputs("out") == straight
    assert engine.read < engine.straight, "the part that was there is read again"


def test_of_several_recordings_the_whole_ones_are_not_read_again(
    engine: CodedEngine, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("b.wav", coded(SPOKEN[:40]))
    whole = CodedEngine.transcribe_parts

    def some(self: CodedEngine, recordings: Any, options: Any) -> Any:
        for part in whole(self, recordings, options):
            if part.recording == 1:
                raise KeyboardInterrupt
            yield part

    with monkeypatch.context() as patched:
        patched.setattr(CodedEngine, "transcribe_parts", some)
        assert run("transcribe", "long.wav", "b.wav", "--output-dir", "out").exit_code == 130
    engine.read = 0
    assert run("transcribe", "long.wav", "b.wav", "--output-dir", "out", "--resume").exit_code == 0
    assert engine.read == 1, "only b.wav is read, which is short"
    assert sorted(outputs("out")) == ["b.txt", "long.txt"]
    assert outputs("out")["long.txt"] == straight["long.txt"]


def test_standard_input_can_be_gone_on_with(
    engine: CodedEngine, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path("long.wav").read_bytes()
    whole = CodedEngine.transcribe_parts
    with monkeypatch.context() as patched:
        patched.setattr(CodedEngine, "transcribe_parts", lambda *given: islice(whole(*given), 4))
        run("transcribe", "-", "--output-dir", "out", "--output-format", "json", stdin=data)
    engine.read = 0
    result = run("transcribe", "-", "--output-dir", "out", "--output-format", "json", "--resume", stdin=data)
    assert (result.exit_code, sorted(outputs("out"))) == (0, ["stdin.json"])
    assert 0 < engine.read < engine.straight
    assert json.loads(outputs("out")["stdin.json"])["text"] == json.loads(straight["long.json"])["text"]


def test_a_stretch_that_cannot_be_decoded_is_an_error_beside_the_transcript(engine: CodedEngine) -> None:
    Path("broken.flac").write_bytes(damaged(90.0))
    result = run("transcribe", "broken.flac", "--output-dir", "out")
    assert result.exit_code == 1
    assert "error: 'broken.flac' cannot be decoded from" in result.stderr
    assert len(Path("out/broken.txt").read_text().split()) > 200


def test_resume_needs_the_folder_with_the_state(engine: CodedEngine) -> None:
    write("long.wav", coded(SPOKEN))
    result = run("transcribe", "long.wav", "--resume")
    assert (result.exit_code, "--output-dir" in result.stderr) == (2, True)


@pytest.mark.parametrize(("form", "several"), [("all", False), ("srt", True)])
def test_formats_that_are_files_need_a_folder(engine: CodedEngine, form: str, several: bool) -> None:
    write("long.wav", coded(SPOKEN))
    result = run("transcribe", *["long.wav"] * (1 + several), "--output-format", form)
    assert (result.exit_code, "--output-dir" in result.stderr) == (2, True)


def test_the_lines_of_one_recording_come_as_they_are_found(engine: CodedEngine, straight: dict[str, bytes]) -> None:
    assert run("transcribe", "long.wav").stdout == straight["long.txt"].decode()
    assert run("transcribe", "long.wav", "--output-format", "srt").stdout == straight["long.srt"].decode()
