"""Where live sound comes from: the microphone, a recording at the speed at which it was made, raw samples on a pipe.

Each gives pieces of sound, and says how much more has come since and waits: what a slow machine needs to know to catch
up. It knows nothing of captions.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from soundwave.errors import SoundwaveError

if TYPE_CHECKING:
    import numpy as np

    from soundwave.audio import AudioInput

    Heard = Iterator[tuple[np.ndarray, float]]  # samples, and the seconds of sound that wait behind them

PIECE_SECONDS = 0.08  # of sound in a piece: half a step of captions
READ_AHEAD = 750  # pieces, a minute: a pipe whose writer may not wait is emptied at once
LOOK_EVERY = 0.1  # seconds after which somebody who waits for sound looks whether Ctrl-C was pressed
SAMPLE_BYTES = 2  # of raw samples: 16 bits, the low byte first
INSTALL_PORTAUDIO = "on Debian and Ubuntu: sudo apt install libportaudio2"


def recording(source: AudioInput, stop: threading.Event, fast: bool) -> Heard:
    """A recording at 16 kHz, as if it were spoken now; `fast`: as fast as it can be worked on."""
    from soundwave.audio import SAMPLE_RATE, iter_audio

    pieces = iter_audio(source, PIECE_SECONDS)
    return _unpaced(pieces, stop) if fast else _paced(pieces, SAMPLE_RATE, stop)


def raw(stream: BinaryIO, rate: int, stop: threading.Event, fast: bool) -> Heard:
    """Raw 16-bit samples of one channel; `fast`: as fast as they can be worked on, else never faster than spoken."""
    pieces = _read_ahead(_raw_pieces(stream, rate), stop)
    return _unpaced(pieces, stop) if fast else _paced(pieces, rate, stop)


class Microphone:
    """The sound of a microphone, from now on.

    Args:
        name: a part of its name, or its number; None: the system's usual one.
        stop: is set when nobody wants to hear more.

    Attributes:
        rate: of its samples, in Hz.

    Raises:
        ModuleNotFoundError: the package sounddevice is not installed.
        SoundwaveError: PortAudio is missing, or there is no such microphone.
    """

    def __init__(self, name: str | None, stop: threading.Event):
        try:
            import sounddevice
        except OSError as error:  # the package is there, the library below it is not
            raise SoundwaveError(f"the library PortAudio is missing; {INSTALL_PORTAUDIO}.") from error
        self._stop, self._pieces = stop, queue.Queue[Any]()
        device = int(name) if name is not None and name.isdigit() else name
        try:
            self.rate = _rate_of(sounddevice, device)
            self._stream = sounddevice.InputStream(
                self.rate, round(self.rate * PIECE_SECONDS), device, 1, "float32", callback=self._take
            )
        except (ValueError, sounddevice.PortAudioError) as error:
            named = "no microphone was found" if name is None else f"there is no microphone {name!r}"
            raise SoundwaveError(
                f"{named} ({' '.join(str(error).split())}); plug one in, name another with --microphone, or give a "
                "recording: soundwave live FILE."
            ) from error

    def heard(self) -> Heard:
        """Its sound until `stop` is set."""
        with self._stream:
            while not self._stop.is_set():
                with suppress(queue.Empty):
                    piece = self._pieces.get(timeout=LOOK_EVERY)
                    yield piece, self._pieces.qsize() * PIECE_SECONDS
        while not self._pieces.empty():  # what was spoken before
            yield self._pieces.get(), 0.0

    def _take(self, samples: Any, *_: Any) -> None:
        self._pieces.put(samples[:, 0].copy())


def _rate_of(sounddevice: Any, device: int | str | None) -> int:
    """What the speech encoder hears, if the microphone can; else its usual rate."""
    from soundwave.audio import SAMPLE_RATE

    usual = int(sounddevice.query_devices(device, "input")["default_samplerate"])
    try:
        sounddevice.check_input_settings(device, 1, "float32", samplerate=SAMPLE_RATE)
    except sounddevice.PortAudioError:
        return usual
    return SAMPLE_RATE


def _raw_pieces(stream: BinaryIO, rate: int) -> Iterator[np.ndarray]:
    import numpy as np

    size, rest = SAMPLE_BYTES * round(rate * PIECE_SECONDS), b""
    read = getattr(stream, "read1", stream.read)  # what has come, without waiting for more
    while data := read(size):
        data = rest + data
        whole = len(data) // SAMPLE_BYTES * SAMPLE_BYTES
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.int16)


def _read_ahead(pieces: Iterator[np.ndarray], stop: threading.Event) -> Iterator[np.ndarray]:
    """The pieces, read in a thread of their own, so that whoever writes them need not wait for us."""
    ready: queue.Queue[Any] = queue.Queue(READ_AHEAD)

    def read() -> None:
        try:
            for piece in pieces:
                ready.put(piece)
            ready.put(None)
        except Exception as error:  # raised where the pieces are wanted
            ready.put(error)

    threading.Thread(target=read, daemon=True).start()
    while not stop.is_set():
        with suppress(queue.Empty):
            piece = ready.get(timeout=LOOK_EVERY)
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                return
            yield piece


def _unpaced(pieces: Iterator[np.ndarray], stop: threading.Event) -> Heard:
    for piece in pieces:
        if stop.is_set():
            return
        yield piece, 0.0


def _paced(pieces: Iterator[np.ndarray], rate: int, stop: threading.Event) -> Heard:
    """Each piece when it was spoken, or later by as much as the work on those before took."""
    began, spoken = time.monotonic(), 0.0  # when the first sample was spoken, and the seconds of sound since
    while not stop.is_set():
        asked = time.monotonic()
        piece = next(pieces, None)
        if piece is None:
            return
        now, spoken = time.monotonic(), spoken + len(piece) / rate
        if now - asked > PIECE_SECONDS / 2:  # it was waited for: it is late by itself, and nothing lies behind it
            began = max(began, now - spoken)
        stop.wait(max(0.0, began + spoken - now))
        yield piece, max(0.0, time.monotonic() - began - spoken)
