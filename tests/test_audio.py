"""Every recording FFmpeg reads becomes the same tone; arrays and files agree; what is sound but unusual is accepted.

What is refused, and with which words, is in test_audio_errors.py.
"""

import base64
import io
import math

import av
import numpy as np
import pytest
import torch
from recordings import PITCH, add_picture, encoded, tone, wav

import soundwave
from soundwave.audio import SAMPLE_RATE, decode_base64, is_silent, iter_audio, load_audio
from soundwave.audio.decoding import _decoder as decoder_of


def loudest_pitch(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(samples)


def level_db(samples):
    """Of the middle half, whose ends no codec smears; 0 for a full-scale sine."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    return 20 * math.log10(math.sqrt(2 * float(np.mean(middle**2))) + 1e-9)


FORMATS = [
    # container, codec, rate, channels, picture
    ("wav", "pcm_s16le", 8_000, 1, False),
    ("wav", "pcm_u8", 22_050, 2, False),
    ("wav", "pcm_s24le", 44_100, 2, False),
    ("wav", "pcm_f32le", 48_000, 1, False),
    ("wav", "pcm_f64le", 96_000, 6, False),
    ("wav", "pcm_mulaw", 8_000, 1, False),
    ("aiff", "pcm_s16be", 32_000, 2, False),
    ("flac", "flac", 16_000, 1, False),
    ("flac", "flac", 192_000, 2, False),
    ("mp3", "libmp3lame", 44_100, 2, False),
    ("mp3", "libmp3lame", 16_000, 1, False),
    ("ogg", "vorbis", 44_100, 2, False),
    ("ogg", "libopus", 48_000, 1, False),
    ("ogg", "flac", 24_000, 1, False),
    ("ipod", "aac", 44_100, 2, False),  # .m4a
    ("adts", "aac", 48_000, 2, False),
    ("webm", "libopus", 48_000, 2, False),
    ("mp4", "aac", 44_100, 2, True),
    ("webm", "libopus", 48_000, 1, True),
    ("mov", "pcm_s16le", 11_025, 1, True),
]


@pytest.mark.parametrize(("container", "codec", "rate", "channels", "picture"), FORMATS)
def test_every_format_gives_the_same_tone(container, codec, rate, channels, picture):
    samples = load_audio(encoded(tone(rate, 2.0, channels=channels), rate, container, codec, picture=picture))
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) / SAMPLE_RATE - 2.0) < 0.1  # frames of aac and mp3 without their delay taken off
    assert abs(loudest_pitch(samples) - PITCH) < 1.0
    assert abs(level_db(samples) - level_db(tone(SAMPLE_RATE))) < 1.0


@pytest.mark.parametrize("code", ["pcm_s16le", "pcm_s24le", "pcm_f32le"])
def test_a_16_khz_wav_is_not_altered(code):
    original = tone(SAMPLE_RATE, 0.5, channels=1)
    assert np.abs(load_audio(encoded(original, SAMPLE_RATE, "wav", code)) - original[0]).max() < 2**-15


def test_opus_is_decoded_by_the_reference_decoder_where_there_is_one():
    """FFmpeg's own turned one recording in ten thousand into noise 100 dB over full scale."""
    assert "libopus" in av.codecs_available  # in every wheel of PyAV
    with av.open(io.BytesIO(encoded(tone(48_000, channels=1), 48_000, "webm", "libopus"))) as container:
        assert decoder_of(container.streams.audio[0]).name == "libopus"


# --- Where a recording may come from ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flac():
    return encoded(tone(44_100, channels=2), 44_100, "flac", "flac")


def test_a_path_bytes_a_file_and_base64_give_the_same(flac, tmp_path):
    path = tmp_path / "tone.flac"
    path.write_bytes(flac)
    expected = load_audio(flac)
    text = base64.b64encode(flac).decode()
    with path.open("rb") as file:
        for source in (path, str(path), bytearray(flac), memoryview(flac), file, f"data:audio/flac;base64,{text}"):
            assert np.array_equal(load_audio(source), expected)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.txt", "a.jpg", "a.m3u8", "a", "zwei Töne.ﬂac"])
def test_the_content_decides_and_not_the_name(flac, tmp_path, name):
    (tmp_path / name).write_bytes(flac)
    assert len(load_audio(tmp_path / name)) == SAMPLE_RATE


def test_a_file_object_is_read_from_its_beginning_and_left_where_it_was(flac):
    file = io.BytesIO()
    file.write(flac)  # as people do, without going back
    assert np.array_equal(load_audio(file), load_audio(file))
    assert file.tell() == len(flac)


def test_a_stream_that_cannot_seek_is_read_too(flac):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation("seek")

    assert np.array_equal(load_audio(Pipe(flac)), load_audio(flac))


@pytest.mark.parametrize("text", ["UklGRg==", "UklG\nRg==\n", "data:audio/x;base64,UklGRg==", "data:;base64,UklGRg=="])
def test_base64_may_be_bare_broken_into_lines_or_a_data_address(text):
    assert decode_base64(text) == b"RIFF"


# --- Arrays ----------------------------------------------------------------------------------------------------------

# One quarter of full scale below silence, in every sample type there is a rule for.
INTEGER_QUARTERS = {"uint8": 96, "int16": -8192, ">i2": -8192, "int32": -(2**29)}
QUARTERS = INTEGER_QUARTERS | dict.fromkeys(["float16", "float32", "float64"], -0.25)


@pytest.mark.parametrize(("kind", "value"), QUARTERS.items())
def test_full_scale_is_one_for_every_sample_type(kind, value):
    samples = load_audio((np.full(1600, value, dtype=kind), SAMPLE_RATE))
    assert samples.dtype == np.float32
    assert set(samples.tolist()) == {-0.25}


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "bfloat16", "float16", "float32", "float64"])
def test_torch_tensors_are_arrays_too(kind):
    value = QUARTERS.get(kind, -0.25)
    tensor = torch.full((2, 1600), value, dtype=getattr(torch, kind))
    assert set(load_audio((tensor, SAMPLE_RATE)).tolist()) == {-0.25}


