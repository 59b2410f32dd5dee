"""A file's links: the recordings that stand one after the other in it, each as bytes that FFmpeg reads like a file.

Recorders, streams and `cat` join recordings, write a header now and then, or state sizes that are not true; FFmpeg
stops at the first stated end without a word. So the end of each recording is looked up here, in the bytes themselves,
and what a header states is no more than a reason for a warning. Knows nothing about codecs and samples.
"""

from __future__ import annotations

import io
import math
import re
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, NamedTuple

MAX_LINKS = 10_000
MAX_CHUNKS = 1_000  # of a wav or aiff; boxes of an mp4
MAX_OPENING_SECONDS = 10.0  # for all links; a crafted header can keep FFmpeg busy for minutes
MAX_SILENCE = 3 * 3600.0  # s, in all gaps between time stamps: a small crafted file must not become days of silence
KNOWN_FILES = 64  # whose links are remembered: training reads thousands of cuts from one recording
SCAN_BYTES = 2**20
MARK_BYTES = 64  # no mark below is longer
TAIL_BYTES = 2**20  # where the chunks after the sound of a wav are looked for; a cover picture fits in

UNKNOWN_SIZE = 0x7FFF0000  # bytes; programs that stream a wav write this, or more, or 0
MATTERS = 0.05  # s; a wrong size is worth a warning from here on
PLAIN_FORMATS = (1, 3, 6, 7, 0xFFFE)  # of a wav, whose length follows from their bytes: PCM, floats, A-law, mu-law
TAGS = (b"ID3", b"TAG", b"APETAGEX")  # what players write behind the sound of any file
KNOWN_CHUNKS = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|axml|cue |smpl|inst|note|labl|plst|acid|fact|PEAK|JUNK|junk|FLLR|PAD |DISP|_PMX|cart|"
    rb"afsp|umid|minf|elm1|regn|data|SSND|MARK|COMT|ANNO|NAME|AUTH|APPL|CHAN|AESD|MIDI|INST|basc|trns|cate"
)
CHUNKED_START = re.compile(
    rb"(?:RIFF|RF64|BW64)....WAVE(?:fmt |ds64|JUNK|bext|LIST|fact)|FORM....AIF[FC](?:COMM|FVER|SSND)", re.DOTALL
)
FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
EBML_START = re.compile(rb"\x1aE\xdf\xa3.{0,50}?(?:webm|matroska)", re.DOTALL)
OGG_PAGE = re.compile(rb"OggS\x00")
OGG_PAGE_HEADER = 27  # bytes, the last of which counts the one-byte lengths that follow
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
SEGMENT = b"\x18\x53\x80\x67"  # the element of a webm or mkv file that holds everything


class Span(NamedTuple):
    """Where in the file a link is.

    Attributes:
        start, end: Offsets of its bytes.
        head: Stands before them in place of the file's own header.
        cut: Whether an element of the format reaches over the end of the file, or is damaged.
        note: What the header states wrongly, after the recording's name.
    """

    start: int
    end: int
    head: bytes = b""
    cut: bool = False
    note: str = ""


