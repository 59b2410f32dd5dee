"""Effects on waveforms: room, noise, volume, codec, telephone, as options and as functions. Each keeps the length.

Which of them a clip gets, and how strong, depends on a text only (seed, epoch, number of the example): the same text
gives the same samples. Knows nothing about recipes' files or the order of data.
"""

# T samples at 16 kHz

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.data.example import AudioSpan
from soundwave.data.manifests import read_manifest
from soundwave.data.noise import NOISE_SLOPES, mixed, noise
from soundwave.data.shards import AUDIO_SUFFIXES
from soundwave.errors import AudioError, DataError
from soundwave.settings import setting

CODECS = ("opus", "mp3", "vorbis", "gsm")
TELEPHONE_RATE = 8_000  # Hz
TELEPHONE_BAND = (300.0, 3400.0)  # Hz
BAND_EDGE = 100.0  # Hz over which the band fades out
MU = 255.0  # G.711's companding
HELD = 32  # recordings of noises and rooms that stay in memory


@dataclass
class VolumeAugmentation:
    """Louder or quieter."""

    probability: float = setting(0.0, least=0, most=1, help="that it happens to a clip")
    decibels: list[float] = setting(
        factory=lambda: [-12.0, 6.0], least=-60, most=40, pair=True,
        help="dB of gain; lowest and highest",
    )


@dataclass
class NoiseAugmentation:
    """Another sound beside the speech."""

    probability: float = setting(0.0, least=0, most=1, help="that it happens to a clip")
    snr: list[float] = setting(
        factory=lambda: [5.0, 25.0], least=-30, most=100, pair=True,
        help="dB that the speech is louder; lowest and highest",
    )
    source: str | None = setting(
        None, path=True, help="recordings to add: a folder or a manifest; null: noise of the colours below"
    )
    colours: list[str] = setting(
        factory=lambda: ["white", "pink", "brown"], choices=tuple(NOISE_SLOPES), filled=True, help="of made noise"
    )


@dataclass
class ReverberationAugmentation:
    """A room."""

    probability: float = setting(0.0, least=0, most=1, help="that it happens to a clip")
    source: str | None = setting(
        None, path=True, help="impulse responses: a folder or a manifest; null: noise that dies away"
    )
    rt60: list[float] = setting(
        factory=lambda: [0.15, 0.8], least=0.02, most=5, pair=True,
        help="s until 60 dB quieter, of rooms that are made; lowest and highest",
    )
    direct: list[float] = setting(
        factory=lambda: [0.0, 12.0], least=-30, most=60, pair=True,
        help="dB of the direct sound over the room's, likewise; lowest and highest",
    )


@dataclass
class CodecAugmentation:
    """Saved at a low bit rate, and read again."""

    probability: float = setting(0.0, least=0, most=1, help="that it happens to a clip")
    codecs: list[str] = setting(
        factory=lambda: ["opus", "mp3"], choices=CODECS, filled=True, help="gsm is a telephone's"
    )
    compression: list[float] = setting(
        factory=lambda: [0.6, 0.9], least=0, most=0.95, pair=True,
        help="0: the highest bit rate, 0.95: the lowest; lowest and highest",
    )


@dataclass
class TelephoneAugmentation:
    """300 to 3400 Hz, 8 kHz, mu-law: a call."""

    probability: float = setting(0.0, least=0, most=1, help="that it happens to a clip")


@dataclass
class Augmentation:
    """Effects on waveforms, each with its own probability, in this order: room, noise, volume, codec, telephone."""

    takes: int = setting(
        2, least=1, help="versions of each clip among stored features; on the fly every epoch has its own"
    )
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


