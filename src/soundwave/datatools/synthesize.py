"""Texts to clips of synthetic speech and their manifest: seeded, several at once, and going on where it was stopped.

Each clip's voice, speed and pitch follow from the seed and the text's position alone, so the same texts and settings
give the same clips in any number of runs and jobs (piper: its noise follows from the order within one run).
Knows nothing about which texts are worth speaking.
"""

from __future__ import annotations

import multiprocessing
import random
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from soundwave.audio import SAMPLE_RATE
from soundwave.data.manifests import numbered_lines
from soundwave.data.noise import NOISE_SLOPES, with_noise
from soundwave.datatools.voices import OWN_RANGES, Range, Ranges, Take, draw_take, speak
from soundwave.errors import DataError
from soundwave.files import JsonLines, decode_line, decode_text

SHORTEST, LONGEST = 0.4, 20.0  # seconds; clips outside are dropped
QUIET = 1e-3  # a clip whose loudest sample is below this holds no speech
LOUDEST = 0.95


@dataclass(frozen=True)
class Line:
    """One text to be spoken, what its row in the manifest states beside it, and how it is spoken; None: as drawn."""

    text: str
    fields: dict[str, Any] = field(default_factory=dict)
    take: Take | None = None


@dataclass(frozen=True)
class Noise:
    """Noise in a share of the clips, so many decibels quieter than the speech."""

    decibels: Range
    share: float = 1.0


@dataclass(frozen=True)
class Clip:
    """One clip to be made: its place in the plan, what is said, how, and the seed of what is random in it."""

    index: int
    line: Line
    take: Take
    seed: int
    noise: Noise | None

    @property
    def name(self) -> str:
        return f"{self.index:06d}.flac"


@dataclass
class Made:
    """What a run did: clips made now, clips of earlier runs, dropped ones, and seconds in all."""

    clips: int = 0
    before: int = 0
    dropped: int = 0
    seconds: float = 0.0


