"""A cut is that part of the whole, sample by sample, and costs little more than its own length; streams of any length.

Formats that lose something need what came before a cut to decode it, and times that are exact.
"""

import functools
import io
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import encoded, heard, refusal, rms, tone, tracks, wav

from soundwave.audio import SAMPLE_RATE, iter_audio, load_audio
from soundwave.errors import AudioTooLongError, ConfigurationError

SECONDS = 24


def sweep(rate, channels=1):
    """(channels, samples): a tone that rises, comes and goes, so that no two stretches are alike; no noise.

    AAC's encoder replaces noise by a note that there was noise, and the decoder rolls the dice anew in each cut.
    """
    t = np.arange(SECONDS * rate) / rate
    rise = np.sin(2 * np.pi * (150 + 20 * t) * t) * (0.3 + 0.2 * np.sin(5 * t))
    return np.stack([(rise * (1 - 0.3 * i)).astype(np.float32) for i in range(channels)])


FORMATS = {
    "wav": ("wav", "pcm_s16le", 44_100, 1),
    "wav of bytes": ("wav", "pcm_u8", 11_025, 2),
    "wav of mu-law": ("wav", "pcm_mulaw", 8_000, 1),
    "aiff": ("aiff", "pcm_s16be", 16_000, 2),
    "flac": ("flac", "flac", 48_000, 2),
    "flac at 22.05 kHz": ("flac", "flac", 22_050, 1),
    "mp3": ("mp3", "libmp3lame", 44_100, 2),
    "mp3 at 16 kHz": ("mp3", "libmp3lame", 16_000, 1),
    "vorbis": ("ogg", "vorbis", 44_100, 2),
    "opus": ("ogg", "libopus", 48_000, 1),
    "m4a": ("ipod", "aac", 44_100, 2),
    "m4a at 16 kHz": ("ipod", "aac", 16_000, 1),
    "aac": ("adts", "aac", 48_000, 1),
    "webm": ("webm", "libopus", 48_000, 2),
    "mkv": ("matroska", "flac", 44_100, 1),
    "ts": ("mpegts", "aac", 44_100, 1),
}
CUTS = [(0.0, 1.5), (0.3, 2.0), (4.0, 5.0), (9.37, 12.01), (16.001, 16.5), (21.99, 24.0), (23.0, None), (23.9, None)]
SMALLEST = {"m4a": 1e-5, "m4a at 16 kHz": 1e-5, "aac": 1e-5, "ts": 1e-5}  # the dice of AAC, see above


@pytest.fixture(scope="module")
def files():
    return {name: made(name) for name in FORMATS}


@functools.cache
def made(name):
    """The bytes of a file, and all its samples."""
    container, codec, rate, channels = FORMATS[name]
    data = encoded(sweep(rate, channels), rate, container, codec)
    return data, load_audio(data)


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_is_that_part_of_the_whole(name, files):
    data, whole = files[name]
    for start, end in CUTS:
        expected = whole[round(start * SAMPLE_RATE) : None if end is None else round(end * SAMPLE_RATE)]
        cut = load_audio(data, start=start, end=end)
        assert len(cut) == len(expected), (start, end)
        assert np.abs(cut - expected).max() <= SMALLEST.get(name, 0), (start, end)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.floats(0, SECONDS - 0.1), st.floats(0.01, 3.0))
def test_any_cut_is_that_part_of_the_whole(name, start, length):
    data, whole = made(name)
    end = min(start + length, SECONDS)
    cut = load_audio(data, start=start, end=end)
    expected = whole[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    assert cut.shape == expected.shape
    assert np.abs(cut - expected).max(initial=0) <= SMALLEST.get(name, 0)


@pytest.mark.parametrize("channels", [1, 2, "each"])
def test_a_cut_of_a_channel_is_that_part_of_the_channel(channels, files):
    data, _ = files["mp3"]
    whole = load_audio(data, channels=channels)
    assert np.array_equal(load_audio(data, start=7.7, end=9.1, channels=channels), whole[..., 123_200:145_600])


def test_a_cut_of_channels_that_cancel_now_and_then_is_that_part_of_the_whole():
    left, right = sweep(22_050, 2)
    right[5 * 22_050 : 15 * 22_050] = -left[5 * 22_050 : 15 * 22_050]
    data = encoded(np.stack([left, right]), 22_050, "flac", "flac")
    whole = heard(data)[0]
    for start, end in [(4.5, 5.5), (5.0, 6.0), (6.0, 7.0), (9.2, 9.9), (14.9, 16.2), (15.5, 18.0)]:
        cut = heard(data, start=start, end=end)[0]
        assert np.array_equal(cut, whole[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)])


def test_a_cut_of_a_track_that_starts_late_counts_from_the_film():
    film = tracks([(sweep(16_000)[0][: 12 * 16_000], 16_000, 6.0)], picture_seconds=18.0)
    whole = load_audio(film)
    assert not whole[: 6 * SAMPLE_RATE].any()
    for start, end in [(0.5, 3.0), (5.5, 6.5), (12.25, 14.0)]:
        assert np.array_equal(load_audio(film, start=start, end=end), whole[int(start * 16_000) : int(end * 16_000)])


def test_a_cut_of_joined_files_counts_from_the_first():
    first, second = (encoded(tone(rate, 5.0, channels=1), rate, "flac", "flac") for rate in (16_000, 8_000))
    whole = load_audio(first + second)
    assert np.array_equal(load_audio(first + second, start=4.5, end=8.0), whole[72_000:128_000])


def test_a_cut_of_an_array_is_that_part_of_it():
    samples = sweep(44_100, 2)
    whole = load_audio((samples, 44_100))
    assert np.array_equal(load_audio((samples, 44_100), start=9.37, end=12.01), whole[149_920:192_160])


