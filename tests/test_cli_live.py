"""`soundwave live`: where sound comes from, what is shown where, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_runs import run
from recordings import tone

import soundwave
from soundwave.audio import SAMPLE_RATE
from soundwave.checkpoints import catalog
from soundwave.cli import live, sounds
from soundwave.errors import SoundwaveError
from soundwave.inference.captions import Final, Partial
from soundwave.inference.results import Segment, Transcript, Word

WORDS = (Word("how", 0.1, 0.3), Word("many", 0.3, 0.5))
PARTIAL = Partial("how many", WORDS, 1, 0.1, 0.5)


def wav(folder: Path, seconds: float) -> str:
    path = folder / "a.wav"
    soundfile.write(path, tone(SAMPLE_RATE, seconds), SAMPLE_RATE)
    return str(path)


def final(text: str, start: float = 0.0, end: float = 61.0) -> Final:
    return Final(text, Transcript(text, text, end - start, segments=[Segment(text, 0.1, 0.5, WORDS)]), start, end)


class FakeSession:
    """Shows the same words whenever it is fed, and keeps what it was fed with."""

    def __init__(self) -> None:
        self.samples: list[np.ndarray] = []
        self.behind: list[float] = []
        self.interrupted_at = 0  # the piece at which Ctrl-C comes

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def feed(self, samples: np.ndarray, behind: float) -> list[Any]:
        self.samples.append(samples)
        self.behind.append(behind)
        if len(self.samples) == self.interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)
        return [PARTIAL]

    def finish(self) -> list[Any]:
        return [final(f"heard {sum(map(len, self.samples))} samples"), final("")]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    made: Any = FakeSession()

    def listen(options: Any, *, sampling_rate: int) -> FakeSession:
        made.options, made.rate = options, sampling_rate
        return made

    def load(*_: Any, **loaded: Any) -> Any:
        made.backend = loaded["backend"]
        return SimpleNamespace(listen=listen)

    monkeypatch.setattr(soundwave, "load", load)
    monkeypatch.setattr(catalog, "download", lambda name, progress=None: Path(name))
    return made


def test_a_recording_is_heard_whole_and_each_utterance_is_a_line(session: Any, tmp_path: Path) -> None:
    result = run("live", wav(tmp_path, 1.0), "--fast", "--hotwords", "Ojo, Oz", "--step", "0.2")
    assert result.stdout == f"[0:00:00 - 0:01:01] heard {SAMPLE_RATE} samples\n"
    assert (result.exit_code, session.options.hotwords, session.options.step) == (0, ("Ojo", "Oz"), 0.2)
    assert set(session.behind) == {0.0}


def test_raw_samples_come_from_standard_input_at_any_rate_even_in_odd_pieces(session: Any) -> None:
    samples = np.arange(-3000, 3000, dtype="<i2")
    result = run("live", "-", "--fast", "--sampling-rate", "8000", "--no-llm", stdin=samples.tobytes() + b"\x01")
    assert result.exit_code == 0
    assert (session.rate, session.backend) == (8000, "none")
    assert np.array_equal(np.concatenate(session.samples), samples)


def test_json_gives_a_line_for_each_event(session: Any, tmp_path: Path) -> None:
    result = run("live", wav(tmp_path, 0.1), "--fast", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["partial", "partial", "final", "final"]
    assert events[0]["words"][0] == {"text": "how", "start": 0.1, "end": 0.3, "confidence": None}
    assert events[2]["transcript"]["segments"][0]["words"][1]["text"] == "many"


def test_ctrl_c_ends_cleanly_with_what_was_heard(session: Any, tmp_path: Path) -> None:
    session.interrupted_at = 3
    before = signal.getsignal(signal.SIGINT)
    result = run("live", wav(tmp_path, 30.0))
    assert result.exit_code == 0
    assert "heard" in result.stdout
    assert len(session.samples) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_on_a_terminal_the_words_under_way_are_written_over_and_faint_while_they_may_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(live.streams, "_answers", terminal)
        captions = live._Captions()
        captions.show(PARTIAL)
        captions.show(final("how many days"))
        captions.show(final(""))
        shown = os.read(mine, 1000).decode()
    os.close(mine)
    assert shown == "\r\x1b[K" "how\x1b[2m many\x1b[0m" "\r\x1b[K" "[0:00:00 - 0:01:01] how many days\r\n" "\r\x1b[K"


@pytest.mark.parametrize(
    ("width", "line"), [(80, "how\x1b[2m many\x1b[0m"), (7, "ow\x1b[2m many\x1b[0m"), (3, "\x1b[2many\x1b[0m")]
)
def test_a_line_that_is_too_long_shows_its_end(width: int, line: str) -> None:
    assert live._line(PARTIAL, width) == line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a.wav", "--sampling-rate", "8000"), "--sampling-rate"), (("a.wav", "--microphone", "1"), "--microphone"),
        (("--fast",), "--fast"), (("a.wav", "--step", "9"), "--step"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(session: Any, arguments: tuple[str, ...], told: str) -> None:
    result = run("live", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr


class PortAudioError(Exception):
    pass


def fake_sounddevice(**changes: Any) -> SimpleNamespace:
    """The parts of the package that are used; its stream brings two pieces as soon as it is opened."""

    class InputStream:
        def __init__(self, rate: int, size: int, device: Any, channels: int, kind: str, callback: Any) -> None:
            self.callback, self.size = callback, size

        def __enter__(self) -> None:
            for _ in range(2):
                self.callback(np.ones((self.size, 1), np.float32), self.size, None, None)

        def __exit__(self, *_: Any) -> None:
            pass

    working = {
        "PortAudioError": PortAudioError, "InputStream": InputStream,
        "query_devices": lambda device, kind: {"default_samplerate": 48_000.0},
        "check_input_settings": lambda *_, **__: None,
    }
    return SimpleNamespace(**working | changes)


def refuse(*_: Any, **__: Any) -> None:
    raise PortAudioError("Invalid sample rate")


@pytest.mark.parametrize(("check", "rate"), [(lambda *_, **__: None, 16_000), (refuse, 48_000)])
def test_a_microphone_is_heard_at_the_rate_that_it_has(
    monkeypatch: pytest.MonkeyPatch, check: Any, rate: int
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice(check_input_settings=check))
    stop = threading.Event()
    microphone = sounds.Microphone(None, stop)
    heard = microphone.heard()
    piece, behind = next(heard)
    assert (microphone.rate, len(piece), behind) == (rate, rate * sounds.PIECE_SECONDS, sounds.PIECE_SECONDS)
    stop.set()
    assert len(list(heard)) == 1  # what came before is not lost


def test_no_microphone_and_no_library_are_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise PortAudioError("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice(query_devices=none))
    with pytest.raises(SoundwaveError, match=r"no microphone was found .* soundwave live FILE"):
        sounds.Microphone(None, threading.Event())
    with pytest.raises(SoundwaveError, match="there is no microphone 'USB'"):
        sounds.Microphone("USB", threading.Event())

    class NoLibrary:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [NoLibrary(), *sys.meta_path])
    with pytest.raises(SoundwaveError, match="libportaudio2"):
        sounds.Microphone(None, threading.Event())


def test_the_package_that_is_missing_is_named(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = run("live")
    assert result.exit_code == 1
    assert "[live]" in result.stderr


def pieces_of(count: int, each: float = 0.0) -> Iterator[np.ndarray]:
    for _ in range(count):
        time.sleep(each)
        yield np.zeros(round(sounds.PIECE_SECONDS * SAMPLE_RATE), np.float32)


def test_a_recording_is_played_at_the_speed_at_which_it_was_made() -> None:
    start = time.monotonic()
    behind = [one for _, one in sounds._paced(pieces_of(5), SAMPLE_RATE, threading.Event())]
    assert time.monotonic() - start >= 5 * sounds.PIECE_SECONDS - 0.01
    assert len(behind) == 5


def test_who_works_too_slowly_is_told_how_far_behind_it_is() -> None:
    behind = []
    for _, late in sounds._paced(pieces_of(4), SAMPLE_RATE, threading.Event()):
        behind.append(late)
        time.sleep(2 * sounds.PIECE_SECONDS)
    assert all(later > before + sounds.PIECE_SECONDS / 2 for before, later in pairwise(behind))


def test_sound_that_comes_late_by_itself_leaves_nobody_behind() -> None:
    late = [one for _, one in sounds._paced(pieces_of(4, 2 * sounds.PIECE_SECONDS), SAMPLE_RATE, threading.Event())]
    assert max(late) < sounds.PIECE_SECONDS / 2
