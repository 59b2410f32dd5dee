"""How the search's constants and the LLM's choice do on held-out speech: the figures that mini's constants come from.

    python recipes/mini/search_constants.py models/soundwave-mini --speech SPEECH

Every third clip of dev-librispeech and dev-questions is searched with each pair of a language weight and a word bonus;
of the best pair's texts the LLM then chooses with each triple of weights. Prints the best of each and the model's own
as word error rates; `inference.json` keeps what is chosen. About a minute on two cores. Differences below half a point
mean nothing: 67 and 31 clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from soundwave.cli.display import count_progress
from soundwave.ctc.beam_search import Hypothesis
from soundwave.data.manifests import read_manifest
from soundwave.errors import SoundwaveError
from soundwave.inference.loading import load
from soundwave.inference.transcription import Transcriber, weighed
from soundwave.inference_config import BeamSearchOptions, RescoringOptions
from soundwave.text.metrics import word_errors

SETS = ("dev-librispeech", "dev-questions")
SEARCH = tuple(product((0.6, 0.8, 1.0), (1.0, 2.0, 3.0)))  # language weight, word bonus
CHOICE = tuple(product((0.4, 0.6, 0.8, 1.0), (0.1, 0.2, 0.4, 0.6), (0.5, 1.0, 1.5, 2.0)))  # LLM, n-gram, word bonus
SHOWN = 5


@dataclass(frozen=True)
class Found:
    """What the search finds in a clip, what the LLM adds to each text, and what is said."""

    said: str
    texts: list[Hypothesis]
    gains: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a model with an n-gram")
    parser.add_argument("--speech", type=Path, required=True, help=f"folder with {' and '.join(SETS)}")
    parser.add_argument("--every", type=int, default=3, help="of so many clips one is read (%(default)s)")
    arguments = parser.parse_args()
    if arguments.every < 1:
        parser.error(f"--every {arguments.every}: give 1 or more")
    if missing := [name for name in SETS if not (arguments.speech / name / "manifest.jsonl").is_file()]:
        parser.error(f"--speech {arguments.speech} has no {missing[0]}/manifest.jsonl; it needs {' and '.join(SETS)}")
    try:
        engine = load(arguments.model, device="cpu")
    except SoundwaveError as error:
        parser.error(str(error))
    transcriber = engine._transcriber  # private: constants are no one else's to change
    if not transcriber.has_words:
        parser.error(f"{arguments.model} has no n-gram, so there is no search; give a model with ngram.npz")
    heard: dict[str, list[tuple[torch.Tensor, str]]] = {}
    for name in SETS:
        clips = list(read_manifest(arguments.speech / name / "manifest.jsonl"))[:: arguments.every]
        with count_progress(name, quiet=False) as progress:
            heard[name] = []
            for number, clip in enumerate(clips, 1):
                logprobs = engine.encode(clip.audios[0].path).ctc_logprobs
                assert logprobs is not None
                heard[name].append((logprobs, clip.transcript or ""))
                progress(number, len(clips))

    own = transcriber.inference.transcribe
    rates: list[tuple[float, BeamSearchOptions, dict[str, list[Found]]]] = []
    for weight, bonus in SEARCH:
        options = replace(own.search, language_weight=weight, word_bonus=bonus)
        found = {name: searched(transcriber, options, clips) for name, clips in heard.items()}
        each = {name: rate([(one.said, one.texts[0].text) for one in some]) for name, some in found.items()}
        rates.append((sum(each.values()), options, found))
        print(f"search: language weight {weight}, word bonus {bonus}: {told(each)}", flush=True)
    _, search, found = min(rates, key=lambda one: one[0])
    print(f"the LLM chooses among texts of language weight {search.language_weight}, word bonus {search.word_bonus}")
    found = {
        name: [replace(one, gains=transcriber.gains([text.text for text in one.texts])) for one in some]
        for name, some in found.items()
    }
    choices = [replace(own.rescoring, llm_weight=a, language_weight=b, word_bonus=c) for a, b, c in CHOICE]
    table = [(chosen_rates(found, search, choice), choice) for choice in [own.rescoring, *choices]]
    best = sorted(table[1:], key=lambda pair: sum(pair[0].values()))[:SHOWN]
    for title, rows in (("the model's own", table[:1]), ("best", best)):
        for each, choice in rows:
            weights = f"LLM {choice.llm_weight}, n-gram {choice.language_weight}, word bonus {choice.word_bonus}"
            print(f"{title}: {weights}: {told(each)}")


def searched(
    transcriber: Transcriber, options: BeamSearchOptions, clips: Sequence[tuple[torch.Tensor, str]]
) -> list[Found]:
    """The n best texts of each clip by other constants, without the LLM."""
    own = transcriber.inference
    transcriber.inference = replace(own, transcribe=replace(own.transcribe, search=options))
    transcriber.__dict__.pop("search", None)  # it is made once
    nbest = own.transcribe.rescoring.nbest
    texts = [transcriber.search.decode([logprobs.cpu().numpy()], nbest, ())[0] for logprobs, _ in clips]
    return [Found(said, some, []) for (_, said), some in zip(clips, texts, strict=True) if some]


def chosen_rates(
    found: dict[str, list[Found]], search: BeamSearchOptions, again: RescoringOptions
) -> dict[str, float]:
    """Word error rates of the LLM's choice by these weights."""
    def chosen(one: Found) -> str:
        scores = weighed(one.texts, one.gains, search, again)
        near = [i for i, text in enumerate(one.texts) if text.score >= one.texts[0].score - again.within]
        return one.texts[max(near, key=scores.__getitem__)].text

    return {name: rate([(one.said, chosen(one)) for one in some]) for name, some in found.items()}


def rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Word error rate in percent of (said, heard)."""
    return 100 * word_errors(*zip(*pairs, strict=True)).rate


def told(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} %" for name, value in rates.items())


if __name__ == "__main__":
    main()
