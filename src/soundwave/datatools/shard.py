"""A manifest as shards, for data that training streams: lhotse's Shar, or WebDataset tars.

Sounds are decoded, mixed to mono, resampled to 16 kHz and encoded again; an example with several sounds has them one
after the other in one recording. What is made lies beside its place until all of it is there.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import soundfile

from soundwave.audio import SAMPLE_RATE
from soundwave.data.example import Example
from soundwave.data.extras import extras_of, lost, with_details, without_reserved
from soundwave.data.manifests import Progress, Row, read_examples
from soundwave.data.probe import samples_of
from soundwave.data.readers import parse_row
from soundwave.data.writers import UnwritableRow, cut_of_recording, write_messages
from soundwave.errors import AudioError, DataError
from soundwave.files import claim_folder, hash_json, written

ENCODINGS = ("flac", "opus", "wav")
LAYOUTS = ("shar", "webdataset")
PLAIN_NAME = re.compile(r"\w[\w:.-]*\w|\w", re.ASCII)  # an id that can be a file's name in a tar

Numbered = tuple[int, Row, Example]


@dataclass
class Sharding:
    """What was done: shards made now and by an earlier run, and rows skipped in all of them."""

    made: int = 0
    before: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Sound:
    """The sounds of an example, joined: samples (T,) at 16 kHz, and each one's span in seconds."""

    samples: np.ndarray
    spans: list[dict[str, float]]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


Sounding = tuple[int, Row, Example, Sound]

def shard(
    source: str | Path, target: Path, *, layout: str = "shar", encoding: str = "flac", shard_size: int = 1000,
    jobs: int = 1, progress: Progress | None = None, on_bad: Callable[[str], None] | None = None,
) -> Sharding:
    """Writes the examples of a manifest into shards; begun again, it goes on with the shards that are not done.

    Args:
        source: a manifest in any format that is read.
        target: the folder to make; until all is done, `target.unfinished` beside it.
        layout: one of `LAYOUTS`.
        encoding: one of `ENCODINGS`; opus is far smaller than flac, and loses a little.
        shard_size: examples in a shard.
        jobs: shards that are written at once.
        progress: called with rows done and rows in all.
        on_bad: told of each row whose audio cannot be used, which is skipped; also of those of an earlier run.

    Raises:
        DataError: a row is bad, the target is there already, or no row is left.
        WriteError: the disk is full; the same command goes on with the shards that are not done.
        ConfigurationError: what an earlier run left was made of other rows, or with other settings.
    """
    if target.exists():
        raise DataError(f"{target} exists; shards are written into a new folder. Remove it or name another.")
    rows = [(number, row, example) for number, (row, example) in enumerate(read_examples(source))]
    digest = hash_json([row.fields for _, row, _ in rows])[:16]
    unfinished = target.with_name(target.name + ".unfinished")
    claim_folder(unfinished, {"rows": digest, "layout": layout, "encoding": encoding, "shard_size": shard_size})
    write = _Writer(unfinished, layout, encoding, len(rows), progress, on_bad)
    parts = [rows[start : start + shard_size] for start in range(0, len(rows), shard_size)]
    with written(unfinished):
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(write.part, range(len(parts)), parts))
        if not any(write.finished.iterdir()):
            raise DataError(f"{source}: no row has audio that can be used; no shard was written.")
        write.finished.rename(target)
        shutil.rmtree(unfinished)
    return write.done


class _Writer:
    """Writes shards, several at once, each whole or not at all."""

    def __init__(
        self, folder: Path, layout: str, encoding: str, total: int, progress: Progress | None,
        on_bad: Callable[[str], None] | None,
    ):
        self.folder, self.layout, self.encoding, self.total = folder, layout, encoding, total
        self.progress, self.on_bad = progress, on_bad
        self.finished = folder / "shards"
        self.finished.mkdir(exist_ok=True)
        self.done, self.seen, self.lock = Sharding(), 0, Lock()
        self.stopped = False

    def part(self, number: int, rows: Sequence[Numbered]) -> None:
        """One shard; none is begun after one that failed."""
        if self.stopped:
            return
        try:
            self._part(number, rows)
        except BaseException:
            self.stopped = True
            raise

    def _part(self, number: int, rows: Sequence[Numbered]) -> None:
        """One shard. Its cuts, or its only tar, are moved to their place last: a shard that has them is done."""
        names = [f"recording.{number:06d}.tar", f"cuts.{number:06d}.jsonl.gz"]
        if self.layout == "webdataset":
            names = [f"{number:06d}.tar"]
        noted = self.folder / f"skipped-{number:06d}.json"
        if (self.finished / names[-1]).exists():
            with self.lock:
                self.done.before += 1
            for told in json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else ():
                self._skip(told)
            self._seen(len(rows))
            return
        draft = self.folder / f"draft-{number:06d}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        skipped: list[str] = []
        sounds = self._sounds(rows, skipped)
        (self._webdataset if self.layout == "webdataset" else self._shar)(draft, number, sounds)
        noted.write_text(json.dumps(skipped), encoding="utf-8")  # first: a shard that is done is not read again
        written = [draft / name for name in names if (draft / name).exists()]
        for path in written:
            path.rename(self.finished / path.name)
        draft.rmdir()
        with self.lock:
            self.done.made += bool(written)

    def _shar(self, draft: Path, number: int, sounds: Iterable[Sounding]) -> None:
        from lhotse.serialization import deserialize_item  # seconds to import, which only shards need
        from lhotse.shar import SharWriter

        suffix = f".{number:06d}"
        fields = {"recording": self.encoding}
        with SharWriter(draft, fields, shard_size=None, shard_suffix=suffix) as writer:
            for at, row, example, sound in sounds:
                writer.write(deserialize_item(cut_row(at, row, example, sound)))

    def _webdataset(self, draft: Path, number: int, sounds: Iterable[Sounding]) -> None:
        from lhotse.shar import TarWriter

        with TarWriter(str(draft / f"{number:06d}.tar"), shard_size=None) as writer:
            for at, row, example, sound in sounds:
                key = f"{at:08d}"
                fields = sample_row(f"{key}.{self.encoding}", row, example, sound)
                writer.write(f"{key}.json", io.BytesIO(json.dumps(fields, ensure_ascii=False).encode()))
                if sound.spans:
                    writer.write(f"{key}.{self.encoding}", io.BytesIO(encoded(sound.samples, self.encoding)))

    def _sounds(self, rows: Iterable[Numbered], skipped: list[str]) -> Iterator[Sounding]:
        """The examples with their sounds; where one cannot be used, the row and why is added to `skipped`."""
        for at, row, example in rows:
            try:
                sound = joined(example)
            except AudioError as error:
                skipped.append(f"{row.where}: {error}")
                self._skip(skipped[-1])
            else:
                yield at, row, example, sound
            self._seen(1)

    def _skip(self, told: str) -> None:
        if self.on_bad:
            self.on_bad(told)
        with self.lock:
            self.done.skipped += 1

    def _seen(self, count: int) -> None:
        with self.lock:
            self.seen += count
            if self.progress:
                self.progress(self.seen, self.total)


