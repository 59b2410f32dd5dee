"""Files that others can rely on: written whole or not at all, hashed, or grown and gone on with.

Every file of Soundwave is UTF-8. What is being written lies beside its place under a short name of its own, so a name
of any length that the disk takes can be written, and modes follow the umask. Knows nothing about what files hold.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from soundwave.errors import ConfigurationError, DataError, WriteError

Row = dict[str, Any]

CHUNK_BYTES = 1 << 20
LONGEST_KEPT = 120  # bytes of a name that stand in a draft's
LONGEST_SUFFIX = 20  # bytes; the draft of a file keeps its ending, because some writers choose the format by it
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers, written in Rust, tell of one
ADVICE = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
    errno.EROFS: "choose a place that you may write to",
    errno.EISDIR: "give the name of a file, not of a folder",
    errno.ENOTDIR: "a part of the path is a file; give another place",
    errno.EEXIST: "a part of the path is a file; give another place",
}


# --- written whole or not at all -------------------------------------------------------------------------------------


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft that takes the file's place when all is written; what is there stays until then, and if anything fails.

    The folder is made. A link is followed; a device or pipe (`/dev/stdout`) is written as it is.

    Example:
        >>> with atomic_file(path) as draft:  # doctest: +SKIP
        ...     save_file(tensors, draft)

    Raises:
        WriteError: the disk is full, the name too long, or the place may not be written.
    """
    path = Path(os.path.realpath(path))
    with written(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if _is_there(path) and not path.is_file():
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_SUFFIX else ""
        draft = _beside(path, f".{secrets.token_hex(4)}.unfinished{suffix}")
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            mode = draft.stat().st_mode & 0o777  # as the umask has it; a library may make the file anew as 0600
            yield draft
            draft.chmod(mode)
            sync(draft)
            os.replace(draft, path)
            sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all; see `atomic_file`."""
    with atomic_file(path) as draft:
        draft.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text whole or not at all, line ends as they are; half a surrogate pair becomes `?`."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON as people read it, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A draft folder that takes the folder's place when all in it is written.

    A draft that a killed run left is removed first. Files in it get the modes that the umask gives.

    Args:
        path: new, or an empty folder.
        overwrite: what is there may be replaced.

    Raises:
        WriteError: there is something already, the disk is full, or the place may not be written.
    """
    path = Path(os.path.realpath(path))
    draft = _beside(path, ".unfinished")
    with written(path):
        if not overwrite and _is_there(path) and not (path.is_dir() and not any(path.iterdir())):
            raise WriteError(f"{path} is there already; give a folder that is new or empty, or remove this one.")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            mode = draft.stat().st_mode & 0o666
            for file in draft.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    file.chmod(mode | file.stat().st_mode & 0o111)
                    sync(file)
            _take_place(draft, path)
            sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _take_place(draft: Path, path: Path) -> None:
    """Two steps where something is there: no system swaps folders at once."""
    old = _beside(path, ".old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    draft.rename(path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What goes wrong inside, on the way to the disk, becomes one line that names the file.

    Raises:
        WriteError: in place of an OSError, or of an exception of a library that tells of one.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str | bytes) and not _concerns(Path(os.fsdecode(error.filename)), path):
            raise  # of a file that is read meanwhile
        raise _write_error(path, error.errno or 0, error.strerror or str(error)) from error
    except Exception as error:
        told = OS_ERROR.search(str(error))
        if told is None or isinstance(error, WriteError):
            raise
        raise _write_error(path, int(told[1]), os.strerror(int(told[1]))) from error


def _concerns(named: Path, path: Path) -> bool:
    return named == path or named in path.parents or path.parent in named.parents


def _write_error(path: Path, code: int, reason: str) -> WriteError:
    name = str(path) if code != errno.ENAMETOOLONG else f"{path} ({len(os.fsencode(path.name))} bytes)"
    return WriteError(f"{name} could not be written ({reason}); {ADVICE.get(code, 'write to another place')}.")


def _beside(path: Path, ending: str) -> Path:
    """A hidden name beside `path`, the same for the same ending; not longer than `path` may be."""
    name = path.name
    if len(os.fsencode(name)) > LONGEST_KEPT:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return path.with_name(f".{name}{ending}")


def _is_there(path: Path) -> bool:
    """Raises, other than `exists`, what the system says of the name itself, before any work is done."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sync(path: Path) -> None:
    """Has the system write a file or folder to disk before it is relied on; Windows opens no folders."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuses to write where something is, unless that was asked for.

    Raises:
        ConfigurationError: there is a file or folder of that name.
    """
    if not overwrite and path.is_file():
        raise ConfigurationError(f"{path} is there already; write to another file, or give --overwrite to replace it.")


# --- hashed ----------------------------------------------------------------------------------------------------------


def hash_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """sha256 of a value written as JSON with sorted keys: equal values have equal hashes, in any process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


# --- grown, and gone on with -----------------------------------------------------------------------------------------


class JsonLines:
    """A file of JSON lines that one run at a time adds to; the next goes on where that one stopped, however it did.

    A last line that was cut off is taken off the file. The system takes the lock beside the file from a process that
    was killed. Use it as a context manager, or call `close`.

    Args:
        path: the file; its folder is made.
        keep: which rows of earlier runs stay in the file; None: all.

    Attributes:
        earlier: the rows that were in the file when it was opened, and stay.

    Raises:
        ConfigurationError: another run is adding to the file.
        DataError: a whole line is not JSON: the file is not ours.
        WriteError: it cannot be written.
    """

    def __init__(self, path: Path, keep: Callable[[Row], bool] | None = None):
        from filelock import FileLock, Timeout  # a tenth of a second to import

        self.path = path
        with written(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(_beside(path, ".lock"), timeout=0)
            try:
                self._lock.acquire()
            except Timeout as error:
                raise ConfigurationError(
                    f"Another run is adding to {path}; wait for its end, stop it, or write to another place."
                ) from error
            try:
                self.earlier = rows_of(path)
                self._file = path.open("ab")
                if keep is not None and not all(map(keep, self.earlier)):
                    self.earlier = [row for row in self.earlier if keep(row)]
                    self.replace(self.earlier)
            except BaseException:
                self._lock.release()
                raise

    def add(self, row: Row) -> None:
        """Writes one row; it is in the file when this returns.

        Raises:
            WriteError: the disk is full.
        """
        with written(self.path):
            self._file.write(encode_line(row))
            self._file.flush()

    def replace(self, rows: list[Row]) -> None:
        """Makes these all rows of the file, at once."""
        write_bytes(self.path, b"".join(map(encode_line, rows)))
        self._file.close()
        self._file = self.path.open("ab")

    def remove(self) -> None:
        """Takes the file away, and its lock: what it held is elsewhere."""
        self.close()
        for path in (self.path, _beside(self.path, ".lock")):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets another run add."""
        try:
            self._file.close()
        finally:
            self._lock.release()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def rows_of(path: Path) -> list[Row]:
    """The rows of a file that an earlier run of ours began; a last line that was cut off is taken off the file.

    Raises:
        DataError: a whole line is not JSON: the file is not ours.
    """
    if not path.exists():
        return []
    whole = path.read_bytes()
    complete = whole[: whole.rfind(b"\n") + 1]
    if complete != whole:
        os.truncate(path, len(complete))
    return [decode_line(line, f"{path}:{number}") for number, line in enumerate(complete.split(b"\n")[:-1], 1)]


def encode_line(row: Row) -> bytes:
    """A row as a line of JSON; in ASCII where it holds half a surrogate pair, which UTF-8 has no bytes for."""
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(row) + "\n").encode("ascii")


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Makes a folder for what is made with these settings, and keeps them in it.

    Raises:
        ConfigurationError: the folder holds what was made with others.
    """
    _claim(folder / "made-with.json", settings, f"{folder} holds clips", "another folder")


def claim_file(path: Path, settings: dict[str, Any]) -> None:
    """The same for a file that is to be made with these settings; they are kept beside it.

    Raises:
        ConfigurationError: the file was made with others, or nothing beside it says how it was made.
    """
    note = path.with_name(path.name + ".made-with.json")
    if not path.exists():
        note.unlink(missing_ok=True)  # of a run that wrote nothing
    elif not note.exists():
        raise ConfigurationError(
            f"{path} exists, and no {note.name} beside it says how it was made; write to another file, or remove it."
        )
    _claim(note, settings, f"{path} holds rows", "another file")


def _claim(note: Path, settings: dict[str, Any], held: str, other_place: str) -> None:
    if not note.exists():
        write_json(note, settings)
        return
    before = json.loads(note.read_text(encoding="utf-8"))
    other = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    if other:
        told = ", ".join(f"{name} {before.get(name)!r}, not {settings.get(name)!r}" for name in other)
        raise ConfigurationError(f"{held} made with {told}; give the same settings to go on, or {other_place}.")


def decode_text(line: bytes, where: str) -> str:
    """The text of one line.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 text at byte {error.start + 1} of the line; save the file as UTF-8."
        ) from error


def decode_line(line: bytes, where: str) -> Any:
    """The JSON of one line.

    Raises:
        DataError: it is not UTF-8, or not JSON that can be held.
    """
    try:
        return json.loads(decode_text(line, where))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON at character {error.pos + 1} ({error.msg}); write one whole JSON object a line."
        ) from error
    except ValueError as error:  # Python's guard against numbers that take hours to read
        most = sys.get_int_max_str_digits()
        raise DataError(f"{where}: a number of more than {most} digits; write it shorter, or in quotes.") from error
    except RecursionError as error:
        raise DataError(f"{where}: lists or objects too deep in one another; write a plain row.") from error
