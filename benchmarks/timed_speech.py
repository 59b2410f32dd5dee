"""Speech whose timing is known: spoken words set at known times, and synthesisers that tell how long each sound is.

Three kinds, each in two halves of different voices; offsets are chosen on the one and reported on the other.

- `words`: recordings of single words with their own silence cut away, at known times in faint noise;
  `words in noise`: the same in white noise about 15 dB below them.
- `flite`, `espeak`: sentences; flite tells where each sound ends, espeak-ng's library where each word and sound begins.
- `utterances`: recordings of sentences one after the other; only where each begins and ends is known.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from soundwave.audio import SAMPLE_RATE, load_audio

FRAME = SAMPLE_RATE // 100
FAINT, LOUD = 0.0005, 0.01  # deviation of white noise around sounds whose peak is 0.3
BELOW_PEAK = 10 ** (-35 / 20)  # where a recorded word begins and ends: 35 dB below its loudest 10 ms
QUIET = 10 ** (-45 / 20)  # and how faint what is around it must be
FLITE_VOICES = {"tune": ("slt", "awb"), "report": ("rms", "kal16")}
ESPEAK_VOICES = {"tune": ("en-us+f2", "en-us"), "report": ("en-gb", "en-us+m3")}


@dataclass(frozen=True)
class Span:
    """A word, or several, with the true start of the first and end of the last, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class TimedSpeech:
    """A recording of which is known what is said when.

    Attributes:
        kind: `words`, `flite`, `espeak` or `utterances`.
        half: `tune` or `report`.
        samples: (samples,) float32 at 16 kHz.
        spans: what is said, in order.
    """

    kind: str
    half: str
    samples: np.ndarray
    spans: list[Span]

    @property
    def text(self) -> str:
        """All that is said."""
        return " ".join(span.text for span in self.spans)


def sound_of(samples: np.ndarray) -> tuple[int, int] | None:
    """Where a recording's sound begins and ends, in samples; None where it is not quiet at both ends."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    loudness = np.sqrt((frames**2).mean(1))
    loud = np.flatnonzero(loudness > loudness.max() * BELOW_PEAK)
    first, last = int(loud[0]), int(loud[-1]) + 1
    around = np.concatenate([loudness[: max(0, first - 2)], loudness[last + 2 :]])
    if first < 5 or last > len(frames) - 5 or np.median(around) > loudness.max() * QUIET:
        return None
    return first * FRAME, last * FRAME


def placed(
    pieces: Sequence[tuple[str, np.ndarray]], gaps: tuple[float, float], noise: float, draw: np.random.Generator
) -> tuple[np.ndarray, list[Span]]:
    """Sounds one after the other with gaps of random length, in white noise."""
    parts, spans, place = [], [], 0
    for text, sound in pieces:
        gap = round(draw.uniform(*gaps) * SAMPLE_RATE)
        parts += [np.zeros(gap, np.float32), sound / np.abs(sound).max() * 0.3]
        spans.append(Span(text, (place + gap) / SAMPLE_RATE, (place + gap + len(sound)) / SAMPLE_RATE))
        place += gap + len(sound)
    samples = np.concatenate([*parts, np.zeros(round(0.5 * SAMPLE_RATE), np.float32)])
    return (samples + draw.normal(size=len(samples)) * noise).astype(np.float32), spans


def joined(
    manifest: Path, kind: str, count: int, each: int, gaps: tuple[float, float], seed: int,
    noise: float = FAINT,
) -> Iterator[TimedSpeech]:
    """Recordings of a manifest that are quiet at both ends, `each` in one; speakers differ between the halves."""
    draw = np.random.default_rng(seed)
    lines = manifest.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    speakers = sorted({row["speaker"] for row in rows})
    second = set(speakers[1::2])
    for half in ("tune", "report"):
        own = [row for row in rows if (row["speaker"] in second) == (half == "report") and row["duration"] < 12]
        pieces: list[tuple[str, np.ndarray]] = []
        made = 0
        for i in draw.permutation(len(own)):
            samples = load_audio(manifest.parent / own[i]["audio"])
            if (sound := sound_of(samples)) is not None:
                pieces.append((own[i]["text"].lower(), samples[slice(*sound)]))
            if len(pieces) == each:
                yield TimedSpeech(kind, half, *placed(pieces, gaps, noise, draw))
                pieces, made = [], made + 1
            if made == count:
                break


def sentences(texts: Path, count: int, seed: int) -> list[str]:
    """Sentences of plain words out of a gzipped file of JSON lines."""
    with gzip.open(texts, "rt", encoding="utf-8") as file:
        all_texts = [json.loads(line)["text"] for line in file]
    plain = [text for text in all_texts if re.fullmatch(r"[A-Za-z', ]+[.?!]", text) and 4 <= len(text.split()) <= 14]
    return [plain[i] for i in np.random.default_rng(seed).permutation(len(plain))[:count]]


def synthesised(texts: Path, kind: str, count: int, seed: int) -> Iterator[TimedSpeech]:
    """Sentences by a synthesiser's voices; those whose sounds cannot be told apart by words are left out."""
    speak, voices = (flite, FLITE_VOICES) if kind == "flite" else (Espeak(), ESPEAK_VOICES)
    some = sentences(texts, 2 * count, seed)
    for half, own in (("tune", some[:count]), ("report", some[count:])):
        for i, text in enumerate(own):
            spoken = speak(text, voices[half][i % len(voices[half])])
            if spoken is not None:
                yield TimedSpeech(kind, half, *spoken)


