"""What is cut off, damaged or too long is refused at once, in little memory, and without a word from FFmpeg."""

import contextlib
import pickle
import socket
import time
import tracemalloc

import numpy as np
import pytest
from recordings import encoded, heard, refusal, rms, tone, wav

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.audio import recording as recording_module
from soundwave.errors import AudioError, AudioTooLongError

SILENCE = np.zeros(SAMPLE_RATE, np.int16)


# --- Cut off and damaged ---------------------------------------------------------------------------------------------

CUTTABLE = {
    # name: container, codec, rate, and what the message says after "breaks off after N s"
    "flac": ("flac", "flac", 16_000, " of 4.0 s"),
    "mp3": ("mp3", "libmp3lame", 44_100, " of 4.0 s"),
    "opus": ("ogg", "libopus", 48_000, ""),
    "aac": ("adts", "aac", 44_100, ""),
    "webm": ("webm", "libopus", 48_000, " of 4.0 s"),
}
SAMPLES_AND_NO_MORE = {"wav": "pcm_s16le", "aiff": "pcm_s16be", "au": "pcm_s16be"}


@pytest.mark.parametrize("name", CUTTABLE)
@pytest.mark.parametrize("share", [0.37, 0.61, 0.9])
def test_a_file_that_is_cut_off_says_after_how_many_seconds(name, share):
    container, codec, rate, rest = CUTTABLE[name]
    whole = encoded(tone(rate, 4.0, channels=1), rate, container, codec)
    message = refusal(whole[: int(len(whole) * share)])
    begin, seconds, end = (
        message.partition("breaks off after ")[0],
        *message.partition("breaks off after ")[2].split(" s", 1),
    )
    assert begin == "the audio given as bytes is cut off or damaged: its sound "
    assert abs(float(seconds) - 4.0 * share) < 1.0  # ogg has one page a second
    assert end in (f"{rest}; copy it again", f"{rest.replace('4.0', '4.1')}; copy it again")


@pytest.mark.parametrize("container", SAMPLES_AND_NO_MORE)
@pytest.mark.parametrize("share", [0.37, 0.9])
def test_samples_that_end_before_the_header_says_are_read_with_a_warning(container, share):
    """A header proves nothing: recorders write it first, and may be wrong. What is there is sound."""
    whole = encoded(tone(16_000, 4.0, channels=1), 16_000, container, SAMPLES_AND_NO_MORE[container])
    samples, told = heard(whole[: int(len(whole) * share)])
    assert abs(len(samples) / SAMPLE_RATE - 4.0 * share) < 0.01
    (warning,) = told
    assert f"ends after {4.0 * share:.1f} s, before the 4.0 s" in warning


@pytest.mark.parametrize(("container", "codec", "rate"), [("flac", "flac", 16_000), ("ogg", "libopus", 48_000)])
def test_damage_may_be_skipped_and_stands_as_silence_in_its_place(container, codec, rate):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 8 * rate)).astype(np.float32)
    whole = encoded(noise, rate, container, codec)
    middle = len(whole) // 2
    samples, told = heard(whole[:middle] + b"\xaa" * 3000 + whole[middle + 3000 :], damage="skip")
    assert abs(len(samples) / SAMPLE_RATE - 8.0) < 0.05
    assert rms(samples[: 2 * SAMPLE_RATE]) > 0.1
    assert rms(samples[-2 * SAMPLE_RATE :]) > 0.1
    (warning,) = [text for text in told if "cannot be decoded" in text]
    begin, end = (float(word) for word in warning.split(" from ")[1].split(" s;")[0].split(" to "))
    assert 2.5 < begin < 4.1
    assert 3.9 < end < 5.5
    assert not samples[int((begin + 0.05) * SAMPLE_RATE) : int((end - 0.05) * SAMPLE_RATE)].any()


