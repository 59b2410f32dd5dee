"""Features of the frozen part of the encoder, computed once and kept on disk, or on the fly (paper section 3.1).

A store is one file of float16 rows and an index; it grows by appending and can be interrupted at any moment.
"""

# N clips, F encoder frames (50 Hz), E encoder width

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.data.probe import MAX_SECONDS
from soundwave.errors import AudioError, ConfigurationError, SoundwaveError, TrainingError
from soundwave.files import write_text
from soundwave.model.whisper import encode_window
from soundwave.processing import SoundwaveProcessor
from soundwave.training.augmentation import Effects

BATCH_SECONDS = 120.0  # audio encoded at once into a store
LARGEST = 65504.0  # of float16: below the last layers, a few channels of a large encoder may be beyond
ENCODED_AT_ONCE = 16  # clips encoded at once on the fly: 0.3 GB of bf16 activations at large-v3's width and 30 s


@dataclass(frozen=True)
class Clip:
    """One stretch of audio, at a changed speed (1.1: ten per cent faster and higher) and with effects, if asked for.

    Attributes:
        path, start, end: as of an `AudioSpan`.
        effects: what may happen to the samples.
        take: the text that decides what does happen.
        name: the example, for messages about a sound that has no file.
    """

    path: str
    start: float | None = None
    end: float | None = None
    speed: float = 1.0
    effects: Effects | None = None
    take: str = ""
    name: str = field(default="", compare=False)

    def key(self) -> str:
        """Identifies the clip's content cheaply: path, size, modification time, span, speed, effects."""
        if self.path.startswith("data:"):
            content = self.path
        else:
            stat = Path(self.path).stat()
            content = f"{Path(self.path).resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        named = f"{content}|{self.start}|{self.end}|{self.speed}"
        if self.effects is not None:
            named += f"|{self.effects.settings}|{self.take}"
        return hashlib.sha1(named.encode()).hexdigest()

    def samples(self) -> np.ndarray:
        """(samples,) float32 at 16 kHz.

        Raises:
            AudioError: unreadable, or over 30 s after the cut.
        """
        try:
            limit = None if self.end is not None else MAX_SECONDS  # a longer cut is refused when its log-mel is made
            cut = load_audio(self.path, max_seconds=limit, start=self.start or 0.0, end=self.end)
        except AudioError as error:
            if not self.path.startswith("data:"):
                raise
            raise AudioError(f"{self.name}: {error}") from error
        said = cut if self.speed == 1.0 else load_audio((cut, round(SAMPLE_RATE * self.speed)))
        return said if self.effects is None else self.effects.apply(said, self._seed())

    def _seed(self) -> str:
        """The take, told apart from other clips' by what does not change when a corpus moves to another folder."""
        held = self.path.startswith("data:")
        own = hashlib.sha1(self.path.encode()).hexdigest() if held else Path(self.path).name
        return f"{self.take}/{own}/{self.start}/{self.end}/{self.speed}"


class Features(Protocol):
    """Where the encoder frames of clips come from: a `FeatureStore`, or `OnTheFly`."""

    width: int

    def holds(self, clip: Clip) -> bool:
        """Whether the clip's frames can be had; on the fly that shows when its turn comes."""
        ...

    def frames(self, clips: Sequence[Clip]) -> list[np.ndarray | None]:
        """(F_i, E) float16 frames of each clip; None for one that cannot be read."""
        ...


