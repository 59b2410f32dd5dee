"""From a file to blocks of its sound, as they come out of FFmpeg (through PyAV): any rate, channels and sample type.

Nothing is passed over: a file that ends before its stated end, or has a packet that cannot be decoded, is refused with
the time up to which it was whole. Knows nothing about mixing, resampling, or where the file came from.
"""

import contextlib
import io
import math
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import av
from av.container import InputContainer
from numpy.typing import NDArray

from soundwave.errors import AudioError

# Containers that state their length, with how far (s) the sound may end before it; a larger gap is a cut-off file.
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
STATED_LENGTH_SLACK = 0.5  # s; a stated length this near to the limit is left for the decoded sound to settle
STREAMED_FORMATS = ("wav", "au")  # their last packet is short, and flagged as corrupt, where the size was not known
FIRST_BYTES = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"\x1aE\xdf\xa3": "webm"}
MP3_TAGS = (b"ID3", b"TAG", b"APETAGEX")
MAX_OPENING_SECONDS = 10.0  # a crafted header can keep FFmpeg busy for minutes
UNKNOWN_RIFF_SIZE = 0x7FFF0000  # bytes; programs that stream a wav write this, or more, or 0
MAX_RIFF_CHUNKS = 1_000
OGG_PAGE_HEADER = 27  # bytes, the last of which counts the one-byte lengths that follow
OGG_PAGE_MAX = 65_307  # bytes, header and lengths included

Block = tuple[NDArray[Any], int]  # samples (channels, T) of any type, and their rate in Hz


class Recording:
    """A file to decode, and what to call it in messages.

    FFmpeg gets this object and not the file itself, whose name would tempt it to trust the extension.
    """

    def __init__(self, file: BinaryIO, label: str):
        self.label, self._file = label, file
        file.seek(0, io.SEEK_END)
        self.size = file.tell()
        file.seek(0)
        self.seek, self.tell = file.seek, file.tell
        self.opening_ends = time.monotonic() + MAX_OPENING_SECONDS

    def read(self, count: int) -> bytes:
        if time.monotonic() > self.opening_ends:
            raise TimeoutError(f"finding its sound took over {MAX_OPENING_SECONDS:g} s")
        return self._file.read(count)

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Up to count bytes from an offset; leaves the position where it was."""
        position = self._file.tell()
        self._file.seek(offset)
        data = self._file.read(count)
        self._file.seek(position)
        return data


def decode(recording: Recording, max_seconds: float | None) -> Iterator[Block]:
    """Decode the first sound track, block by block, in bounded memory.

    Args:
        recording: What to decode.
        max_seconds: Refuse a recording whose header states more before decoding anything. Where the header says
            nothing, or lies, the caller counts what comes and stops.

    Raises:
        AudioError: Not audio, without sound, cut off, damaged, or too long.
    """
    try:
        # No protocol is allowed: a playlist must not make FFmpeg open other files or wait for the network.
        opened = av.open(recording, metadata_errors="ignore", container_options={"protocol_whitelist": "none"})
    except av.FFmpegError as error:
        raise _unreadable(recording) from error
    recording.opening_ends = math.inf
    with cast(InputContainer, opened) as container:
        stream = _sound_track(container, recording.label)
        stated = _stated_seconds(container, stream, recording)
        if stated is not None and max_seconds is not None and stated > max_seconds + STATED_LENGTH_SLACK:
            raise too_long(recording.label, stated, max_seconds)
        yield from _blocks(container, stream, recording, stated)


def too_long(label: str, seconds: float | None, max_seconds: float) -> AudioError:
    """The error for a recording over the limit; seconds is its length where that is known."""
    if seconds is None:
        length = f"over {max_seconds:g}"
    else:  # 30.00006 must not read as 30
        length = f"{round(seconds, 3 if round(seconds, 3) > max_seconds else 6):.9g}"
    return AudioError(
        f"{label} is {length} s long; at most {max_seconds:g} s are allowed: split it into shorter pieces"
    )


def _sound_track(container: InputContainer, label: str) -> av.AudioStream:
    """The track to decode, its decoder told to check what it can."""
    tracks = container.streams.audio
    if not tracks:
        kinds = " and ".join(sorted({other.type for other in container.streams})) or "nothing"
        raise AudioError(f"{label} has no sound in it, only {kinds}; give a recording with a sound track")
    track = container.streams.best("audio") or tracks[0]
    assert isinstance(track, av.AudioStream)
    if track.codec_context is None:
        raise AudioError(f"{label} has sound of an unknown codec; convert it to wav or flac")
    if track.codec_context.channels == 0:
        raise AudioError(f"{label} has zero channels; at least one is needed: record or copy it again")
    return track


def _decoder(track: av.AudioStream) -> av.AudioCodecContext:
    """The track's decoder, or a better one where FFmpeg's first choice is known to let errors through."""
    decoder = track.codec_context
    if decoder.name == "flac":  # its frames carry checksums, which FFmpeg ignores unless told
        decoder.options = {"err_detect": "crccheck+explode"}
    elif decoder.name == "opus":
        # FFmpeg's own Opus decoder bursts into noise 100 dB too loud on rare low-rate speech; the reference does not.
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            reference = av.AudioCodecContext.create("libopus", "r")
            reference.extradata = decoder.extradata
            reference.layout, reference.sample_rate = decoder.layout, decoder.sample_rate
            reference.options = {"request_sample_fmt": "flt"}
            return reference
    return decoder


def _blocks(
    container: InputContainer, stream: av.AudioStream, recording: Recording, stated: float | None
) -> Iterator[Block]:
    decoder = _decoder(stream)
    seconds = 0.0  # of sound so far
    others = 0.0  # end of the latest picture or subtitle, in seconds: a film may go on after its sound
    try:
        for packet in container.demux():
            if packet.stream_index != stream.index:
                if packet.pts is not None:
                    others = max(others, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                continue
            if packet.is_corrupt and container.format.name not in STREAMED_FORMATS:
                raise _broken(recording.label, seconds, stated)
            for frame in _frames(decoder, packet):
                yield _samples(frame, recording.label), frame.sample_rate
                seconds += frame.samples / frame.sample_rate
    except av.FFmpegError as error:
        raise _broken(recording.label, seconds, stated) from error
    tolerance = STATED_LENGTH_TOLERANCE.get(container.format.name, math.inf)
    if _ends_early(recording) or (stated is not None and max(seconds, others) < stated - tolerance):
        raise _broken(recording.label, seconds, stated)


def _frames(decoder: av.AudioCodecContext, packet: av.Packet) -> list[av.AudioFrame]:
    """Decode a packet. Tags and zeros between mp3 frames, as in podcasts joined from pieces, hold no sound."""
    try:
        return decoder.decode(packet if packet.size else None)  # an empty packet ends the stream
    except av.FFmpegError:
        data = bytes(packet)
        if data.startswith(MP3_TAGS) or not any(data):
            return []
        raise


def _samples(frame: av.AudioFrame, label: str) -> NDArray[Any]:
    """A frame's samples as (channels, T)."""
    try:
        samples = frame.to_ndarray()
    except ValueError as error:
        raise AudioError(f"{label} has samples of type {frame.format.name}; convert it to a 16-bit wav") from error
    return samples if frame.format.is_planar else samples.reshape(frame.samples, -1).T


