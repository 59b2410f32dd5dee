"""`soundwave eval --model http://…`: a model behind the API says what it says in this process, to the last word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from listening import judge, manifest_of
from running import KEY, Running, ScriptedEngine, running
from typer.testing import CliRunner

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.cli.app import app
from soundwave.errors import AudioError, ConfigurationError, SoundwaveError
from soundwave.evaluation.served import Served, wav_of
from soundwave.inference.engine import Engine

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny.engine(llm=False)


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(engine) as made:
        yield made


def test_samples_go_over_the_line_as_they_are() -> None:
    samples = np.random.default_rng(0).normal(0, 0.4, SAMPLE_RATE).astype(np.float32)
    assert np.array_equal(load_audio(wav_of((samples, SAMPLE_RATE))), samples)


def test_every_prediction_is_that_of_the_python_api(server: Running, engine: Engine, tmp_path: Path) -> None:
    for name in ("question.wav", "statement.flac", "espeak.mp3"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    rows = [{"audio": name, "text": "the cat"} for name in ("question.wav", "statement.flac", "espeak.mp3")]
    manifest = manifest_of(tmp_path, *rows, {"text": "the person"})
    for task in ("transcribe", "ctc"):
        here, there = (judge(task, system, manifest) for system in (engine, Served(server.address)))
        assert [one.said for one in there.predictions] == [one.said for one in here.predictions]
        assert len(here.predictions) == 4


def test_questions_are_asked_in_a_conversation(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    with running(engine, keys=[KEY]) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOUNDWAVE_API_KEY", KEY)
        system = Served(f"{server.address}/v1")
        clip = (tiny.sound(0.5), SAMPLE_RATE)
        first, second = system.ask_batch([(clip, None), (None, "Why?")], temperature=0, max_new_tokens=3)
    assert (first.text, first.finish_reason, first.via, second.via) == ("The answer is", "length", "audio", "text")
    messages = [messages for messages, _ in engine.asked]
    typed = [[part["type"] for part in one[0]["content"]] for one in messages]
    assert sorted(typed) == [["audio"], ["text"]]
    assert {options["max_new_tokens"] for _, options in engine.asked} == {3}


def test_what_the_server_refuses_is_told(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    system = Served(server.address)
    monkeypatch.setattr("soundwave.evaluation.served.wav_of", lambda audio: b"RIFF")
    with pytest.raises(AudioError, match=r"answers with 400: .* like wav"):
        system.transcribe_batch([(tiny.sound(0.5), SAMPLE_RATE)])
    monkeypatch.undo()
    with pytest.raises(SoundwaveError, match="llm"):
        system.transcribe_batch([(tiny.sound(0.5), SAMPLE_RATE)], llm=True)


def test_where_no_server_is_the_verb_says_so() -> None:
    with pytest.raises(ConfigurationError, match="soundwave serve"):
        Served("http://127.0.0.1:9")


def test_the_verb_takes_an_address(server: Running, tmp_path: Path) -> None:
    manifest, out = manifest_of(tmp_path, {"text": "the cat"}), tmp_path / "out.json"
    arguments: list[Any] = ["eval", str(manifest), "--model", server.address, "--out", str(out), "--quiet"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text(encoding="utf-8"))
    assert (result["model"]["name"], result["clips"], result["machine"]["name"]) == ("tiny", 1, "a server")
    assert result["decoding"]["method"] == "the server's own"
    assert CliRunner().invoke(app, [*arguments, "--task", "typed-questions"]).exit_code != 0
