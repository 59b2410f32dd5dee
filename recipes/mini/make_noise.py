"""Make clips in which nobody speaks: silence, hiss, hum, clicks and tones, each with an empty transcript.

    python recipes/mini/make_noise.py --out speech/nothing --clips 250

A model that has only ever heard speech finds words in everything; these clips teach it to write nothing.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

from soundwave.audio import SAMPLE_RATE
from soundwave.data.noise import NOISE_SLOPES, noise

SHORTEST, LONGEST = 1.0, 8.0  # Seconds.


def hum(count: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum at 50 or 60 Hz with falling harmonics and a little hiss."""
    time = np.arange(count) / SAMPLE_RATE
    base = rng.choice([50.0, 60.0])
    samples = sum(
        np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6)) * rng.uniform(0.2, 1) / k for k in range(1, 8)
    )
    samples = samples + 0.05 * rng.standard_normal(count)
    return samples / np.abs(samples).max()


def clicks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to a dozen short decaying knocks over faint noise, as of a keyboard or a bad cable."""
    samples = 0.005 * rng.standard_normal(count)
    for _ in range(rng.integers(1, 13)):
        length = int(rng.uniform(0.002, 0.06) * SAMPLE_RATE)
        start = int(rng.integers(0, count - length))
        samples[start : start + length] += rng.standard_normal(length) * np.exp(-np.linspace(0, 6, length))
    return samples / np.abs(samples).max()


def tones(count: int, rng: np.random.Generator) -> np.ndarray:
    """One to four beeps, each of one or two frequencies, with pauses."""
    samples = np.zeros(count)
    edges = np.sort(rng.integers(0, count, 2 * int(rng.integers(1, 5))))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        time = np.arange(end - start) / SAMPLE_RATE
        for _ in range(rng.integers(1, 3)):
            samples[start:end] += np.sin(2 * np.pi * rng.uniform(120, 3000) * time)
    return samples / max(1e-9, np.abs(samples).max())


def clip(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One clip of a kind, (samples,), at a random length and level (−60 to −6 dB of full scale)."""
    count = int(rng.uniform(SHORTEST, LONGEST) * SAMPLE_RATE)
    if kind == "silence":
        return np.zeros(count)
    level = 10 ** (rng.uniform(-60, -6) / 20)
    makers = {"hum": hum, "clicks": clicks, "tones": tones}
    samples = makers[kind](count, rng) if kind in makers else noise(kind, count, rng)
    if kind in NOISE_SLOPES and rng.random() < 0.5:  # Half the noises swell and fade, like wind or traffic.
        samples = samples * np.interp(np.arange(count), np.linspace(0, count, 6), rng.uniform(0.1, 1, 6))
    return samples * level


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and manifest.jsonl")
    parser.add_argument("--clips", type=int, default=250, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="fixes every clip (%(default)s)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    kinds = ["silence", *NOISE_SLOPES, *NOISE_SLOPES, "hum", "clicks", "tones"]
    rows = []
    for index in range(arguments.clips):
        kind = kinds[index % len(kinds)]
        samples = clip(kind, np.random.default_rng([arguments.seed, index]))
        name = f"{index:04d}.flac"
        soundfile.write(arguments.out / name, samples, SAMPLE_RATE, subtype="PCM_16")
        seconds = round(len(samples) / SAMPLE_RATE, 3)
        rows.append(
            {"audio": name, "text": "", "duration": seconds, "speaker": kind, "kind": "nothing", "language": "none"}
        )
    (arguments.out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{arguments.clips} clips, {sum(row['duration'] for row in rows) / 60:.1f} minutes in {arguments.out}")


if __name__ == "__main__":
    main()