def _stated_seconds(container: InputContainer, stream: av.AudioStream, recording: Recording) -> float | None:
    """The length that the container's header states; None where there is none or FFmpeg guesses."""
    if container.format.name == "mp3":
        return _mp3_stated_seconds(recording, stream.codec_context.sample_rate)
    if container.format.name not in STATED_LENGTH_TOLERANCE:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _mp3_stated_seconds(recording: Recording, rate: int) -> float | None:
    """From the frame count in the Xing (or Info) header that most encoders write into the first frame.

    FFmpeg's own figure will not do: where the count and the file's size disagree it guesses from the bit rate.
    """
    start, tag = 0, recording.bytes_at(0, 10)
    if tag.startswith(b"ID3") and len(tag) == 10:  # its size is four bytes of seven bits
        start = 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])
    head = recording.bytes_at(start, 2048)
    header = head[max(head.find(b"Xing"), head.find(b"Info"), 0) :][:12]
    if header[:4] not in (b"Xing", b"Info") or len(header) < 12 or not header[7] & 1:  # flag 1: a count follows
        return None
    samples = 1152 if rate >= 32_000 else 576  # a frame, MPEG-1 or MPEG-2
    return int.from_bytes(header[8:], "big") * samples / rate


def _ends_early(recording: Recording) -> bool:
    """Whether a wav or ogg file has fewer bytes than it says, which FFmpeg passes over."""
    kind = recording.bytes_at(0, 4)
    if kind == b"RIFF":
        return _wav_ends_early(recording)
    return kind == b"OggS" and _ogg_ends_early(recording)


def _wav_ends_early(recording: Recording) -> bool:
    position = 12
    for _ in range(MAX_RIFF_CHUNKS):
        header = recording.bytes_at(position, 8)
        size = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            return 0 < size < UNKNOWN_RIFF_SIZE and position + 8 + size > recording.size
        position += 8 + size + size % 2
    return False


def _ogg_ends_early(recording: Recording) -> bool:
    tail = recording.bytes_at(max(0, recording.size - OGG_PAGE_MAX), OGG_PAGE_MAX)
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < OGG_PAGE_HEADER:
        return True
    count = page[OGG_PAGE_HEADER - 1]
    lengths = page[OGG_PAGE_HEADER : OGG_PAGE_HEADER + count]
    return len(lengths) < count or len(page) < OGG_PAGE_HEADER + count + sum(lengths)


def _broken(label: str, seconds: float, stated: float | None) -> AudioError:
    of = f" of {stated:.1f} s" if stated and stated - seconds > 0.1 else ""
    return AudioError(f"{label} is cut off or damaged: its sound breaks off after {seconds:.1f} s{of}; copy it again")


def _unreadable(recording: Recording) -> AudioError:
    """A file that FFmpeg cannot open: one of a known kind that is broken, or no audio at all."""
    head = recording.bytes_at(0, 12)
    kind = next((FIRST_BYTES[start] for start in FIRST_BYTES if head.startswith(start)), None)
    if head[4:8] == b"ftyp":
        kind = "mp4"
    if kind:
        return AudioError(f"{recording.label} begins like {kind} but is cut off or damaged; copy or record it again")
    return AudioError(
        f"{recording.label} is not audio: no known format in its {recording.size} bytes; "
        "give a wav, flac, mp3, ogg, opus, m4a, webm or mp4 file"
    )