class FeatureStore:
    """Rows of encoder frames by clip key.

    Args:
        folder: where `frames.f16`, `index.jsonl` and `store.json` live; made when missing.
        width: E.
        describes: what made the frames (encoder, window); a store made otherwise is refused.

    Raises:
        TrainingError: the folder holds features of another encoder or window.
    """

    def __init__(self, folder: Path, width: int, describes: dict[str, object]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.width = folder, width
        description = {"width": width, **describes}
        note = folder / "store.json"
        kept = note.read_text(encoding="utf-8").strip() if note.is_file() else json.dumps(description)
        if json.loads(kept) != description:
            raise TrainingError(
                f"{folder} holds features of {kept}, but {json.dumps(description)} is wanted; "
                "choose another feature folder or delete this one."
            )
        self.index: dict[str, tuple[int, int]] = {}
        self._map: np.ndarray | None = None
        self._keys: dict[Clip, str] = {}
        self.lock = FileLock(folder / "store.lock")  # one writer at a time
        with self.lock:
            if not note.is_file():
                write_text(note, json.dumps(description) + "\n")
            self._load_index()

    def _load_index(self) -> None:
        """Reads the index and cuts off what an interrupted run left half-written."""
        frames, index = self.folder / "frames.f16", self.folder / "index.jsonl"
        rows = frames.stat().st_size // (2 * self.width) if frames.is_file() else 0
        good = 0
        for line in index.read_bytes().splitlines(keepends=True) if index.is_file() else []:
            try:
                key, start, count = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or start + count > rows:
                break
            self.index[key] = (start, count)
            good += len(line)
        if index.is_file() and good < index.stat().st_size:
            os.truncate(index, good)

    def add(self, keys: Sequence[str], frames: Sequence[np.ndarray]) -> None:
        """Appends (F_i, E) frames; the index line is written after its rows are."""
        path = self.folder / "frames.f16"
        with self.lock, path.open("ab") as rows, (self.folder / "index.jsonl").open("a", encoding="utf-8") as index:
            start = rows.tell() // (2 * self.width)
            if rows.tell() % (2 * self.width):  # half a row of an interrupted run
                rows.truncate(start * 2 * self.width)
                rows.seek(0, 2)
            lines = []
            for key, value in zip(keys, frames, strict=True):
                rows.write(np.ascontiguousarray(value, dtype=np.float16).tobytes())
                self.index[key] = (start, len(value))
                lines.append(json.dumps([key, start, len(value)]) + "\n")
                start += len(value)
            rows.flush()
            index.writelines(lines)
        self._map = None

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def key_of(self, clip: Clip) -> str:
        """The clip's key, looked up once: once its frames are stored, a run does not need the file any more."""
        if clip not in self._keys:
            self._keys[clip] = clip.key()
        return self._keys[clip]

    def holds(self, clip: Clip) -> bool:
        """Whether the clip was stored."""
        return self.key_of(clip) in self

    def rows(self, key: str) -> int:
        """Number of encoder frames of a clip."""
        return self.index[key][1]

    def read(self, key: str) -> np.ndarray:
        """(F, E) float16 frames of a clip."""
        if self._map is None:
            path = self.folder / "frames.f16"
            rows = path.stat().st_size // (2 * self.width)  # without half a row of an interrupted run
            self._map = np.memmap(path, dtype=np.float16, mode="r", shape=(rows, self.width))
        start, count = self.index[key]
        return self._map[start : start + count]

    def frames(self, clips: Sequence[Clip]) -> list[np.ndarray | None]:
        """(F_i, E) float16 frames of each clip."""
        return [self.read(self.key_of(clip)) for clip in clips]


class OnTheFly:
    """Encoder frames that are computed when a batch is made, for data whose features no disk holds.

    Args:
        tower: the encoder; it stays on its device.
        processor: makes the log-mel.
        on_bad: called for a clip that cannot be read.
    """

    def __init__(
        self, tower: WhisperEncoder, processor: SoundwaveProcessor, on_bad: Callable[[Clip, SoundwaveError], None]
    ):
        self.tower, self.processor, self.on_bad = tower, processor, on_bad
        self.width = int(tower.config.d_model)

    def holds(self, clip: Clip) -> bool:
        """True: a clip is opened when its turn comes."""
        return True

    def frames(self, clips: Sequence[Clip]) -> list[np.ndarray | None]:
        """(F_i, E) float16 frames of each clip; None for one that cannot be read."""
        good, mels = _good(_mels(list(dict.fromkeys(clips)), self.processor), self.on_bad)
        encoded: dict[Clip, np.ndarray] = {}
        for start in range(0, len(good), ENCODED_AT_ONCE):
            part = slice(start, start + ENCODED_AT_ONCE)
            encoded.update(zip(good[part], encode_mels(self.tower, mels[part]), strict=True))
        return [encoded.get(clip) for clip in clips]


def fill_store(
    store: FeatureStore,
    clips: Iterable[tuple[Clip, float]],
    tower: WhisperEncoder,
    processor: SoundwaveProcessor,
    progress: Callable[[int, int], None] | None = None,
    on_bad: Callable[[Clip, SoundwaveError], None] | None = None,
    readers: int = 1,
) -> None:
    """Encodes what the store lacks, in batches of similar length, while the next ones are read.

    Args:
        store: to add to.
        clips: clips with their duration in seconds (for batching).
        tower: the encoder, on its device and in its dtype.
        processor: makes the log-mel.
        progress: called with (clips done, clips in all).
        on_bad: called for a clip that cannot be read; None: the error is raised.
        readers: processes that decode audio; 1: a thread does. The rows are the same, in the same order.
    """
    missing = sorted(((c, d) for c, d in clips if c.key() not in store), key=lambda pair: pair[1])
    batches: list[list[Clip]] = []
    room = 0.0
    for clip, duration in missing:
        if not batches or room < duration:
            batches.append([])
            room = BATCH_SECONDS
        batches[-1].append(clip)
        room -= duration
    done = 0
    for batch, read in zip(batches, _read_ahead(batches, processor, min(readers, len(batches))), strict=True):
        good, mels = _good(read, on_bad)
        if good:
            store.add([clip.key() for clip in good], encode_mels(tower, mels))
        done += len(batch)
        if progress:
            progress(done, len(missing))


Read = list[tuple[Clip, np.ndarray | SoundwaveError]]  # each clip's log-mel, or why there is none


def _read_ahead(batches: list[list[Clip]], processor: SoundwaveProcessor, readers: int) -> Iterator[Read]:
    """Each batch as `_mels` reads it; a few more than are asked for are read meanwhile."""
    pool: Executor
    if readers > 1:  # spawned: a CUDA context does not survive a fork
        pool = ProcessPoolExecutor(readers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))
    else:
        pool = ThreadPoolExecutor(1)
    with pool:
        waiting: deque[Future[Read]] = deque()
        for batch in batches:
            waiting.append(pool.submit(_mels, batch, processor))
            if len(waiting) > 2 * readers - 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _mels(batch: list[Clip], processor: SoundwaveProcessor) -> Read:
    read: Read = []
    for clip in batch:
        try:
            read.append((clip, processor.log_mel(clip.samples())))
        except (AudioError, ConfigurationError) as error:  # the latter: over 30 s, whatever the manifest says
            read.append((clip, error))
    return read