# --- What a cut may be -----------------------------------------------------------------------------------------------


def test_a_cut_may_be_taken_from_a_file_of_any_length_and_is_itself_limited():
    long = wav(np.zeros(100 * 8_000, np.int16), 8_000)
    assert len(load_audio(long, start=90.0)) == 10 * SAMPLE_RATE
    assert len(load_audio(long, start=60.0, end=90.0)) == 30 * SAMPLE_RATE
    for start, end in ((50.0, 81.0), (50.0, None)):
        with pytest.raises(AudioTooLongError) as caught:
            load_audio(long, start=start, end=end)
        assert caught.value.limit == 30.0


@pytest.mark.parametrize("container", ["wav", "flac", "mp3"])
def test_a_cut_that_lies_behind_the_recording_is_refused(container, files):
    data, _ = files[container]
    assert "has nothing from 100 s on" in refusal(data, start=100.0)
    assert "has nothing from 24.5 s on; it is 24.0 s long" in refusal(data, start=24.5)
    assert "is 24.00 s long; the cut from 22 to 25 s ends after it" in refusal(data, start=22.0, end=25.0)
    assert len(load_audio(data, start=22.0, end=24.05)) == 2 * SAMPLE_RATE  # as stated lengths are rounded


@pytest.mark.parametrize(
    ("start", "end"), [(-1.0, None), (2.0, 1.0), (1.0, 1.0), (float("nan"), None), (0, float("inf"))]
)
def test_a_cut_that_is_none_is_refused(start, end):
    silence = wav(np.zeros(16_000, np.int16), 16_000)
    assert f"the cut from {start} to {end} s is none" in refusal(silence, start=start, end=end)


# --- What it costs ---------------------------------------------------------------------------------------------------

COSTS = [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("ipod", "aac")]


@pytest.mark.parametrize(("container", "codec"), COSTS)
def test_a_late_cut_costs_a_small_part_of_the_whole(container, codec, tmp_path):
    rate = 48_000 if codec == "libopus" else 16_000
    path = tmp_path / "long"
    path.write_bytes(encoded(np.tile(sweep(rate), 4), rate, container, codec))  # a minute and a half
    whole = timed(lambda: load_audio(path, max_seconds=None))
    cut = min(timed(lambda: load_audio(path, start=90.0, end=91.0)) for _ in range(3))
    assert cut < whole / 3


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_a_small_file_of_half_an_hour_needs_little_memory_for_a_cut(tmp_path):
    """Three hours in a megabyte took 2.9 GB."""
    path = tmp_path / "long.m4a"
    path.write_bytes(encoded(np.zeros((1, 1800 * 8_000), np.float32), 8_000, "ipod", "aac"))
    assert path.stat().st_size < 2**19
    assert peak(lambda: load_audio(path, start=1_700.0, end=1_705.0)) < 10 * 2**20


def peak(call):
    tracemalloc.start()
    call()
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size


# --- Streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_seconds", [0.02, 0.5, 7.0, 30.0, 100.0])
def test_blocks_are_of_the_length_asked_for_and_join_to_the_whole(block_seconds, files):
    data, whole = files["m4a"]
    blocks = list(iter_audio(data, block_seconds))
    assert {len(block) for block in blocks[:-1]} <= {round(block_seconds * SAMPLE_RATE)}
    assert 0 < len(blocks[-1]) <= round(block_seconds * SAMPLE_RATE)
    assert np.array_equal(np.concatenate(blocks), whole)


def test_a_stream_takes_what_loading_takes(files, tmp_path):
    data, whole = files["flac"]
    (tmp_path / "a.flac").write_bytes(data)

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation("seek")

    for source in (tmp_path / "a.flac", data, io.BytesIO(data), Pipe(data), (whole, SAMPLE_RATE)):
        assert np.array_equal(np.concatenate(list(iter_audio(source, start=3.25, end=20.0))), whole[52_000:320_000])
    each = list(iter_audio(data, 5.0, channels="each"))
    assert [block.shape for block in each] == [(2, 80_000)] * 4 + [(2, 64_000)]


def test_the_memory_of_a_stream_does_not_grow_with_its_length(tmp_path):
    path = tmp_path / "long.flac"
    path.write_bytes(encoded(np.zeros((1, 300 * 8_000), np.float32), 8_000, "flac", "flac"))
    assert peak(lambda: sum(len(block) for block in iter_audio(path, 10.0))) < 4 * 2**20


def test_a_stream_that_is_given_up_leaves_the_file_where_it_was(files):
    file = io.BytesIO(files["wav"][0])
    file.seek(17)
    blocks = iter_audio(file, 1.0)
    assert len(next(blocks)) == SAMPLE_RATE
    blocks.close()
    assert file.tell() == 17


@pytest.mark.parametrize("block_seconds", [0, -1.0, 1e-6, float("nan"), float("inf")])
def test_a_block_has_a_length(block_seconds):
    with pytest.raises(ConfigurationError, match=f"block_seconds is {block_seconds}"):
        iter_audio(b"", block_seconds)


def test_a_damaged_stretch_of_a_stream_is_named_and_the_rest_is_read(tmp_path):
    rate = 16_000
    data = encoded(sweep(rate), rate, "flac", "flac")
    middle = len(data) // 2
    damaged = data[:middle] + b"\xaa" * 500 + data[middle + 500 :]
    told = []
    blocks = np.concatenate(list(iter_audio(damaged, damage="skip", on_warning=told.append)))
    assert len(blocks) == SECONDS * SAMPLE_RATE
    assert len(told) == 1
    whole = load_audio(data)
    different = np.flatnonzero(blocks != whole)
    assert different[-1] - different[0] < SAMPLE_RATE
    assert rms(whole - blocks) < 0.1