def joined(example: Example) -> Sound:
    """The sounds of an example, one after the other.

    Raises:
        AudioError: one of them cannot be read, or is over 30 s long.
    """
    pieces = [samples_of(span) for span in example.audios]
    ends = np.cumsum([0, *map(len, pieces)]) / SAMPLE_RATE
    spans = [{"start": float(start), "end": float(end)} for start, end in pairwise(ends)]
    return Sound(np.concatenate(pieces) if pieces else np.zeros(0, np.float32), spans)


def encoded(samples: np.ndarray, encoding: str) -> bytes:
    """(T,) samples at 16 kHz as a file's bytes."""
    from lhotse.audio.backend import save_audio

    file = io.BytesIO()
    save_audio(file, samples, SAMPLE_RATE, format=encoding)
    return file.getvalue()


def cut_row(number: int, row: Row, example: Example, sound: Sound) -> dict[str, Any]:
    """An example as a MonoCut of lhotse with its sound in memory.

    What the fields of a cut cannot hold goes under `custom`, as messages.
    """
    own = row.fields.get("id")
    name = own if isinstance(own, str) and PLAIN_NAME.fullmatch(own) else f"{number:08d}"
    whole = _conversation_cut(name, row, example, sound)
    if len(sound.spans) == 1:
        recording = {
            "id": name, "sources": [{"type": "file", "channels": [0], "source": name}], "sampling_rate": SAMPLE_RATE,
            "num_samples": len(sound.samples), "duration": sound.seconds,
        }
        try:
            plain = cut_of_recording(example, extras_of(row.fields), recording, 0.0, sound.seconds)
        except UnwritableRow:
            return _with_sound(whole, sound)
        plain = with_details(plain, row.fields)
        same = _same(parse_row(plain, Path(), row.where), example)
        if same and len(lost(plain, row.fields)) <= len(lost(whole, row.fields)):
            return _with_sound(plain, sound)
    return _with_sound(whole, sound)


def _conversation_cut(name: str, row: Row, example: Example, sound: Sound) -> dict[str, Any]:
    """A MonoCut with the whole conversation under `custom`, without its recording."""
    messages = {"messages": write_messages(example, {}, str)["messages"]}
    custom = without_reserved(extras_of(row.fields), "messages") | with_details(messages, row.fields)
    custom["audios"] = sound.spans
    custom |= {
        key: value
        for key, value in (("transcript", example.spoken), ("task", example.task), ("language", example.language))
        if value is not None
    }
    text = example.reply if example.spoken is None else example.spoken
    said = {"id": name, "recording_id": name, "start": 0.0, "duration": sound.seconds, "channel": 0, "text": text}
    return {
        "id": name, "type": "MonoCut", "start": 0.0, "duration": sound.seconds, "channel": 0, "supervisions": [said],
        "custom": custom,
    }


def _with_sound(cut: dict[str, Any], sound: Sound) -> dict[str, Any]:
    if not sound.spans:
        return cut
    file = io.BytesIO()
    soundfile.write(file, sound.samples, SAMPLE_RATE, format="WAV", subtype="FLOAT")  # lhotse encodes it as it writes
    source = {"type": "memory", "channels": [0], "source": file.getvalue()}
    recording = {
        "id": cut["id"], "sources": [source], "sampling_rate": SAMPLE_RATE, "num_samples": len(sound.samples),
        "duration": sound.seconds,
    }
    return {**cut, "recording": recording}


def _same(example: Example, other: Example) -> bool:
    """Whether two examples teach the same, wherever their sound is."""
    names = ("messages", "transcript", "spoken", "task", "language")
    return all(getattr(example, name) == getattr(other, name) for name in names)


def sample_row(name: str, row: Row, example: Example, sound: Sound) -> dict[str, Any]:
    """An example as the .json of a WebDataset sample, in the `messages` form; `name` is its sound's file."""
    fields = with_details(write_messages(example, extras_of(row.fields), str), row.fields)
    fields.pop("audios", None)
    fields.pop("duration", None)
    if len(sound.spans) == 1:
        fields["audios"] = [name]
    elif sound.spans:
        fields["audios"] = [{"path": name, **span} for span in sound.spans]
    own = row.fields.get("id")
    return fields | ({"duration": sound.seconds} if sound.spans else {}) | ({} if own is None else {"id": own})
