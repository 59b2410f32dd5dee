"""How well a word's confidence tells whether it is right: fitted on every third clip, reported on the others.

Prints the numbers for the model's inference.json, and the expected calibration error before and after: the mean
distance between confidence and share of right words, over ten bins. With `--plot`, a reliability plot.

    python benchmarks/confidence.py dev-librispeech/manifest.jsonl --json confidence.json --plot confidence.png
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray
from timing import machine_facts

import soundwave
from soundwave.ctc.align import Token
from soundwave.ctc.confidence import Evidence, confidence_of, path_probability
from soundwave.ctc.lexicon import plain_word
from soundwave.inference.engine import Engine
from soundwave.inference.word_times import WordTimer
from soundwave.inference_config import ConfidenceOptions

BINS = 10
FITTED = 3  # every third clip


@dataclass(frozen=True)
class Judged:
    """A word of a transcript: its evidence, and whether the reference has it in its place."""

    evidence: Evidence
    right: bool


class Witness(WordTimer):
    """A word timer that keeps the evidence of each word that it is asked about."""

    def __init__(self, engine: Engine):
        super().__init__(engine.ctc.pieces, engine.encoder.config.blank_class, engine.inference.transcribe.timing)
        self.kept: list[Evidence] = []

    def confidence(self, pieces: Sequence[Token], gap: float | None) -> float | None:
        """Keeps the evidence."""
        self.kept.append(Evidence(path_probability(pieces), gap))
        return None


def plain(text: str) -> list[str]:
    """Words by their letters alone, as many as there are: "Don't!" is dont."""
    return [re.sub(r"[^a-z0-9]", "", plain_word(word)) or "-" for word in text.split()]


def matches(reference: str, text: str) -> list[tuple[int, int]]:
    """The words that a text has right: their number in the reference, and in the text."""
    if not reference.strip() or not text.strip():
        return []
    chunks = jiwer.process_words(" ".join(plain(reference)), " ".join(plain(text))).alignments[0]
    return [
        (chunk.ref_start_idx + i, chunk.hyp_start_idx + i) for chunk in chunks if chunk.type == "equal"
        for i in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]


def judged(engine: Engine, manifest: Path, every: int, llm: bool) -> list[list[Judged]]:
    """For each clip its transcript's words."""
    lines = manifest.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()][::every]
    engine._transcriber.timer = witness = Witness(engine)  # no public figure holds the evidence
    clips = []
    for row in rows:
        witness.kept = []
        text = engine.transcribe(manifest.parent / row["audio"], llm=llm).text
        right = {number for _, number in matches(row["text"], text)}
        clips.append([Judged(evidence, i in right) for i, evidence in enumerate(witness.kept)])
    return clips


def fit(words: Sequence[Judged]) -> ConfidenceOptions:
    """The logistic map that makes what is right likeliest: Newton's steps, faintly held near 0."""
    paths = np.clip([word.evidence.path for word in words], 1e-4, 1 - 1e-4)
    gap = [word.evidence.gap or 0.0 for word in words]
    columns = np.column_stack([np.ones(len(words)), np.log(paths / (1 - paths)), gap])
    right = np.array([word.right for word in words], float)
    weights = np.zeros(3)
    for _ in range(30):
        chance = 1 / (1 + np.exp(-columns @ weights))
        curvature = (columns * (chance * (1 - chance))[:, None]).T @ columns + 1e-3 * np.eye(3)
        weights += np.linalg.solve(curvature, columns.T @ (right - chance) - 1e-3 * weights)
    return ConfidenceOptions(*(round(float(weight), 3) for weight in weights))


def quality(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Calibration error, Brier score, the area under the ROC curve, and the bins of a reliability plot."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [
        {"words": int((place == i).sum()), "confidence": float(confidence[place == i].mean()),
         "right": float(right[place == i].mean())}
        for i in range(BINS) if (place == i).any()
    ]
    error = sum(one["words"] * abs(one["confidence"] - one["right"]) for one in bins) / max(1, len(right))
    good, bad = confidence[right], np.sort(confidence[~right])
    below = (np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")) / 2
    area = float(below.mean() / len(bad)) if len(bad) and len(good) else None
    return {
        "calibration_error": float(error), "brier": float(np.mean((confidence - right) ** 2)),
        "area_under_roc": area, "words": len(right), "right": float(right.mean()), "bins": bins,
    }


def report(words: Sequence[Judged], options: ConfidenceOptions) -> dict[str, Any]:
    """The quality of the CTC path's own probability, and of the calibrated confidence."""
    right = np.array([word.right for word in words])
    ways = {"path alone": None, "calibrated": options}
    return {
        name: quality(np.array([confidence_of(word.evidence, chosen) for word in words]), right)
        for name, chosen in ways.items()
    }


def plot(results: dict[str, dict[str, Any]], file: Path) -> None:
    """Share of right words by confidence; a point's size is its number of words. Few colours keep the file small."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    rows, columns = -(-len(results) // 3), min(3, len(results))
    size = (3.2 * columns, 3 * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, (name, ways) in zip(axes.flat, results.items(), strict=False):
        axis.plot([0, 1], [0, 1], color="0.8")
        for (way, found), colour in zip(ways.items(), ("tab:gray", "tab:blue"), strict=True):
            xs, ys, sizes = zip(*((b["confidence"], b["right"], b["words"]) for b in found["bins"]), strict=True)
            axis.plot(xs, ys, color=colour, label=f"{way}, {found['calibration_error']:.3f}")
            axis.scatter(xs, ys, 3 + 60 * np.sqrt(np.array(sizes) / found["words"]), color=colour)
        axis.set_title(name, fontsize=9)
        axis.legend(fontsize=7)
    figure.supxlabel("confidence", fontsize=9)
    figure.supylabel("share of words that are right", fontsize=9)
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    Image.open(drawn).convert("RGB").quantize(24).save(file, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, nargs="+", help="recordings with their texts")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take every so-manieth clip (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a reliability plot")
    chosen = parser.parse_args(arguments)
    engine = soundwave.load(chosen.model)
    ways = (True, False) if engine.inference.transcribe.llm else (False,)
    fitted: list[Judged] = []
    others: dict[str, list[Judged]] = {}
    for llm in ways:
        for manifest in chosen.manifests:
            clips = judged(engine, manifest, chosen.every, llm)
            fitted += [word for clip in clips[::FITTED] for word in clip]
            left = [word for i, clip in enumerate(clips) if i % FITTED for word in clip]
            others[f"{manifest.parent.name}{'' if llm else ', no LLM'}"] = left
    options = fit(fitted)
    results = {name: report(words, options) for name, words in others.items()}
    print(f"transcribe.confidence of inference.json: {json.dumps(asdict(options))}")
    for name, found in results.items():
        for way, values in found.items():
            area = values["area_under_roc"] or float("nan")
            print(f"{name:32} {way:12} ECE {values['calibration_error']:.3f}, Brier {values['brier']:.3f}, "
                  f"area under ROC {area:.3f}, {values['words']} words")
    if chosen.plot:
        plot(results, chosen.plot)
    if chosen.json:
        about = {"options": asdict(options), "fitted_on_words": len(fitted), "results": results, **machine_facts()}
        chosen.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
