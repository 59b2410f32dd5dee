"""Data in shards, lhotse's Shar or WebDataset: where the shards are, and the rows of one, read from front to end.

A row comes out in a form that `readers.py` knows, its sound inside it as a `data:` text. Local files, pipes
(`pipe:curl -s …`) and addresses (`s3://…`) are opened by lhotse. Knows nothing about the order of training.
"""

from __future__ import annotations

import base64
import glob
import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import soundfile

from soundwave.errors import DataError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".webm", ".aiff", ".au")
TEXT_COLUMNS = ("text", "transcription", "sentence", "transcript")
MOST_BYTES = 1 << 28  # of one sound, or of the cuts of one shard; a packed one of a few MB may hold any number
TAR_BLOCK = 512  # bytes; a whole archive ends with two such blocks of zeros
TAR_MARK = slice(257, 262)  # of a plain one's first block: "ustar"
CUTS = re.compile(r"(.*(?:^|[/ ]))cuts(\..*)\.jsonl(?:\.gz)?(.*)", re.S)
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
# What a file that is missing, cut off or damaged raises on its way through lhotse, tarfile, gzip and json.
BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, KeyError, AssertionError, RuntimeError)

Row = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One shard: of Shar its cuts, and the tar of their sounds where they have any; of WebDataset the tar alone."""

    cuts: str | None
    tar: str | None

    @property
    def name(self) -> str:
        return self.cuts or self.tar or ""


class BrokenShardError(DataError):
    """A shard that is missing, cut off or damaged; `file` is the one of its files that is."""

    def __init__(self, file: str, reason: str):
        super().__init__(f"{file}: {reason}; copy or make this shard again.")
        self.file = file


def is_sharded(place: str | Path) -> bool:
    """Whether a recipe's `manifest` names shards: a folder of them, a tar, a pattern, a pipe or an address."""
    text = str(place)
    if text.startswith("pipe:") or "://" in text or re.search(r"\.tar(\.gz)?$", text):
        return True
    folder = Path(text)
    if folder.is_dir():
        return any(folder.glob("cuts.*.jsonl*")) or any(folder.glob("*.tar"))
    return bool(BRACES.search(text) or "*" in text) and CUTS.fullmatch(text) is not None


def find_shards(place: str | Path, *, allow_commands: bool = False) -> list[Shard]:
    """The shards that a place names, in order; none of them is opened, and no command is run.

    Args:
        place: a folder with `cuts.*.jsonl.gz` and `recording.*.tar` (Shar), or with tars (WebDataset); or the files
            themselves, `cuts…` or tars, with `*` in local names and with `{000000..000127}` or `{a,b}` in any.
        allow_commands: whether `pipe:COMMAND` may be run when the shards are read. A manifest is data, not a program,
            so somebody has to say so.

    Raises:
        DataError: there is none, or it is a command that may not run.
    """
    text = str(place)
    if text.startswith("pipe:") and not allow_commands:
        raise DataError(
            f"{place}: a command is run only where `allow_commands: true` stands in a recipe, by the training itself; "
            "write what it gives into a file, and name that."
        )
    if Path(text).is_dir():
        names = sorted(str(path) for path in Path(text).glob("cuts.*.jsonl*"))
        sounds = any(Path(text).glob("recording.*.tar*"))
        shards = [Shard(name, _recording(name) if sounds else None) for name in names]
        shards = shards or [Shard(None, str(path)) for path in sorted(Path(text).glob("*.tar"))]
    else:
        names = [name for pattern in expanded(text) for name in _globbed(pattern)]
        shards = [Shard(name, _recording(name)) if CUTS.fullmatch(name) else Shard(None, name) for name in names]
    if not shards:
        raise DataError(
            f"{place}: no shards; give a folder with cuts.*.jsonl.gz and recording.*.tar (lhotse Shar), "
            "or tars (WebDataset), as in tars/{000000..000127}.tar."
        )
    return shards


