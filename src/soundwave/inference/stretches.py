"""Recordings of any length as stretches that the speech encoder takes, read ahead in a thread of their own.

A recording of at most 30 s is one stretch, whole; a longer one is cut by `SpeechCutter` while it is decoded, so that
memory does not grow with it. It knows nothing of models, words or files of results.
"""

from __future__ import annotations

import queue
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from soundwave.audio import SAMPLE_RATE, AudioInput, iter_audio
from soundwave.audio.cutting import SpeechCutter, Stretch
from soundwave.audio.mixing import Samples
from soundwave.errors import SoundwaveError
from soundwave.inference.options import AudioOptions

LONGEST_SECONDS = 30.0  # of a stretch; a recording up to this is not cut
FED_SECONDS = 1.0  # of sound at a time, so that nearly every stretch has a mark of its own
MARKED_SECONDS = 60.0  # of silence after which a run that goes on need not listen to it again
ENDING_SECONDS = 2.0  # before a recording's end, resampling and mixing may depend on it
JOIN_SECONDS = 2.0  # waited for a thread that reads a pipe in which nothing comes

Damage = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Mark:
    """A place in a channel of a recording from which another run may go on; what is before it is done.

    Attributes:
        channel: from 0.
        position: in samples at 16 kHz from where reading began; there a cutter begins anew.
        reached: where the last stretch ended.
        seam: in seconds of the recording: words before it are in the last stretch, words after it in the next.
        sound: CRC-32 of the samples before `position`, as float32.
    """

    channel: int = 0
    position: int = 0
    reached: int = 0
    seam: float | None = None
    sound: int = 0


@dataclass(frozen=True)
class Listening:
    """A recording to be written down.

    Attributes:
        audio: what it is.
        sound: which sound of it.
        damage: whether a recording that cannot be decoded everywhere is refused, or silence stands there.
        marks: where an earlier run stopped, by channel; none: from the beginning.
        opened: what the function of that name gave for it, where that was called already.
    """

    audio: AudioInput
    sound: AudioOptions = field(default_factory=AudioOptions)
    damage: Damage = "refuse"
    marks: dict[int, Mark] = field(default_factory=dict)
    opened: tuple[Samples | None, Iterator[Samples]] | None = None


@dataclass(frozen=True, eq=False)
class Heard:
    """A stretch of a recording (its number among those given), or None: silence up to the mark.

    Attributes:
        mark: where one may go on after it; None: not before the next.
        ending: the recording's end may have shaped it: were it longer, it could be cut otherwise.
    """

    recording: int
    channel: int
    stretch: Stretch | None
    mark: Mark | None
    ending: bool = False


@dataclass(frozen=True)
class Warned:
    """What is not as it should be in a recording; a `Lost` where sound is lost."""

    recording: int
    text: str


@dataclass(frozen=True)
class Ended:
    """A recording was read to its end; its length, from where reading began, and its channels."""

    recording: int
    seconds: float
    channels: int


@dataclass(frozen=True)
class Failed:
    """A recording cannot be used."""

    recording: int
    error: SoundwaveError


Event = Heard | Warned | Ended | Failed
NewCutter = Callable[[int, int], SpeechCutter]  # of the position where it is fed from, and what was reached before


def new_cutter(position: int, reached: int) -> SpeechCutter:
    """As recordings are cut for transcripts."""
    return SpeechCutter(first=position, reached=reached)


def opened(
    audio: AudioInput, sound: AudioOptions, damage: Damage = "refuse", warn: Callable[[str], None] | None = None,
    skip: int = 0,
) -> tuple[Samples | None, Iterator[Samples]]:
    """A recording's samples where it is not longer than a stretch, and else None and its blocks.

    Args:
        audio, sound, damage, warn: what is read, and how.
        skip: samples after the start that are left out; then it is a longer one.

    Returns:
        (rows, T) float32 at 16 kHz, and blocks of the same shape; the rows are channels, or one that is their mix.

    Raises:
        AudioError: it cannot be used.
    """
    arguments = sound.arguments()
    arguments["start"] += skip / SAMPLE_RATE
    blocks = iter_audio(audio, LONGEST_SECONDS, **arguments, damage=damage, on_warning=warn)
    rows = (block if block.ndim == 2 else block[None] for block in blocks)
    if skip:
        return None, rows
    first = next(rows)
    second = next(rows, None)
    return (first, iter(())) if second is None else (None, chain([first, second], rows))


def events_of(recordings: Sequence[Listening], cutter: NewCutter) -> Iterator[Event]:
    """What is heard in recordings, one after the other; an error ends one and not the others."""
    for number, one in enumerate(recordings):
        warned: list[str] = []
        try:
            for event in _events(number, one, cutter, warned.append):
                yield from (Warned(number, text) for text in _taken(warned))
                yield event
        except SoundwaveError as error:
            yield from (Warned(number, text) for text in _taken(warned))
            yield Failed(number, error)


def _taken(texts: list[str]) -> list[str]:
    taken = texts[:]
    texts.clear()
    return taken


