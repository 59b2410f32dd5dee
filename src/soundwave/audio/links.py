"""A file's links: the recordings that stand one after the other in it, each as bytes that FFmpeg reads like a file.

Recorders, streams and `cat` join recordings, write a header now and then, or state sizes that are not true; FFmpeg
stops at the first stated end without a word. So the end of each recording is looked up here, in the bytes themselves,
and what a header states is no more than a reason for a warning. Knows nothing about codecs and samples.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterator

from soundwave.audio.chunks import TAGS, chunked_spans
from soundwave.audio.recording import MARK_BYTES, MAX_OPENING_SECONDS, Link, Recording, Span

MAX_LINKS = 10_000
MAX_BOXES = 100_000  # of an mp4
MAX_HOLES = 1_000  # between pages of an ogg file
KNOWN_FILES = 64  # whose links are remembered: training reads thousands of cuts from one recording

FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
EBML_START = re.compile(rb"\x1aE\xdf\xa3.{0,50}?(?:webm|matroska)", re.DOTALL)
OGG_PAGE = re.compile(rb"OggS\x00")
OGG_PAGE_HEADER = 27  # bytes, the last of which counts the one-byte lengths that follow
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
SEGMENT = b"\x18\x53\x80\x67"  # the element of a webm or mkv file that holds everything

_known: dict[tuple[object, ...], list[Span]] = {}


def links_of(recording: Recording) -> list[Link]:
    """The recordings in a file, in their order; at least one."""
    spans = _known.get(recording.identity) if recording.identity else None
    if spans is None:
        spans = list(_spans(recording, 0))
        if recording.identity:
            if len(_known) >= KNOWN_FILES:
                _known.clear()
            _known[recording.identity] = spans
    for span in spans:
        if span.note:
            recording.warn(f"{recording.label} {span.note}")
    return [Link(recording, span) for span in spans]


def _spans(recording: Recording, start: int) -> Iterator[Span]:
    """The links from an offset on, by the kind of the first; of an unknown kind all the rest is one link."""
    head = recording.bytes_at(start, 12)
    if head[:3] == b"ID3" and len(head) >= 10:
        behind = id3_end(head, start)
        if recording.bytes_at(behind, 4) == b"fLaC":
            return (yield from _split(recording, start, list(recording.marks(FLAC_START, behind))[1:]))
    spans: list[Span] = []
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"FORM"):
        spans, behind = chunked_spans(recording, start)
        if spans and behind < recording.size:
            spans += _spans(recording, behind)
    elif head[:4] == b"fLaC":
        spans = list(_split(recording, start, list(recording.marks(FLAC_START, start))[1:]))
    elif head[:4] == b"OggS":
        spans = list(_ogg(recording, start))
    elif head[:4] == b"\x1aE\xdf\xa3":
        spans = list(_ebml(recording, start))
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"styp"):
        spans = list(_boxes(recording, start))
    yield from spans or [Span(((start, recording.size),))]


def _split(recording: Recording, start: int, starts: list[int]) -> Iterator[Span]:
    """Links that begin at start and at starts."""
    ends = [*starts[: MAX_LINKS - 1], recording.size]
    for begin, end in zip([start, *ends], ends, strict=False):
        yield Span(((begin, end),))


def id3_end(tag: bytes, start: int) -> int:
    """The offset behind an ID3 tag that begins at start with these ten bytes."""
    return start + 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])  # four bytes of seven bits


def _ogg(recording: Recording, start: int) -> Iterator[Span]:
    """A first page that does not follow another track's first page begins a link; every page has a checksum."""
    at = begin = start
    first, cut, holes = True, False, 0
    until = time.monotonic() + MAX_OPENING_SECONDS  # crafted pages may be tiny
    while at < recording.size and holes < MAX_HOLES and time.monotonic() < until:
        page = _ogg_page(recording, at)
        if not page:
            behind = next(recording.marks(OGG_PAGE, at + 1), recording.size)
            between = recording.bytes_at(at, min(behind - at, MARK_BYTES))
            cut = cut or (any(between) and not between.startswith(TAGS))
            at, holes = behind, holes + 1
            continue
        if page[5] & 2 and not first:
            yield Span(((begin, at),), cut=cut)
            begin, cut = at, False
        first = bool(page[5] & 2)
        at += len(page)
    yield Span(((begin, recording.size),), cut=cut or holes == MAX_HOLES)


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
    for _ in range(MAX_BOXES):
        head = recording.bytes_at(at, 16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if len(head) < 8 or size == 0 or size < 8 or not head[4:8].isalnum():
            break
        if head[4:8] == b"ftyp" and at > begin:
            yield Span(((begin, at),))
            begin = at
        at += size
    yield Span(((begin, recording.size),), cut=at > recording.size)


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
            return (yield Span(((begin, recording.size),), cut=segment[1] > recording.size))
        yield Span(((begin, segment[1]),))
        begin = segment[1]


def _ebml_element(recording: Recording, at: int) -> tuple[bytes, int] | None:
    """Name and end of the element at an offset; -1 is the end of one whose size is unknown."""
    head = recording.bytes_at(at, 12)
    if len(head) < 5 or not head[4]:
        return None
    width = 9 - head[4].bit_length()
    value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
    return head[:4], -1 if value == (1 << 7 * width) - 1 else at + 4 + width + value