def test_a_tensor_that_wants_gradients_and_a_plain_list_are_read():
    assert len(load_audio((torch.zeros(1600, requires_grad=True), SAMPLE_RATE))) == 1600
    assert len(load_audio(([0.0] * 1600, SAMPLE_RATE))) == 1600


@pytest.mark.parametrize("shape", [(1600,), (1, 1600), (1600, 1), (2, 1600), (1600, 2), (64, 1600)])
def test_the_shorter_axis_is_the_channels(shape):
    assert load_audio((np.zeros(shape, np.float32), SAMPLE_RATE)).shape == (1600,)


def test_a_float32_array_at_16_khz_comes_back_as_it_is():
    noise = np.random.default_rng(0).uniform(-1, 1, 100_003).astype(np.float32)
    assert np.array_equal(load_audio((noise, SAMPLE_RATE)), noise)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_an_array_and_a_file_of_the_same_samples_agree(rate):
    original = tone(rate, 1.3, channels=2)
    assert np.abs(load_audio((original, rate)) - load_audio(encoded(original, rate, "wav", "pcm_f32le"))).max() < 1e-6


@pytest.mark.parametrize("rate", [16_000.0, np.int64(16_000), np.float64(16_000)])
def test_a_whole_rate_of_any_number_type_will_do(rate):
    assert len(load_audio((np.zeros(1600, np.float32), rate))) == 1600


# --- Mixing and resampling -------------------------------------------------------------------------------------------


def test_channels_are_averaged():
    left, right = tone(SAMPLE_RATE, 0.2), tone(SAMPLE_RATE, 0.2, pitch=1000.0)
    assert np.allclose(load_audio((np.stack([left, right]), SAMPLE_RATE)), (left + right) / 2, atol=1e-7)
    only_left = encoded(np.stack([tone(44_100), 0 * tone(44_100)]), 44_100, "flac", "flac")
    assert abs(level_db(load_audio(only_left)) - (level_db(tone(SAMPLE_RATE)) - 6.02)) < 0.05


def test_equal_channels_keep_their_level():
    stereo = encoded(tone(44_100, channels=2), 44_100, "flac", "flac")
    assert abs(level_db(load_audio(stereo)) - level_db(tone(SAMPLE_RATE))) < 0.01


@pytest.mark.parametrize("rate", [24_000, 44_100, 48_000, 96_000])
def test_what_16_khz_cannot_hold_is_removed_and_not_folded_back(rate):
    """A tone of 9.5 kHz would alias to 6.5 kHz; speech is well under 7 kHz and must pass."""
    assert level_db(load_audio((tone(rate, pitch=9_500.0, level=1.0), rate))) < -70
    assert abs(level_db(load_audio((tone(rate, pitch=6_500.0, level=1.0), rate)))) < 0.2


