"""Chains that are evaluated beside an engine: Whisper writes down, the engine's LLM answers what was written."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny

from soundwave.audio import SAMPLE_RATE
from soundwave.errors import CheckpointError
from soundwave.evaluation.systems import WhisperCascade
from soundwave.inference.results import Segment

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}
CLIP = (tiny.sound(1.0), SAMPLE_RATE)


class WrittenWords:
    """In Whisper's place: writes the same two pieces, whatever is said."""

    def __init__(self, folder: str, **options: Any):
        self.folder, self.options = folder, options

    def transcribe(self, samples: np.ndarray, language: str, beam_size: int) -> tuple[Any, Any]:
        pieces = [SimpleNamespace(text=" Where is", start=0.0, end=0.5), SimpleNamespace(text=" it?", start=0.5, end=1)]
        return iter(pieces), SimpleNamespace(duration=len(samples) / SAMPLE_RATE)


@pytest.fixture
def whisper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a Whisper model in it, as far as can be seen from outside."""
    peer = ModuleType("faster_whisper")
    peer.WhisperModel = WrittenWords  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", peer)
    (tmp_path / "model.bin").touch()
    return tmp_path


def test_a_cascade_asks_what_was_written_as_if_typed(whisper: Path) -> None:
    engine = tiny.engine()
    cascade = WhisperCascade(engine, whisper)
    requests = [(CLIP, None), (CLIP, "In German?"), (None, "The cat?")]
    typed = ["Where is it?", "Where is it?\n\nIn German?", "The cat?"]
    replies = cascade.ask_batch(requests, **GREEDY)
    assert [reply.text for reply in replies] == [engine.ask(None, text, **GREEDY).text for text in typed]
    assert [reply.via for reply in replies] == ["transcript", "transcript", "text"]
    assert [reply.transcript for reply in replies] == ["Where is it?", "Where is it?", None]


def test_a_cascade_writes_down_what_whisper_does(whisper: Path) -> None:
    (transcript,) = WhisperCascade(tiny.engine(), whisper).transcribe_batch([CLIP])
    assert (transcript.text, transcript.duration) == ("Where is it?", 1.0)
    assert transcript.segments == [Segment("Where is", 0.0, 0.5), Segment("it?", 0.5, 1)]


def test_a_folder_without_whisper_is_told(whisper: Path) -> None:
    (whisper / "model.bin").unlink()
    with pytest.raises(CheckpointError, match="whisper_folder.py"):
        WhisperCascade(tiny.engine(), whisper)