def _events(number: int, one: Listening, cutter: NewCutter, warn: Callable[[str], None]) -> Iterator[Event]:
    marked = min((mark.position for mark in one.marks.values()), default=0)
    skip = max(0, marked - SAMPLE_RATE)  # a second is read again: at the very end there would be nothing to read
    whole, blocks = one.opened or opened(one.audio, one.sound, one.damage, warn, skip)
    if whole is not None:
        for channel, row in enumerate(whole):
            yield Heard(number, channel, Stretch(0, row), Mark(channel, row.size, row.size), ending=True)
        yield Ended(number, whole.shape[1] / SAMPLE_RATE, len(whole))
        return
    listeners: list[_Listener] = []
    position, step = skip, round(FED_SECONDS * SAMPLE_RATE)
    for block, ending in _with_ending(blocks):
        if not listeners:
            marks = [one.marks.get(channel, Mark(channel)) for channel in range(len(block))]
            listeners = [_Listener(number, mark, cutter) for mark in marks]
        for begin in range(0, block.shape[1], step):
            for listener, row in zip(listeners, block, strict=True):
                yield from listener.feed(row[begin : begin + step], position + begin, ending)
        position += block.shape[1]
    for listener in listeners:
        yield from listener.finish()
    yield Ended(number, position / SAMPLE_RATE, len(listeners))


def _with_ending(blocks: Iterator[Samples]) -> Iterator[tuple[Samples, bool]]:
    """Blocks, and whether the end of the recording may have a part in their samples; only the last one is short."""
    block = next(blocks, None)
    while block is not None:
        following = next(blocks, None)
        yield block, following is None or following.shape[1] < ENDING_SECONDS * SAMPLE_RATE
        block = following


class _Listener:
    """One channel of one recording on its way through a cutter."""

    def __init__(self, recording: int, mark: Mark, cutter: NewCutter):
        self.recording, self.mark = recording, mark
        self._cutter = cutter(mark.position, mark.reached)
        self._hash = SoundHash(mark.position, mark.sound)

    def feed(self, samples: Samples, position: int, ending: bool = False) -> Iterator[Heard]:
        """Takes samples in that stand at a position; those before the mark are known already."""
        samples = samples[max(0, self.mark.position - position) :] if position < self.mark.position else samples
        if not samples.size:
            return
        self._hash.add(samples)
        stretches = self._cutter.feed(samples)
        if not stretches and self._cutter.position - self.mark.position < MARKED_SECONDS * SAMPLE_RATE:
            return
        yield from self._heard(stretches, self._cutter.position, ending)

    def finish(self) -> Iterator[Heard]:
        """The last stretches, up to the end of the sound."""
        stretches = self._cutter.finish()
        yield from self._heard(stretches, self._cutter.position, ending=True)

    def _heard(self, stretches: list[Stretch], position: int, ending: bool = False) -> Iterator[Heard]:
        channel = self.mark.channel
        self.mark = Mark(channel, position, self._cutter.reached, None, self._hash.upto(position))
        for stretch in stretches[:-1]:
            yield Heard(self.recording, channel, stretch, None, ending)
        yield Heard(self.recording, channel, stretches[-1] if stretches else None, self.mark, ending)


def unshared(events: Iterable[Event]) -> Iterator[Samples | Ended | Failed]:
    """The sound of the stretches of one recording, no part of it twice: what two share is parted at its middle."""
    waiting: Samples | None = None
    for event in events:
        if isinstance(event, Heard) and event.stretch is not None:
            samples, shared = event.stretch.samples, event.stretch.overlap
            if waiting is not None:
                yield waiting[: len(waiting) - (shared - shared // 2)]
            waiting = samples[shared // 2 :]
        elif isinstance(event, Ended | Failed):
            if waiting is not None:
                yield waiting
            yield event


class SoundHash:
    """CRC-32 of a channel's samples up to a position; what is fed beyond it waits.

    Args:
        position: where feeding begins.
        value: of all samples before.
    """

    def __init__(self, position: int = 0, value: int = 0):
        self.position, self.value = position, value
        self._waiting: deque[Samples] = deque()

    def add(self, samples: Samples) -> None:
        """Takes the next samples in."""
        self._waiting.append(samples)

    def upto(self, position: int) -> int:
        """Of all samples before a position; it lies in what was fed, and not before the last one asked for."""
        while self.position < position:
            samples = self._waiting.popleft()
            part = samples[: position - self.position]
            self.value = zlib.crc32(part.astype("<f4").tobytes(), self.value)
            self.position += part.size
            if part.size < samples.size:
                self._waiting.appendleft(samples[part.size :])
        return self.value


def read_ahead(
    recordings: Sequence[Listening], cutter: NewCutter, at_once: int
) -> Generator[list[Event], None, None]:
    """What is heard, in lists with at most `at_once` stretches; decoded and cut in a thread that runs a little ahead.

    Closing it ends the thread.
    """
    waiting: queue.Queue[Event | BaseException | None] = queue.Queue(2 * at_once + 2)
    stop = threading.Event()

    def put(event: Event | BaseException | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(event, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            with closing(events_of(recordings, cutter)) as events:  # type: ignore[type-var]
                for event in events:
                    put(event)
                    if stop.is_set():
                        return
            put(None)
        except BaseException as error:  # raised again where the events are read
            put(error)

    thread = threading.Thread(target=read, name="soundwave-reader", daemon=True)
    thread.start()
    try:
        yield from _batches(waiting, at_once)
    finally:
        stop.set()
        thread.join(JOIN_SECONDS)


def _batches(waiting: queue.Queue[Event | BaseException | None], at_once: int) -> Iterator[list[Event]]:
    """All that waits, up to `at_once` stretches; at least one event."""
    over = False
    while not over:
        events: list[Event] = []
        count = 0
        while count < at_once:
            try:
                event = waiting.get(block=not events)
            except queue.Empty:
                break
            if isinstance(event, BaseException):
                raise event
            if event is None:
                over = True
                break
            events.append(event)
            count += isinstance(event, Heard) and event.stretch is not None
        if events:
            yield events