@pytest.mark.parametrize("rate", [4_000, 7_999, 11_025, 16_000, 44_100, 48_000, 768_000])
@pytest.mark.parametrize("seconds", [0.011, 0.777, 2.5])
def test_the_length_is_kept_and_no_delay_is_added(rate, seconds):
    samples = load_audio((tone(rate, seconds, pitch=100.0), rate))
    assert abs(len(samples) - round(rate * seconds) * SAMPLE_RATE / rate) <= 1
    if seconds > 1:
        expected = tone(SAMPLE_RATE, len(samples) / SAMPLE_RATE, pitch=100.0)
        assert np.abs(samples - expected)[1600:-1600].max() < 1e-4


def test_a_rate_may_change_inside_a_file():
    """Recordings joined end to end are one recording, as radio stations and voice mail make them."""
    assert len(load_audio(2 * encoded(tone(48_000, channels=1), 48_000, "ogg", "libopus"))) == 2 * SAMPLE_RATE
    slow, fast = (encoded(tone(rate, 1.0, channels=1), rate, "mp3", "libmp3lame") for rate in (16_000, 48_000))
    samples = load_audio(slow + fast)
    assert abs(len(samples) / SAMPLE_RATE - 2.1) < 0.1
    assert abs(loudest_pitch(samples[-SAMPLE_RATE // 2 :]) - PITCH) < 2.0


# --- Unusual but whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated_bytes", [0, 0x7FFFFFFF - 36, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_streamed_wav_that_does_not_know_its_size_is_whole(stated_bytes):
    assert len(load_audio(wav(np.zeros(16_001, np.int16), SAMPLE_RATE, stated_bytes=stated_bytes))) == 16_001


def test_tags_and_padding_around_the_frames_of_an_mp3_hold_no_sound():
    mp3 = encoded(tone(44_100, channels=1), 44_100, "mp3", "libmp3lame")
    assert mp3.startswith(b"ID3")
    alone = len(load_audio(mp3))
    assert len(load_audio(mp3 + b"TAG" + b"x" * 125)) == alone
    assert abs(len(load_audio(mp3 + bytes(10_000))) - alone) < 0.05 * SAMPLE_RATE
    joined = load_audio(mp3 + mp3)  # the second tag stands between two frames
    assert abs(len(joined) - 2 * alone) < 0.1 * SAMPLE_RATE


def test_a_film_may_go_on_after_its_sound():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        sound = output.add_stream("pcm_s16le", rate=16_000)
        sound.layout = "mono"
        add_picture(output, "mpeg4", 5.0)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    assert len(load_audio(file.getvalue())) == 16_000


def test_thirty_seconds_fit_into_thirty_seconds():
    for rate in (8_000, 11_025, 16_000, 22_050, 44_100):
        assert len(load_audio((np.zeros(30 * rate, np.int16), rate))) == 30 * SAMPLE_RATE
        assert len(load_audio(wav(np.zeros(30 * rate, np.int16), rate))) == 30 * SAMPLE_RATE


def test_without_a_limit_any_length_is_read_whole():
    assert len(load_audio((np.zeros(31 * 8_000, np.int16), 8_000), max_seconds=None)) == 31 * SAMPLE_RATE
    assert len(load_audio(wav(np.zeros(90 * 8_000, np.int16), 8_000), max_seconds=None)) == 90 * SAMPLE_RATE


# --- Silence ---------------------------------------------------------------------------------------------------------


def test_silence_is_an_honest_result_and_not_an_error():
    assert is_silent(load_audio(wav(np.zeros(16_000, np.int16), SAMPLE_RATE)))


@pytest.mark.parametrize(
    ("samples", "silent"),
    [
        (np.zeros(0, np.float32), True),
        (np.full(1600, 0.3, np.float32), True),  # a constant offset is no sound
        (tone(SAMPLE_RATE, level=0.0009), True),  # -61 dBFS
        (tone(SAMPLE_RATE, level=0.0011), False),  # -59 dBFS
        (tone(SAMPLE_RATE), False),
    ],
)
def test_silence_ends_60_db_below_full_scale(samples, silent):
    assert is_silent(samples) is silent


def test_the_package_offers_its_readers_and_what_they_say() -> None:
    assert (soundwave.load_audio, soundwave.iter_audio) == (load_audio, iter_audio)
    assert issubclass(soundwave.AudioTooLongError, soundwave.AudioError)
    assert issubclass(soundwave.SoundwaveWarning, UserWarning)
    with pytest.raises(soundwave.AudioTooLongError):
        soundwave.load_audio((np.ones(31 * 16_000, np.float32), 16_000))
