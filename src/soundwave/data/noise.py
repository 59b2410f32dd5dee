"""Noise of three colours, and speech with a noise at a chosen loudness."""

from __future__ import annotations

import numpy as np

from soundwave.audio import SAMPLE_RATE

NOISE_SLOPES = {"white": 0.0, "pink": -0.5, "brown": -1.0}  # exponent of frequency in the amplitude spectrum


def noise(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a colour, (count,) with a peak of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20.0)
    samples = np.fft.irfft(spectrum * frequency ** NOISE_SLOPES[kind], count)
    return samples / np.abs(samples).max()


def mixed(samples: np.ndarray, added: np.ndarray, decibels: float) -> np.ndarray:
    """Speech (samples,) with noise (samples,) that is `decibels` quieter in mean power; float32.

    Where either is all zeros there is no such ratio, and the speech stays as it is.
    """
    power, wanted = np.mean(added.astype(np.float64) ** 2), np.mean(samples.astype(np.float64) ** 2)
    if power == 0 or wanted == 0:
        return samples.astype(np.float32)
    return (samples + added * np.sqrt(wanted / 10 ** (decibels / 10) / power)).astype(np.float32)


def with_noise(samples: np.ndarray, decibels: float, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Speech (samples,) with noise of a colour that is `decibels` quieter in mean power; float32."""
    return mixed(samples, noise(kind, len(samples), rng), decibels)
