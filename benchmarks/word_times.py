"""How far the words' times lie from the truth, beside faster-whisper's own word times in the same run.

Speech of known timing is made by `timed_speech.py` in two halves of other voices: offsets of the model are fitted on
the one (`--fit` prints them), the other is reported. Of a transcript the words that are right are measured; the true
text, aligned with the recording, is measured whole.

    python recipes/mini/whisper_folder.py --out whisper-base
    python benchmarks/word_times.py --words train-words/manifest.jsonl --utterances dev-librispeech/manifest.jsonl \\
        --texts prose-harvard.jsonl.gz --whisper whisper-base --json word-times.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from confidence import matches, plain
from timed_speech import LOUD, Span, TimedSpeech, joined, synthesised
from timing import machine_facts

import soundwave
from soundwave.audio import SAMPLE_RATE
from soundwave.inference.engine import Engine
from soundwave.inference.results import Word

Timed = tuple[str, float, float]  # a word, its start and end in seconds
Way = Callable[[TimedSpeech], list[Timed]]
SEED = 1


def material(chosen: argparse.Namespace) -> list[TimedSpeech]:
    """The speech that the options name."""
    count = chosen.count
    parts: list[TimedSpeech] = []
    if chosen.words:
        parts += joined(chosen.words, "words", count, 8, (0.3, 0.8), SEED)
        parts += joined(chosen.words, "words in noise", count // 2, 8, (0.3, 0.8), SEED + 1, LOUD)
    if chosen.texts:
        for engine in chosen.engines:
            parts += synthesised(chosen.texts, engine, 3 * count, SEED)
    if chosen.utterances:
        parts += joined(chosen.utterances, "utterances", count, 2, (0.5, 1.5), SEED)
    return parts


def whisper_way(folder: Path) -> Way:
    """faster-whisper's own word times."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="int8")

    def way(speech: TimedSpeech) -> list[Timed]:
        segments, _ = model.transcribe(speech.samples, language="en", beam_size=1, word_timestamps=True)
        return [(word.word.strip(), word.start, word.end) for segment in segments for word in segment.words or ()]

    return way


def our_ways(engine: Engine) -> dict[str, Way]:
    """Our transcript, and the true text aligned with the recording."""

    def timed(words: Sequence[Word]) -> list[Timed]:
        return [(word.text, word.start, word.end) for word in words]

    def transcript(speech: TimedSpeech) -> list[Timed]:
        found = engine.transcribe((speech.samples, SAMPLE_RATE))
        return timed([word for segment in found.segments for word in segment.words])

    def true_text(speech: TimedSpeech) -> list[Timed]:
        return timed(engine._transcriber.timer.words(speech.text, engine.encode((speech.samples, SAMPLE_RATE))))

    return {"transcribe": transcript, "true text, aligned": true_text}


def errors(spans: Sequence[Span], words: Sequence[Timed]) -> tuple[list[float], list[float], int]:
    """Seconds by which starts and ends of right words are too late, and how many true words there are.

    Of a span of several words the first one's start and the last one's end count.
    """
    reference = [word for span in spans for word in plain(span.text)]
    text = " ".join(word for word, _, _ in words)
    word_of = dict(matches(" ".join(reference), text))
    starts, ends, place = [], [], 0
    for span in spans:
        count = len(plain(span.text))
        if place in word_of:
            starts.append(words[word_of[place]][1] - span.start)
        if place + count - 1 in word_of:
            ends.append(words[word_of[place + count - 1]][2] - span.end)
        place += count
    return starts, ends, len(spans)


def figures(starts: Sequence[float], ends: Sequence[float], spans: int) -> dict[str, Any]:
    """Mean and 90th percentile of the absolute errors, and the mean error, in milliseconds."""

    def of(values: Sequence[float]) -> dict[str, float]:
        far = 1000 * np.abs(values)
        return {
            "mean": round(float(far.mean()), 1), "percentile_90": round(float(np.percentile(far, 90)), 1),
            "bias": round(1000 * float(np.mean(values)), 1),
        }

    if not starts or not ends:
        return {"spans": spans, "measured": 0}
    return {
        "spans": spans, "measured": len(starts), "starts": of(starts), "ends": of(ends), "both": of([*starts, *ends])
    }


