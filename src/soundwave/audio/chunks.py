"""Where the sound of wav and aiff files begins and ends, whatever their headers say of its size.

Recorders write the size first and the sound later, or a new header now and then; streams state none. So the end is
looked for in what stands there: known chunks, other headers, or the end of the file.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal, NamedTuple

from soundwave.audio.recording import Recording, Span

MAX_CHUNKS = 100_000  # behind them all the rest is sound
MAX_ROW = 1_000  # of unknown chunks that are followed to see where they lead
MAX_FACTS_BYTES = 2**16  # of a chunk that describes the sound
TAIL_BYTES = 2**20  # where the chunks after the sound are looked for; a cover picture fits in
UNKNOWN_SIZE = 0x7FFF0000  # bytes; programs that stream a wav write this, or more, or 0
MATTERS = 0.05  # s; a wrong size is worth a warning from here on
PLAIN_FORMATS = (1, 3, 6, 7, 0xFFFE)  # whose length follows from their bytes: PCM, floats, A-law, mu-law
TAGS = (b"ID3", b"TAG", b"APETAGEX")  # what players write behind the sound of any file
KNOWN_CHUNKS = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|axml|cue |smpl|inst|note|labl|plst|acid|fact|PEAK|JUNK|junk|FLLR|PAD |DISP|_PMX|cart|"
    rb"afsp|umid|minf|elm1|regn|data|SSND|MARK|COMT|ANNO|NAME|AUTH|APPL|CHAN|AESD|MIDI|INST|basc|trns|cate"
)
FILE_START = re.compile(
    rb"(?:RIFF|RF64|BW64)....WAVE(?:fmt |ds64|JUNK|bext|LIST|fact)|FORM....AIF[FC](?:COMM|FVER|SSND)", re.DOTALL
)


class _Stretch(NamedTuple):
    """Sound without a header in it: what describes it, where it is, and the size that its header states."""

    facts: bytes
    begin: int
    end: int
    stated: int

    @property
    def plain(self) -> bool:
        """Whether bytes can be cut and joined, since each sample has its own."""
        return self.facts[4:8] == b"fmt " and int.from_bytes(self.facts[12:14], "little") in PLAIN_FORMATS


def chunked_spans(recording: Recording, start: int) -> tuple[list[Span], int]:
    """The links in a row of wav or aiff files, and where something else begins. Plain samples alike are one link."""
    stretches, behind = _stretches(recording, start)
    spans = []
    for (facts, plain), group in itertools.groupby(stretches, key=lambda stretch: (stretch.facts, stretch.plain)):
        for parts in [list(group)] if plain else [[stretch] for stretch in group]:
            align = max(1, int.from_bytes(facts[24:26], "little")) if plain else 1
            pieces = [(part.begin, part.end - (part.end - part.begin) % align) for part in parts[:-1]]
            pieces.append((parts[-1].begin, parts[-1].end))
            size = sum(end - begin for begin, end in pieces)
            spans.append(Span(tuple(pieces), _header(facts, size), note=_wrong_size(parts[-1])))
    return spans, behind


def _stretches(recording: Recording, start: int) -> tuple[list[_Stretch], int]:
    """All stretches of sound from an offset on, and where something else begins."""
    at, facts, large = start, b"", 0
    order: Literal["little", "big"] = "little"
    stretches: list[_Stretch] = []
    for _ in range(MAX_CHUNKS):
        head = recording.bytes_at(at, 24)
        if len(head) < 8:
            return stretches, recording.size
        if _begins_file(head):
            order = "big" if head[:4] == b"FORM" else "little"
            facts, large, at = head[8:12], 0, at + 12
            continue
        name, size = head[:4], int.from_bytes(head[4:8], order)
        if name == b"ds64":  # of an RF64 file: sizes of eight bytes
            large = int.from_bytes(head[16:24], "little")
        if name in (b"fmt ", b"COMM", b"FVER") and size < MAX_FACTS_BYTES:
            facts += recording.bytes_at(at, 8 + size + size % 2)
        if name not in (b"data", b"SSND"):
            at += 8 + size + size % 2
            continue
        if len(facts) < 5:  # nothing describes it but what came before
            if not stretches:
                return [], start
            facts = stretches[-1].facts
        stated = large if large and size == 0xFFFFFFFF else size
        end = _sound_end(recording, at + 8, stated)
        stretches.append(_Stretch(facts, at + 8, end, stated))
        at = end + (stated % 2 and not _chunks_follow(recording, end))
        if recording.size - at > 12 and not _chunks_follow(recording, at):
            tags = recording.bytes_at(at, 8).startswith(TAGS)
            return stretches, recording.size if tags else at
    if stretches:
        stretches.append(_Stretch(stretches[-1].facts, at, recording.size, 0))
    return stretches, recording.size


def _header(facts: bytes, size: int) -> bytes:
    """The header of a file that holds so many bytes of sound, and says so."""
    order: Literal["little", "big"] = "big" if facts.startswith(b"AIF") else "little"
    names = (b"FORM", b"SSND") if order == "big" else (b"RIFF", b"data")
    whole, own = (min(n, 0xFFFFFFFF).to_bytes(4, order) for n in (len(facts) + 8 + size, size))
    return names[0] + whole + facts + names[1] + own


def _begins_file(head: bytes) -> bool:
    return head[:4] + head[8:12] in (b"RIFFWAVE", b"RF64WAVE", b"BW64WAVE", b"FORMAIFF", b"FORMAIFC")


def _sound_end(recording: Recording, begin: int, stated: int) -> int:
    """Where sound that begins at an offset ends: where the header says if that can be, else where something follows."""
    end = begin + stated
    if end <= recording.size and (end + stated % 2 >= recording.size or _something_follows(recording, end, stated % 2)):
        return end
    limit = next(recording.marks(FILE_START, begin), recording.size)
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
    for _ in range(MAX_ROW):
        head = recording.bytes_at(at, 8)
        if len(head) < 8 or not head[:4].isascii() or not head[:4].decode("ascii").isprintable():
            return False
        at += 8 + int.from_bytes(head[4:], "little")
        if at >= recording.size:
            return at == recording.size
        at += at % 2
    return False


def _wrong_size(stretch: _Stretch) -> str:
    """What to say of a header that states a length which matters and is not true."""
    bytes_per_second = int.from_bytes(stretch.facts[20:24], "little")
    stated, present = stretch.stated, stretch.end - stretch.begin
    if not stretch.plain or not bytes_per_second or stated == 0 or (stated >= UNKNOWN_SIZE and stated > present):
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
