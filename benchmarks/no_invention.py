"""Nothing said, nothing written: what models write of sounds without speech, and what their gates swallow of speech.

    python benchmarks/no_invention.py --json no-invention.json \
        --speech dev-librispeech/manifest.jsonl dev-nonnative/manifest.jsonl

First part: made sounds (`nothing_said.py`), transcribed as by default, without the LLM, and as written by the LLM
alone; each word counts as invented. Second part, with `--speech`: recordings in noise at 10 dB, cut and transcribed: is
there a text, and what share of the time in which somebody speaks lies in a stretch? Third part: loops, counted in the
transcript of a long recording, with `--long`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nothing_said
import numpy as np
from timing import machine_facts

import soundwave
from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.audio.cutting import SpeechCutter
from soundwave.audio.vad import SPEECH_PROBABILITY, WINDOW, speech_probabilities
from soundwave.data.noise import NOISE_SLOPES, mixed, noise
from soundwave.inference.engine import Engine
from soundwave.inference.gates import loops
from soundwave.text.metrics import word_errors

DECIBELS = 10.0
NOISES = ("none", "white", "pink", "babble")
REPEATS = 4  # of a phrase in a row: a loop
Way = Callable[[np.ndarray], str]


def written_by_llm(engine: Engine, gated: bool = True) -> Engine:
    """The same model, but its LLM writes the transcript, as models without an n-gram do."""
    gates = engine.inference.transcribe.gates
    if not gated:
        gates = dataclasses.replace(gates, speech=False, evidence=0.0, disagreement=1.0, repeats=10**6)
    transcribe = dataclasses.replace(engine.inference.transcribe, ngram=None, llm=True, gates=gates, confidence=None)
    inference = dataclasses.replace(engine.inference, transcribe=transcribe)
    return Engine(engine.encoder, engine.decoder, engine.processor, inference, engine.name, engine.folder)


def ungated(engine: Engine) -> Engine:
    """The same model without gates."""
    gates = dataclasses.replace(engine.inference.transcribe.gates, speech=False, evidence=0.0)
    transcribe = dataclasses.replace(engine.inference.transcribe, gates=gates)
    inference = dataclasses.replace(engine.inference, transcribe=transcribe)
    return Engine(engine.encoder, engine.decoder, engine.processor, inference, engine.name, engine.folder)


def text_of(engine: Engine, llm: bool | None = None) -> Way:
    """How an engine writes (samples,) down."""
    return lambda samples: engine.transcribe((samples, SAMPLE_RATE), llm=llm).text


def ways_of(engine: Engine) -> dict[str, Way]:
    """Each way of writing sounds down."""
    ways = {"without the LLM": text_of(engine, llm=False)}
    if engine.decoder is not None:
        ways = {"by default": text_of(engine), **ways, "written by the LLM": text_of(written_by_llm(engine))}
    return ways | {"without the LLM and without gates": text_of(ungated(engine), llm=False)}


def invented(ways: dict[str, Way], count: int, seed: int) -> dict[str, Any]:
    """For each way: clips with words, and those words, by kind of sound."""
    result: dict[str, Any] = {}
    texts: dict[str, list[str]] = defaultdict(list)
    kinds, seconds = [], 0.0
    for clip in nothing_said.clips(count, seed):
        kinds.append(clip.kind)
        seconds += len(clip.samples) / SAMPLE_RATE
        for name, way in ways.items():
            texts[name].append(way(clip.samples))
    for name, some in texts.items():
        by_kind = {kind: sum(len(t.split()) for k, t in zip(kinds, some, strict=True) if k == kind) for kind in kinds}
        result[name] = {
            "clips_with_words": sum(bool(text) for text in some), "words": sum(by_kind.values()),
            "words_by_kind": {kind: words for kind, words in by_kind.items() if words},
            "texts": [text for text in some if text],
        }
    return {"clips": count, "audio_seconds": round(seconds, 1), "seed": seed, "ways": result}


def in_noise(samples: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """A recording in a noise that is 10 dB quieter in mean power."""
    if kind == "none":
        return samples
    rng, count = np.random.default_rng(seed), len(samples)
    added = noise(kind, count, rng) if kind in NOISE_SLOPES else nothing_said.babble(count, rng)
    return mixed(samples, added, DECIBELS)


def kept_time(clean: np.ndarray, noisy: np.ndarray) -> tuple[float, float]:
    """Seconds in which somebody speaks, by the clean recording; and those of them in stretches of the noisy one.

    A second of silence before it and 30 after make it a part of a long recording, which is cut.
    """
    voice = np.repeat(speech_probabilities(clean) >= SPEECH_PROBABILITY, WINDOW)[: len(clean)]
    lead, tail = np.zeros(SAMPLE_RATE, np.float32), np.zeros(30 * SAMPLE_RATE, np.float32)
    cutter, held = SpeechCutter(), np.zeros(len(clean), bool)
    for stretch in [*cutter.feed(np.concatenate([lead, noisy, tail])), *cutter.finish()]:
        held[max(0, stretch.first - len(lead)) : max(0, stretch.end - len(lead))] = True
    return voice.sum() / SAMPLE_RATE, (voice & held).sum() / SAMPLE_RATE


def recall(engine: Engine, manifest: Path, every: int) -> dict[str, Any]:
    """By noise: recordings with a text, speech time in stretches, word errors; with gates and without."""
    lines = manifest.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()][::every]
    clips = [load_audio(manifest.parent / row["audio"]) for row in rows]
    references, free = [row["text"] for row in rows], ungated(engine)
    result: dict[str, Any] = {"clips": len(clips), "every": every}
    for kind in NOISES:
        noisy = [in_noise(clip, kind, seed) for seed, clip in enumerate(clips)]
        texts = [text_of(engine, llm=False)(one) for one in noisy]
        without = [text_of(free, llm=False)(one) for one in noisy]
        times = np.array([kept_time(*pair) for pair in zip(clips, noisy, strict=True)]).sum(axis=0)
        result[kind] = {
            "with_text": sum(map(bool, texts)), "with_text_without_gates": sum(map(bool, without)),
            "speech_seconds": round(float(times[0]), 1), "speech_seconds_in_stretches": round(float(times[1]), 1),
            "word_error_rate": round(word_errors(references, texts).rate, 4),
            "word_error_rate_without_gates": round(word_errors(references, without).rate, 4),
        }
    return result


def loops_in(texts: Iterable[str]) -> dict[str, int]:
    """Phrases that are said at least four times in a row in the segments of a transcript, and how many words it has."""
    some = list(texts)
    return {"loops": loops(some, REPEATS), "words": sum(len(text.split()) for text in some)}


def show(result: dict[str, Any]) -> str:
    """The figures as lines."""
    made = result["nothing_said"]
    lines = [f"{made['clips']} sounds without speech, {made['audio_seconds'] / 60:.0f} minutes"]
    for name, way in made["ways"].items():
        lines.append(f"  {name:34} {way['words']:4} words in {way['clips_with_words']} clips {way['words_by_kind']}")
    for name, one in result.get("recall", {}).items():
        for kind in NOISES:
            row = one[kind]
            share = row["speech_seconds_in_stretches"] / max(1e-9, row["speech_seconds"])
            lines.append(
                f"{name:16} {kind:7} text in {row['with_text']} of {one['clips']} "
                f"({row['with_text_without_gates']} without gates), {100 * share:.1f} % of the speech in stretches, "
                f"{100 * row['word_error_rate']:.1f} % of the words wrong "
                f"({100 * row['word_error_rate_without_gates']:.1f} without gates)"
            )
    if "long" in result:
        lines.append(f"{result['long']['loops']} loops in {result['long']['words']} words")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--clips", type=int, default=216, help="sounds without speech (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="fixes every sound (%(default)s)")
    parser.add_argument("--speech", type=Path, nargs="*", default=[], help="manifests of recordings with their texts")
    parser.add_argument("--every", type=int, default=3, help="take every so-manieth recording (%(default)s)")
    parser.add_argument("--long", type=Path, help="a long recording, in whose transcript loops are counted")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    engine = soundwave.load(chosen.model)
    result: dict[str, Any] = {"nothing_said": invented(ways_of(engine), chosen.clips, chosen.seed)}
    if chosen.speech:
        result["recall"] = {path.parent.name: recall(engine, path, chosen.every) for path in chosen.speech}
    if chosen.long is not None:
        result["long"] = loops_in(one.text for one in engine.transcribe(chosen.long, llm=False).segments)
    print(show(result))
    if chosen.json:
        about = {**result, "decibels": DECIBELS, **machine_facts()}
        chosen.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
