"""Rows of manifests as they stand: fields, example and what is wrong, without stopping at a bad row; and writing them.

Knows nothing about what is in a recording.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from soundwave.data.example import HALF_A_PAIR, Example
from soundwave.data.manifests import parse_row
from soundwave.data.readers import decode_line, numbered_lines, saved_rows
from soundwave.data.shards import BrokenShardError, Shard, find_shards, is_sharded, read_shard
from soundwave.errors import ConfigurationError, DataError

Progress = Callable[[int, int], None]  # what is done, how much there is

PATH_KEYS = ("path", "url", "audio", "audio_url", "source")


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


def read_rows(manifest: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows of a manifest, a saved data set, or shards, good and bad ones.

    Raises:
        DataError: there is no such manifest, or it has no lines.
    """
    if is_sharded(manifest := os.fspath(manifest)):
        yield from _rows_of_shards(find_shards(manifest))
        return
    path = Path(manifest)
    if path.is_dir():
        for number, fields in saved_rows(path):
            yield _parsed(manifest, number, fields)
        return
    _require(path)
    number = 0
    try:
        for number, line in numbered_lines(path):
            if not line.strip():
                continue
            try:
                fields = decode_line(line, f"{manifest}:{number}")
            except DataError as problem:
                yield Row(manifest, number, {}, problem=_without_place(problem, f"{manifest}:{number}"))
                continue
            yield _parsed(manifest, number, fields)
    except DataError as problem:  # a packed file breaks off
        number += 1
        yield Row(manifest, number, {}, problem=_without_place(problem, f"{path}:{number}"))
    if not number:
        raise DataError(f"{manifest}: the manifest has no lines; there is nothing to learn from.")


def _rows_of_shards(shards: Iterable[Shard]) -> Iterator[Row]:
    """The rows of shards; where one breaks off is a bad row."""
    earlier = 0
    for shard in shards:
        count = 0
        try:
            for number, fields in read_shard(shard):
                count = number + 1
                yield replace(_parsed(shard.name, count, fields), earlier=earlier)
        except BrokenShardError as problem:
            count += 1
            yield Row(problem.file, count, {}, problem=_without_place(problem, problem.file), earlier=earlier)
        earlier += count


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
            total += _lines_of(Path(manifest))
    return total if known else 0


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


def without_text(row: Row) -> Example | None:
    """The example of a row that is bad because nothing says what its recording holds; its reply is empty.

    Raises:
        DataError: something else is wrong with it as well.
    """
    fields, said = row.fields, row.fields.get("supervisions") or []
    if row.example is not None or not fields or fields.get("text") is not None:
        return None
    if "supervisions" not in fields:
        made = {**fields, "text": ""}
    elif isinstance(said, list) and all(isinstance(one, dict) and one.get("text") is None for one in said):
        made = {**fields, "supervisions": [{"text": ""}]}
    else:
        return None
    return replace(parse_row(made, row.folder, row.where), transcript=None, spoken=None)


