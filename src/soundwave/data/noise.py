"""Noise of three colours, for what the data tools make; training adds the same to what it reads."""

from soundwave.training.noise import NOISE_SLOPES, noise, with_noise

__all__ = ["NOISE_SLOPES", "noise", "with_noise"]