class Recording:
    """A file of bytes, and what to call it in messages.

    Args:
        file: Can seek.
        label: Names it in messages.
        warn: Called with each warning's text.
        identity: Of a file on disk, so that the next cut of it need not look for its links again.
    """

    _known: dict[tuple[object, ...], list[Span]] = {}  # noqa: RUF012  (shared on purpose)

    def __init__(self, file: BinaryIO, label: str, warn: Callable[[str], None], identity: tuple[object, ...] = ()):
        self.label, self.warn, self.identity, self._file = label, warn, identity, file
        file.seek(0, io.SEEK_END)
        self.size = file.tell()
        self.opening_left = MAX_OPENING_SECONDS
        self.silence_left = MAX_SILENCE  # s, where tracks pause
        self.padding = 0.0  # s; what its codec may add at both ends without saying so

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Up to count bytes from an offset."""
        try:
            self._file.seek(offset)
            return self._file.read(count)
        except OSError:
            raise
        except Exception as error:  # a caller's file object raises anything
            raise OSError(f"{type(error).__name__}: {error}") from error

    def links(self) -> list[Link]:
        """The recordings in it, in their order; at least one."""
        spans = self._known.get(self.identity) if self.identity else None
        if spans is None:
            spans = list(_spans(self, 0))
            if self.identity:
                if len(self._known) >= KNOWN_FILES:
                    self._known.clear()
                self._known[self.identity] = spans
        for span in spans:
            if span.note:
                self.warn(f"{self.label} {span.note}")
        return [Link(self, span) for span in spans]

    def marks(self, mark: re.Pattern[bytes], start: int) -> Iterator[int]:
        """Where a mark stands from an offset on."""
        last = -1
        for offset in range(start, self.size, SCAN_BYTES):
            block = self.bytes_at(offset, SCAN_BYTES + MARK_BYTES)
            for match in mark.finditer(block):
                if offset + match.start() > last:
                    last = offset + match.start()
                    yield last


@dataclass
class Link:
    """One recording of a file, as a file object for FFmpeg, which gets no name: it would trust the extension."""

    recording: Recording
    span: Span
    opening_ends: float = math.inf
    _position: int = field(default=0, repr=False)

    @property
    def label(self) -> str:
        """The file's."""
        return self.recording.label

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.span.head) + self.span.end - self.span.start

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Up to count bytes from an offset into the link."""
        head, start, end = self.span.head, self.span.start, self.span.end
        first = head[offset : offset + count]
        begin = start + max(0, offset - len(head))
        return first + self.recording.bytes_at(begin, max(0, min(count - len(first), end - begin)))

    def read(self, count: int) -> bytes:
        """What FFmpeg calls; fails when finding the sound has taken too long."""
        if time.monotonic() > self.opening_ends:
            raise TimeoutError(f"finding its sound took over {MAX_OPENING_SECONDS:g} s")
        data = self.bytes_at(self._position, count)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """What FFmpeg calls, also with a whence of its own that asks for the size."""
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            return self.size
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, self.size))
        return self._position

    def tell(self) -> int:
        """The offset that is read next."""
        return self._position


# --- Where links begin and end ---------------------------------------------------------------------------------------


def _spans(recording: Recording, start: int) -> Iterator[Span]:
    """The links from an offset on, by the kind of the first; of an unknown kind all the rest is one link."""
    head = recording.bytes_at(start, 12)
    if head[:3] == b"ID3" and len(head) >= 10:
        behind = id3_end(head, start)
        if recording.bytes_at(behind, 4) == b"fLaC":
            return (yield from _split(recording, start, list(recording.marks(FLAC_START, behind))[1:]))
    spans: list[Span] = []
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"FORM"):
        spans = list(_chunked(recording, start, "big" if head[:4] == b"FORM" else "little"))
    elif head[:4] == b"fLaC":
        spans = list(_split(recording, start, list(recording.marks(FLAC_START, start))[1:]))
    elif head[:4] == b"OggS":
        spans = list(_ogg(recording, start))
    elif head[:4] == b"\x1aE\xdf\xa3":
        spans = list(_ebml(recording, start))
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"styp"):
        spans = list(_boxes(recording, start))
    yield from spans or [Span(start, recording.size)]


def _split(recording: Recording, start: int, starts: list[int]) -> Iterator[Span]:
    """Links that begin at start and at starts."""
    ends = [*starts[: MAX_LINKS - 1], recording.size]
    for begin, end in zip([start, *ends], ends, strict=False):
        yield Span(begin, end)


def id3_end(tag: bytes, start: int) -> int:
    """The offset behind an ID3 tag that begins at start with these ten bytes."""
    return start + 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])  # four bytes of seven bits


def _chunked(recording: Recording, start: int, order: Literal["little", "big"]) -> Iterator[Span]:
    """The stretches of sound in wav or aiff files that follow one another, each behind a header that is true."""
    at, form, facts, large = start, b"", b"", 0
    for _ in range(MAX_CHUNKS):
        head = recording.bytes_at(at, 24)
        name, size = head[:4], int.from_bytes(head[4:8], order)
        if len(head) < 8:
            return
        if _begins_file(head):
            form, facts, large, at = head[8:12], b"", 0, at + 12
            continue
        if name == b"ds64":  # of an RF64 file: sizes of eight bytes
            large = int.from_bytes(head[16:24], "little")
        if name in (b"fmt ", b"COMM", b"FVER") and size < SCAN_BYTES:
            facts += recording.bytes_at(at, 8 + size + size % 2)
        if name in (b"data", b"SSND"):
            if not facts or not form:
                return
            stated = large if large and size == 0xFFFFFFFF else size
            end = _sound_end(recording, at + 8, stated)
            whole, own = (
                min(length, 0xFFFFFFFF).to_bytes(4, order)
                for length in (len(form + facts) + 8 + end - at - 8, end - at - 8)
            )
            header = (b"RIFF" if order == "little" else b"FORM") + whole + form + facts + name + own
            yield Span(at + 8, end, header, note=_wrong_size(facts, stated, end - at - 8))
            at = end + (stated % 2 and not _chunks_follow(recording, end))
            if recording.size - at > 12 and not _chunks_follow(recording, at):  # another kind of file, or tags
                if not recording.bytes_at(at, 8).startswith(TAGS):
                    yield from _spans(recording, at)
                return
            continue
        at += 8 + size + size % 2


def _begins_file(head: bytes) -> bool:
    return head[:4] + head[8:12] in (b"RIFFWAVE", b"RF64WAVE", b"BW64WAVE", b"FORMAIFF", b"FORMAIFC")


def _sound_end(recording: Recording, begin: int, stated: int) -> int:
    """Where sound that begins at an offset ends: where the header says if that can be, else where something follows."""
    end = begin + stated
    if end <= recording.size and (end + stated % 2 >= recording.size or _something_follows(recording, end, stated % 2)):
        return end
    limit = next(recording.marks(CHUNKED_START, begin), recording.size)
    return limit if limit < recording.size else _last_chunks(recording, begin)


def _last_chunks(recording: Recording, begin: int) -> int:
    """Where a row of known chunks begins that leads exactly to the end of the file; else that end."""
    first = max(begin, recording.size - TAIL_BYTES)
    tail = recording.bytes_at(first, recording.size - first)
    leads = {len(tail), len(tail) + 1}  # the last one may lack its byte of padding
    for match in reversed(list(KNOWN_CHUNKS.finditer(tail))):
        at = match.start()
        size = int.from_bytes(tail[at + 4 : at + 8], "little")
        if at + 8 + size + size % 2 in leads:
            leads.add(at)
    return first + min(leads)


def _something_follows(recording: Recording, end: int, pad: int) -> bool:
    head = recording.bytes_at(end, 12)
    known = head.startswith((b"fLaC", b"OggS", b"\x1aE\xdf\xa3", *TAGS)) or head[4:8] == b"ftyp"
    return known or any(_chunks_follow(recording, at) for at in (end, end + pad))


def _chunks_follow(recording: Recording, at: int) -> bool:
    """Whether a known chunk, another file's header, or a row of chunks up to the end of the file stands there."""
    head = recording.bytes_at(at, 12)
    return bool(KNOWN_CHUNKS.match(head)) or _begins_file(head) or _chunks_reach(recording, at)


