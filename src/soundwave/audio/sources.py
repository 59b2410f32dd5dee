"""From a path, bytes, base64 text or whatever can be read to a file that can be searched.

What cannot seek is copied to a temporary file first, so that hours on standard input need no memory. Objects from
outside are not trusted to keep to any interface. Knows nothing about sound.
"""

from __future__ import annotations

import base64
import inspect
import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from soundwave.audio.recording import Recording
from soundwave.errors import AudioError

MAX_SHORT_STREAM_BYTES = 256 * 2**20  # of a stream of which only seconds may be used
MAX_STREAM_BYTES = 16 * 2**30  # of any stream; a day of 16-bit stereo at 48 kHz
STREAM_BYTES_IN_MEMORY = 8 * 2**20  # of a stream; what comes after lies on the disk
READ_BYTES = 2**20


@contextmanager
def opened(source: Any, warn: Callable[[str], None], short: bool) -> Iterator[Recording]:
    """Whatever is not an array, as a recording that can be read and searched.

    Args:
        source: A path, bytes, a `data:` text, or an object with a read().
        warn: Called with each warning's text.
        short: Give up a stream that is larger than a short recording can be.

    Raises:
        AudioError: It is missing, empty, or cannot be read.
    """
    if isinstance(source, str) and source.startswith("data:"):
        yield _not_empty(Recording(io.BytesIO(decode_base64(source)), "the base64 audio", warn))
    elif isinstance(source, bytes | bytearray | memoryview):
        yield _not_empty(Recording(io.BytesIO(source), "the audio given as bytes", warn))
    elif isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        with _opened_path(path) as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            yield _not_empty(Recording(file, short_text(path), warn, identity))
    elif callable(getattr(source, "read", None)):
        position = _position(source)
        if position is None:
            with _copy(source, MAX_SHORT_STREAM_BYTES if short else MAX_STREAM_BYTES) as copy:
                yield _not_empty(Recording(copy, "the audio stream", warn))
        else:
            try:
                yield _not_empty(Recording(source, "the audio stream", warn))
            finally:
                source.seek(position)
    else:
        kind = type(source).__name__
        raise AudioError(f"audio cannot be of type {kind}; give a path, bytes, a file or (samples, sampling_rate)")


def decode_base64(text: str) -> bytes:
    """The bytes of a recording sent as base64 text, bare or as a `data:...;base64,` address.

    Raises:
        AudioError: The text is not base64.
    """
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise AudioError(f"a data address must begin like 'data:audio/wav;base64,', not {short_text(header)}")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:  # binascii.Error, or characters beyond ASCII
        raise AudioError(f"the audio text {short_text(text)} is not base64 ({error}); encode the whole file") from error


def short_text(text: str) -> str:
    """Text from outside, quoted, on one line of bearable length."""
    return repr(text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}")


def _not_empty(recording: Recording) -> Recording:
    if recording.size == 0:
        raise AudioError(f"{recording.label} is empty (0 bytes); record or copy it again")
    return recording


def _opened_path(path: str) -> BinaryIO:
    label = short_text(path)
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise AudioError(f"{label} is a folder, not a recording; give the path of a file in it")
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115  (closed by the caller)
    except PermissionError as error:
        raise AudioError(f"{label} may not be read by this user; allow it, for instance with chmod +r") from error
    except (OSError, ValueError) as error:
        if "://" in path:
            raise AudioError(f"{label} is an address, not a file; download it first") from error
        hint = "base64 text must begin with 'data:audio/wav;base64,'" if len(path) > 255 else "check the path"
        raise AudioError(f"there is no file {label}; {hint}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise AudioError(f"{label} is a pipe or a device, not a file; read it yourself and give its bytes")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a pipe waits for its other end otherwise, maybe for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _position(stream: Any) -> int | None:
    """Where a caller's file object stands; None where it cannot seek, in whichever way it says so."""
    try:
        if inspect.iscoroutinefunction(stream.read):
            return None
        position = stream.tell()
        stream.seek(0, io.SEEK_END)
        end, back = stream.tell(), stream.seek(position)
        fits = isinstance(position, int) and isinstance(end, int) and back in (None, position)
        return position if fits and isinstance(stream.read(0), bytes) else None
    except Exception:  # objects from outside raise anything; reading them says what is wrong
        return None


def _copy(stream: Any, most: int) -> Any:
    """A stream that cannot seek, in a temporary file that can."""
    copy = tempfile.SpooledTemporaryFile(STREAM_BYTES_IN_MEMORY)  # noqa: SIM115  (closed by the caller)
    size = 0
    try:
        for data in _pieces(stream):
            size += len(data)
            if size > most:
                raise AudioError(f"the audio stream is over {most // 2**20} MB; save it and give its path")
            copy.write(data)
    except BaseException as error:
        copy.close()
        if isinstance(error, OSError):
            raise AudioError(f"the audio stream cannot be kept ({error}); save it and give its path") from error
        raise
    return copy


def _pieces(stream: Any) -> Iterator[bytes]:
    """The bytes of an object that has a read(), whatever else it lacks."""
    whole = False
    while not whole:
        try:
            try:
                data = stream.read(READ_BYTES)
            except TypeError:  # it takes no size
                data, whole = stream.read(), True
        except Exception as error:  # objects from outside raise anything
            raise AudioError(f"the audio stream cannot be read ({error}); open it again") from error
        if inspect.isawaitable(data):
            if inspect.iscoroutine(data):
                data.close()  # else Python warns that nobody awaited it
            raise AudioError("the audio stream is asynchronous; give its bytes: await file.read()")
        if isinstance(data, str):
            raise AudioError("the audio stream is opened as text; open it with mode 'rb'")
        if data is None:
            raise AudioError("the audio stream has nothing to read yet; open it so that reading waits")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise AudioError(f"the audio stream gives {type(data).__name__}, not bytes; open it with mode 'rb'")
        if not data:
            return
        yield bytes(data)
