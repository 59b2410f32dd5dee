"""The benchmarks of long audio and of drafts, at tiny size: what is compared is what they say, and figures follow."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny

from soundwave.audio import SAMPLE_RATE
from soundwave.audio.cutting import SpeechCutter
from soundwave.inference.engine import Engine

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import long_audio  # noqa: E402
import long_memory  # noqa: E402
import speculative  # noqa: E402
import transcription_profile  # noqa: E402

SPEECH = ROOT / "examples" / "question.wav"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two clips with their texts."""
    for name, seconds in (("a", 1.0), ("b", 1.5)):
        soundfile.write(tmp_path / f"{name}.wav", tiny.sound(seconds), SAMPLE_RATE)
    rows = [{"audio": "a.wav", "text": "the cat"}, {"audio": "b.wav", "text": "a person"}]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "manifest.jsonl"


def test_a_recording_is_clips_with_gaps_some_of_them_noisy(manifest: Path) -> None:
    made = list(long_audio.recording(manifest, 12.0, seed=3))
    again = list(long_audio.recording(manifest, 12.0, seed=3))
    assert sum(len(samples) for samples, _, _ in made) >= 12 * SAMPLE_RATE
    assert {text for _, _, text in made} == {"the cat", "a person"}
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(made, again, strict=True))
    lengths = {"the cat": SAMPLE_RATE, "a person": 3 * SAMPLE_RATE // 2}
    gaps = [samples[lengths[text] :] for samples, _, text in made]
    assert [bool(gap.any()) for gap in gaps] == [i % 2 == 1 for i in range(len(gaps))]
    least, most = (round(seconds * SAMPLE_RATE) for seconds in long_audio.GAPS)
    assert all(least <= len(gap) <= most for gap in gaps)


def test_long_audio_measures_each_way_in_a_process_of_its_own(tmp_path: Path) -> None:
    text = "how many days are there in a week"
    manifest, out = tmp_path / "manifest.jsonl", tmp_path / "out.json"
    manifest.write_text(json.dumps({"audio": str(SPEECH), "text": text}) + "\n")
    model = tmp_path / "model"
    letters = sorted(tiny.chat_tokenizer().convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz'")))
    tiny.model(tiny.config(ctc_vocabulary=letters)).save_pretrained(model)
    tiny.processor(tiny.config(ctc_vocabulary=letters)).save_pretrained(model)
    long_audio.main([str(manifest), "--seconds", "6", "--no-llm", "--model", str(model), "--json", str(out)])
    result = json.loads(out.read_text())
    assert list(result["ways"]) == ["transcribe --no-llm", "clips one by one, --no-llm"]
    for way in result["ways"].values():
        assert way["times_real_time"] == pytest.approx(result["audio_seconds"] / way["seconds"], rel=0.2)  # rounded
        assert way["peak_mb"] > 50


def test_drafts_are_compared_on_equal_texts(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny.engine(tiny.config(ctc_vocabulary=list(range(10, 60))))
    monkeypatch.setattr(speculative.soundwave, "load", lambda *_: engine)
    out = tmp_path / "speculative.json"
    speculative.main([str(manifest), "--batch", "2", "--json", str(out)])
    rounds = json.loads(out.read_text())["rounds"]
    assert [one["at_once"] for one in rounds.values()] == [1, 2]
    for one in rounds.values():
        assert one["differing"] == 0
        assert one["fewer_passes"] >= 1
        assert one["tokens"] >= one["plain"]["passes"]


def test_passes_of_the_llm_are_counted(manifest: Path) -> None:
    engine: Engine = tiny.engine(tiny.config(ctc_vocabulary=list(range(10, 60))))
    (utterance, *_) = speculative.utterances(engine, manifest, 1)
    passes = speculative.Passes(engine)
    (tokens,) = speculative.written(engine, [utterance], drafted=False)
    assert passes.count == len(tokens)


def test_the_profile_has_all_steps_and_their_sum_is_the_whole(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny.engine(tiny.config(ctc_vocabulary=list(range(10, 60))))
    monkeypatch.setattr(transcription_profile.soundwave, "load", lambda *_, **__: engine)
    for owner, name in ((transcription_profile.speech, "speech_probabilities"), (SpeechCutter, "feed")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # the benchmark times it; afterwards it is as it was
    out = tmp_path / "profile.json"
    transcription_profile.main([str(manifest), "--seconds", "32", "--no-llm", "--json", str(out)])
    steps = json.loads(out.read_text())["seconds_a_minute"]
    beside = steps.pop(transcription_profile.CUTTING)
    assert beside > 0
    assert steps.pop("all") == pytest.approx(sum(steps.values()), abs=0.01)


def test_growth_is_counted_after_the_first_ten_minutes() -> None:
    seen = [(30.0, 900), (599.0, 1000), (601.0, 990), (4000.0, 1060)]
    result = long_memory.summary(seen)
    assert (result["first_ten_minutes_mb"], result["later_mb"], result["met"]) == (1000, 1060, False)
    assert result["growth"] == pytest.approx(0.06)
    assert result["mb_by_minute"] == [900, 1000, 990, 1060]


def test_memory_is_watched_while_a_recording_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process's memory in /proc")
    letters = sorted(tiny.chat_tokenizer().convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz'")))
    engine = tiny.engine(tiny.config(ctc_vocabulary=letters), llm=False)
    monkeypatch.setattr(long_memory.soundwave, "load", lambda *_, **__: engine)
    manifest, out = tmp_path / "manifest.jsonl", tmp_path / "out.json"
    manifest.write_text(json.dumps({"audio": str(SPEECH), "text": "how many days are there in a week"}) + "\n")
    long_memory.main([str(manifest), "--hours", "0.01", "--no-llm", "--json", str(out)])
    result = json.loads(out.read_text())
    assert result["first_ten_minutes_mb"] == result["later_mb"] > 50
    assert (result["growth"], result["loops"]) == (0, 0)
