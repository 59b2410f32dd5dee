"""The benchmark of live captions: what a latency means, by hand, and a whole run at tiny size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_transcription import LETTERS

import soundwave
from soundwave.audio import SAMPLE_RATE
from soundwave.inference.captions import Event, Final, Partial
from soundwave.inference.results import Segment, Transcript, Word

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import live  # noqa: E402


def partial(text: str, stable: int) -> Partial:
    return Partial(text, tuple(Word(word, 0.0, 0.0) for word in text.split()), stable, 0.0, 0.0)


def final(*words: Word) -> Final:
    text = " ".join(word.text for word in words)
    return Final(text, Transcript(text, text, 9.0, segments=[Segment(text, 0.0, 9.0, words)]), 0.0, 9.0)


WORDS = final(Word("so", 0.5, 1.0), Word("the", 1.0, 2.0), Word("cat", 2.0, 3.0))
RUN = live.Run(
    1.0, [(1.5, partial("so", 0)), (2.5, partial("so a", 0)), (3.5, partial("so the", 1)), (4.0, partial("sew the", 1)),
          (5.0, partial("so the", 2)), (6.0, WORDS)],
)


def test_a_latency_is_from_the_end_of_a_word_until_it_is_shown() -> None:
    late, never = live.latencies(RUN)
    assert late == {
        "first_shown": [0.5, 1.5], "first_shown_or_final": [0.5, 1.5, 3.0], "shown_for_good": [4.0, 1.5, 3.0],
        "stands": [2.5, 3.0],
    }
    assert never == 1  # "cat"


def test_words_that_stood_and_changed_are_counted() -> None:
    assert live.changed(RUN) == {"stood": 2, "changed_by_a_partial": 2, "changed_by_the_final": 0}  # to "sew" and back


def test_work_that_takes_longer_than_its_sound_makes_what_follows_late(monkeypatch: pytest.MonkeyPatch) -> None:
    time = [0.0]

    class Session:
        skipped = 0
        behind: list[float] = []  # noqa: RUF012

        def feed(self, samples: np.ndarray, behind: float) -> list[Event]:
            self.behind.append(behind)
            time[0] += 1.5
            return [partial("so", 0)]

        def finish(self) -> list[Event]:
            return []

    monkeypatch.setitem(live.CLOCKS, "wall", lambda: time[0])
    session: Any = Session()
    run = live.listened(session, np.zeros(3 * SAMPLE_RATE, np.float32), 1.0, "wall")
    assert [at for at, _ in run.events] == [2.5, 4.0, 5.5]
    assert session.behind == [0.0, 0.5, 1.0]


def test_a_run_prints_and_keeps_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = sorted(tiny.chat_tokenizer().convert_tokens_to_ids(list(LETTERS)))
    monkeypatch.setattr(soundwave, "load", lambda *_, **__: tiny.engine(tiny.config(ctc_vocabulary=letters), llm=False))
    rows = {"audio": str(ROOT / "examples" / "question.wav"), "text": "how many days are there in a week"}
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps(rows) + "\n", encoding="utf-8")
    live.main([str(manifest), "--minutes", "0.1", "--no-llm", "--json", str(tmp_path / "live.json")])
    result = json.loads((tmp_path / "live.json").read_text(encoding="utf-8"))
    assert result["words_that_stood"]["changed_by_a_partial"] == 0
    assert result["clips"] == 3
    assert set(result["word_error_rates"]) == {"finals", "last_partials", "clips_one_by_one"}
    assert result["latency"]["first_shown_or_final"]["p95"] > 0
    assert "within 500 ms" in capsys.readouterr().out
