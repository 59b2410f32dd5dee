"""Read training data: manifests in JSON lines (plain or .gz), saved data sets of Hugging Face, and shards.

Says where the rows are; what a row means is in `manifests.py`. No audio is opened here.
"""

from __future__ import annotations

import codecs
import gzip
import importlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from soundwave.data.example import DEFAULT_PROMPT, AudioSpan, Example
from soundwave.data.manifests import parse_row
from soundwave.data.shards import TEXT_COLUMNS, find_shards, is_sharded, read_shard
from soundwave.errors import DataError
from soundwave.text.normalizer import normalise_transcript

__all__ = [
    "DEFAULT_PROMPT",
    "AudioSpan",
    "Example",
    "check_audio_files",
    "normalise_transcript",
    "read_manifest",
    "read_manifests",
]

SAVED_DATASET_FILES = ("dataset_info.json", "dataset_dict.json")
MISSING_SHOWN = 5


def read_manifest(path: str | os.PathLike[str]) -> Iterator[Example]:
    """The examples of one manifest, in order, read as they are asked for.

    Args:
        path: a `.jsonl`, `.json` or `.jsonl.gz` file with one example a line in any format of `manifests.py` (lines may
            differ), a folder written by `datasets.Dataset.save_to_disk`, or shards (`shards.py`), which are read one
            after the other.

    Raises:
        DataError: no such file, not JSON lines, or a line that is not a known format; the message names file and line.

    Example:
        >>> [example.reply for example in read_manifest("clips/manifest.jsonl")]  # doctest: +SKIP
        ['Good morning.', 'How are you?']
    """
    if is_sharded(str(path)):
        yield from read_shards(str(path))
        return
    path = Path(path)
    if path.is_dir():
        for number, row in saved_rows(path):
            yield parse_row(row, path, f"{path}:{number}")
        return
    if not path.exists():
        raise DataError(f"{path}: no such manifest; give a .jsonl or .jsonl.gz file, or a folder saved by datasets.")
    count = 0
    for number, line in numbered_lines(path):
        if line.strip():
            count += 1
            yield parse_row(decode_line(line, f"{path}:{number}"), path.parent, f"{path}:{number}")
    if not count:
        raise DataError(f"{path}: the manifest has no lines; there is nothing to learn from.")


def read_shards(place: str, sounds: bool = True) -> Iterator[Example]:
    """The examples of all shards of a place, in order; without their sounds where only the words are wanted.

    Raises:
        DataError: a shard is missing or broken, or a row is not a known format.
    """
    for shard in find_shards(place):
        for number, row in read_shard(shard, sounds=sounds):
            yield parse_row(row, Path(shard.name).parent, f"{shard.name}:{number + 1}")


def read_manifests(paths: Iterable[str | os.PathLike[str]]) -> list[Example]:
    """All examples of several manifests, in order."""
    return [example for path in paths for example in read_manifest(path)]


def check_audio_files(examples: Iterable[Example]) -> None:
    """Every audio file that the examples name is there. Opens none of them.

    Raises:
        DataError: files are missing; the message names the first few and where they are asked for.
    """
    missing: dict[str, str] = {}
    seen: set[str] = set()
    for example in examples:
        for span in example.audios:
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


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, plain or gzip, counted from 1, as they stand: one that is no text spoils no other.

    Raises:
        DataError: a .gz that breaks off.
    """
    number = 0
    try:
        # By content, not by name: a .gz that was unpacked on download keeps its name.
        with path.open("rb") as start:
            packed = start.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield number, line.removeprefix(codecs.BOM_UTF8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}:{number + 1}: the .gz file is cut off or broken; copy it again.") from error


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
    found = datasets.load_from_disk(str(folder))
    if isinstance(found, dict):
        raise DataError(f"{folder}: a data set of the splits {', '.join(found)}; give one of them, as {folder}/train.")
    column = next((name for name, kind in found.features.items() if isinstance(kind, datasets.Audio)), None)
    if column is None:
        raise DataError(f"{folder}: no Audio column; the columns are {', '.join(found.features)}.")
    text = next((name for name in TEXT_COLUMNS if name in found.features), None)
    classes = {name: kind for name in ("language", "task") if hasattr(kind := found.features.get(name), "int2str")}
    for number, row in enumerate(found.cast_column(column, datasets.Audio(decode=False)), 1):
        short = {**row, "audio": row[column]}
        if text is not None:
            short["text"] = row[text]
        for name, kind in classes.items():  # stored as numbers, of which -1 is none
            short[name] = None if row[name] is None or row[name] < 0 else kind.int2str(row[name])
        yield number, short