def _require(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such manifest; give a .jsonl or .jsonl.gz file, or a folder saved by datasets.")


def _lines_of(path: Path) -> int:
    _require(path)
    count = 0
    with suppress(DataError):  # a packed file that breaks off: its rows are read, and that is told, later
        for _, line in numbered_lines(path):
            count += bool(line.strip())
    return count


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


def with_fields(fields: dict[str, Any], **added: Any) -> dict[str, Any]:
    """The row, which may be a bad one, with more fields where its format keeps them."""
    custom = fields.get("custom") or {}
    if "supervisions" in fields and isinstance(custom, dict):
        return {**fields, "custom": {**custom, **added}}
    return {**fields, **added}


def relocated(fields: dict[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """The row, which may be a bad one, with its audio paths relative to another folder.

    What is no path stays as it is: an address, a data: text, or what should have been a path.
    """

    def move(source: Any) -> Any:
        if isinstance(source, list):
            return [move(one) for one in source]
        if isinstance(source, dict):
            return {key: move(value) if key in PATH_KEYS else value for key, value in source.items()}
        return relative(str((old / source).absolute()), new) if _is_path(source) else source

    def move_part(part: Any) -> Any:
        return move(part) if isinstance(part, dict) and part.get("type") in ("audio", "audio_url") else part

    moved = dict(fields)
    for name in ("audio", "audios", "audio_filepath"):
        if name in moved:
            moved[name] = move(moved[name])
    if isinstance(moved.get("messages"), list):
        moved["messages"] = [
            {**message, "content": [move_part(part) for part in message["content"]]}
            if isinstance(message, dict) and isinstance(message.get("content"), list) else message
            for message in moved["messages"]
        ]
    if isinstance(moved.get("conversations"), list):
        moved["conversations"] = [
            {**turn, "audio": move(turn["audio"])} if isinstance(turn, dict) and "audio" in turn else turn
            for turn in moved["conversations"]
        ]
    if isinstance(recording := moved.get("recording"), dict) and isinstance(recording.get("sources"), list):
        moved["recording"] = {**recording, "sources": move(recording["sources"])}
    return moved


def _is_path(source: Any) -> bool:
    return (
        isinstance(source, str) and bool(source) and not source.startswith("data:")
        and "://" not in source and "\0" not in source
    )


def relative(path: str, folder: Path) -> str:
    """An absolute path as it is written in a manifest of `folder`; a data: text as it is.

    Links among the folders are followed, because `..` is; the file itself may be a link.
    """
    if path.startswith("data:"):
        return path
    return os.path.relpath(Path(path).parent.resolve() / Path(path).name, folder.resolve())


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
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        opened: Any = gzip.open if path.name.endswith(".gz") else open
        with opened(unfinished, "wt", encoding="utf-8") as file:
            yield lambda row: file.write(_line(row))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _line(row: dict[str, Any]) -> str:
    """JSON as people read it; in ASCII where the row, a bad one that is put aside, has what is no character."""
    line = json.dumps(row, ensure_ascii=False)
    return (json.dumps(row) if HALF_A_PAIR.search(line) else line) + "\n"


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Makes a folder for what is made with these settings, and keeps them in it.

    Raises:
        ConfigurationError: the folder holds what was made with others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder / "made-with.json", settings, f"{folder} holds clips", "another folder")


def claim_file(path: Path, settings: dict[str, Any]) -> None:
    """The same for a file that is to be made with these settings; they are kept beside it.

    Raises:
        ConfigurationError: the file was made with others, or nothing beside it says how it was made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
        note.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return
    before = json.loads(note.read_text(encoding="utf-8"))
    other = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    if other:
        told = ", ".join(f"{name} {before.get(name)!r}, not {settings.get(name)!r}" for name in other)
        raise ConfigurationError(f"{held} made with {told}; give the same settings to go on, or {other_place}.")


@dataclass(frozen=True)
class GrowingRows:
    """A file of rows that is added to: what earlier runs left in it, and how to add one, which is on disk at once."""

    before: list[dict[str, Any]]
    add: Callable[[dict[str, Any]], None]


@contextmanager
def growing(path: Path) -> Iterator[GrowingRows]:
    """Opens a file of rows for this run alone, to go on where an earlier one stopped; two at once would mix theirs.

    The system takes the lock beside the file from a process that was killed.

    Raises:
        ConfigurationError: another run is adding to the file.
        DataError: the file is not ours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigurationError(
            f"Another run is adding to {path}; wait for its end, stop it, or write to another place."
        ) from error
    try:
        before = lines_done(path)
        with path.open("a", encoding="utf-8") as file:

            def add(row: dict[str, Any]) -> None:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()

            yield GrowingRows(before, add)
    finally:
        lock.release()


def lines_done(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that an earlier run of ours began; a last line that was cut off is taken off the file.

    Raises:
        DataError: a whole line is not JSON: the file is not ours.
    """
    if not path.exists():
        return []
    whole = path.read_bytes()
    complete = whole[: whole.rfind(b"\n") + 1]
    if complete != whole:
        path.write_bytes(complete)
    return [decode_line(line, f"{path}:{number}") for number, line in enumerate(complete.splitlines(), 1)]