def _chunks_reach(recording: Recording, at: int) -> bool:
    """Whether a row of little-endian chunks leads exactly to the end of the file."""
    for _ in range(MAX_CHUNKS):
        head = recording.bytes_at(at, 8)
        if len(head) < 8 or not head[:4].isascii() or not head[:4].decode("ascii").isprintable():
            return False
        at += 8 + int.from_bytes(head[4:], "little")
        if at >= recording.size:
            return at == recording.size
        at += at % 2
    return False


def _wrong_size(facts: bytes, stated: int, present: int) -> str:
    """What to say of a wav whose header states a length that matters, and is not true."""
    bytes_per_second = int.from_bytes(facts[16:20], "little")
    plain = facts[:4] == b"fmt " and int.from_bytes(facts[8:10], "little") in PLAIN_FORMATS
    if not plain or not bytes_per_second or stated == 0 or (stated >= UNKNOWN_SIZE and stated > present):
        return ""
    seconds, promised = present / bytes_per_second, stated / bytes_per_second
    if seconds < promised - MATTERS:
        return (
            f"ends after {seconds:.1f} s, before the {promised:.1f} s that its header states: "
            "if it was cut off in copying, copy it again"
        )
    if seconds > promised + MATTERS:
        return f"goes on to {seconds:.1f} s, after the {promised:.1f} s that its header states; all of it is read"
    return ""