def expanded(pattern: str) -> list[str]:
    """The names that `{00..12}` and `{a,b}` stand for, as a shell would write them.

    Example:
        >>> expanded("s-{08..10}.tar")
        ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    braces = BRACES.search(pattern)
    if braces is None:
        return [pattern]
    numbers = RANGE.fullmatch(braces[1])
    choices = braces[1].split(",")
    if numbers:
        width = len(numbers[1])
        choices = [str(number).zfill(width) for number in range(int(numbers[1]), int(numbers[2]) + 1)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [name for choice in choices for name in expanded(before + choice + after)]


def _globbed(pattern: str) -> list[str]:
    remote = pattern.startswith("pipe:") or "://" in pattern
    return [pattern] if remote or "*" not in pattern else sorted(glob.glob(pattern))


def _recording(cuts: str) -> str:
    """Where the sounds of a shard's cuts are."""
    parts = CUTS.fullmatch(cuts)
    assert parts is not None
    return f"{parts[1]}recording{parts[2]}.tar{parts[3]}"


def read_shard(shard: Shard, first: int = 0, sounds: bool = True) -> Iterator[tuple[int, Row]]:
    """Number, from 0, and row of each example of a shard.

    Args:
        shard: which one.
        first: the example to begin with; those before it are passed over as fast as the archive allows.
        sounds: whether the sounds are needed; of Shar without them only the cuts are opened.

    Raises:
        BrokenShardError: the shard is missing, or breaks off; the examples before are given first.
    """
    yield from _webdataset_rows(shard, first) if shard.cuts is None else _shar_rows(shard, first, sounds)


@contextmanager
def _reading(file: str) -> Iterator[None]:
    """Whatever goes wrong inside is this file's fault."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, BROKEN) and type(error) is not Exception:  # a pipe of lhotse that fails raises that
            raise
        raise BrokenShardError(file, _reason(error, file)) from error


def _reason(error: BaseException, file: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename in (None, file) else f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


# --- Shar ------------------------------------------------------------------------------------------------------------


def _shar_rows(shard: Shard, first: int, sounds: bool) -> Iterator[tuple[int, Row]]:
    from lhotse.shar.readers.tar import TarIterator  # seconds to import, which only shards need

    cuts, tar = str(shard.cuts), str(shard.tar)
    with _reading(cuts):
        lines = _lines(cuts)
    recordings: Iterator[Any] = iter(TarIterator(tar)) if shard.tar and sounds else repeat((None, None), len(lines))
    for number, line in enumerate(lines):
        with _reading(tar):
            # lhotse itself ends with the shorter of the two, and what is missing would never be known.
            if (pair := next(recordings, None)) is None:
                raise ValueError(f"it ends after {number} of {len(lines)} sounds")
        if number < first:
            continue
        with _reading(cuts):
            cut = json.loads(line)
        with _reading(tar):
            recording, path = pair
            yield number, _with_sound(cut, recording, path, sounds)
    with _reading(tar):
        if next(recordings, None) is not None:
            raise ValueError(f"it has more sounds than there are cuts ({len(lines)})")


def _with_sound(cut: Row, recording: Any, path: Path | None, sounds: bool) -> Row:
    """The cut with its sound from the tar inside; where none is wanted, with a name in its place."""
    if path is not None and str(path.with_suffix("")) != cut["id"]:
        raise ValueError(f"the sound of cut {cut['id']!r} is named {str(path)!r}")
    if path is not None and recording is not None:
        held = recording.sources[0]
        if not isinstance(held.source, bytes):  # a command or an address in the place of the sound
            raise ValueError(f"the sound of cut {cut['id']!r} is {held.type} {held.source!r}, not in the tar")
        text = data_text(held.source, path.suffix.removeprefix("."))
        source = {"type": "file", "channels": held.channels, "source": text}
        return {**cut, "recording": {**cut["recording"], "sources": [source]}}
    if not sounds and cut.get("recording"):
        return {**cut, "recording": {**cut["recording"], "sources": [{"type": "file", "source": cut["id"]}]}}
    return cut


def _lines(url: str) -> list[bytes]:
    """The lines of a shard's cuts; what comes out of a pipe may still be packed."""
    with closing(_opened(url)) as file:
        content = _bounded(file, "the cuts of one shard")
    if content[:2] == b"\x1f\x8b":
        content = _bounded(gzip.GzipFile(fileobj=io.BytesIO(content)), "the cuts of one shard")
    return [line for line in content.split(b"\n") if line.strip()]


def _bounded(file: Any, what: str) -> bytes:
    """All of a file that memory has to hold at once.

    Raises:
        ValueError: it is longer than any that was meant.
    """
    content = bytearray()
    while chunk := file.read(1 << 20):  # a read of the most that is allowed would take that much memory at once
        content += chunk
        if len(content) > MOST_BYTES:
            raise ValueError(f"{what} have over {MOST_BYTES >> 20} MiB; make smaller ones")
    return bytes(content)