def record(text: str, take: Take, seed: int, audio: Path, noise: Noise | None = None) -> float:
    """Speaks one text into a FLAC file (16 kHz, mono); gives its length in seconds.

    Raises:
        RuntimeError: no usable speech came out.
    """
    samples = speak(text, take, seed)
    seconds = len(samples) / SAMPLE_RATE
    peak = float(np.abs(samples).max(initial=0.0))
    if not SHORTEST <= seconds <= LONGEST or peak < QUIET:
        raise RuntimeError(f"{seconds:.2f} s with a peak of {peak:.4f} is no usable clip")
    draw = random.Random(f"{seed}/noise")
    if noise and draw.random() < noise.share:
        rng = np.random.default_rng(seed)
        samples = with_noise(samples, draw.uniform(*noise.decibels), draw.choice(list(NOISE_SLOPES)), rng)
        peak = float(np.abs(samples).max())
    if peak > LOUDEST:
        samples = samples * (LOUDEST / peak)
    soundfile.write(audio, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return seconds


def synthesise(
    lines: Iterable[Line], out: Path, voices: Sequence[str], *, hours: float | None = None, seed: int = 0,
    jobs: int = 1, ranges: Ranges = OWN_RANGES, noise: Noise | None = None,
    progress: Callable[[Made], None] | None = None, on_dropped: Callable[[Clip, Exception], None] | None = None,
) -> Made:
    """Speaks texts in their order until there are enough hours.

    Args:
        lines: what to say.
        out: folder for the clips and `manifest.jsonl`, to which a row is added as each clip is done.
        voices: names as in `voices.py`; one is drawn for each clip whose line has no take of its own.
        hours: stop when there is this much audio; None: say everything.
        seed: fixes voices, speeds, pitches and noise.
        jobs: clips that are made at once.
        ranges: from what speeds and pitches are drawn.
        noise: what is mixed in.
        progress: called after each clip that was made.
        on_dropped: called for a text that gave no usable clip.
    """
    clips = (_clip(index, line, voices, seed, ranges, noise) for index, line in enumerate(lines))
    with JsonLines(out / "manifest.jsonl") as rows, _pool(jobs, voices) as pool:
        done = {row["audio"]: row["duration"] for row in rows.earlier}
        totals = Made(before=len(done))
        results = _in_order(clips, out, done, pool, jobs)
        for clip, result in results:
            if hours is not None and totals.seconds >= hours * 3600:
                results.close()
                break
            try:
                seconds = result()
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                totals.dropped += 1
                if on_dropped:
                    on_dropped(clip, error)
                continue
            totals.seconds += seconds
            if clip.name in done:
                continue
            row = {"audio": clip.name, "text": clip.line.text, "duration": round(seconds, 3)}
            rows.add(row | {"speaker": clip.take.speaker, **clip.line.fields})
            totals.clips += 1
            if progress:
                progress(totals)
    return totals


def _clip(
    index: int, line: Line, voices: Sequence[str], seed: int, ranges: Ranges, noise: Noise | None
) -> Clip:
    rng = random.Random(f"{seed}/{index}")
    take = line.take or draw_take(rng.choice(voices), rng, ranges)
    return Clip(index, line, take, rng.getrandbits(31), noise)


def _pool(jobs: int, voices: Sequence[str]) -> Any:
    """Threads where a program of its own does the work; processes for piper, which is not safe in threads."""
    if jobs <= 1:
        return nullcontext()
    if any(voice.startswith("piper:") for voice in voices):
        return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    return ThreadPoolExecutor(jobs)


def _in_order(
    clips: Iterator[Clip], out: Path, done: dict[str, float], pool: Executor | None, jobs: int
) -> Any:
    """Clips in their order, each with a function that gives its seconds; a few are begun ahead of that."""
    ahead: deque[tuple[Clip, Callable[[], float]]] = deque()
    begun: dict[str, Future[float]] = {}
    try:
        for clip in clips:
            ahead.append((clip, _begin(clip, out, done, pool, begun)))
            if len(ahead) > (2 * jobs if pool else 0):
                yield _taken(ahead, begun)
        while ahead:
            yield _taken(ahead, begun)
    finally:  # stopped: what was begun and is not wanted leaves nothing behind
        for name, future in begun.items():
            if not future.cancel():
                future.exception()  # waits
            (out / name).unlink(missing_ok=True)


def _taken(
    ahead: deque[tuple[Clip, Callable[[], float]]], begun: dict[str, Future[float]]
) -> tuple[Clip, Callable[[], float]]:
    clip, result = ahead.popleft()

    def wanted() -> float:
        begun.pop(clip.name, None)
        return result()

    return clip, wanted


def _begin(
    clip: Clip, out: Path, done: dict[str, float], pool: Executor | None, begun: dict[str, Future[float]]
) -> Callable[[], float]:
    if clip.name in done:
        return lambda: done[clip.name]
    work = (clip.line.text, clip.take, clip.seed, out / clip.name, clip.noise)
    if pool is None:
        return lambda: record(*work)
    begun[clip.name] = pool.submit(record, *work)
    return begun[clip.name].result


def read_lines(paths: Iterable[Path], name: str = "text") -> Iterator[Line]:
    """The texts of files, each once: one a line in a .txt, or the field `name` of JSON lines (plain or .gz).

    The fields `language`, `kind`, `task`, `licence` and `source` of a JSON line go on into the manifest.

    Raises:
        DataError: no such file, or a line without that field.
    """
    seen: set[str] = set()
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file of texts; give a .txt, or JSON lines with the field {name!r}.")
        plain = path.suffix == ".txt"
        for number, raw in numbered_lines(path):
            where = f"{path}:{number}"
            if not raw.strip():
                continue
            row = {name: decode_text(raw, where)} if plain else decode_line(raw, where)
            text = row.get(name) if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise DataError(f"{where}: no text in the field {name!r}; --field names another one.")
            text = " ".join(text.split())
            if text and text not in seen:
                seen.add(text)
                carried = ("language", "kind", "task", "licence", "source")
                yield Line(text, {key: row[key] for key in carried if row.get(key) is not None})