def _ogg(recording: Recording, start: int) -> Iterator[Span]:
    """A first page that does not follow another track's first page begins a link; every page has a checksum."""
    at = begin = start
    first, cut, holes = True, False, 0
    until = time.monotonic() + MAX_OPENING_SECONDS  # crafted pages may be tiny
    while at < recording.size and holes < MAX_CHUNKS and time.monotonic() < until:
        page = _ogg_page(recording, at)
        if not page:
            behind = next(recording.marks(OGG_PAGE, at + 1), recording.size)
            between = recording.bytes_at(at, min(behind - at, MARK_BYTES))
            cut = cut or (any(between) and not between.startswith(TAGS))
            at, holes = behind, holes + 1
            continue
        if page[5] & 2 and not first:
            yield Span(begin, at, cut=cut)
            begin, cut = at, False
        first = bool(page[5] & 2)
        at += len(page)
    yield Span(begin, recording.size, cut=cut or holes == MAX_CHUNKS)


def _ogg_page(recording: Recording, at: int) -> bytes:
    """The page that begins at an offset; nothing where it is not whole."""
    head = recording.bytes_at(at, OGG_PAGE_HEADER + 255)
    if len(head) < OGG_PAGE_HEADER or head[:4] != b"OggS":
        return b""
    count = head[OGG_PAGE_HEADER - 1]
    size = OGG_PAGE_HEADER + count + sum(head[OGG_PAGE_HEADER : OGG_PAGE_HEADER + count])
    page = recording.bytes_at(at, size)
    summed = (page[:22] + bytes(4) + page[26:]).translate(REVERSED_BITS)  # zlib's checksum with bits in reverse
    checksum = zlib.crc32(summed, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page if checksum.to_bytes(4, "big").translate(REVERSED_BITS) == page[22:26] else b""


def _boxes(recording: Recording, start: int) -> Iterator[Span]:
    """Of mp4 and mov files: a second `ftyp` box begins another file, of which FFmpeg would say nothing."""
    at = begin = start
    for _ in range(MAX_CHUNKS):
        head = recording.bytes_at(at, 16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if len(head) < 8 or size == 0 or size < 8 or not head[4:8].isalnum():
            break
        if head[4:8] == b"ftyp" and at > begin:
            yield Span(begin, at)
            begin = at
        at += size
    yield Span(begin, recording.size, cut=at > recording.size)


def _ebml(recording: Recording, start: int) -> Iterator[Span]:
    """Of webm and mkv files: the segment's size leads to the next file; where it is unknown, that is looked for."""
    begin = start
    for _ in range(MAX_LINKS):
        header = _ebml_element(recording, begin)
        segment = _ebml_element(recording, header[1]) if header else None
        if segment is None or segment[0] != SEGMENT or segment[1] < 0:
            following = list(recording.marks(EBML_START, begin + 4))
            return (yield from _split(recording, begin, following))
        if recording.bytes_at(segment[1], 4) != b"\x1aE\xdf\xa3":
            return (yield Span(begin, recording.size, cut=segment[1] > recording.size))
        yield Span(begin, segment[1])
        begin = segment[1]


def _ebml_element(recording: Recording, at: int) -> tuple[bytes, int] | None:
    """Name and end of the element at an offset; -1 is the end of one whose size is unknown."""
    head = recording.bytes_at(at, 12)
    if len(head) < 5 or not head[4]:
        return None
    width = 9 - head[4].bit_length()
    value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
    return head[:4], -1 if value == (1 << 7 * width) - 1 else at + 4 + width + value
