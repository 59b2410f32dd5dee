"""Manifests: JSON lines (plain or gzip), saved data sets of Hugging Face, and shards, read row by row; and written.

One reader for training, the data tools and evaluation. It gives every row, good or bad; `read_manifest` and
`read_examples` refuse bad ones. What a row means is in `readers.py`. No audio is opened here, and no command is run
unless the caller allows it.
"""

from __future__ import annotations

import codecs
import gzip
import importlib
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundwave.data.example import Example
from soundwave.data.readers import parse_row
from soundwave.data.shards import TEXT_COLUMNS, BrokenShardError, find_shards, is_sharded, read_shard
from soundwave.errors import DataError
from soundwave.files import atomic_file, decode_line, encode_line

Progress = Callable[[int, int], None]  # what is done, how much there is

SAVED_DATASET_FILES = ("dataset_info.json", "dataset_dict.json")
MISSING_SHOWN = 5
LONGEST_LINE = 1 << 28  # bytes: a row that holds half an hour of sound as base64 has a third of that
# A packed manifest is refused where it grows beyond both: text packs to a tenth, a bomb to a thousandth.
MOST_UNPACKED = 1 << 28  # bytes
MOST_UNPACKED_RATIO = 100


class UnboundedError(DataError):
    """A manifest that no memory should hold: a packed one that unpacks to many times its size, or an endless line."""


@dataclass(frozen=True)
class Row:
    """One row of a manifest.

    Attributes:
        manifest: the file that it is in (or saved data set, or shard, which may be an address).
        number: its line there, from 1.
        fields: the decoded JSON; empty where the line is no JSON object.
        example: what the row says; None where it is bad.
        problem: what is wrong with it; None where nothing is.
        earlier: rows of the shards before its own, where `number` begins at 1 again.
    """

    manifest: str
    number: int
    fields: dict[str, Any]
    example: Example | None = None
    problem: str | None = None
    earlier: int = 0

    @property
    def where(self) -> str:
        return f"{self.manifest}:{self.number}"

    @property
    def position(self) -> int:
        """Its line, in shards its number among the rows of all of them: unlike `number`, no two rows share it."""
        return self.earlier + self.number

    @property
    def folder(self) -> Path:
        """What the row's audio paths are relative to."""
        return _folder_of(self.manifest)


def read_rows(
    manifest: str | os.PathLike[str], *, sounds: bool = True, allow_commands: bool = False
) -> Iterator[Row]:
    """The rows of a manifest, good and bad ones, in order, read as they are asked for.

    Args:
        manifest: a `.jsonl`, `.json` or `.jsonl.gz` file with one example a line in any format of `readers.py` (lines
            may differ), a folder written by `datasets.Dataset.save_to_disk`, or shards (`shards.py`).
        sounds: whether the sounds inside shards are needed.
        allow_commands: whether `pipe:` may run its command.

    Raises:
        DataError: there is no such manifest, it has no lines, or it is a command that may not run.
    """
    if is_sharded(manifest := os.fspath(manifest)):
        yield from _rows_of_shards(manifest, sounds, allow_commands)
        return
    path = Path(manifest)
    if path.is_dir():
        for number, fields in saved_rows(path):
            yield _parsed(manifest, number, fields)
        return
    _require(path)
    number, empty = 0, True
    try:
        for number, line in numbered_lines(path):
            if not line.strip():
                continue
            empty = False
            try:
                fields = decode_line(line, f"{manifest}:{number}")
            except DataError as problem:
                yield Row(manifest, number, {}, problem=_without_place(problem, f"{manifest}:{number}"))
                continue
            yield _parsed(manifest, number, fields)
    except UnboundedError:
        raise
    except DataError as problem:  # a packed file breaks off
        number, empty = number + 1, False
        yield Row(manifest, number, {}, problem=_without_place(problem, f"{manifest}:{number}"))
    if empty:
        raise DataError(f"{manifest}: the manifest has no lines; there is nothing to learn from.")


def _rows_of_shards(place: str, sounds: bool, allow_commands: bool) -> Iterator[Row]:
    """The rows of shards; where one breaks off is a bad row."""
    earlier = 0
    for shard in find_shards(place, allow_commands=allow_commands):
        count = 0
        try:
            for number, fields in read_shard(shard, sounds=sounds):
                count = number + 1
                yield replace(_parsed(shard.name, count, fields), earlier=earlier)
        except BrokenShardError as problem:
            count += 1
            yield Row(problem.file, count, {}, problem=_without_place(problem, problem.file), earlier=earlier)
        earlier += count


