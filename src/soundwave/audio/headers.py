"""What headers state: when the sound ends, and how large a frame is. None of it proves anything, see `decoding.py`.

Whether a header may be believed all the same is looked up in the file's bytes, without decoding them.
"""

from fractions import Fraction

import av
from av.container import InputContainer

from soundwave.audio.links import id3_end, links_of
from soundwave.audio.recording import Link
from soundwave.audio.sources import opened

# Containers that state their length, with how far (s) the sound may end before it without a warning.
# Of all others FFmpeg may guess the length from the bit rate, which proves nothing.
STATED_LENGTH_TOLERANCE = {
    "aiff": 0.05,
    "au": 0.05,
    "flac": 0.05,
    "wav": 0.05,
    "matroska,webm": 0.2,
    "ogg": 0.2,
    "mp3": 0.25,  # three frames at 8 kHz, of the encoder's delay and padding
    "mov,mp4,m4a,3gp,3g2,mj2": 0.5,  # edit lists
}
TAG_BYTES = 512  # behind the sound of an mp3: an ID3v1 tag, a small APE tag; a second recording is larger
MP3_BIT_RATES = (  # of layer III in kbit/s, MPEG-2 and MPEG-1; 0 is not stated
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)


def stated_seconds(
    container: InputContainer, stream: av.AudioStream, link: Link, zero: Fraction | None
) -> float | None:
    """When the sound ends by the container's header; None where that says nothing or FFmpeg guesses."""
    if container.format.name == "mp3":
        return _mp3_stated_seconds(link, stream.codec_context.sample_rate)
    if container.format.name not in STATED_LENGTH_TOLERANCE:
        return None
    if stream.duration and stream.time_base:
        late = max(Fraction(0), (stream.start_time or 0) * stream.time_base - zero) if zero is not None else 0
        return float(stream.duration * stream.time_base + late)
    return container.duration / av.time_base if container.duration else None


def header_holds(path: str) -> bool:
    """Whether a file is one recording, and whole, so that the length in its header is the length of its sound.

    Not so for recordings that were joined or cut off, for sizes that a recorder never filled in, and for an mp3 that
    does not state its size.

    Raises:
        AudioError: it cannot be opened.
    """
    with opened(path, lambda _: None, short=False) as recording:
        links = links_of(recording)
        span = links[0].span
        if len(links) > 1 or len(span.pieces) > 1 or span.cut or span.note:
            return False
        head = recording.bytes_at(0, 10)
        if head[:3] != b"ID3" and head[:1] != b"\xff":
            return True
        begin, xing = _xing(links[0])
        counted = len(xing) == 16 and xing[7] & 3 == 3  # of frames and of bytes
        return counted and abs(recording.size - begin - int.from_bytes(xing[12:], "big")) <= TAG_BYTES


def _mp3_stated_seconds(link: Link, rate: int) -> float | None:
    """From the frame count in the Xing header.

    FFmpeg's own figure will not do: where the count and the file's size disagree it guesses from the bit rate.
    """
    _, xing = _xing(link)
    if len(xing) < 12 or not xing[7] & 1:  # flag 1: a count of frames follows
        return None
    samples = 1152 if rate >= 32_000 else 576  # a frame, MPEG-1 or MPEG-2
    return int.from_bytes(xing[8:12], "big") * samples / rate


def _xing(link: Link) -> tuple[int, bytes]:
    """Where an mp3's first frame begins, and the Xing (or Info) header that most encoders write into it, if any.

    That is a name, flags, then the counts of frames and of bytes from the first frame on: four bytes each.
    """
    tag = link.bytes_at(0, 10)
    begin = id3_end(tag, 0) if tag.startswith(b"ID3") and len(tag) == 10 else 0
    frame = link.bytes_at(begin, 2048)
    xing = frame[max(frame.find(b"Xing"), frame.find(b"Info"), 0) :][:16]
    return begin, xing if xing[:4] in (b"Xing", b"Info") else b""


def mp3_frame_bytes(header: bytes) -> int:
    """The size of the layer III frame with this header; 0 where it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 6 != 2 or header[2] >> 4 == 15 or header[2] >> 2 & 3 == 3:
        return 0
    mpeg1 = header[1] >> 3 & 3 == 3
    hertz = (44_100, 48_000, 32_000)[header[2] >> 2 & 3] // {3: 1, 2: 2}.get(header[1] >> 3 & 3, 4)
    bits_per_second = 1000 * MP3_BIT_RATES[mpeg1][header[2] >> 4]
    return (144 if mpeg1 else 72) * bits_per_second // hertz + (header[2] >> 1 & 1) if bits_per_second else 0
