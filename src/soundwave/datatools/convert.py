"""One manifest format to another, with what that loses said before anything is kept.

A row counts as kept only if reading it back gives the same example, and all that it says beside that is found again;
what differs is a loss, counted by kind.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import soundfile

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.data.example import AudioSpan, Example
from soundwave.data.extras import extras_of, lost, with_details
from soundwave.data.manifests import Progress, Row, read_examples, write_rows
from soundwave.data.probe import facts_of
from soundwave.data.readers import parse_row
from soundwave.data.writers import WRITERS, UnwritableRow, relative
from soundwave.errors import AudioError, DataError
from soundwave.files import atomic_file, atomic_folder

MEANINGS = {
    "messages": "turns or their layout: some formats hold one question and its reply only, without a system turn",
    "audios": "audio that is left out, or cut otherwise",
    "transcript": "the transcript",
    "duration": "the duration",
    "task": "the task",
    "language": "the language",
}
DURATION_TOLERANCE = 0.05  # seconds: a cut of lhotse states the recording's length, not the manifest's
LOSSES_SHOWN = 6


@dataclass
class Conversion:
    """What a conversion did: rows written and skipped, and of each loss how many rows have it."""

    rows: int = 0
    skipped: int = 0
    losses: Counter[str] = field(default_factory=Counter)


def convert(
    source: str | Path, target: Path, to: str, *, allow_loss: bool = False, absolute: bool = False,
    audio_dir: Path | None = None, overwrite: bool = False, progress: Progress | None = None,
) -> Conversion:
    """Writes a manifest in another format.

    Args:
        source: a manifest in any format that is read.
        target: the file to write (.gz packs it); a new folder for `datasets`, which stores the sounds too.
        to: a name of `WRITERS`.
        allow_loss: write even where something is lost.
        absolute: absolute audio paths; else relative to the target's folder.
        audio_dir: sounds inside the source are written into this folder, and named by the rows; and what lhotse
            cannot name otherwise, a mix of channels.
        overwrite: a saved data set may be replaced; a file always is.
        progress: called with rows done and rows in all.

    Raises:
        DataError: a row of the source is bad; or something would be lost and `allow_loss` is not set: then no manifest
            is written.
        WriteError: the manifest or a sound cannot be written.
        AudioError: a sound to be written cannot be read, or a format states facts of a recording that cannot be.
    """
    folder = target if to == "datasets" else target.parent

    def place(path: str) -> str:
        return path if absolute or to == "datasets" else relative(path, folder)

    done = Conversion()
    written: list[dict[str, Any]] = []
    examples = read_examples(source)
    for number, (row, example) in enumerate(examples, 1):
        if audio_dir:
            example = with_files(example, audio_dir, mono=to == "lhotse")
        try:
            converted = with_details(WRITERS[to](example, extras_of(row.fields), place), row.fields)
        except UnwritableRow as problem:
            done.losses[f"whole rows: {problem}"] += 1
            done.skipped += 1
            continue
        finally:
            if progress:
                progress(number, len(examples))
        done.losses.update(_lost(row, example, converted, folder))
        written.append(converted)
    if done.losses and not allow_loss:
        told = "; ".join(f"{meaning} ({count} rows)" for meaning, count in done.losses.most_common(LOSSES_SHOWN))
        nothing = f"No manifest was written, only sounds in {audio_dir}" if audio_dir else "Nothing was written"
        raise DataError(
            f"{source}: as {to} this would lose {told}. {nothing}; --allow-loss writes the rest, and the "
            "formats messages and parts hold all turns and fields."
        )
    if not written:
        raise DataError(f"{source}: no row can be written as {to}; choose another format.")
    if to == "datasets":
        _save_dataset(written, target, overwrite)
    else:
        write_rows(target, written)
    done.rows = len(written)
    return done


def _lost(row: Row, example: Example, written: dict[str, Any], folder: Path) -> list[str]:
    """The meanings of what differs when the written row is read."""
    back = parse_row(written, folder, row.where)
    losses = []
    for item in fields(Example):
        if not item.compare:
            continue
        before, after = getattr(example, item.name), getattr(back, item.name)
        if item.name == "audios":
            before, after = _placed(before), _placed(after)
        if item.name == "messages":
            before, after = _joined(before), _joined(after)
        if before == after or (item.name == "duration" and _close(before, after)):
            continue
        losses.append(MEANINGS[item.name])
    return losses + lost(written, row.fields)


def _placed(spans: tuple[AudioSpan, ...]) -> list[AudioSpan]:
    """Spans by the place of their file: "a/../b.wav" is "b.wav"."""
    return [
        span if span.path.startswith("data:") else replace(span, path=os.path.realpath(span.path)) for span in spans
    ]


def _joined(messages: list[dict[str, Any]]) -> list[tuple[str, list[str | None]]]:
    """Roles and contents with neighbouring texts joined; None stands for an audio."""
    joined: list[tuple[str, list[str | None]]] = []
    for message in messages:
        parts: list[str | None] = []
        for part in message["content"]:
            text = part.get("text")
            if text and parts and parts[-1] is not None:
                parts[-1] += text
            elif text != "":
                parts.append(text)
        joined.append((message["role"], parts))
    return joined


def _close(before: float | None, after: float | None) -> bool:
    """A duration that was not stated may be stated now."""
    return before is None or (after is not None and abs(before - after) <= DURATION_TOLERANCE)


def _save_dataset(rows: list[dict[str, Any]], folder: Path, overwrite: bool) -> None:
    try:
        datasets = importlib.import_module("datasets")  # optional: heavy, and only this format needs it
    except ImportError as error:
        raise DataError("The format datasets needs the package datasets; pip install datasets.") from error
    if folder.exists() and not overwrite:
        raise DataError(f"{folder} exists; name another folder, or allow to overwrite this one.")
    datasets.disable_progress_bars()  # ours is shown already
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name, values in columns.items():
        if len({type(value) for value in values if value is not None} - {int, float}) > 1:
            columns[name] = [None if value is None else str(value) for value in values]  # one type a column
    table = datasets.table.InMemoryTable.from_pydict({name: columns[name] for name in names if name != "audio"})
    dataset = datasets.Dataset(table, fingerprint=f"soundwave{len(rows)}")
    sounds = [{"bytes": None, "path": path} for path in columns["audio"]]
    dataset = dataset.add_column("audio", sounds, new_fingerprint=f"soundwave-audio{len(rows)}")
    dataset = dataset.cast_column("audio", datasets.Audio(decode=False))
    with atomic_folder(folder, overwrite=overwrite) as draft:
        dataset.save_to_disk(str(draft))


# --- sounds inside the data, as files --------------------------------------------------------------------------------


def with_files(example: Example, folder: Path, mono: bool = False) -> Example:
    """The example with each sound inside the data in a file of its own; cuts of it stay cuts.

    Args:
        example: what may hold sounds as `data:` texts.
        folder: where the files are, or are made.
        mono: recordings of several channels are written there too, mixed.

    Raises:
        AudioError: a sound cannot be decoded.
        WriteError: a file cannot be written.
    """
    return replace(example, audios=tuple(_with_file(span, folder, mono, example.where) for span in example.audios))


def _with_file(span: AudioSpan, folder: Path, mono: bool, where: str) -> AudioSpan:
    inside = span.path.startswith("data:")
    if not inside and not (mono and facts_of(span.path).channels > 1):
        return span
    held = span.path.encode() if inside else Path(span.path).read_bytes()
    file = folder.absolute() / f"{hashlib.sha256(held).hexdigest()[:20]}.flac"
    if not file.exists():
        try:
            samples = load_audio(span.path, max_seconds=None)
        except AudioError as error:
            raise AudioError(f"{where}: {error}") from error
        with atomic_file(file) as draft:
            soundfile.write(draft, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return replace(span, path=str(file))