def _opened(url: str) -> BinaryIO:
    from lhotse.serialization import open_best

    return open_best(url, mode="rb")


def data_text(content: bytes, kind: str) -> str:
    """A sound as a `data:` text, as a manifest can hold it."""
    return f"data:audio/{kind};base64,{base64.b64encode(content).decode('ascii')}"


# --- WebDataset ------------------------------------------------------------------------------------------------------


class _Watched(io.RawIOBase):
    """A file that is read from front to end, and the first and last bytes that it gave."""

    def __init__(self, file: BinaryIO):
        self.file, self.first, self.last = file, b"", b""

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.first = (self.first + data[:TAR_BLOCK])[:TAR_BLOCK]
        self.last = (self.last + data)[-TAR_BLOCK:]
        return data

    @property
    def cut_off(self) -> bool:
        """Whether this is a plain tar, not a packed one, that has ended without its blocks of zeros."""
        return self.first[TAR_MARK] == b"ustar" and bool(self.last.strip(b"\0"))


def _webdataset_rows(shard: Shard, first: int) -> Iterator[tuple[int, Row]]:
    with _reading(str(shard.tar)), closing(_opened(str(shard.tar))) as file:
        watched = _Watched(file)
        for number, (name, sample) in enumerate(_samples(watched)):
            if number >= first:
                yield number, _sample_row(name, sample)
        # tarfile takes an archive that breaks off between two files for a whole one.
        if watched.cut_off:
            raise ValueError("the tar has no end: it is cut off")


def _samples(file: Any) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key, and content by extension, of neighbouring files that share the name up to the first dot."""
    current, sample = "", dict[str, bytes]()
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            folder, slash, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            content = tar.extractfile(member)
            if not stem or content is None:  # a folder, or a hidden file
                continue
            if f"{folder}{slash}{stem}" != current and sample:
                yield current, sample
                sample = {}
            current = f"{folder}{slash}{stem}"
            sample[extension] = _bounded(content, f"the bytes of {member.name}")
    if sample:
        yield current, sample


def _sample_row(key: str, sample: dict[str, bytes]) -> Row:
    """A sample's row: its .json, where paths may name its own sounds, or its .txt; and the sound, if it has just one.

    Raises:
        ValueError: the .json is no object.
    """
    row = json.loads(sample.get("json", b"{}"))
    if not isinstance(row, dict):
        raise ValueError(f"{key}.json is no object")
    stem = key.rpartition("/")[2]
    sounds = {f"{stem}.{e}": (e.rpartition(".")[2], content) for e, content in sample.items() if _is_audio(e)}
    texts = {name: data_text(content, kind) for name, (kind, content) in sounds.items()}
    placed = _with_sounds(row, texts)
    if placed == row and len(texts) == 1:
        (text,) = texts.values()
        placed |= {"audios": [text]} if "messages" in placed else {"audio": text}
        placed.pop("audio_filepath", None)
    if "txt" in sample and "text" not in placed:
        placed["text"] = sample["txt"].decode("utf-8").strip()
    said = next((placed[name] for name in TEXT_COLUMNS if name in placed), None)
    if "audio" in placed and said is not None:
        placed.setdefault("text", said)
    if texts and placed.get("duration") is None:
        placed["duration"] = _seconds(content for _, content in sounds.values())
    return {"id": key, **placed}


def _is_audio(extension: str) -> bool:
    return "." + extension.rpartition(".")[2].lower() in AUDIO_SUFFIXES


def _with_sounds(value: Any, sounds: dict[str, str]) -> Any:
    """The same values, with each name of a sound replaced by the sound."""
    if isinstance(value, dict):
        return {key: _with_sounds(item, sounds) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_sounds(item, sounds) for item in value]
    return sounds.get(value, value) if isinstance(value, str) else value


def _seconds(contents: Iterable[bytes]) -> float | None:
    """The length of sounds together, by their headers; None where libsndfile does not know the format."""
    total = 0.0
    for content in contents:
        try:
            total += float(soundfile.info(io.BytesIO(content)).duration)
        except soundfile.SoundFileError:
            return None
    return round(total, 4)
