"""Recordings that stand one after the other in a file are all read, and sizes in headers prove nothing."""

import contextlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import PITCH, encoded, heard, refusal, rms, tone, wav

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.errors import AudioError

SECOND = (tone(SAMPLE_RATE) * 32_767).astype(np.int16)


# --- Sizes that are not true -----------------------------------------------------------------------------------------


def of_size(stated_bytes, rest=b""):
    return wav(SECOND, SAMPLE_RATE, stated_bytes=stated_bytes) + rest


UNKNOWN = [0, 2**31 - 1, 2**31, 0x7FFFF000, 0xFFFFFFFE, 0xFFFFFFFF, 2**32 - 37]


@pytest.mark.parametrize("stated_bytes", UNKNOWN)
def test_a_size_that_means_unknown_is_read_to_the_end_without_a_word(stated_bytes):
    samples, told = heard(of_size(stated_bytes))
    assert (len(samples), told) == (SAMPLE_RATE, [])


@pytest.mark.parametrize("off", [-44, -36, -8, -2, 1, 2, 8, 36, 44])
def test_a_size_that_is_a_little_off_is_read_to_the_end_without_a_word(off):
    samples, told = heard(of_size(2 * SAMPLE_RATE + off))
    assert (len(samples), told) == (SAMPLE_RATE, [])
    assert np.array_equal(samples, load_audio(wav(SECOND, SAMPLE_RATE)))


@pytest.mark.parametrize(
    ("stated_bytes", "says"),
    [
        (1_999_999_999, "ends after 1.0 s, before the 62500.0 s"),
        (64_000, "ends after 1.0 s, before the 2.0 s"),
        (16_000, "goes on to 1.0 s, after the 0.5 s"),
    ],
)
def test_a_size_that_is_far_off_is_read_to_the_end_with_a_warning(stated_bytes, says):
    samples, told = heard(of_size(stated_bytes))
    assert len(samples) == SAMPLE_RATE
    assert says in told[0]


LIST = b"LIST" + (26).to_bytes(4, "little") + b"INFOISFT" + (14).to_bytes(4, "little") + b"Lavf61.1.100\0\0"


ID3 = b"id3 " + (4).to_bytes(4, "little") + b"ID3\4"


@pytest.mark.parametrize("rest", [LIST, ID3, b"TAG" + bytes(125), b"abcd\0\0\0\0"])
def test_what_follows_the_sound_is_no_sound(rest):
    for size in (2 * SAMPLE_RATE, 2 * SAMPLE_RATE + 2, 0xFFFFFFFF) if rest is LIST else (2 * SAMPLE_RATE,):
        samples, told = heard(of_size(size, rest))
        assert (len(samples), told) == (SAMPLE_RATE, [])


def test_an_odd_number_of_bytes_is_padded_or_not():
    half = np.zeros(8_001, np.uint8) + 128
    for between in (b"\0", b""):
        joined = wav(half, 8_000, bits=8) + between + wav(half, 8_000, bits=8)
        assert abs(len(load_audio(joined)) - 2 * 16_002) <= 1


def rf64(samples, stated):
    """A wav for sizes over 4 GB, which stand in a chunk of their own."""
    small = wav(samples, SAMPLE_RATE, stated_bytes=0xFFFFFFFF)
    sizes = (len(small) + 28).to_bytes(8, "little") + stated.to_bytes(8, "little") + bytes(12)
    return b"RF64" + b"\xff" * 4 + b"WAVEds64" + (28).to_bytes(4, "little") + sizes + small[12:]


@pytest.mark.parametrize("stated", [32_000, 0, 31_956, 32_044, 2**40])
def test_the_large_size_of_a_large_wav_proves_nothing_either(stated):
    assert len(heard(rf64(SECOND, stated))[0]) == SAMPLE_RATE
    assert len(heard(rf64(SECOND, stated) + of_size(32_000))[0]) == 2 * SAMPLE_RATE


