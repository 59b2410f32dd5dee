"""What cannot be found, opened, or understood as sound is refused, each in one line of its own.

Files that are damaged or too long are in test_audio_limits.py.
"""

import base64
import io
import os
import tempfile
import tracemalloc

import av
import numpy as np
import pytest
import torch
from recordings import add_picture, refusal, tone, wav

from soundwave.audio import SAMPLE_RATE, decode_base64, load_audio
from soundwave.audio import sources as sources_module
from soundwave.errors import AudioError

SILENCE = np.zeros(SAMPLE_RATE, np.int16)


# --- The path --------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named():
    assert refusal("no/such.wav") == "there is no file 'no/such.wav'; check the path"
    assert refusal("a\nb.wav") == r"there is no file 'a\nb.wav'; check the path"
    assert refusal("") == "there is no file ''; check the path"
    assert refusal("nul\0.wav") == r"there is no file 'nul\x00.wav'; check the path"


def test_an_address_is_not_a_file():
    assert refusal("https://example.org/a.wav") == (
        "'https://example.org/a.wav' is an address, not a file; download it first"
    )


def test_base64_text_in_place_of_a_path_is_recognised_by_its_length():
    message = refusal(base64.b64encode(bytes(3000)).decode())
    assert message.startswith("there is no file 'AAAA")
    assert message.endswith("; base64 text must begin with 'data:audio/wav;base64,'")
    assert len(message) < 200


