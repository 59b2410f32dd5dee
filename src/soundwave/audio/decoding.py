"""From a link to blocks of its sound, as they come out of FFmpeg (through PyAV): any rate, channels and sample type.

Times are the file's: a track that starts late, or pauses, gets silence there. What cannot be decoded is refused, or
becomes silence that is named. Knows nothing about mixing, resampling, or where the file came from.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar, cast

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from soundwave.audio.chunks import TAGS
from soundwave.audio.headers import STATED_LENGTH_TOLERANCE, mp3_frame_bytes, stated_seconds
from soundwave.audio.recording import Link, Lost
from soundwave.errors import AudioError, AudioTooLongError

STATED_LENGTH_SLACK = 0.5  # s; a stated length this near to the limit is left for the decoded sound to settle
USUAL_FRAME = 1152  # samples, of a codec that states no size
STREAMED_FORMATS = ("wav", "au", "aiff")  # their last packet is short, and flagged as corrupt, at a wrong size
TIMED_FORMATS = ("matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mpegts", "flv", "avi", "asf")
CONTINUOUS_FORMATS = ("flac", "ogg")  # whose times tell when something is missing
ZERO_BASED_FORMATS = TIMED_FORMATS[:2]  # whose times count from the file's beginning and not from the first track
FIRST_BYTES = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"\x1aE\xdf\xa3": "webm"}

MIN_GAP = Fraction(1, 10)  # s; a shorter one is how exact times are written
LATEST_ZERO = 30.0  # s; a single track that starts later was cut out of a stream
PREROLL_SECONDS = 3  # decoded before a cut, since codecs build on what came before
MIN_PREROLL_SECONDS = 1  # what it may have become where a seek led: Opus, the slowest, needs half a second
MAX_LEAD_SECONDS = 600  # a seek that led further before the cut did not understand the file
USUAL_OPENING_SECONDS = 0.1  # do not count: a radio programme of a day has hundreds of links
MAX_NAMED_STRETCHES = 5  # of damage; then they are counted

S = TypeVar("S", bound=np.generic)
Block = tuple[NDArray[Any], int]  # samples (channels, T) of any type, and their rate in Hz


@dataclass(frozen=True)
class Reading:
    """How a link is read.

    Attributes:
        start: Whole seconds of it to leave out. Decoding begins near them where the format allows that.
        limit: Refuse a link whose header states more seconds than this before decoding anything. Where the header
            says nothing, or lies, the caller counts what comes and stops.
        skip_damage: What cannot be decoded becomes silence, and a warning, in place of an error.
    """

    start: int = 0
    limit: float | None = None
    skip_damage: bool = False


def decode(link: Link, track: int | None, reading: Reading) -> Iterator[Block]:
    """Decode a sound track, given by its stream's index, block by block, in bounded memory.

    Raises:
        AudioError: Not audio, without sound, damaged, or too long.
    """
    with _opened(link) as container:
        decoding = _Decoding(link, container, track, reading.skip_damage)
        if reading.limit is not None and (decoding.stated or 0) > reading.limit + STATED_LENGTH_SLACK:
            raise too_long(link.label, decoding.stated, reading.limit)
        if reading.start == 0:
            yield from gathered(decoding.blocks())
            return
        if decoding.seek(reading.start):
            yield from without(gathered(decoding.blocks()), reading.start - decoding.position)
            return
    with _opened(link) as container:
        blocks = _Decoding(link, container, track, reading.skip_damage).blocks()
        yield from without(gathered(blocks), Fraction(reading.start))


def gathered(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same sound in blocks of about half a second, since each block costs as much time as its frames do."""
    waiting: list[NDArray[Any]] = []
    size, kind = 0, (0, np.dtype(np.float32), 0)
    for samples, rate in blocks:
        if waiting and (kind != (len(samples), samples.dtype, rate) or size >= rate // 2):
            yield np.concatenate(waiting, axis=1), kind[2]
            waiting, size = [], 0
        kind = (len(samples), samples.dtype, rate)
        waiting.append(samples)
        size += samples.shape[1]
    if waiting:
        yield np.concatenate(waiting, axis=1), kind[2]


def without(blocks: Iterator[tuple[NDArray[S], int]], seconds: Fraction) -> Iterator[tuple[NDArray[S], int]]:
    """Leave out the first seconds of some blocks."""
    for samples, rate in blocks:
        drop = min(round(seconds * rate), samples.shape[1])
        seconds = seconds - Fraction(drop, rate) if drop == samples.shape[1] else Fraction(0)
        if drop < samples.shape[1]:
            yield samples[:, drop:], rate


def sound_tracks(link: Link) -> list[tuple[int, str]]:
    """Index of each sound track's stream, and what its title and language say."""

    def told(track: av.AudioStream, key: str) -> bool:
        return track.metadata.get(key, "und") != "und"  # undetermined

    with _opened(link) as container:
        tracks = [track for track in container.streams.audio if track.codec_context is not None]
        return [
            (track.index, ", ".join(track.metadata[key] for key in ("title", "language") if told(track, key)))
            for track in tracks
        ]


def too_long(label: str, seconds: float | None, limit: float) -> AudioTooLongError:
    """The error for a recording over the limit; seconds is its length where that is known."""
    length = f"over {limit:g}"
    if seconds is not None:  # 30.00006 must not read as 30
        length = f"{round(seconds, 3 if round(seconds, 3) > limit else 6):.9g}"
    return AudioTooLongError(
        f"{label} is {length} s long; at most {limit:g} s are allowed: split it into shorter pieces", seconds, limit
    )


@contextlib.contextmanager
def _opened(link: Link) -> Iterator[InputContainer]:
    started = time.monotonic()
    file = Link(link.recording, link.span, started + link.recording.opening_left)
    try:
        # No protocol is allowed: a playlist must not make FFmpeg open other files or wait for the network.
        container = av.open(file, metadata_errors="ignore", container_options={"protocol_whitelist": "none"})
    except av.FFmpegError as error:
        raise _unreadable(link) from error
    finally:
        link.recording.opening_left -= max(0.0, time.monotonic() - started - USUAL_OPENING_SECONDS)
    file.opening_ends = math.inf
    with cast(InputContainer, container):
        yield cast(InputContainer, container)


class _Decoding:
    """One pass over a track.

    Attributes:
        stated: When the header says that the sound ends, in seconds of the link; None where it does not.
        position: The time in the link, in seconds, of the sample that comes next.
    """

    def __init__(self, link: Link, container: InputContainer, track: int | None, skip_damage: bool):
        self.link, self.container, self.skip_damage = link, container, skip_damage
        self.format = container.format.name
        self.stream = _sound_track(container, track, link.label)
        self.decoder = _decoder(self.stream)
        self.zero = _zero(container, self.format)
        self.stated = stated_seconds(container, self.stream, link, self.zero)
        self.position = Fraction(0)
        self.quiet_until = Fraction(0)  # before this, what cannot be decoded is not missed
        self._others = 0.0  # end of the latest picture or subtitle: a film may go on after its sound
        self._cut_frame = False  # whether the last packet lacks a part
        self._from: Iterator[av.AudioFrame | Fraction] | None = None  # what a seek led to
        self._lost: list[list[Fraction]] = []  # begin and end of each stretch that could not be decoded
        self._named = 0  # of these, how many were looked at for a warning
        codec = self.stream.codec_context
        if codec.codec.lossy and not codec.name.startswith(("pcm", "adpcm")):
            # Two frames before the sound and up to one behind it; many files cannot, or do not, say how much it was.
            link.recording.padding = 3 * (codec.frame_size or USUAL_FRAME) / max(codec.sample_rate, 1)

    def seek(self, second: int) -> bool:
        """Go to some seconds before a second of the link; False where the format cannot tell where that led."""
        self.quiet_until = Fraction(second)
        head = [frame for frame in itertools.islice(self._frames(), 4) if isinstance(frame, av.AudioFrame)]
        if second <= PREROLL_SECONDS or not head or head[0].pts is None or not self.stream.time_base:
            return False
        base, first, rate = self.stream.time_base, head[0].pts, head[0].sample_rate
        start = first * base - self.zero if self.zero is not None else Fraction(0)
        start = start if start >= MIN_GAP else Fraction(0)
        try:
            self.container.seek(first + math.floor((second - PREROLL_SECONDS - start) / base), stream=self.stream)
        except av.FFmpegError:
            return False
        self.decoder.flush_buffers()
        frames = self._frames()
        there = next((frame for frame in frames if isinstance(frame, av.AudioFrame) and frame.pts is not None), None)
        if there is None or there.pts is None:
            return False
        self._from = itertools.chain([there], frames)
        samples = (there.pts - first) * base * rate
        sizes = {frame.samples for frame in head[1:]}
        if base * rate > 1 and len(sizes) == 1:  # times in ms, frames of one size: a whole number of frames
            samples = Fraction(round(samples / max(sizes)) * max(sizes))
        self.position = start + Fraction(round(samples), rate)
        return MIN_PREROLL_SECONDS <= second - self.position <= MAX_LEAD_SECONDS

    def blocks(self) -> Iterator[Block]:
        """The sound from here on to the end; silence where the track has none."""
        shape: tuple[int, np.dtype[Any], int] = (1, np.dtype(np.float32), self.stream.codec_context.sample_rate)
        held: Block | None = None  # the last one may be longer than the sound
        for frame in self._from or self._frames():
            if held is not None:
                yield held
                held = None
            if isinstance(frame, Fraction):
                yield from self._silence(frame, *shape)
                continue
            samples, rate = _samples(frame, self.link.label), frame.sample_rate
            shape = (len(samples), samples.dtype, rate)
            gap = self._gap(frame)
            if gap and (self.format == "flac" or (self.format == "ogg" and self.link.span.cut)):
                self._lose(gap, ValueError("a frame is missing"))
            yield from self._silence(gap, *shape)
            held = samples, rate
            self.position += Fraction(samples.shape[1], rate)
            self._name_lost()
        if held is not None:
            yield self._without_padding(*held)
        self._check_end()

    def _frames(self) -> Iterator[av.AudioFrame | Fraction]:
        """Decoded frames; in place of a packet that cannot be decoded, and need not be, its seconds."""
        packets, size = self.container.demux(), Fraction(0)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                yield self._lose(Fraction(0), error)
                return
            if packet is None:
                return
            if packet.stream_index != self.stream.index:
                if packet.pts is not None:
                    self._others = max(self._others, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                continue
            try:
                if packet.is_corrupt and self.format not in STREAMED_FORMATS:
                    raise av.InvalidDataError(0, "corrupt packet")
                if packet.size and self.format == "mp3":
                    self._cut_frame = packet.size < mp3_frame_bytes(bytes(packet)[:4])
                frames = self.decoder.decode(packet if packet.size else None)  # an empty packet ends the stream
            except av.FFmpegError as error:
                data = bytes(packet)
                if data.startswith(TAGS) or not any(data):
                    continue  # tags and zeros between frames, as in podcasts joined from pieces, hold no sound
                yield self._lose((packet.duration or 0) * packet.time_base or size, error)
                continue
            for frame in frames:
                size = Fraction(frame.samples, frame.sample_rate)
                yield frame

    def _lose(self, seconds: Fraction, error: Exception) -> Fraction:
        """Note a stretch that cannot be decoded, or refuse the file for it."""
        if self.position >= self.quiet_until:
            if not self.skip_damage:
                raise self._broken() from error
            if self._lost and self._lost[-1][1] == self.position:
                self._lost[-1][1] += seconds
            else:
                self._lost.append([self.position, self.position + seconds])
        return seconds

    def _gap(self, frame: av.AudioFrame) -> Fraction:
        """Seconds between the sound so far and a frame, where the format tells times."""
        if frame.pts is None or self.stream.time_base is None:
            return Fraction(0)
        if self.zero is None and self.format in CONTINUOUS_FORMATS:
            self.zero = frame.pts * self.stream.time_base - self.position
        if self.zero is None:
            return Fraction(0)
        gap = frame.pts * self.stream.time_base - self.zero - self.position
        if not (MIN_GAP if self.format != "flac" else 0) < gap <= self.link.recording.silence_left:
            return Fraction(0)  # a longer one is a clock that was set
        self.link.recording.silence_left -= float(gap)
        return gap

    def _silence(self, seconds: Fraction, channels: int, kind: np.dtype[Any], rate: int) -> Iterator[Block]:
        left = round(seconds * rate)
        while left > 0:
            count = min(left, rate)
            self.position += Fraction(count, rate)
            yield np.full((channels, count), 128 if kind == np.uint8 else 0, kind), rate
            left -= count

    def _without_padding(self, samples: NDArray[Any], rate: int) -> Block:
        """The last block without what the encoder added to fill it, where the header tells the sound's end."""
        if self.stated is None or self.format != "mov,mp4,m4a,3gp,3g2,mj2":
            return samples, rate
        padding = round((float(self.position) - self.stated) * rate)
        return samples[:, : -padding if 0 < padding < samples.shape[1] else None], rate

    def _check_end(self) -> None:
        """Say, or refuse, that the sound ends before it should."""
        label, warn, seconds = self.link.label, self.link.recording.warn, float(self.position)
        tolerance = STATED_LENGTH_TOLERANCE.get(self.format, math.inf)
        short = self.stated is not None and max(seconds, self._others) < self.stated - tolerance
        cut = (self.link.span.cut and (short or self.stated is None or self.format == "ogg")) or self._cut_frame
        if cut and not self.skip_damage:
            raise self._broken()
        if cut and (short or not self._lost):
            warn(Lost(f"{label} is cut off after {seconds:.1f} s; copy it again"))
        elif short:
            warn(
                f"{label} ends after {seconds:.1f} s, before the {self.stated:.1f} s that its header states: "
                "if it was cut off in copying, copy it again"
            )
        self._name_lost()
        if len(self._lost) > MAX_NAMED_STRETCHES:
            warn(Lost(f"{label} cannot be decoded in {len(self._lost)} places; silence stands there"))

    def _name_lost(self) -> None:
        """Warns of each of the first stretches that were lost, when it is over: who stops later knows of it."""
        for begin, end in self._lost[self._named : MAX_NAMED_STRETCHES]:
            told = f"cannot be decoded from {float(begin):.2f} to {float(end):.2f} s; silence stands there"
            self.link.recording.warn(Lost(f"{self.link.label} {told}"))
        self._named = len(self._lost)

    def _broken(self) -> AudioError:
        seconds = float(self.position)
        of = f" of {self.stated:.1f} s" if self.stated and self.stated - seconds > 0.1 else ""
        return AudioError(
            f"{self.link.label} is cut off or damaged: its sound breaks off after {seconds:.1f} s{of}; copy it again"
        )


def _sound_track(container: InputContainer, index: int | None, label: str) -> av.AudioStream:
    """The track to decode: the first that can be, or one by its stream's index."""
    tracks = container.streams.audio
    if not tracks:
        kinds = " and ".join(sorted({other.type for other in container.streams})) or "nothing"
        raise AudioError(f"{label} has no sound in it, only {kinds}; give a recording with a sound track")
    known = [track for track in tracks if track.codec_context is not None]
    if not known:
        raise AudioError(f"{label} has sound of an unknown codec; convert it to wav or flac")
    track = next((track for track in known if track.index == index), known[0])
    if track.codec_context.channels == 0:
        raise AudioError(f"{label} has zero channels; at least one is needed: record or copy it again")
    return track


def _zero(container: InputContainer, kind: str) -> Fraction | None:
    """The time stamp, in seconds, of the link's beginning; None where the track's first sample is that."""
    if kind not in TIMED_FORMATS:
        return None
    first = Fraction(container.start_time or 0, av.time_base)
    return Fraction(0) if kind in ZERO_BASED_FORMATS and first <= LATEST_ZERO else first


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


def _samples(frame: av.AudioFrame, label: str) -> NDArray[Any]:
    """A frame's samples as (channels, T)."""
    try:
        samples = frame.to_ndarray()
    except ValueError as error:
        raise AudioError(f"{label} has samples of type {frame.format.name}; convert it to a 16-bit wav") from error
    return samples if frame.format.is_planar else samples.reshape(frame.samples, -1).T


def _unreadable(link: Link) -> AudioError:
    """A file that FFmpeg cannot open: one of a known kind that is broken, or no audio at all."""
    head = link.bytes_at(0, 12)
    kind = next((FIRST_BYTES[start] for start in FIRST_BYTES if head.startswith(start)), None)
    if head[4:8] == b"ftyp":
        kind = "mp4"
    if kind:
        return AudioError(f"{link.label} begins like {kind} but is cut off or damaged; copy or record it again")
    return AudioError(
        f"{link.label} is not audio: no known format in its {link.recording.size} bytes; "
        "give a wav, flac, mp3, ogg, opus, m4a, webm or mp4 file"
    )