Spoken = tuple[np.ndarray, list[Span]]


def flite(text: str, voice: str) -> Spoken | None:
    """A sentence and its words' times; None where its words have other sounds than each by itself."""
    words = re.findall(r"[A-Za-z']+", text)
    command = ["flite", "-voice", voice]
    apart = subprocess.run([*command, "-ps", "-t", ", ".join(words), "-o", "none"], capture_output=True, check=True)
    counts = [len(part.split()) for part in re.split(r"\bpau\b", apart.stdout.decode()) if part.strip()]
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "clip.wav"
        told = subprocess.run([*command, "-psdur", "-t", text, "-o", str(wave)], capture_output=True, check=True)
        samples = load_audio(wave)
    sounds, before = [], 0.0
    for name, end in (one.split(":") for one in told.stdout.decode().split()):
        if name != "pau":
            sounds.append((before, float(end)))
        before = float(end)
    if len(counts) != len(words) or sum(counts) != len(sounds):
        return None
    bounds = np.cumsum([0, *counts])
    spans = [
        Span(word, sounds[first][0], sounds[last - 1][1])
        for word, (first, last) in zip(words, pairwise(bounds), strict=True)
    ]
    return samples, spans


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):  # espeak_EVENT of speak_lib.h
    _fields_ = (
        ("type", ctypes.c_int), ("identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Id),
    )


WORD, PHONEME = 1, 7  # types of events


class Espeak:
    """espeak-ng's library, which tells when each word and sound begins."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self._rate = self._library.espeak_Initialize(2, 0, None, 1)  # synchronous; events of sounds too
        callback = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
        )(self._take)
        self._library.espeak_SetSynthCallback(callback)
        self._kept = callback
        self._samples: list[np.ndarray] = []
        self._events: list[tuple[int, int, float, bytes]] = []

    def _take(self, wave: ctypes._Pointer, count: int, events: ctypes._Pointer) -> int:
        if wave and count:
            self._samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
        i = 0
        while events[i].type:
            one = events[i]
            self._events.append((one.type, one.text_position, one.audio_position / 1000, bytes(one.id.string)))
            i += 1
        return 0

    def __call__(self, text: str, voice: str) -> Spoken | None:
        """A sentence and its words' times; None where a word is read together with another."""
        self._samples, self._events = [], []
        self._library.espeak_SetVoiceByName(voice.encode())
        written = text.encode()
        self._library.espeak_Synth(written, len(written) + 1, 0, 1, 0, 1, None, None)  # characters of UTF-8
        words = list(re.finditer(r"[A-Za-z']+", text))
        begins = [event for event in self._events if event[0] == WORD]
        if [event[1] - 1 for event in begins] != [word.start() for word in words]:
            return None
        sounds = [(time, name.strip(b"_:;, ") == b"") for kind, _, time, name in self._events if kind == PHONEME]
        spans = []
        for word, event, following in zip(words, begins, [*begins[1:], None], strict=True):
            own = [(time, still) for time, still in sounds if time >= event[2] - 1e-4]
            end = min([time for time, still in own if still] + [following[2] if following else np.inf])
            spans.append(Span(word.group(), event[2], float(end)))
        frame = av.AudioFrame.from_ndarray(np.concatenate(self._samples)[None], format="s16p", layout="mono")
        frame.sample_rate = self._rate
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
        parts = [part.to_ndarray()[0] for part in resampler.resample(frame) + resampler.resample(None)]
        return np.concatenate(parts), spans