@dataclass(frozen=True)
class Effects:
    """What may happen to a clip.

    Attributes:
        settings: the recipe's augmentation as JSON; it tells one set of effects from another.
        takes: the versions of a clip that a store of features holds; empty: each use of a clip has its own.
    """

    settings: str
    takes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, augmentation: Augmentation, seed: int, stored: bool) -> Effects | None:
        """The effects of a recipe; None where it asks for none.

        Raises:
            DataError: a folder or manifest of noises or rooms has no recording.
        """
        if not augmentation.active:
            return None
        for part in (augmentation.noise, augmentation.reverberation):
            if part.source is not None and part.probability > 0:
                sounds_in(part.source)
        settings = {name: asdict(effect) for name, effect in augmentation.effects().items() if effect.probability > 0}
        takes = tuple(f"{seed}/{number}" for number in range(augmentation.takes)) if stored else ()
        return cls(json.dumps(settings, sort_keys=True), takes)

    def apply(self, samples: np.ndarray, take: str) -> np.ndarray:
        """(T,) float32 samples, changed as the text `take` decides; (T,) float32 within -1 ... 1.

        Raises:
            AudioError: a recording of noise or of a room cannot be read.
        """
        draw = np.random.default_rng(list(take.encode()))
        for options, effect in _chain(self.settings):
            happens = draw.random() < options.probability
            if happens:
                samples = within_one(effect(samples, options, draw))
        return samples


def within_one(samples: np.ndarray) -> np.ndarray:
    """The same sound, as quiet as it must be to stay within -1 ... 1: nothing is clipped."""
    peak = float(np.abs(samples).max(initial=0.0))
    return (samples if peak <= 1.0 else samples / peak).astype(np.float32)


def change_volume(samples: np.ndarray, options: VolumeAugmentation, draw: np.random.Generator) -> np.ndarray:
    """Louder or quieter by a gain in decibels."""
    return samples * 10 ** (_between(options.decibels, draw) / 20)


def add_noise(samples: np.ndarray, options: NoiseAugmentation, draw: np.random.Generator) -> np.ndarray:
    """The speech with a noise at a signal-to-noise ratio; a recording is repeated, or cut, to the speech's length."""
    decibels = _between(options.snr, draw)
    if options.source is None:
        return mixed(samples, noise(options.colours[draw.integers(len(options.colours))], len(samples), draw), decibels)
    found = sounds_in(options.source)
    whole = recorded(found[draw.integers(len(found))])
    start = int(draw.integers(0, max(1, len(whole) - len(samples) + 1)))
    piece = whole[start : start + len(samples)]
    return mixed(samples, np.resize(piece, len(samples)), decibels)


def add_room(samples: np.ndarray, options: ReverberationAugmentation, draw: np.random.Generator) -> np.ndarray:
    """The speech in a room, as loud as before; the direct sound stays where it was in time."""
    if options.source is None:
        response = made_room(_between(options.rt60, draw), _between(options.direct, draw), draw)
    else:
        found = sounds_in(options.source)
        response = recorded(found[draw.integers(len(found))])
    return reverberated(samples, response)


