"""Recordings made while the tests run: tones in any format, and wavs whose headers say what a test wants.

And the words with which `load_audio` refuses one.
"""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from soundwave.audio import load_audio
from soundwave.errors import AudioError, SoundwaveError

PITCH = 440.0  # Hz
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def tone(rate, seconds=1.0, *, channels=None, pitch=PITCH, level=0.5):
    """A sine, float32, (samples,) or the same in (channels, samples)."""
    time = np.arange(round(rate * seconds)) / rate
    sine = (level * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
    return sine if channels is None else np.tile(sine, (channels, 1))


def encoded(samples, rate, container, codec, *, picture=False, container_options=None):
    """The bytes of a file with (channels, samples) in it, and a moving picture when asked."""
    layout = LAYOUTS[len(samples)]
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=rate, options={"strict": "experimental"})  # for vorbis
        stream.layout = layout
        if picture:
            add_picture(output, "libvpx" if container == "webm" else "mpeg4", samples.shape[1] / rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        context = stream.codec_context
        context.open(strict=False)
        resampler = av.AudioResampler(context.format, context.layout, context.rate, context.frame_size or None)
        for piece in resampler.resample(frame) + resampler.resample(None):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()


def add_picture(output, codec, seconds):
    stream = output.add_stream(codec, rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    for _ in range(round(seconds * 10)):
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), format="yuv420p")))
    output.mux(stream.encode(None))


def tracks(sounds, container="matroska", codec="flac", *, picture_seconds=0.0):
    """The bytes of a film with several sound tracks: (samples, rate, second at which it starts) each, all mono."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        streams = []
        for _, rate, _ in sounds:
            stream = output.add_stream(codec, rate=rate)
            stream.layout = "mono"
            stream.codec_context.open(strict=False)
            streams.append(stream)
        if picture_seconds:
            add_picture(output, "mpeg4", picture_seconds)
        for stream, (samples, rate, start) in zip(streams, sounds, strict=True):
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            context = stream.codec_context
            frame.sample_rate = rate
            resampler = av.AudioResampler(context.format, context.layout, context.rate, context.frame_size or None)
            pieces = [piece for part in (frame, None) for piece in resampler.resample(part)]
            position = round(start * rate)
            for piece in pieces:
                piece.pts, piece.time_base = position, Fraction(1, rate)
                position += piece.samples
                output.mux(stream.encode(piece))
            output.mux(stream.encode(None))
    return file.getvalue()


def paused(samples, rate, pause):
    """The bytes of a film whose sound pauses for some seconds after the first; its time stamps say so."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=rate)
        stream.layout = "mono"
        for begin in range(0, len(samples), rate):
            part = (samples[None, begin : begin + rate] * 32_767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = begin + (round(pause * rate) if begin else 0)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def wav(samples, rate, *, channels=1, stated_bytes=None, code=1, bits=16):
    """A wav by hand; `stated_bytes` is what its header says of the data, true or not."""
    data = samples.tobytes()
    size = len(data) if stated_bytes is None else stated_bytes
    width = channels * bits // 8
    form = struct.pack("<IHHIIHH", 16, code, channels, rate, (rate * width) % 2**32, width, bits)
    head = b"RIFF" + struct.pack("<I", (size + 36) % 2**32) + b"WAVEfmt " + form
    return head + b"data" + struct.pack("<I", size) + data


def heard(source, **options):
    """The samples of a recording, and the warnings that reading it gave."""
    told = []
    return load_audio(source, on_warning=told.append, **options), told


def rms(samples):
    """Root mean square; 0.5 / sqrt(2) for a `tone`."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def refusal(source, **options):
    """The words with which a recording is refused: one line, and a kind of error that callers can catch at once."""
    with pytest.raises(AudioError) as caught:
        load_audio(source, **options)
    assert isinstance(caught.value, SoundwaveError)
    assert "\n" not in str(caught.value)
    return str(caught.value)
