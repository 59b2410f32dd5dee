"""What visitors of the page gave and got: each one's own, under names that nobody can guess, and gone afterwards.

It knows recordings, transcripts and conversations, and nothing of the page.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
import wave
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soundwave.audio import SAMPLE_RATE, AudioInput, load_audio
from soundwave.inference.results import Transcript
from soundwave.inference.subtitles import TranscriptFormat, format_transcript

DOWNLOADS: tuple[TranscriptFormat, ...] = ("srt", "vtt", "txt", "json")
LONGEST_STEM = 60  # characters of a file's name
LOUDEST = 32767  # of 16-bit samples


@dataclass(frozen=True)
class Recording:
    """A recording as the model hears it: 16 kHz, one channel. The browser plays this, so words and sound agree.

    Attributes:
        name: what the visitor knows it as.
        folder: holds it and its transcripts, and nothing else.
        seconds: its length.
    """

    name: str
    folder: Path
    seconds: float

    @property
    def sound(self) -> Path:
        return self.folder / "recording.wav"

    def download(self, form: TranscriptFormat) -> Path:
        """Where its transcript lies in a format, once `write_downloads` has been called; named after the recording."""
        stem = re.sub(r"[^\w-]+", "_", Path(self.name).stem).strip("_")[:LONGEST_STEM]
        return self.folder / f"{stem or 'recording'}.{form}"

    def write_downloads(self, transcript: Transcript) -> None:
        for form in DOWNLOADS:
            self.download(form).write_text(format_transcript(transcript, form), encoding="utf-8")

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def keep(source: AudioInput, name: str, parent: Path, max_seconds: float) -> Recording:
    """Decodes a recording and keeps it in a folder of its own.

    Raises:
        AudioError: it cannot be used.
        AudioTooLongError: it is longer than `max_seconds`.
    """
    samples = load_audio(source, max_seconds=max_seconds)
    folder = parent / secrets.token_urlsafe(24)  # whoever knows the name may read it
    folder.mkdir(mode=0o700)
    recording = Recording(name, folder, len(samples) / SAMPLE_RATE)
    with closing(new_wave(recording.sound, SAMPLE_RATE)) as file:
        file.writeframes((np.clip(samples, -1, 1) * LOUDEST).astype("<i2").tobytes())
    return recording


def new_wave(path: Path, rate: int) -> wave.Wave_write:
    """A file for 16-bit samples of one channel; whoever asked for it closes it."""
    file = wave.open(str(path), "wb")  # noqa: SIM115
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    return file


@dataclass
class Visit:
    """One visitor.

    Attributes:
        recording, transcript: what is on the page.
        messages: the conversation, as `Engine.chat_stream` reads it.
        stopped: is set when what runs for the visitor should end.
        gone: the visitor is, and what still runs may leave nothing.
        used: when it was last needed, by the store's clock.
    """

    recording: Recording | None = None
    transcript: Transcript | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    gone: bool = False
    used: float = 0.0

    def forget(self) -> None:
        """Ends what runs, and removes what was given."""
        self.stopped.set()
        if self.recording is not None:
            self.recording.forget()
        self.recording, self.transcript, self.messages = None, None, []


class Visits:
    """All visitors, by the name of their session.

    Args:
        keep_seconds: a visit without a request for so long is forgotten.
        clock: gives seconds.
    """

    def __init__(self, keep_seconds: float, clock: Callable[[], float] = time.monotonic):
        self._keep, self._clock = keep_seconds, clock
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, session: str) -> Visit:
        """A visitor's own; a new one where the session is new."""
        with self._lock:
            visit = self._visits.setdefault(session, Visit())
            visit.used = self._clock()
            return visit

    def end(self, session: str) -> None:
        """The page was closed."""
        with self._lock:
            visit = self._visits.pop(session, None)
        if visit is not None:
            visit.gone = True
            visit.forget()

    def sweep(self) -> None:
        """Forgets those who have not been seen for long: a browser that dies says nothing."""
        oldest = self._clock() - self._keep
        with self._lock:
            gone = [session for session, visit in self._visits.items() if visit.used < oldest]
        for session in gone:
            self.end(session)

    def __len__(self) -> int:
        return len(self._visits)