def made_room(rt60: float, direct: float, draw: np.random.Generator) -> np.ndarray:
    """An impulse response: one click, then noise that dies away exponentially.

    Args:
        rt60: seconds until the noise is 60 dB quieter, where the response ends.
        direct: dB of the click's energy over that of all the noise.
        draw: of the noise.

    Returns:
        (rt60 in samples,) float64; the click is its first sample, of height 1.
    """
    count = max(2, round(rt60 * SAMPLE_RATE))
    tail = draw.standard_normal(count) * 10 ** (-3 * np.arange(count) / count)  # amplitude: 60 dB is a thousandth
    tail[0] = 0.0
    tail *= 10 ** (-direct / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail


def reverberated(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """(T,) convolved with an impulse response whose loudest sample is the direct sound; (T,) of the same power."""
    size = len(samples) + len(response) - 1
    size = 1 << (size - 1).bit_length()
    echoing = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    first = int(np.argmax(np.abs(response)))
    echoing = echoing[first : first + len(samples)]
    before, after = np.sum(samples.astype(np.float64) ** 2), np.sum(echoing**2)
    return echoing * np.sqrt(before / after) if after > 0 else samples


def through_codec(samples: np.ndarray, options: CodecAugmentation, draw: np.random.Generator) -> np.ndarray:
    """Encoded and decoded again, by lhotse's `Compress`."""
    from lhotse.augmentation.compress import Compress  # a second to import, which only this effect needs

    codec = options.codecs[draw.integers(len(options.codecs))]
    compress = Compress(codec, _between(options.compression, draw))
    if codec != "gsm":
        return _as_long(compress(samples[None], SAMPLE_RATE)[0], len(samples))
    # GSM knows 8 kHz only, and lhotse does not resample for it.
    narrow = resampled(samples, len(samples) // 2)
    return resampled(_as_long(compress(narrow[None].astype(np.float32), TELEPHONE_RATE)[0], len(narrow)), len(samples))


def over_telephone(samples: np.ndarray, *_: object) -> np.ndarray:
    """300 to 3400 Hz at 8 kHz with 8-bit mu-law; nothing is drawn."""
    narrow = resampled(band_passed(samples, *TELEPHONE_BAND), len(samples) // 2)
    return band_passed(resampled(mu_law(narrow), len(samples)), *TELEPHONE_BAND)


def band_passed(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """(T,) without what lies outside of a band in Hz; its edges fade over `BAND_EDGE`."""
    frequency = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    rising = np.clip((frequency - low) / BAND_EDGE + 1, 0, 1)
    falling = np.clip((high - frequency) / BAND_EDGE + 1, 0, 1)
    gain = np.sin(np.pi / 2 * rising) ** 2 * np.sin(np.pi / 2 * falling) ** 2
    return np.fft.irfft(np.fft.rfft(samples) * gain, len(samples))


def resampled(samples: np.ndarray, count: int) -> np.ndarray:
    """The same sound in (count,) samples: its spectrum is cut, or continued with zeros."""
    return np.fft.irfft(np.fft.rfft(samples), max(1, count)) * (count / len(samples))


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Samples in -1 ... 1 as 8 bits of G.711 mu-law would give them back."""
    clipped = np.clip(samples, -1.0, 1.0)
    code = np.round(np.sign(clipped) * np.log1p(MU * np.abs(clipped)) / np.log1p(MU) * 127) / 127
    return np.sign(code) * np.expm1(np.abs(code) * np.log1p(MU)) / MU


@lru_cache
def sounds_in(source: str) -> tuple[AudioSpan, ...]:
    """The recordings of a folder (with all below it), or of a manifest.

    Raises:
        DataError: there is no such place, or no recording in it.
    """
    folder = Path(source)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        found = [AudioSpan(str(path.absolute())) for path in files]
    else:
        found = [span for example in read_manifest(source) for span in example.audios]
    if not found:
        raise DataError(f"{source}: no recording to augment with; give a folder of audio files, or a manifest of them.")
    return tuple(found)


@lru_cache(HELD)
def recorded(span: AudioSpan) -> np.ndarray:
    """(T,) float32 of a noise or a room, of any length."""
    whole = load_audio(span.path, max_seconds=None)
    cut = whole[round((span.start or 0.0) * SAMPLE_RATE) : None if span.end is None else round(span.end * SAMPLE_RATE)]
    if not len(cut):
        raise AudioError(f"{span.path} has nothing from {span.start or 0.0:g} s on; correct that row")
    return cut


def _between(bounds: list[float], draw: np.random.Generator) -> float:
    low, high = bounds
    return float(draw.uniform(low, high))


def _as_long(samples: np.ndarray, count: int) -> np.ndarray:
    """Cut, or continued with silence: codecs work in whole frames."""
    return np.pad(samples[:count], (0, max(0, count - len(samples))))


Effect = Callable[..., np.ndarray]
CHAIN: dict[str, tuple[type, Effect]] = {
    "reverberation": (ReverberationAugmentation, add_room),
    "noise": (NoiseAugmentation, add_noise),
    "volume": (VolumeAugmentation, change_volume),
    "codec": (CodecAugmentation, through_codec),
    "telephone": (TelephoneAugmentation, over_telephone),
}


@lru_cache
def _chain(settings: str) -> list[tuple[VolumeAugmentation, Effect]]:
    """Options (each has a probability) and function of every effect, in their order."""
    values = json.loads(settings)
    return [(kind(**values[name]), effect) for name, (kind, effect) in CHAIN.items() if name in values]