def test_a_folder_is_not_a_recording(tmp_path):
    assert refusal(tmp_path).endswith("is a folder, not a recording; give the path of a file in it")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "private.wav"
    path.write_bytes(wav(SILENCE, SAMPLE_RATE))
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read anything

        def forbidden(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(sources_module, "open", forbidden, raising=False)
    assert refusal(str(path)).endswith("may not be read by this user; allow it, for instance with chmod +r")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_device_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", os.devnull):
        assert refusal(path).endswith("is a pipe or a device, not a file; read it yourself and give its bytes")


def test_what_is_no_source_at_all_is_named_by_its_type():
    for source, kind in ((None, "NoneType"), (SILENCE, "ndarray"), ([0.0], "list"), ({"array": [0.0]}, "dict")):
        assert refusal(source) == (
            f"audio cannot be of type {kind}; give a path, bytes, a file or (samples, sampling_rate)"
        )


# --- Streams and base64 ----------------------------------------------------------------------------------------------


def test_a_stream_opened_as_text():
    assert refusal(io.StringIO("RIFF")) == "the audio stream is opened as text; open it with mode 'rb'"


def test_a_stream_that_is_closed():
    stream = io.BytesIO(wav(SILENCE, SAMPLE_RATE))
    stream.close()
    assert refusal(stream) == "the audio stream cannot be read (I/O operation on closed file.); open it again"


def test_an_endless_stream_is_given_up(monkeypatch):
    class Endless(io.RawIOBase):
        def read(self, size=-1):
            return bytes(size)

        def seekable(self):
            return False

    monkeypatch.setattr(sources_module, "MAX_SHORT_STREAM_BYTES", 2**20)
    assert refusal(Endless()) == "the audio stream is over 1 MB; save it and give its path"
    monkeypatch.setattr(sources_module, "MAX_STREAM_BYTES", 2**21)
    assert refusal(Endless(), max_seconds=None) == "the audio stream is over 2 MB; save it and give its path"


class Upload:
    """An object with no more than a read(), as web frameworks and archives give."""

    def __init__(self, read=None):
        self.file = io.BytesIO(wav(SILENCE, SAMPLE_RATE))
        self.read = read or self.file.read


class OldSpooled(Upload):
    """`tempfile.SpooledTemporaryFile` of Python 3.10: seek() returns nothing, and there is no seekable()."""

    def tell(self):
        return self.file.tell()

    def seek(self, *where):
        self.file.seek(*where)


class UnseekableAfterAll(Upload):
    def tell(self):
        return 0

    def seek(self, *_):
        raise RuntimeError("not yet")


class AsyncUpload(Upload):
    """As FastAPI's UploadFile."""

    async def read(self, _=-1):
        return b""

    async def seek(self, _):
        return None

    def __init__(self):
        pass


def bytes_by(size):
    file = io.BytesIO(wav(SILENCE, SAMPLE_RATE))
    return lambda count: bytearray(file.read(min(count, size)))


def whole_once():
    file = io.BytesIO(wav(SILENCE, SAMPLE_RATE))
    return lambda: file.read()


@pytest.mark.parametrize(
    "make",
    [Upload, OldSpooled, UnseekableAfterAll, lambda: Upload(bytes_by(7)), lambda: Upload(whole_once())],
    ids=["only a read()", "SpooledTemporaryFile of 3.10", "cannot seek after all", "short bytearrays", "no size"],
)
def test_an_object_that_keeps_to_half_an_interface_is_read(make):
    assert len(load_audio(make())) == SAMPLE_RATE


def test_a_spooled_temporary_file_is_read_and_left_where_it_was():
    with tempfile.SpooledTemporaryFile() as file:
        file.write(wav(SILENCE, SAMPLE_RATE))
        assert len(load_audio(file)) == len(load_audio(file)) == SAMPLE_RATE
        assert file.tell() == 44 + 2 * SAMPLE_RATE


@pytest.mark.filterwarnings("error")  # a coroutine that nobody awaited
def test_an_object_that_cannot_be_read_is_refused_by_what_it_does():
    def fails(_):
        raise KeyError("gone")

    assert "asynchronous; give its bytes: await file.read()" in refusal(AsyncUpload())
    assert "cannot be read ('gone')" in refusal(Upload(fails))
    assert "has nothing to read yet" in refusal(Upload(lambda _: None))
    assert "gives int, not bytes" in refusal(Upload(lambda _: 5))
    assert "cannot be read" in refusal(io.BytesIO)  # the class, not an object of it


def test_a_file_object_that_fails_late_with_an_error_of_its_own():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if size and self.tell() > 100_000:
                raise KeyError("part 7")
            return super().read(size)

    assert "part 7" in refusal(Failing(wav(np.zeros(10 * SAMPLE_RATE, np.int16), SAMPLE_RATE)))


def test_a_large_stream_lies_on_the_disk_and_not_in_memory():
    sound = wav(np.zeros(1000 * SAMPLE_RATE, np.int16), SAMPLE_RATE)  # 32 MB
    file = io.BytesIO(sound)
    tracemalloc.start()
    assert len(load_audio(Upload(file.read), start=900.0, end=901.0)) == SAMPLE_RATE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_a_disk_that_fails_while_reading():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if size and self.tell() > 100_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    stream = Failing(wav(np.zeros(10 * SAMPLE_RATE, np.int16), SAMPLE_RATE))
    assert refusal(stream) == (
        "the audio stream cannot be read ([Errno 5] Input/output error); check the disk or connection"
    )


def test_text_that_is_not_base64():
    assert refusal("data:audio/wav;base64,RIFF?").startswith("the audio text 'RIFF?' is not base64 (")
    assert refusal("data:audio/wav;base64,UklGR").endswith("; encode the whole file")
    with pytest.raises(AudioError, match=r"^the audio text 'tön' is not base64 \(.*\); encode the whole file$"):
        decode_base64("tön")


@pytest.mark.parametrize("text", ["data:audio/wav,RIFF", "data:audio/wav;base64"])
def test_a_data_address_that_is_not_base64(text):
    assert refusal(text) == (f"a data address must begin like 'data:audio/wav;base64,', not {text.partition(',')[0]!r}")


# --- The content -----------------------------------------------------------------------------------------------------


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.wav").touch()
    assert refusal(tmp_path / "empty.wav").endswith("empty.wav' is empty (0 bytes); record or copy it again")
    assert refusal(b"") == "the audio given as bytes is empty (0 bytes); record or copy it again"
    assert refusal("data:;base64,") == "the base64 audio is empty (0 bytes); record or copy it again"
    assert refusal(io.BytesIO()) == "the audio stream is empty (0 bytes); record or copy it again"


NOT_AUDIO = {
    "prose": b"Dear reader, this is a letter and not a recording.\n" * 40,
    "page": b"<!doctype html><html><body>404</body></html>",
    "zeros": bytes(3_000_000),
    "noise": np.random.default_rng(0).bytes(3_000_000),
    "program": b"\x7fELF\x02\x01\x01" + bytes(5_000),
    "pdf": b"%PDF-1.7\n" + bytes(range(256)) * 20,
}


@pytest.mark.parametrize("name", NOT_AUDIO)
def test_what_is_not_audio(name, tmp_path):
    (tmp_path / "song.mp3").write_bytes(NOT_AUDIO[name])
    assert refusal(tmp_path / "song.mp3").endswith(
        f"song.mp3' is not audio: no known format in its {len(NOT_AUDIO[name])} bytes; "
        "give a wav, flac, mp3, ogg, opus, m4a, webm or mp4 file"
    )


def test_a_film_or_a_picture_without_sound():
    film = film_without_sound()
    message = "the audio given as bytes has no sound in it, only video; give a recording with a sound track"
    assert refusal(film) == message
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgAAAABQABDQottAAAAABJRU5ErkJggg=="
    assert refusal(decode_base64(picture)) == message


def film_without_sound():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        add_picture(output, "mpeg4", 1.0)
    return file.getvalue()


def test_zero_channels():
    assert refusal(wav(SILENCE, SAMPLE_RATE, channels=0)) == (
        "the audio given as bytes has zero channels; at least one is needed: record or copy it again"
    )


def test_a_header_without_samples():
    message = "the audio given as bytes holds no sound at all (0 samples); record or copy it again"
    assert refusal(wav(SILENCE[:0], SAMPLE_RATE)) == message


def test_an_impossible_rate_in_a_header():
    assert refusal(wav(SILENCE, 2_000_000)) == (
        "the audio given as bytes has a sampling rate of 2000000 Hz; allowed are 4000 to 768000 Hz"
    )


def test_a_codec_or_sample_type_that_is_unknown():
    assert refusal(wav(SILENCE, SAMPLE_RATE, code=0x1234)) == (
        "the audio given as bytes has sound of an unknown codec; convert it to wav or flac"
    )
    assert refusal(wav(SILENCE, SAMPLE_RATE, bits=64)) == (
        "the audio given as bytes has samples of type s64; convert it to a 16-bit wav"
    )


def test_floats_that_are_no_numbers():
    samples = tone(8_000, channels=2)
    samples[1, 4_000] = np.nan
    message = "has NaN or infinite samples, the first after 0.50 s; make it again without"
    assert refusal((samples, 8_000)) == f"the audio array {message}"
    assert refusal(wav(samples.T.copy(), 8_000, channels=2, code=3, bits=32)) == f"the audio given as bytes {message}"
    samples[1, 4_000] = -np.inf
    assert refusal((samples, 8_000)) == f"the audio array {message}"
    assert "after 0.00 s" in refusal((np.full(8_000, 1e300), 8_000))


def test_floats_that_are_unscaled_integers():
    assert refusal((tone(8_000, level=20_000.0), 8_000)) == (
        "the audio array has float samples up to 20000; they must lie in -1 ... 1: "
        "divide by full scale (32768 for 16 bits)"
    )


# --- Arrays ----------------------------------------------------------------------------------------------------------


def test_an_array_without_samples():
    message = "the audio array holds no sound at all (0 samples); record or copy it again"
    for shape in ((0,), (2, 0), (0, 2)):
        assert refusal((np.zeros(shape), SAMPLE_RATE)) == message


def test_an_array_too_short_to_hear():
    assert refusal((np.zeros(100), SAMPLE_RATE)) == "the audio array is only 6.25 ms long; at least 10 ms are needed"


def test_an_array_with_zero_channels():
    for shape in ((0, 16_000), (16_000, 0)):
        assert refusal((np.zeros(shape), SAMPLE_RATE)) == (
            f"the audio array has zero channels (shape {shape}); at least one is needed"
        )


def test_an_array_of_a_shape_that_is_no_sound():
    assert refusal((np.zeros((2, 3, 4)), SAMPLE_RATE)) == (
        "the audio array has shape (2, 3, 4); allowed are (samples,) and (channels, samples)"
    )
    assert refusal((np.float32(0), SAMPLE_RATE)) == (
        "the audio array has shape (); allowed are (samples,) and (channels, samples)"
    )
    assert refusal((np.zeros((65, 80)), SAMPLE_RATE)) == (
        "the audio array has shape (65, 80); one axis must be at most 64 channels"
    )


@pytest.mark.parametrize("kind", ["int64", "uint16", "int8", "bool", "complex64", "<U1", "object"])
def test_an_array_of_a_type_without_a_full_scale(kind):
    assert refusal((np.zeros(1600, dtype=kind), SAMPLE_RATE)) == (
        f"the audio array has samples of type {np.dtype(kind)}, whose full scale is unknown; "
        "allowed are uint8, int16, int32 and floats in -1 ... 1"
    )


def test_a_list_of_whole_numbers_or_of_ragged_channels():
    assert "samples of type int64" in refusal(([0, 1, 2] * 1000, SAMPLE_RATE))
    assert refusal(([[0.0, 0.1], [0.0]], SAMPLE_RATE)).startswith("the audio array cannot be read as numbers: ")


@pytest.mark.parametrize("rate", [0, -16_000, 16, 1_000_000])
def test_a_rate_that_no_recording_has(rate):
    assert refusal((SILENCE, rate)) == (
        f"the audio array has a sampling rate of {rate} Hz; allowed are 4000 to 768000 Hz"
    )


@pytest.mark.parametrize("rate", [None, "16000", 16_000.5, float("nan"), float("inf")])
def test_a_rate_that_is_not_a_whole_number(rate):
    assert refusal((SILENCE, rate)) == f"the sampling rate must be a whole number of Hz, not {str(rate)!r}"


def test_the_two_the_wrong_way_round():
    message = "this is (sampling_rate, samples); give (samples, sampling_rate)"
    assert refusal((SAMPLE_RATE, SILENCE)) == message
    assert refusal((SAMPLE_RATE, torch.zeros(1600))) == message


def test_a_tuple_of_another_length():
    assert refusal((SILENCE,)) == "an array comes as (samples, sampling_rate); this tuple has 1 parts"