CRAFTED = {
    "chunks that lead nowhere": of_size(10**6, b"LIST\0\0\0\0" * 130_000 + b"x"),
    "headers without sound": of_size(10**6) + (b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(20)) * 20_000,
    "chunks of sound": of_size(2 * SAMPLE_RATE, b"data\2\0\0\0\1\1" * 50_000),
    "pages that are none": encoded(tone(48_000, channels=1), 48_000, "ogg", "libopus") + b"OggS\0\2" * 300_000,
    "files of webm that are none": encoded(tone(48_000, channels=1), 48_000, "webm", "libopus")
    + b"\x1aE\xdf\xa3webm" * 90_000,
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_does_not_take_minutes(name):
    start = time.perf_counter()
    with contextlib.suppress(AudioError):
        heard(CRAFTED[name], max_seconds=None)
    assert time.perf_counter() - start < 20


# --- One after the other ---------------------------------------------------------------------------------------------


def joined(*sounds):
    return b"".join(sounds)


def test_two_wavs_are_read_whatever_the_first_says_of_its_size():
    other = wav(np.tile(SECOND[:8_000, None], (1, 2)), 8_000, channels=2)
    for size in (2 * SAMPLE_RATE, 0, 0xFFFFFFFF, 2 * SAMPLE_RATE + 44, 2 * SAMPLE_RATE - 44, 10**6):
        samples = heard(joined(of_size(size), other))[0]
        assert abs(len(samples) - 2 * SAMPLE_RATE) <= 1
        assert rms(samples[-SAMPLE_RATE // 2 :]) > 0.3


def test_a_header_may_stand_between_the_samples_every_now_and_then():
    for size in (0xFFFFFFFF, 2 * SAMPLE_RATE):
        samples, told = heard(of_size(size) * 7)
        assert np.array_equal(samples, np.tile(SECOND, 7) / np.float32(32_768))
        assert told == []


def test_thousands_of_headers_lose_nothing_and_a_cut_among_them_is_quick():
    often = wav(SECOND[:1600], SAMPLE_RATE) * 6_000
    samples = load_audio(often, max_seconds=None)
    assert len(samples) == 6_000 * 1600
    start = time.perf_counter()
    assert np.array_equal(load_audio(often, start=555.5, end=556.5), samples[8_888_000:8_904_000])
    assert time.perf_counter() - start < 2


def test_a_second_data_chunk_is_sound_too():
    rest = b"data" + (2 * SAMPLE_RATE).to_bytes(4, "little") + SECOND.tobytes()
    assert len(load_audio(of_size(2 * SAMPLE_RATE, rest))) == 2 * SAMPLE_RATE


def test_another_format_after_a_wav_is_read_too():
    flac = encoded(tone(8_000, channels=1), 8_000, "flac", "flac")
    samples = load_audio(of_size(2 * SAMPLE_RATE, flac))
    assert len(samples) == 2 * SAMPLE_RATE
    assert 0.3 < rms(samples[-SAMPLE_RATE // 2 :]) < 0.4


KINDS = [("wav", "pcm_s16le"), ("aiff", "pcm_s16be"), ("flac", "flac"), ("ogg", "vorbis"), ("ogg", "libopus"),
         ("mp3", "libmp3lame"), ("adts", "aac"), ("ipod", "aac"), ("mp4", "aac"), ("matroska", "flac"),
         ("webm", "libopus")]  # fmt: skip


@pytest.mark.parametrize(("container", "codec"), KINDS)
@pytest.mark.parametrize("first", [(48_000, 2), (24_000, 1), (48_000, 1)])
def test_links_whose_rate_or_channels_change_are_all_read(container, codec, first):
    if codec == "vorbis" and first[1] == 1:
        first = (32_000, 2)  # FFmpeg's encoder knows stereo only
    parts = [(*first, 700.0), (48_000, 2, PITCH), (*first, 1_000.0)]
    samples, told = heard(
        joined(*(encoded(tone(r, 1.0, channels=c, pitch=p), r, container, codec) for r, c, p in parts))
    )
    assert abs(len(samples) / SAMPLE_RATE - 3.0) < 0.25  # frames that aac and mp3 pad
    for i, (_, _, pitch) in enumerate(parts):
        middle = samples[round(len(samples) * (i + 0.3) / 3) : round(len(samples) * (i + 0.7) / 3)]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
        assert abs(np.argmax(spectrum) * SAMPLE_RATE / len(middle) - pitch) < 10
        assert rms(middle) > 0.3
    assert told == []


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("ogg", "vorbis")])
def test_the_last_link_may_be_cut_off_as_any_file_may(container, codec):
    part = encoded(tone(44_100, 2.0, channels=2), 44_100, container, codec)
    assert "is cut off or damaged" in refusal(part + part[: len(part) // 2])


def test_each_row_of_links_with_other_channels_is_that_of_the_first_link():
    two, one = (encoded(tone(8_000, channels=n), 8_000, "flac", "flac") for n in (2, 1))
    assert load_audio(two + one, channels="each").shape == (2, 2 * SAMPLE_RATE)
    assert rms(load_audio(two + one, channels=2)[-8_000:]) > 0.3
    assert "changes from 1 to 2 channels" in refusal(one + two, channels="each")


# --- Properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(stated=st.integers(0, 2**32 - 1), seconds=st.integers(1, 4), chunks=st.integers(0, 3))
def test_no_stated_size_loses_a_sample(stated, seconds, chunks):
    sound = np.tile(SECOND, seconds)
    samples, _ = heard(wav(sound, SAMPLE_RATE, stated_bytes=stated) + LIST * chunks)
    lost = len(sound) - len(samples)
    assert lost <= 0
    assert -lost <= len(LIST) * chunks / 2 + 1
    assert np.array_equal(samples[: len(sound)] * 32_768, sound)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(200, 9_000), min_size=1, max_size=5), unknown=st.lists(st.booleans(), min_size=5))
def test_any_row_of_wavs_is_their_join(lengths, unknown):
    parts = [np.resize(SECOND, length) for length in lengths]
    sizes = [0xFFFFFFFF if u else None for u in unknown]
    files = [wav(part, SAMPLE_RATE, stated_bytes=size) for part, size in zip(parts, sizes, strict=False)]
    samples, _ = heard(b"".join(files))
    assert np.array_equal(samples * 32_768, np.concatenate(parts))
