"""Splices: what stands where in the audio stands there in the text, the same for the same seed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_data_synthesis import made
from tiny_data import RATE, clip, manifest, rows_of, run

from soundwave.data.example import AudioSpan
from soundwave.data.manifests import read_manifest
from soundwave.data.probe import samples_of
from soundwave.datatools.splice import loudest, sentence, splice, tag_of
from soundwave.errors import DataError

TEXTS = ["Good morning to you.", "The river is wide here.", "Nobody knew the way.", "It rained all night."]
NOTES = ("made-with.json", ".manifest.jsonl.lock")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")


@pytest.fixture
def joinable(tmp_path: Path) -> tuple[Path, Path]:
    """Utterances of three speakers, each at a pitch of its own, and two sounds."""
    speech = [
        {
            "audio": clip(tmp_path / f"{n}.wav", 1.0 + n / 10, 0.1 + 0.05 * n, 200 + 100 * n),
            "text": f"Word {'abcdef'[n]}", "speaker": str(n % 3),
        }
        for n in range(6)
    ]
    sounds = [
        {"audio": clip(tmp_path / "bark.wav", 5.0, pitch=3000), "label": "Dog bark", "text": None},
        {"audio": clip(tmp_path / "bell.wav", 0.5, pitch=4000), "label": "bell"},
    ]
    return manifest(tmp_path, *speech), manifest(tmp_path, *sounds, name="sounds.jsonl")


def test_a_sound_stands_between_two_utterances_in_the_audio_and_in_the_text(
    joinable: tuple[Path, Path], tmp_path: Path
) -> None:
    speech, sounds = joinable
    done = splice(speech, sounds, tmp_path / "out", sound_clips=6, speaker_clips=0, seed=1)
    assert (done.made, done.failed) == (6, 0)
    said = {row["text"]: row for row in rows_of(speech)}
    tags = set()
    for row, example in zip(
        rows_of(tmp_path / "out" / "manifest.jsonl"), read_manifest(tmp_path / "out" / "manifest.jsonl"), strict=True
    ):
        found = re.fullmatch(r"(Word \w)\. <(\w+)> (Word \w)\.", row["text"])
        assert found
        first, second = said[found[1]], said[found[3]]
        tags.add(found[2])
        assert first["speaker"] == second["speaker"] == row["speaker"]
        assert example.transcript == f"{found[1]} {found[3]}".lower()  # the tag is not spoken
        samples = samples_of(example.audios[0])
        assert row["duration"] == pytest.approx(len(samples) / RATE, abs=1e-3)
        sound = 3.0 if found[2] == "dog_bark" else 0.5
        lengths = [1.0 + int(one["audio"][0]) / 10 for one in (first, second)]
        assert 0.2 <= row["duration"] - sum(lengths) - sound <= 0.8  # two pauses
        centre = lengths[0] + 0.25 + sound / 2
        middle = samples[round((centre - 0.1) * RATE) : round((centre + 0.1) * RATE)]
        spectrum = np.abs(np.fft.rfft(middle))
        heard = np.argmax(spectrum) / len(middle) * RATE
        assert heard == pytest.approx(3000 if found[2] == "dog_bark" else 4000, abs=20)
    assert tags == {"dog_bark", "bell"}


def test_two_speakers_are_two_and_in_their_order(joinable: tuple[Path, Path], tmp_path: Path) -> None:
    splice(joinable[0], None, tmp_path / "out", sound_clips=0, speaker_clips=5)
    speaker = {row["text"]: row["speaker"] for row in rows_of(joinable[0])}
    for row in rows_of(tmp_path / "out" / "manifest.jsonl"):
        found = re.fullmatch(r"The first speaker says (Word \w)\. The second speaker says (Word \w)\.", row["text"])
        assert found
        assert speaker[found[1]] != speaker[found[2]]
        assert row["speaker"] == f"{speaker[found[1]]}+{speaker[found[2]]}"
        assert row["task"] == "two-speakers"


def test_the_same_seed_splices_the_same_and_more_may_be_asked_for_later(
    joinable: tuple[Path, Path], tmp_path: Path
) -> None:
    splice(*joinable, tmp_path / "at-once", sound_clips=3, speaker_clips=2)
    splice(*joinable, tmp_path / "later", sound_clips=1, speaker_clips=2)
    more = splice(*joinable, tmp_path / "later", sound_clips=3, speaker_clips=2)
    assert (more.made, more.before) == (2, 3)
    later, at_once = made(tmp_path / "later"), made(tmp_path / "at-once")
    assert sorted(later.pop("manifest.jsonl").splitlines()) == sorted(at_once.pop("manifest.jsonl").splitlines())
    assert later == at_once


def test_the_loudest_stretch_is_kept_and_faded() -> None:
    samples = np.concatenate([np.full(RATE, 0.01), np.full(RATE, 0.5), np.full(RATE, 0.02)]).astype(np.float32)
    cut = loudest(samples, 1.0)
    assert len(cut) == RATE
    assert cut[RATE // 2] == 0.5
    assert (cut[0], cut[-1]) == (0.0, 0.0)
    assert len(loudest(samples, 30.0)) == len(samples)


def test_tags_and_sentences_are_written_as_in_the_paper() -> None:
    assert tag_of("Throat clearing") == "<throat_clearing>"
    assert sentence("It's a boy, ") == "It's a boy."
    assert sentence("Why?") == "Why?"
    with pytest.raises(DataError, match="the label 'Audio' would be the tag <audio>, which is not allowed"):
        tag_of("Audio")


def test_what_cannot_be_joined_says_what_is_missing(joinable: tuple[Path, Path], tmp_path: Path) -> None:
    speech, sounds = joinable
    alone = manifest(tmp_path, *[{**row, "speaker": "1"} for row in rows_of(speech)], name="alone.jsonl")
    with pytest.raises(DataError, match="two speakers are needed; add the field `speaker`"):
        splice(alone, None, tmp_path / "out", sound_clips=0, speaker_clips=1)
    with pytest.raises(DataError, match="no row has a recording and a label"):
        splice(speech, speech, tmp_path / "out", sound_clips=1, speaker_clips=0)
    result = run("splice", speech, sounds, tmp_path / "cli", "--clips", 2, "--speakers", 1)
    assert result.exit_code == 0
    assert "3 clips made now, 0 before, 0 failed" in result.stdout
    assert run("splice", speech, sounds, tmp_path / "cli", "--clips", 2, "--seed", 4).exit_code == 2
    assert run("check", tmp_path / "cli" / "manifest.jsonl", "--no-ctc").exit_code == 0


def test_a_cut_that_lies_outside_its_recording_is_an_error_not_silence(tmp_path: Path) -> None:
    from soundwave.errors import AudioError

    clip(tmp_path / "a.wav", 1.0)
    assert len(samples_of(AudioSpan(str(tmp_path / "a.wav"), 0.25, 0.75))) == RATE // 2
    with pytest.raises(AudioError, match=r"has nothing from 2 s on"):
        samples_of(AudioSpan(str(tmp_path / "a.wav"), 2.0, 3.0))
