"""What visitors are saying: sound comes in pieces and captions go back; at the end there is a recording.

A browser sends the next piece when the captions of the last one are there, so a slow machine gets longer pieces, never
a queue. It knows nothing of browsers and pages.
"""

from __future__ import annotations

import secrets
import threading
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from soundwave.errors import AudioTooLongError, SoundwaveError
from soundwave.inference.captions import Event, LiveSession
from soundwave.inference.engine import Engine
from soundwave.serving.demo.visits import new_wave

FORGOTTEN_AFTER = 60.0  # seconds without a piece: the visitor is gone
IN_TIME = 1.0  # seconds of sound in a piece; of a longer one only the end is captioned at every step
LATEST = 0.4  # seconds: that end


@dataclass
class _Listening:
    """A recording under way."""

    session: LiveSession
    file: wave.Wave_write
    path: Path
    rate: int
    used: float
    count: int = 0  # samples so far
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        self.session.close()
        self.file.close()


class Microphones:
    """Recordings under way, by names that only those who began them know.

    Args:
        engine: finds the words.
        folder: where the sound is kept until it is fetched.
        max_seconds: of a recording.
        at_once: most of them at the same time.
        clock: gives seconds.
    """

    def __init__(
        self, engine: Engine, folder: Path, max_seconds: float, at_once: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._engine, self._folder, self._max_seconds, self._at_once = engine, folder, max_seconds, at_once
        self._clock = clock
        self._open: dict[str, _Listening] = {}
        self._done: dict[str, tuple[Path, float]] = {}
        self._lock = threading.Lock()

    def begin(self, rate: int) -> str:
        """A new recording's name.

        Args:
            rate: of its samples, in Hz.

        Raises:
            AudioError: a rate that no speech has.
            SoundwaveError: as many as are allowed are recorded already.
        """
        self.sweep()
        if len(self._open) >= self._at_once:
            raise SoundwaveError(
                f"{self._at_once} visitors are recording now, and no more can at once; wait a minute, or upload a file."
            )
        session = self._engine.listen(sampling_rate=rate)
        name = secrets.token_urlsafe(24)
        path = self._folder / f"{name}.wav"
        with self._lock:
            self._open[name] = _Listening(session, new_wave(path, rate), path, rate, self._clock())
        return name

    def feed(self, name: str, samples: np.ndarray) -> list[Event]:
        """Takes the next (T,) 16-bit samples in, and says what is new in the captions.

        Raises:
            AudioTooLongError: the recording is as long as it may be; it can still be ended.
            SoundwaveError: there is no such recording under way.
        """
        listening = self._named(name)
        with listening.lock:
            listening.used = self._clock()
            room = round(self._max_seconds * listening.rate) - listening.count
            if room <= 0:
                raise AudioTooLongError(
                    f"{self._max_seconds:g} seconds are recorded, and no more are allowed.", None,
                    self._max_seconds,
                )
            samples = samples[:room]
            listening.count += len(samples)
            listening.file.writeframes(samples.astype("<i2").tobytes())
            latest = round(LATEST * listening.rate)
            if len(samples) <= IN_TIME * listening.rate:
                return listening.session.feed(samples)
            late = listening.session.feed(samples[:-latest], behind=len(samples) / listening.rate)
            return late + listening.session.feed(samples[-latest:])

    def end(self, name: str) -> list[Event]:
        """No more comes: the rest of the captions. The sound waits for `fetch`.

        Raises:
            SoundwaveError: there is no such recording under way.
        """
        listening = self._named(name)
        with listening.lock:
            with self._lock:
                self._open.pop(name, None)
            events = listening.session.finish()
            listening.close()
            with self._lock:
                self._done[name] = listening.path, self._clock()
        return events

    def fetch(self, name: str) -> Path:
        """The file of a recording that has ended; it is the caller's now.

        Raises:
            SoundwaveError: there is no such recording.
        """
        with self._lock:
            found = self._done.pop(name, None)
        if found is None:
            raise SoundwaveError("this recording is not here any more; record it again.")
        return found[0]

    def sweep(self) -> None:
        """Forgets what nobody has sent to, or fetched, for a minute."""
        oldest = self._clock() - FORGOTTEN_AFTER
        with self._lock:
            gone = [self._open.pop(name) for name in list(self._open) if self._open[name].used < oldest]
            left = [self._done.pop(name)[0] for name in list(self._done) if self._done[name][1] < oldest]
        for listening in gone:
            with listening.lock:
                listening.close()
        for path in [*left, *(listening.path for listening in gone)]:
            path.unlink(missing_ok=True)

    def _named(self, name: str) -> _Listening:
        with self._lock:
            listening = self._open.get(name)
        if listening is None:
            raise SoundwaveError("this recording has ended; begin another.")
        return listening
