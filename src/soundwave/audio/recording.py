"""A file of bytes, and the stretches of it that FFmpeg reads like files of their own."""

from __future__ import annotations

import bisect
import io
import itertools
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

MAX_OPENING_SECONDS = 10.0  # for all links; a crafted header can keep FFmpeg busy for minutes
MAX_SILENCE = 3 * 3600.0  # s, in all gaps between time stamps: a small crafted file must not become days of silence
SCAN_BYTES = 2**20
MARK_BYTES = 64  # no mark that is looked for is longer


class Lost(str):
    """A warning's text about sound that could not be decoded and was skipped."""

    __slots__ = ()


class Span(NamedTuple):
    """Where in the file a link is.

    Attributes:
        pieces: Offsets of its bytes, from and to.
        head: Stands before them in place of the file's own header.
        cut: Whether an element of the format reaches over the end of the file, or is damaged.
        note: What the header states wrongly, after the recording's name.
    """

    pieces: tuple[tuple[int, int], ...]
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

    def __post_init__(self) -> None:
        sizes = [len(self.span.head), *(end - start for start, end in self.span.pieces)]
        self._offsets = list(itertools.accumulate(sizes))  # in the link, of each piece and of the end

    @property
    def label(self) -> str:
        """The file's."""
        return self.recording.label

    @property
    def size(self) -> int:
        """In bytes."""
        return self._offsets[-1]

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Up to count bytes from an offset into the link."""
        data = self.span.head[offset : offset + count]
        index = max(0, bisect.bisect_right(self._offsets, offset) - 1)
        while len(data) < count and index < len(self.span.pieces):
            start, end = self.span.pieces[index]
            begin = start + offset + len(data) - self._offsets[index]
            data += self.recording.bytes_at(begin, min(count - len(data), end - begin))
            index += 1
        return data

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