def read_manifest(
    manifest: str | os.PathLike[str], *, sounds: bool = True, allow_commands: bool = False
) -> Iterator[Example]:
    """The examples of one manifest, in order, read as they are asked for; for the arguments see `read_rows`.

    Raises:
        DataError: no such manifest, or a bad row; the message names file and line.

    Example:
        >>> [example.reply for example in read_manifest("clips/manifest.jsonl")]  # doctest: +SKIP
        ['Good morning.', 'How are you?']
    """
    for row in read_rows(manifest, sounds=sounds, allow_commands=allow_commands):
        if row.example is None:
            raise DataError(f"{row.where}: {row.problem}")
        yield row.example


def read_manifests(paths: Iterable[str | os.PathLike[str]]) -> list[Example]:
    """All examples of several manifests, in order."""
    return [example for path in paths for example in read_manifest(path)]


def read_examples(manifest: str | os.PathLike[str]) -> list[tuple[Row, Example]]:
    """All rows with their examples.

    Raises:
        DataError: a row is bad; the message names the first and how many there are.
    """
    rows = list(read_rows(manifest))
    bad = [row for row in rows if row.example is None]
    if bad:
        raise DataError(
            f"{bad[0].where}: {bad[0].problem} ({len(bad)} of {len(rows)} rows are bad; `soundwave data check` "
            "lists them all.)"
        )
    return [(row, row.example) for row in rows if row.example is not None]


def total_rows(manifests: Iterable[str | os.PathLike[str]]) -> int:
    """How many rows to expect, for a bar; 0 where that cannot be known before they are read (shards, saved data sets).

    Raises:
        DataError: one of the manifests does not exist, which is better known before the others are gone through.
    """
    total, known = 0, True
    for manifest in [os.fspath(manifest) for manifest in manifests]:
        if is_sharded(manifest):
            find_shards(manifest)
            known = False
        elif Path(manifest).is_dir():
            known = False
        else:
            _require(Path(manifest))
            try:
                total += sum(bool(line.strip()) for _, line in numbered_lines(Path(manifest)))
            except UnboundedError:
                raise
            except DataError:  # a packed file that breaks off: its rows are read, and that is told, later
                known = False
    return total if known else 0


def without_text(row: Row) -> Example | None:
    """The example of a row that is bad because nothing says what its recording holds; its reply is empty.

    Raises:
        DataError: something else is wrong with it as well.
    """
    fields, said = row.fields, row.fields.get("supervisions") or []
    if row.example is not None or not fields or fields.get("text") is not None:
        return None
    if "supervisions" not in fields:
        filled = {**fields, "text": ""}
    elif isinstance(said, list) and all(isinstance(part, dict) and part.get("text") is None for part in said):
        filled = {**fields, "supervisions": [{"text": ""}]}
    else:
        return None
    return replace(parse_row(filled, row.folder, row.where), transcript=None, spoken=None)


def check_audio_files(examples: Iterable[Example]) -> None:
    """Every audio file that the examples name is there. Opens none of them.

    Raises:
        DataError: files are missing; the message names the first few and where they are asked for.
    """
    missing: dict[str, str] = {}
    seen: set[str] = set()
    for example in examples:
        for span in example.audios:
            if span.words is not None:
                raise DataError(
                    f"{example.where}: the audio is a text to say ({span.path[:60]!r}), not a recording; set "
                    "`simulate` for this manifest in the recipe: the bank of units to say it with."
                )
            if span.path in seen or span.path.startswith("data:"):
                continue
            seen.add(span.path)
            if not os.path.isfile(span.path):
                missing[span.path] = example.where
    if missing:
        shown = "; ".join(f"{path} ({where})" for path, where in list(missing.items())[:MISSING_SHOWN])
        more = f" and {len(missing) - MISSING_SHOWN} more" if len(missing) > MISSING_SHOWN else ""
        raise DataError(
            f"{len(missing)} of {len(seen)} audio files do not exist: {shown}{more}. "
            "Paths are relative to the manifest's folder."
        )


