"""The benchmarks of words: what they hold for true is so, and they say what they should."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny

from soundwave.audio import SAMPLE_RATE
from soundwave.ctc.confidence import Evidence, confidence_of
from soundwave.ctc.ngram_training import train_ngram
from soundwave.inference.engine import Engine
from soundwave.inference_config import InferenceConfig, TranscribeConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import confidence  # noqa: E402
import timed_speech  # noqa: E402
import word_times  # noqa: E402
from timed_speech import Span  # noqa: E402


def manifest_of_tones(folder: Path, count: int) -> Path:
    """Tones that begin at 0.2 s and end at 0.5 s, of two speakers."""
    folder.mkdir()
    lines = []
    for i in range(count):
        samples = np.zeros(SAMPLE_RATE, np.float32)
        samples[3200:8000] = 0.5 * np.sin(np.arange(4800) * (0.2 + 0.02 * i))
        soundfile.write(folder / f"{i}.wav", samples, SAMPLE_RATE)
        row = {"audio": f"{i}.wav", "text": "so", "speaker": "ab"[i % 2], "duration": 1.0}
        lines.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "manifest.jsonl"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A tiny engine that `soundwave.load` gives."""
    train_ngram([["the", "cat", "sat"], ["so", "it", "is"]], order=2, least=1).save(tmp_path / "ngram.npz")
    letters = tiny.chat_tokenizer().convert_tokens_to_ids(list("Ġabcdefghijklmnopqrstuvwxyz'"))
    inference = InferenceConfig(transcribe=TranscribeConfig(llm=False, ngram="ngram.npz"))
    made = tiny.engine(model=tiny.model(tiny.config(ctc_vocabulary=sorted(letters))), inference=inference)
    whole = Engine(made.encoder, made.decoder, made.processor, made.inference, "tiny", tmp_path)
    monkeypatch.setattr("soundwave.load", lambda name: whole)
    return whole


def test_words_are_set_at_the_times_that_are_told(tmp_path: Path) -> None:
    speeches = list(timed_speech.joined(manifest_of_tones(tmp_path / "tones", 8), "words", 2, 2, (0.3, 0.6), 1))
    assert [speech.half for speech in speeches] == ["tune"] * 2 + ["report"] * 2
    for speech in speeches:
        loud = np.abs(speech.samples) > 0.05
        for span in speech.spans:
            assert span.end - span.start == pytest.approx(0.3, abs=0.02)
            first, last = round(span.start * SAMPLE_RATE), round(span.end * SAMPLE_RATE)
            assert loud[first:last].mean() > 0.8
            assert not loud[last + 160 : last + 1600].any()


@pytest.mark.parametrize("kind", ["flite", "espeak"])
def test_synthesisers_tell_where_words_are(kind: str) -> None:
    if shutil.which(kind if kind == "flite" else "espeak-ng") is None:
        pytest.skip(f"{kind} is not installed")
    voice = "slt" if kind == "flite" else "en-us"
    spoken = (timed_speech.flite if kind == "flite" else timed_speech.Espeak())("The cat sat, so they went.", voice)
    assert spoken is not None
    samples, spans = spoken
    assert [span.text for span in spans] == ["The", "cat", "sat", "so", "they", "went"]
    times = [time for span in spans for time in (span.start, span.end)]
    assert times == sorted(times)
    assert times[-1] <= len(samples) / SAMPLE_RATE + 0.01
    pause = samples[round(spans[2].end * SAMPLE_RATE) + 400 : round(spans[3].start * SAMPLE_RATE)]
    assert np.abs(pause).mean() < 0.2 * np.abs(samples).mean(), "the comma is a pause"


def test_only_right_words_are_measured() -> None:
    spans = [Span("the cat", 1.0, 2.0), Span("sat", 2.5, 3.0), Span("down", 3.0, 3.5)]
    said = [("The", 1.1, 1.3), ("bat", 1.4, 2.0), ("sat,", 2.4, 3.2), ("down", 3.0, 3.5), ("so", 4.0, 4.1)]
    starts, ends, count = word_times.errors(spans, said)
    assert starts == pytest.approx([0.1, -0.1, 0.0])
    assert ends == pytest.approx([0.2, 0.0])
    assert count == 3


def test_word_times_says_what_each_way_has_wrong(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "times.json"
    word_times.main(["--words", str(manifest_of_tones(tmp_path / "tones", 16)), "--count", "2", "--json", str(out)])
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result["milliseconds"]) == {"words", "words in noise", "all"}
    assert result["milliseconds"]["words"]["true text, aligned"]["measured"] == 8
    texts = tmp_path / "texts.jsonl.gz"
    with gzip.open(texts, "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"text": f"The cat {word} down here."}) for word in ("sat", "ran", "lay") * 2))
    if shutil.which("flite"):
        word_times.main(["--texts", str(texts), "--engines", "flite", "--count", "1", "--fit", "--json", str(out)])
        result = json.loads(out.read_text(encoding="utf-8"))
        assert set(result["fitted"]) == {"start", "start_each_letter", "end", "end_each_letter"}
        assert result["milliseconds"]["flite"]["true text, aligned"]["measured"] > 0


def test_the_fit_finds_the_map_that_made_the_words() -> None:
    draw = np.random.default_rng(0)
    options = confidence.ConfidenceOptions(bias=-1.0, path=0.5, gap=0.3)
    words = []
    for path, gap in zip(draw.uniform(0.01, 0.99, 20_000), draw.uniform(-2, 10, 20_000), strict=True):
        evidence = Evidence(float(path), float(gap))
        words.append(confidence.Judged(evidence, bool(draw.uniform() < confidence_of(evidence, options))))
    found = confidence.fit(words)
    assert [found.bias, found.path, found.gap] == pytest.approx([-1.0, 0.5, 0.3], abs=0.08)
    quality = confidence.report(words, found)
    assert quality["calibrated"]["calibration_error"] < 0.02 < quality["path alone"]["calibration_error"]


def test_right_words_are_those_that_stand_in_their_place() -> None:
    assert confidence.matches("Don't sit down", "dont SAT, down") == [(0, 0), (2, 2)]
    assert confidence.matches("", "so") == []


def test_confidence_reports_what_it_did_not_fit(engine: Engine, tmp_path: Path) -> None:
    out, picture = tmp_path / "confidence.json", tmp_path / "confidence.png"
    manifest = manifest_of_tones(tmp_path / "tones", 6)
    confidence.main([str(manifest), "--json", str(out), "--plot", str(picture)])
    result = json.loads(out.read_text(encoding="utf-8"))
    (ways,) = result["results"].values()
    assert set(ways) == {"path alone", "calibrated"}
    assert ways["calibrated"]["words"] > result["fitted_on_words"] > 0
    assert picture.stat().st_size < 60_000
