"""Channels and sound tracks: mixed, each or one of them; never mixed to silence, never passed over without a word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import encoded, heard, paused, refusal, rms, tone, tracks, wav

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.errors import ConfigurationError, SoundwaveWarning

LOW, HIGH = tone(16_000, 3.0), tone(16_000, 3.0, pitch=1_200.0)
NOISE = np.random.default_rng(0).normal(0, 0.1, (2, 48_000)).astype(np.float32)


def stereo(left, right):
    return np.stack([left, right]), 16_000


# --- Channels that cancel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [-1.0, -0.9, -0.7, -1.3])
def test_where_channels_cancel_the_loudest_is_taken_and_said(share):
    samples, told = heard(stereo(LOW * 0.7, LOW * 0.7 * share))
    assert rms(samples) == pytest.approx(max(1, -share) * 0.7 * rms(LOW), rel=0.01)
    assert len(told) == 1
    loudest = 1 if share >= -1 else 2
    assert "the channels of the audio array cancel each other from about 0 s on" in told[0]
    assert f"the loudest is taken, there number {loudest} of 2" in told[0]


def test_where_no_one_asks_for_warnings_they_are_pythons():
    with pytest.warns(SoundwaveWarning, match="cancel each other"):
        load_audio(stereo(LOW, -LOW))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (LOW, LOW),
        (LOW, HIGH),
        (LOW, 0 * LOW),
        (0 * LOW, 0 * LOW),
        (LOW, -0.3 * LOW),
        (*NOISE,),
        (LOW + 0.4, 0.4 - 0 * LOW),
    ],
    ids=["equal", "two speakers", "one is silent", "both are silent", "a faint echo", "noise", "an offset"],
)
def test_channels_that_do_not_cancel_are_averaged(left, right):
    samples, told = heard(stereo(left, right))
    assert np.allclose(samples, (left + right) / 2, atol=1e-7)
    assert told == []


def test_an_offset_does_not_hide_that_channels_cancel():
    samples, told = heard(stereo(LOW + 0.4, -LOW + 0.4))
    assert np.array_equal(samples, LOW + np.float32(0.4))
    assert told


def test_what_speaks_where_other_channels_cancel_is_kept():
    """The first second of six channels cancels, the second is one speaker's, the third everybody's."""
    six = np.stack([HIGH * (0.1 + 0.1 * i) * (-1) ** i for i in range(6)])
    six[:, 16_000:32_000] = 0
    six[4, 16_000:32_000] = LOW[16_000:32_000]
    six[:, 32_000:] = LOW[32_000:]
    samples, told = heard((six, 16_000))
    assert rms(samples[:15_000]) > 0.5 * rms(six[5, :15_000])
    assert np.allclose(samples[16_200:32_000], LOW[16_200:32_000] / 6, atol=1e-6)
    assert np.allclose(samples[32_200:], LOW[32_200:], atol=1e-6)
    assert len(told) == 1


def test_between_two_ways_of_mixing_there_is_no_click():
    right = np.concatenate([LOW[:16_000], -LOW[16_000:]])
    samples, _ = heard(stereo(LOW, right))
    assert np.abs(np.diff(samples)).max() <= 1.01 * np.abs(np.diff(LOW)).max()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-10, 10), min_size=2, max_size=6), st.integers(0, 2**31))
def test_no_weights_of_a_voice_mix_to_silence(tenths, seed):
    voice = np.random.default_rng(seed).normal(0, 0.05, 16_000).astype(np.float32)
    channels = np.stack([np.float32(w / 10) * voice for w in tenths])
    samples, told = heard((channels, 16_000))
    loudest = max(abs(w) for w in tenths) / 10
    assert rms(samples) >= 0.08 * loudest * rms(voice)  # of six channels, half of what one alone would keep
    assert told == [] or rms(samples) == pytest.approx(loudest * rms(voice), rel=1e-4)


# --- Each, or one of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["array", "wav", "flac"])
def test_each_channel_or_one_by_its_number(source):
    both = np.stack([LOW, HIGH])
    codec = {"wav": "pcm_f32le", "flac": "flac"}.get(source)
    given = encoded(both, 16_000, source, codec) if codec else (both, 16_000)
    each = load_audio(given, channels="each")
    assert each.shape == (2, 48_000)
    assert np.abs(each - both).max() < 1e-4
    for number in (1, 2):
        assert np.array_equal(load_audio(given, channels=number), each[number - 1])
    assert refusal(given, channels=3).endswith("has 2 channels, no channel 3; count them from 1")
    assert "has one channel, no channel 2" in refusal(wav(np.zeros(16_000, np.int16), 16_000), channels=2)


def test_each_channel_is_resampled_alone():
    both = np.stack([tone(44_100), tone(44_100, pitch=1_000.0)])
    each = load_audio((both, 44_100), channels="each")
    for row, channel in zip(each, both, strict=True):
        assert np.array_equal(row, load_audio((channel, 44_100)))


@pytest.mark.parametrize("channels", ["left", 0, -1, True, 1.5, None])
def test_a_choice_of_channels_that_means_nothing(channels):
    with pytest.raises(ConfigurationError, match=f"channels is {channels!r}"):
        load_audio((LOW, 16_000), channels=channels)


# --- Sound tracks ----------------------------------------------------------------------------------------------------

CONTAINERS = [("matroska", "flac"), ("mp4", "aac"), ("mov", "pcm_s16le"), ("mpegts", "aac"), ("avi", "pcm_s16le")]


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_a_silent_first_track_is_passed_over_and_named(container, codec):
    samples, told = heard(tracks([(0 * LOW, 16_000, 0), (LOW, 16_000, 0), (HIGH, 16_000, 0)], container, codec))
    assert rms(samples) > 0.3
    assert len(told) == 1
    assert (
        "has 3 sound tracks; number 2 is read, not 1 (silent), 3: choose or mix them with the option track" in told[0]
    )


def test_the_first_track_that_is_not_silent_is_read_and_the_others_are_named():
    samples, told = heard(tracks([(LOW, 16_000, 0), (HIGH, 16_000, 0)]))
    assert np.abs(samples - LOW).max() < 1e-3
    assert "has 2 sound tracks; number 1 is read, not 2" in told[0]


def test_a_track_is_chosen_by_its_number_or_all_are_mixed():
    film = tracks([(LOW, 16_000, 0), (HIGH, 16_000, 1.0)])
    assert np.abs(load_audio(film, track=1) - LOW).max() < 1e-3
    assert np.abs(load_audio(film, track=2)[16_000:] - HIGH).max() < 1e-3
    mixed, told = heard(film, track="mix")
    assert np.abs(mixed[:16_000] - LOW[:16_000] / 2).max() < 1e-3
    assert np.abs(mixed[16_000:48_000] - (LOW[16_000:] + HIGH[:32_000]) / 2).max() < 1e-3
    assert np.abs(mixed[48_000:] - HIGH[32_000:] / 2).max() < 1e-3
    assert told == []
    assert "has 2 sound tracks, no track 3" in refusal(film, track=3)
    assert "has one sound track, no track 2" in refusal(encoded(LOW[None], 16_000, "flac", "flac"), track=2)


def test_tracks_that_cancel_are_not_mixed_to_silence():
    samples, told = heard(tracks([(LOW, 16_000, 0), (-LOW, 16_000, 0)]), track="mix")
    assert rms(samples) == pytest.approx(rms(LOW), rel=0.01)
    assert "the sound tracks of the audio given as bytes cancel" in told[0]


@pytest.mark.parametrize("track", ["all", 0, True, 1.0])
def test_a_choice_of_tracks_that_means_nothing(track):
    with pytest.raises(ConfigurationError, match=f"track is {track!r}"):
        load_audio(b"", track=track)
    with pytest.raises(ConfigurationError, match="track 'mix'"):
        load_audio(b"", track="mix", channels="each")


# --- Times are the file's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("container", "codec"), [c for c in CONTAINERS if c[0] != "avi"])
@pytest.mark.parametrize("start", [0.5, 1.7])
def test_a_track_that_starts_late_has_silence_before_it(container, codec, start):
    samples, told = heard(tracks([(LOW, 16_000, start)], container, codec, picture_seconds=6.0))
    audible = np.flatnonzero(np.abs(samples) > 0.2)
    assert audible[0] / SAMPLE_RATE == pytest.approx(start, abs=0.1)  # mpegts does not take off AAC's delay
    assert audible[-1] / SAMPLE_RATE == pytest.approx(start + 3.0, abs=0.1)
    assert told == []


@pytest.mark.parametrize("pause", [1.0, 2.5])
def test_a_pause_in_a_track_is_a_pause_in_its_sound(pause):
    """As calls are recorded while somebody is muted: no packets, and the next ones later."""
    samples = load_audio(paused(LOW, 16_000, pause))
    behind = 16_000 + round(pause * 16_000)
    assert len(samples) == behind + 32_000
    assert not samples[16_000:behind].any()
    assert np.abs(samples[behind:] - LOW[16_000:]).max() < 1e-3