def _require(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such manifest; give a .jsonl or .jsonl.gz file, or a folder saved by datasets.")
    if not path.is_file():
        raise DataError(f"{path} is no regular file: a pipe or device is read only once; write it to a file first.")


def _folder_of(manifest: str) -> Path:
    return Path(manifest) if Path(manifest).is_dir() else Path(manifest).parent


def _parsed(manifest: str, number: int, fields: Any) -> Row:
    where = f"{manifest}:{number}"
    try:
        example = parse_row(fields, _folder_of(manifest), where)
    except DataError as problem:
        kept = fields if isinstance(fields, dict) else {}
        return Row(manifest, number, kept, problem=_without_place(problem, where))
    return Row(manifest, number, fields, example)


def _without_place(problem: DataError, where: str) -> str:
    return str(problem).removeprefix(where).removeprefix(":").strip()


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    r"""The lines of a file, plain or gzip, counted from 1; only \n ends one. A byte order mark is taken off.

    A .gz is told by its content: one that was unpacked on download keeps its name.

    Raises:
        DataError: a .gz that breaks off, or a file that cannot be read.
        UnboundedError: a .gz that is a bomb, or a line that no memory should hold.
    """
    number = unpacked = 0
    try:
        with path.open("rb") as start:
            packed = start.read(2) == b"\x1f\x8b"
        most = max(MOST_UNPACKED, MOST_UNPACKED_RATIO * path.stat().st_size) if packed else sys.maxsize
        with gzip.open(path) if packed else path.open("rb") as lines:
            while line := lines.readline(LONGEST_LINE):
                number, unpacked = number + 1, unpacked + len(line)
                if unpacked > most:
                    raise UnboundedError(
                        f"{path}:{number}: the .gz unpacks to over {most >> 20} MiB, more than {MOST_UNPACKED_RATIO} "
                        "times its size; if that is meant, unpack it first (gunzip)."
                    )
                if len(line) == LONGEST_LINE:
                    told = f"a line of over {LONGEST_LINE >> 20} MiB; write one row a line."
                    raise UnboundedError(f"{path}:{number}: {told}")
                yield number, line.removeprefix(codecs.BOM_UTF8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}:{number + 1}: the .gz file is cut off or broken; copy it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def saved_rows(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and fields, in the short form, of each row of a folder written by `datasets.Dataset.save_to_disk`.

    Raises:
        DataError: no such data set, one of several splits, without audio, or the package datasets is not installed.
    """
    if not any((folder / name).exists() for name in SAVED_DATASET_FILES):
        raise DataError(
            f"{folder}: a folder, but not one saved by datasets (no {' or '.join(SAVED_DATASET_FILES)}); "
            "give the manifest file in it, or one split's folder."
        )
    try:
        datasets = importlib.import_module("datasets")  # optional: heavy, and only this format needs it
    except ImportError as error:
        raise DataError(
            f"{folder}: reading a saved data set needs the package datasets; pip install datasets, or write a manifest."
        ) from error
    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, dict):
        raise DataError(f"{folder}: a data set of the splits {', '.join(saved)}; give one of them, as {folder}/train.")
    column = next((name for name, kind in saved.features.items() if isinstance(kind, datasets.Audio)), None)
    if column is None:
        raise DataError(f"{folder}: no Audio column; the columns are {', '.join(saved.features)}.")
    text = next((name for name in TEXT_COLUMNS if name in saved.features), None)
    classes = {name: kind for name in ("language", "task") if hasattr(kind := saved.features.get(name), "int2str")}
    for number, row in enumerate(saved.cast_column(column, datasets.Audio(decode=False)), 1):
        short = {**row, "audio": row[column]}
        if text is not None:
            short["text"] = row[text]
        for name, kind in classes.items():  # stored as numbers, of which -1 is none
            short[name] = None if row[name] is None or row[name] < 0 else kind.int2str(row[name])
        yield number, short


# --- written ---------------------------------------------------------------------------------------------------------


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes JSON lines, packed where the name ends with .gz, whole or not at all; gives how many there are."""
    count = 0
    with writing(path) as write:
        for row in rows:
            write(row)
            count += 1
    return count


@contextmanager
def writing(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes one row; the file appears, packed where its name ends with .gz, when all are written."""
    opened: Any = gzip.open if path.name.endswith(".gz") else open
    with atomic_file(path) as draft, opened(draft, "wb") as file:
        yield lambda row: file.write(encode_line(row))