def measured(ways: dict[str, Way], speeches: Sequence[TimedSpeech]) -> dict[str, dict[str, Any]]:
    """For each kind of speech, and all that is made of words together, the figures of each way."""
    kinds = list(dict.fromkeys(speech.kind for speech in speeches))
    table: dict[str, dict[str, Any]] = {kind: {} for kind in [*kinds, "all"]}
    for name, way in ways.items():
        whole: tuple[list[float], list[float]] = [], []
        spans = 0
        for kind in kinds:
            starts: list[float] = []
            ends: list[float] = []
            count = 0
            for speech in speeches:
                if speech.kind == kind:
                    more_starts, more_ends, more = errors(speech.spans, way(speech))
                    starts, ends, count = starts + more_starts, ends + more_ends, count + more
            table[kind][name] = figures(starts, ends, count)
            whole, spans = (whole[0] + starts, whole[1] + ends), spans + count
        table["all"][name] = figures(*whole, spans)
    return table


def fitted(engine: Engine, speeches: Sequence[TimedSpeech]) -> dict[str, float]:
    """The offsets of `transcribe.timing` by least squares, on synthesised words whose whole text is aligned."""
    timer = engine._transcriber.timer
    sides: dict[str, tuple[list[list[float]], list[float]]] = {"start": ([], []), "end": ([], [])}
    for speech in speeches:
        if speech.kind not in ("flite", "espeak"):
            continue
        sound = engine.encode((speech.samples, SAMPLE_RATE))
        for span, pieces in zip(speech.spans, timer.aligned(speech.text.split(), sound) or [], strict=True):
            for name, piece, far in (
                ("start", pieces[0], pieces[0].first * sound.seconds_per_frame - span.start),
                ("end", pieces[-1], span.end - pieces[-1].last * sound.seconds_per_frame),
            ):
                sides[name][0].append([1.0, piece.letters])
                sides[name][1].append(far)
    options: dict[str, float] = {}
    for name, (columns, far_off) in sides.items():
        constant, letter = np.linalg.lstsq(np.array(columns), np.array(far_off), rcond=None)[0]
        options |= {name: round(float(constant), 3), f"{name}_each_letter": round(float(letter), 3)}
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, help="manifest of single words")
    parser.add_argument("--utterances", type=Path, help="manifest of sentences")
    parser.add_argument("--texts", type=Path, help="gzipped JSON lines of sentences that synthesisers read")
    parser.add_argument("--engines", nargs="+", default=["flite", "espeak"], help="of those (%(default)s)")
    parser.add_argument("--whisper", type=Path, help="the folder that whisper_folder.py made; left out: no peer")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--count", type=int, default=20, help="recordings of words in each half (%(default)s)")
    parser.add_argument("--fit", action="store_true", help="print the offsets that the other half gives")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    speeches = material(chosen)
    engine = soundwave.load(chosen.model)
    ways = our_ways(engine)
    if chosen.whisper:
        ways["faster-whisper base, int8, beam 1"] = whisper_way(chosen.whisper)
    result: dict[str, Any] = {"seed": SEED}
    if chosen.fit:
        result["fitted"] = fitted(engine, [one for one in speeches if one.half == "tune"])
        print(f"transcribe.timing of inference.json: {json.dumps(result['fitted'])}")
    result["milliseconds"] = measured(ways, [one for one in speeches if one.half == "report"])
    for kind, table in result["milliseconds"].items():
        for name, found in table.items():
            line = "nothing right" if not found["measured"] else ", ".join(
                f"{side} {found[side]['mean']:.0f} (90 %: {found[side]['percentile_90']:.0f}, "
                f"bias {found[side]['bias']:+.0f})" for side in ("starts", "ends", "both")
            )
            print(f"{kind:14} {name:34} {found['measured']:4} of {found['spans']:4}: {line}")
    if chosen.json:
        chosen.json.write_text(json.dumps(result | machine_facts(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
