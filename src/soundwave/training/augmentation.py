"""What a recipe may do to the waveforms that it trains on, as options. What they do is in `effects.py`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from soundwave.data.noise import NOISE_SLOPES
from soundwave.errors import ConfigurationError

CODECS = ("opus", "mp3", "vorbis", "gsm")


@dataclass
class VolumeAugmentation:
    """Louder or quieter."""

    probability: float = 0.0
    decibels: list[float] = field(default_factory=lambda: [-12.0, 6.0])  # lowest and highest gain


@dataclass
class NoiseAugmentation:
    """Another sound beside the speech."""

    probability: float = 0.0
    snr: list[float] = field(default_factory=lambda: [5.0, 25.0])  # dB that the speech is louder; lowest and highest
    source: str | None = None  # recordings to add: a folder or a manifest; null: noise of the colours below
    colours: list[str] = field(default_factory=lambda: ["white", "pink", "brown"])


@dataclass
class ReverberationAugmentation:
    """A room."""

    probability: float = 0.0
    source: str | None = None  # impulse responses: a folder or a manifest; null: noise that dies away
    rt60: list[float] = field(default_factory=lambda: [0.15, 0.8])  # s until 60 dB quieter, of those that are made
    direct: list[float] = field(default_factory=lambda: [0.0, 12.0])  # dB of the direct sound over the room's, likewise


@dataclass
class CodecAugmentation:
    """Saved at a low bit rate, and read again."""

    probability: float = 0.0
    codecs: list[str] = field(default_factory=lambda: ["opus", "mp3"])  # also vorbis, and gsm, a telephone's
    compression: list[float] = field(default_factory=lambda: [0.6, 0.9])  # 0: the highest bit rate, 0.95: the lowest


@dataclass
class TelephoneAugmentation:
    """300 to 3400 Hz, 8 kHz, mu-law: a call."""

    probability: float = 0.0


@dataclass
class Augmentation:
    """Effects on waveforms, each with its own probability, in this order: room, noise, volume, codec, telephone."""

    takes: int = 2  # versions of each clip among stored features; on the fly every epoch has its own
    reverberation: ReverberationAugmentation = field(default_factory=ReverberationAugmentation)
    noise: NoiseAugmentation = field(default_factory=NoiseAugmentation)
    volume: VolumeAugmentation = field(default_factory=VolumeAugmentation)
    codec: CodecAugmentation = field(default_factory=CodecAugmentation)
    telephone: TelephoneAugmentation = field(default_factory=TelephoneAugmentation)

    def effects(self) -> dict[str, Any]:
        """The options of each effect, by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "takes"}

    @property
    def active(self) -> bool:
        """Whether anything can happen to a clip."""
        return any(effect.probability > 0 for effect in self.effects().values())


# Lowest and highest value of each range.
RANGES = {
    "volume.decibels": (-60.0, 40.0), "noise.snr": (-30.0, 100.0), "reverberation.rt60": (0.02, 5.0),
    "reverberation.direct": (-30.0, 60.0), "codec.compression": (0.0, 0.95),
}
NAMES = {"noise.colours": tuple(NOISE_SLOPES), "codec.codecs": CODECS}


def check_augmentation(augmentation: Augmentation, where: str) -> None:
    """Holds every value against what is allowed.

    Raises:
        ConfigurationError: one is not; the message names the option.
    """
    if augmentation.takes < 1:
        raise ConfigurationError(f"{where}: augmentation.takes is {augmentation.takes}; it must be 1 or more.")
    for name, effect in augmentation.effects().items():
        if not 0 <= effect.probability <= 1:
            raise ConfigurationError(
                f"{where}: augmentation.{name}.probability is {effect.probability}; it must be between 0 and 1."
            )
    for path, (lowest, highest) in RANGES.items():
        name, option = path.split(".")
        value = getattr(augmentation.effects()[name], option)
        if len(value) != 2 or not lowest <= value[0] <= value[1] <= highest:
            raise ConfigurationError(
                f"{where}: augmentation.{path} is {value}; it must be [low, high] within {lowest:g} and {highest:g}."
            )
    for path, allowed in NAMES.items():
        name, option = path.split(".")
        value = getattr(augmentation.effects()[name], option)
        if not value or not set(value) <= set(allowed):
            raise ConfigurationError(f"{where}: augmentation.{path} is {value}; choose from {', '.join(allowed)}.")
