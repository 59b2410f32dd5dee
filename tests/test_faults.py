"""The kinds of fault that users of other speech tools met, in recordings: each made here, and read as it should be.

Where the collection of such files lies beside the checkout (`faults`, beside the folder that SOUNDWAVE_REFERENCE names)
its recordings are read too; none of them is in this repository.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from recordings import encoded, heard, rms, tone, tracks, wav

from soundwave.audio import SAMPLE_RATE

FAULTS = Path(os.environ.get("SOUNDWAVE_REFERENCE", "/nowhere/reference")).parent / "faults"
collected = pytest.mark.skipif(not (FAULTS / "phase.wav").is_file(), reason="the collection of faults is not here")


def pcm(samples):
    return (samples * 32_767).astype(np.int16)


def made(name):
    """A recording of the kind of the collection's file with this name, its seconds, and what is to be said of it."""
    voice = tone(22_050, 1.5)
    short = wav(pcm(tone(16_000, 1.5)), 16_000)
    stereo = encoded(np.stack([voice, -voice]), 22_050, "wav", "pcm_s16le")
    two_tracks = tracks([(0 * voice, 22_050, 0), (voice, 22_050, 0)], "mp4", "aac")
    return {
        "phase.wav": (stereo, 1.5, "cancel"),
        "tracks_silent_first.mp4": (two_tracks, 1.5, "2 is read"),
        "h_plus44.wav": (wav(pcm(tone(16_000, 1.5)), 16_000, stated_bytes=48_044), 1.5, None),
        "joined.wav": (short + encoded(np.stack([voice, voice]), 22_050, "wav", "pcm_s16le"), 3.0, None),
        "chained_ch.ogg": (
            encoded(tone(16_000, 1.5, channels=1), 16_000, "ogg", "flac")
            + encoded(tone(16_000, 5.0, channels=2), 16_000, "ogg", "vorbis"),
            6.5,
            None,
        ),
    }[name]


# Seconds of the collection's files: what is to be read, all of it.
KINDS = {
    "phase.wav": 1.556,
    "tracks_silent_first.mp4": 1.550,
    "h_plus44.wav": 1.556,
    "joined.wav": 3.111,
    "chained_ch.ogg": 6.513,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_recording_of_each_kind_is_read_whole(name):
    source, seconds, says = made(name)
    samples, told = heard(source)
    assert len(samples) / SAMPLE_RATE == pytest.approx(seconds, abs=0.05)
    for tenth in np.array_split(samples, 10):
        assert rms(tenth) > 0.2
    assert any(says in text for text in told) if says else told == []


@collected
@pytest.mark.parametrize("name", KINDS)
def test_a_recording_of_the_collection_is_read_whole(name):
    samples, told = heard(FAULTS / name)
    assert len(samples) / SAMPLE_RATE == pytest.approx(KINDS[name], abs=0.05)
    for half in np.array_split(samples, 2):
        assert rms(half) > 0.02
    says = {"phase.wav": "cancel", "tracks_silent_first.mp4": "number 2 is read"}.get(name)
    assert any(says in text for text in told) if says else True


@collected
def test_both_parts_of_a_joined_recording_are_those_of_the_parts_alone():
    samples, _ = heard(FAULTS / "joined.wav")
    alone, _ = heard(FAULTS / "a.wav")
    assert np.array_equal(samples[: len(alone)], alone)
    whole, _ = heard(FAULTS / "h_plus44.wav")
    assert np.array_equal(whole, alone)
    assert abs(len(heard(FAULTS / "s.wav")[0]) + len(heard(FAULTS / "b.flac")[0]) - 6.513 * SAMPLE_RATE) < 100