def test_an_mp4_that_is_cut_off_has_lost_its_index():
    whole = encoded(tone(44_100, 2.0, channels=1), 44_100, "mp4", "aac")
    message = "the audio given as bytes begins like mp4 but is cut off or damaged; copy or record it again"
    assert refusal(whole[: len(whole) // 2]) == message
    index_first = {"movflags": "frag_keyframe+empty_moov"}
    whole = encoded(tone(44_100, 2.0, channels=1), 44_100, "mp4", "aac", container_options=index_first)
    assert "breaks off after 1." in refusal(whole[: len(whole) * 3 // 4])


@pytest.mark.parametrize(("head", "kind"), [(b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3\4", "mp3")])
def test_only_the_first_bytes_of_a_known_kind(head, kind):
    assert refusal(head) == (
        f"the audio given as bytes begins like {kind} but is cut off or damaged; copy or record it again"
    )


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("ogg", "libopus"), ("adts", "aac")])
def test_damage_in_the_middle_is_not_passed_over(container, codec):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 4 * 48_000)).astype(np.float32)
    whole = encoded(noise, 48_000, container, codec)
    middle = len(whole) // 2
    assert "is cut off or damaged" in refusal(whole[:middle] + b"\xaa" * 3000 + whole[middle + 3000 :])


# --- Too long --------------------------------------------------------------------------------------------------------

TEN_HOURS = 36_000  # s


def seconds_and_bytes(function):
    """How long a call takes and how much memory it needs at its peak."""
    tracemalloc.start()
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak


def check_ten_hours_are_refused(source, message):
    def refuse():
        assert refusal(source) == message

    seconds, peak = seconds_and_bytes(refuse)
    assert seconds < 1.0
    assert peak < 10 * 2**20


def test_ten_hours_in_a_file_are_refused_by_the_header(tmp_path):
    path = tmp_path / "long.wav"
    header = wav(SILENCE[:0], SAMPLE_RATE, stated_bytes=TEN_HOURS * SAMPLE_RATE * 2)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + TEN_HOURS * SAMPLE_RATE * 2)  # a hole, not a gigabyte
    check_ten_hours_are_refused(
        path, f"{str(path)!r} is 36000 s long; at most 30 s are allowed: split it into shorter pieces"
    )


@pytest.mark.parametrize(
    ("container", "codec"), [("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("mp4", "aac")]
)
def test_a_minute_in_any_container_is_refused_with_its_length(container, codec):
    message = refusal(encoded(np.zeros((1, 61 * 48_000), np.float32), 48_000, container, codec))
    assert message.startswith("the audio given as bytes is 61")
    assert message.endswith(" s long; at most 30 s are allowed: split it into shorter pieces")


def test_ten_hours_without_a_length_in_the_header_are_not_read_to_the_end(tmp_path):
    """ADTS states no length. The first half minute is decoded, and the other 1,200 are not even read."""
    minute = encoded(np.zeros((1, 60 * 8_000), np.float32), 8_000, "adts", "aac")
    path = tmp_path / "long.aac"
    path.write_bytes(minute * 600)
    with path.open("rb") as file:
        check_ten_hours_are_refused(
            file, "the audio stream is over 30 s long; at most 30 s are allowed: split it into shorter pieces"
        )
    check_ten_hours_are_refused(
        path, f"{str(path)!r} is over 30 s long; at most 30 s are allowed: split it into shorter pieces"
    )


def test_a_header_that_promises_ten_hours_and_holds_a_second():
    samples, told = heard(wav(SILENCE, SAMPLE_RATE, stated_bytes=TEN_HOURS * SAMPLE_RATE * 2))
    assert len(samples) == SAMPLE_RATE
    assert "ends after 1.0 s, before the 36000.0 s" in told[0]


LOSSY = [
    ("adts", "aac", 44_100),
    ("adts", "aac", 16_000),
    ("ipod", "aac", 16_000),
    ("matroska", "aac", 22_050),
    ("mpegts", "aac", 48_000),
    ("mp3", "libmp3lame", 44_100),
    ("ogg", "vorbis", 44_100),
    ("ogg", "libopus", 48_000),
]


@pytest.mark.parametrize(("container", "codec", "rate"), LOSSY)
def test_thirty_seconds_that_an_encoder_padded_are_thirty_seconds(container, codec, rate):
    """Its padding, up to three frames, is not sound: 30.016 s of AAC at 16 kHz are 30 s."""
    channels = 2 if codec == "vorbis" else 1
    samples, told = heard(encoded(tone(rate, 30.0, channels=channels), rate, container, codec))
    assert len(samples) == 30 * SAMPLE_RATE
    assert rms(samples[:800]) > 0.25
    assert rms(samples[-800:]) > 0.25
    assert told == []


def test_a_fifth_of_a_second_more_is_no_padding():
    error = too_long_error(encoded(tone(44_100, 30.2, channels=1), 44_100, "adts", "aac"))
    assert (error.seconds, error.limit) == (None, 30.0)
    error = too_long_error((np.zeros(40 * 8_000, np.int16), 8_000))
    assert (error.seconds, error.limit) == (40.0, 30.0)
    assert pickle.loads(pickle.dumps(error)).seconds == 40.0  # as from a worker process


def too_long_error(source):
    with pytest.raises(AudioTooLongError) as caught:
        load_audio(source)
    return caught.value


def test_ten_hours_in_an_array_are_refused_before_they_are_copied():
    long = np.broadcast_to(np.float32(0), (TEN_HOURS * SAMPLE_RATE,))
    check_ten_hours_are_refused(
        (long, SAMPLE_RATE), "the audio array is 36000 s long; at most 30 s are allowed: split it into shorter pieces"
    )


def test_one_sample_too_many_is_too_many():
    too_many = np.zeros(30 * 8_000 + 1, np.int16)
    assert refusal((too_many, 8_000)).startswith("the audio array is 30.000125 s long; at most 30 s")
    assert "is over 30 s long; at most 30 s" in refusal(wav(too_many, 8_000))


def test_the_limit_is_the_callers():
    assert refusal((np.zeros(122_400, np.int16), 2 * 8_000), max_seconds=2.5) == (
        "the audio array is 7.65 s long; at most 2.5 s are allowed: split it into shorter pieces"
    )


# --- What must not happen meanwhile ----------------------------------------------------------------------------------


def test_ffmpeg_says_nothing_itself(capfd):
    mp3 = encoded(tone(44_100, channels=1), 44_100, "mp3", "libmp3lame")
    load_audio(mp3[500:])
    refusal(mp3[:5_000])
    refusal(encoded(tone(44_100, channels=1), 44_100, "mp4", "aac")[:5_000])
    refusal(bytes(100_000))
    assert capfd.readouterr() == ("", "")


def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch):
    (tmp_path / "secret.wav").write_bytes(wav(SILENCE, SAMPLE_RATE))
    (tmp_path / "list.wav").write_bytes(b"ffconcat version 1.0\nfile secret.wav\n")
    monkeypatch.chdir(tmp_path)
    assert "list.wav' is not audio" in refusal("list.wav")


def test_a_session_description_does_not_make_it_wait_for_the_network():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "t=0 0", f"m=audio {port} RTP/AVP 0"]
    start = time.perf_counter()
    assert "is not audio" in refusal("\n".join([*lines, "a=rtpmap:0 PCMU/8000", ""]).encode())
    assert time.perf_counter() - start < 1.0


def test_a_header_that_keeps_ffmpeg_busy_is_given_up(monkeypatch):
    """A wav of nothing but empty chunks takes FFmpeg a second for every ten megabytes, and then the end is known."""
    monkeypatch.setattr(recording_module, "MAX_OPENING_SECONDS", 0.05)
    assert refusal(b"RIFF" + bytes(4) + b"WAVE" + bytes(8_000_000)) == (
        "the audio given as bytes cannot be read (finding its sound took over 0.05 s); check the disk or connection"
    )


@pytest.mark.filterwarnings("ignore::soundwave.errors.SoundwaveWarning")
def test_damaged_files_are_refused_or_read_and_nothing_else():
    """Ninety files with random bytes changed, cut out or zeroed: an array or an AudioError, never another error."""
    random = np.random.default_rng(0)
    kinds = [
        ("wav", "pcm_f32le"),
        ("flac", "flac"),
        ("mp3", "libmp3lame"),
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("mp4", "aac"),
    ]
    for container, codec in kinds:
        whole = encoded(tone(48_000, channels=2), 48_000, container, codec)
        for trial in range(15):
            damaged = bytearray(whole)
            start = int(random.integers(len(whole)))
            if trial % 3 == 0:
                damaged[start] ^= 0x55
                damaged[start % 200] ^= 0xFF
            elif trial % 3 == 1:
                del damaged[start : start + 2000]
            else:
                damaged[start : start + 2000] = bytes(len(damaged[start : start + 2000]))
            with contextlib.suppress(AudioError):
                assert load_audio(bytes(damaged)).dtype == np.float32