def _good(
    read: Read, on_bad: Callable[[Clip, SoundwaveError], None] | None
) -> tuple[list[Clip], list[np.ndarray]]:
    """The clips that could be read, and their log-mels; the others go to `on_bad`, or are raised without it."""
    good, mels = [], []
    for clip, mel in read:
        if not isinstance(mel, SoundwaveError):
            good.append(clip)
            mels.append(mel)
        elif on_bad is None:
            raise mel
        else:
            on_bad(clip, mel)
    return good, mels


@torch.no_grad()
def encode_mels(tower: WhisperEncoder, mels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log-mels (M, T_i) to encoder frames (T_i / 2, E), float16."""
    longest = max(mel.shape[1] for mel in mels)
    batch = torch.zeros(len(mels), mels[0].shape[0], longest)
    mask = torch.zeros(len(mels), longest, dtype=torch.bool)
    for i, mel in enumerate(mels):
        batch[i, :, : mel.shape[1]] = torch.from_numpy(mel)
        mask[i, : mel.shape[1]] = True
    device, dtype = tower.conv1.weight.device, tower.conv1.weight.dtype
    frames = encode_window(tower, batch.to(device, dtype), None if mask.all() else mask.to(device))
    values = frames.clamp(-LARGEST, LARGEST).to("cpu", torch.float16).numpy()
    return [values[i, : mel.shape[1] // 2] for i, mel in enumerate(mels)]
