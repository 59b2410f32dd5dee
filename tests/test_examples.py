"""The recordings in examples/ are small, readable and described; the example program runs."""

import runpy
import sys
from pathlib import Path

import pytest
from fake_engine import FakeEngine

import soundwave
from soundwave.audio import SAMPLE_RATE, is_silent, load_audio

EXAMPLES = Path(__file__).parents[1] / "examples"
RECORDINGS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in {".wav", ".flac", ".ogg", ".mp3"})


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_every_recording_is_read_and_described(path):
    assert 1.5 < len(load_audio(path)) / SAMPLE_RATE < 6
    assert path.stat().st_size < 150_000
    assert f"`{path.name}`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_the_recordings_are_there_and_small_together():
    assert [path.name for path in RECORDINGS] == [
        "espeak.mp3",
        "flite.ogg",
        "noise.wav",
        "question.wav",
        "silence.wav",
        "statement.flac",
    ]
    assert sum(path.stat().st_size for path in RECORDINGS) < 600_000


def test_only_silence_is_silent():
    assert [path.name for path in RECORDINGS if is_silent(load_audio(path))] == ["silence.wav"]


def test_ask_py_prints_a_transcript_an_answer_and_a_stream(monkeypatch, capsys):
    monkeypatch.setattr(soundwave, "load", lambda name: FakeEngine())
    monkeypatch.setattr(sys, "argv", ["ask.py"])
    runpy.run_path(str(EXAMPLES / "ask.py"))
    said, answered, streamed = capsys.readouterr().out.splitlines()
    assert said.startswith("It says:")
    assert answered == "Asked:    The answer is blue."
    assert streamed == "Streamed: The answer is blue."
