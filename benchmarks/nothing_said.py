"""Sounds in which nobody can be understood, made from a seed: silence, noises, machines, music, bodies, a babble.

A babble is many voices at once, all as loud as each other, so that no single one can be followed.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from soundwave.audio import SAMPLE_RATE
from soundwave.data.noise import noise
from soundwave.datatools.voices import draw_take, speak

SHORTEST, LONGEST = 0.5, 60.0  # seconds
QUIETEST, LOUDEST = -50.0, -3.0  # peaks, in dB of full scale
FEWEST_VOICES, MOST_VOICES = 8, 16
VOICES = [
    *(f"flite:{name}" for name in ("awb", "rms", "slt", "kal16")),
    *(f"espeak:{name}" for name in (
        "en-us+m1", "en-us+m3", "en-us+m5", "en-us+m7", "en-us+f1", "en-us+f2", "en-us+f4", "en-us+f5", "en-029+m2",
        "en-gb-scotland+f3", "de+m4", "fr+f2", "it+m6", "es+f4", "nl+m2", "pl+f1",
    )),
]
SENTENCES = (
    "We could take the early train and walk along the river until it gets dark.",
    "My sister bought a second hand bicycle, but both of the tyres were flat.",
    "If you ask me, the soup needs more salt and a little less of everything else.",
    "They closed the library for repairs, and nobody knows when it opens again.",
    "The meeting on Thursday was moved to half past three in the other building.",
    "I never liked the colour of that house, yet it looks well in the morning.",
    "Please put the boxes near the door, somebody will come for them tomorrow.",
    "He told the same story about the storm and the fishing boat every winter.",
)


@dataclass(frozen=True, eq=False)
class Clip:
    """A sound of a kind, (samples,) float32 at 16 kHz."""

    kind: str
    samples: np.ndarray


def clips(count: int, seed: int, kinds: tuple[str, ...] = ()) -> Iterator[Clip]:
    """So many clips, the kinds in turn, each with a length and a level of its own."""
    names = kinds or tuple(KINDS)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield clip(names[number % len(names)], rng, np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST))))


def clip(kind: str, rng: Generator, seconds: float) -> Clip:
    """One clip of a kind and a length, at a random level."""
    samples = KINDS[kind](int(seconds * SAMPLE_RATE), rng)
    peak = np.abs(samples).max()
    level = 10 ** (rng.uniform(QUIETEST, LOUDEST) / 20)
    return Clip(kind, (samples * (level / peak if peak > 0 else 1)).astype(np.float32))


def times(count: int) -> np.ndarray:
    """(count,) in seconds."""
    return np.arange(count) / SAMPLE_RATE


def silence(count: int, rng: Generator) -> np.ndarray:
    """Nothing; a constant, as cheap converters add; or the last bit of 16, at random."""
    return rng.choice([np.zeros(count), np.full(count, 0.01), rng.integers(-1, 2, count) / 32768])


def coloured(kind: str, count: int, rng: Generator) -> np.ndarray:
    """Noise of a colour; half of them swell and fade, like wind or traffic."""
    samples = noise(kind, count, rng)
    if rng.random() < 0.5:
        samples = samples * np.interp(np.arange(count), np.linspace(0, count, 6), rng.uniform(0.1, 1, 6))
    return samples


def hum(count: int, rng: Generator) -> np.ndarray:
    """A mains hum of 50 or 60 Hz with up to 40 falling harmonics, and a little hiss."""
    base, steep = rng.choice([50.0, 60.0]), rng.uniform(0.5, 2)
    samples = sum(
        np.sin(2 * np.pi * base * k * times(count) + rng.uniform(0, 6)) * rng.uniform(0.2, 1) / k**steep
        for k in range(1, int(rng.integers(4, 41)))
    )
    return samples + 0.02 * rng.standard_normal(count)


def clicks(count: int, rng: Generator) -> np.ndarray:
    """Knocks of 2 to 60 ms over faint noise, as of a keyboard or a bad cable: up to six a second."""
    samples = 0.003 * rng.standard_normal(count)
    for _ in range(1 + rng.poisson(rng.uniform(0.3, 6) * count / SAMPLE_RATE)):
        _add(samples, _burst(int(rng.uniform(0.002, 0.06) * SAMPLE_RATE), rng, rng.uniform(0.3, 1)), rng)
    return samples


def tones(count: int, rng: Generator) -> np.ndarray:
    """Beeps of one or two frequencies, with pauses."""
    samples = np.zeros(count)
    edges = np.sort(rng.integers(0, count, 2 * int(rng.integers(1, 3 + count // SAMPLE_RATE))))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        for _ in range(rng.integers(1, 3)):
            samples[start:end] += np.sin(2 * np.pi * rng.uniform(120, 3000) * times(end - start))
    return samples


def sweeps(count: int, rng: Generator) -> np.ndarray:
    """Tones that glide up and down, with harmonics or without, as of sirens."""
    knots = int(rng.integers(2, 4 + 2 * count // SAMPLE_RATE))
    pitch = np.exp(np.interp(np.arange(count), np.linspace(0, count, knots), np.log(rng.uniform(80, 4000, knots))))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    return sum(np.sin(k * phase) / k * (k * pitch < SAMPLE_RATE / 2) for k in range(1, int(rng.integers(2, 8))))


def chords(count: int, rng: Generator) -> np.ndarray:
    """Triads that are struck and die away or swell, each note with harmonics, as of a piano or an organ."""
    samples, at = np.zeros(count), 0
    while at < count:
        length = min(count - at, int(rng.uniform(0.2, 1.5) * SAMPLE_RATE))
        time, root = times(length), 110 * 2 ** (rng.integers(0, 25) / 12)
        dying, swelling = np.exp(-time * rng.uniform(0.5, 6)), np.sin(np.pi * np.arange(length) / length)
        fades = dying if rng.random() < 0.7 else swelling
        for step in (0, int(rng.choice([3, 4])), 7):
            note = root * 2 ** (step / 12)
            for k in range(1, 7):
                samples[at : at + length] += np.sin(2 * np.pi * note * k * time) * fades * rng.uniform(0.2, 1) / k
        at += length
    return samples


def breaths(count: int, rng: Generator) -> np.ndarray:
    """Bursts of noise in a band, which swell and fade: breathing in and out."""
    samples, at = 0.002 * rng.standard_normal(count), 0
    while at < count:
        length = min(count - at, int(rng.uniform(0.3, 1.8) * SAMPLE_RATE))
        band = _band(length, rng.uniform(200, 900), rng.uniform(1500, 6000), rng)
        samples[at : at + length] += band * np.sin(np.pi * np.arange(length) / length) ** 2 * rng.uniform(0.3, 1)
        at += length + int(rng.uniform(0.1, 1) * SAMPLE_RATE)
    return samples


def applause(count: int, rng: Generator) -> np.ndarray:
    """Claps of a few to a hundred people, each about three a second."""
    samples = 0.01 * noise("pink", count, rng)
    for _ in range(int(np.exp(rng.uniform(np.log(3), np.log(100))))):
        clap = _band(int(rng.uniform(0.01, 0.03) * SAMPLE_RATE), rng.uniform(500, 1200), rng.uniform(2000, 5000), rng)
        clap *= np.exp(-np.linspace(0, 6, len(clap))) * rng.uniform(0.2, 1)
        at, pace = rng.uniform(0, 0.4), rng.uniform(0.25, 0.45)
        while (first := int(at * SAMPLE_RATE)) < count:
            part = clap[: count - first]
            samples[first : first + len(part)] += part
            at += pace * rng.uniform(0.9, 1.1)
    return samples


def babble(count: int, rng: Generator) -> np.ndarray:
    """8 to 16 voices at once, equally loud."""
    voices = _voices()
    chosen = rng.choice(len(voices), int(rng.integers(FEWEST_VOICES, MOST_VOICES + 1)), replace=False)
    return sum(np.resize(np.roll(voices[i], rng.integers(len(voices[i]))), count) for i in chosen)


@functools.cache
def _voices() -> list[np.ndarray]:
    """What each voice says, at the same loudness, without pauses before and after."""
    spoken = []
    for number, voice in enumerate(VOICES):
        rng = random.Random(number)
        text = " ".join(rng.sample(SENTENCES, 4))
        samples = speak(text, draw_take(voice, rng))
        loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
        samples = samples[loud[0] : loud[-1] + 1].astype(np.float64)
        spoken.append(samples / np.sqrt(np.mean(samples**2)))
    return spoken


def _burst(length: int, rng: Generator, level: float) -> np.ndarray:
    return level * rng.standard_normal(length) * np.exp(-np.linspace(0, 6, length))


def _add(samples: np.ndarray, part: np.ndarray, rng: Generator) -> None:
    at = int(rng.integers(0, max(1, len(samples) - len(part))))
    samples[at : at + len(part)] += part[: len(samples) - at]


def _band(count: int, low: float, high: float, rng: Generator) -> np.ndarray:
    """Noise between two frequencies in Hz, (count,) with a peak of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    samples = np.fft.irfft(spectrum / (1 + (low / np.maximum(frequency, 1)) ** 4 + (frequency / high) ** 4), count)
    return samples / np.abs(samples).max(initial=1e-9)


KINDS: dict[str, Callable[[int, Generator], np.ndarray]] = {
    "silence": silence, **{name: functools.partial(coloured, name) for name in ("white", "pink", "brown")},
    "babble": babble, "hum": hum, "clicks": clicks, "tones": tones, "sweeps": sweeps, "chords": chords,
    "breaths": breaths, "applause": applause,
}
