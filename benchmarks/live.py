"""How late live captions are, and what they cost: real speech fed as a microphone gives it, against a simulated clock.

Clips follow each other with pauses of faint noise. A step of sound arrives when it was spoken; it is worked on when it
has arrived and the work before is done; what that takes is measured. So no time is spent waiting, and what a person
would have seen when is known. A word's latency is the time at which it is shown, less its end by forced
alignment; `latencies` says what that may mean.

    python benchmarks/live.py dev-librispeech/manifest.jsonl --minutes 5 --json live.json
    python benchmarks/live.py dev-librispeech/manifest.jsonl --hour --no-offline
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import CLOCKS, machine_facts

import soundwave
from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.inference.captions import Event, Final, LiveSession, Partial
from soundwave.inference.engine import Engine
from soundwave.inference.options import ListenOptions
from soundwave.text.metrics import word_errors

BAR_SECONDS = 0.5  # from the end of a word until it is shown
PAUSES = (0.5, 1.5)  # seconds between clips, the least and the most
NOISE_LEVEL = 1e-3  # of the pauses: -60 dB of full scale


@dataclass
class Run:
    """What came out of a session, and when.

    Attributes:
        events: each with the simulated time at which it was there.
        costs: seconds of work of each step.
        step: seconds of sound in it.
        skipped: steps without captions, since the work was behind.
    """

    step: float
    events: list[tuple[float, Event]] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    skipped: int = 0


def clips_for(manifest: Path, seconds: float, seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """Clips of a manifest in a random order, with their texts, until they have so many seconds; again if need be."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").split("\n") if line.strip()]
    draw, total = np.random.default_rng(seed), 0.0
    while total < seconds:
        for i in draw.permutation(len(rows)):
            clip = load_audio(manifest.parent / rows[i]["audio"])
            total += len(clip) / SAMPLE_RATE + sum(PAUSES) / 2
            yield clip, rows[i]["text"]
            if total >= seconds:
                return


def spoken(clips: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """The clips one after the other with pauses, as one recording."""
    draw = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    for clip in [*clips, np.zeros(0, np.float32)]:
        pause = draw.standard_normal(round(draw.uniform(*PAUSES) * SAMPLE_RATE)) * NOISE_LEVEL
        parts += [pause.astype(np.float32), clip]
    return np.concatenate(parts)


def listened(session: LiveSession, samples: np.ndarray, step: float, clock: str) -> Run:
    """Feeds a recording as it would be spoken."""
    run, now, count = Run(step), CLOCKS[clock], round(step * SAMPLE_RATE)
    free = 0.0  # when the work until now is done
    for first in range(0, len(samples), count):
        part = samples[first : first + count]
        arrived = (first + len(part)) / SAMPLE_RATE
        began = max(arrived, free)
        start = now()
        events = session.feed(part, behind=began - arrived)
        if first + count >= len(samples):
            events += session.finish()
        run.costs.append(now() - start)
        free = began + run.costs[-1]
        run.events += [(free, event) for event in events]
    run.skipped = session.skipped
    return run


def latencies(run: Run) -> tuple[dict[str, list[float]], int]:
    """Seconds from each final word's end until it is shown, for each meaning of that; and how many no partial had.

    `first_shown`: of the words that a partial ever had. `first_shown_or_final`: of all words; what no partial had comes
    with the final. `shown_for_good`: of all words, until no later partial is without it. `stands`: of words among those
    that never change.
    """
    names = ("first_shown", "first_shown_or_final", "shown_for_good", "stands")
    late: dict[str, list[float]] = {name: [] for name in names}
    never = 0
    partials: list[tuple[float, Partial]] = []
    for at, event in run.events:
        if isinstance(event, Partial):
            partials.append((at, event))
            continue
        words = [word for segment in event.transcript.segments for word in segment.words]
        places = [_places([word.text for word in words], partial) for _, partial in partials]
        times = [*(when for when, _ in partials), at]
        for i, word in enumerate(words):
            had = [i in place for place in places]
            stands = [i in place and place[i] < partials[n][1].stable for n, place in enumerate(places)]
            first, stood = _first(had), _first(stands)
            good = len(had) - _first([not one for one in reversed(had)])
            late["first_shown_or_final"].append(times[first] - word.end)
            late["shown_for_good"].append(times[good] - word.end)
            if first < len(had):
                late["first_shown"].append(times[first] - word.end)
            if stood < len(had):
                late["stands"].append(times[stood] - word.end)
            never += first == len(had)
        partials = []
    return late, never


def _first(values: Sequence[bool]) -> int:
    """The place of the first that is true; their number if none is."""
    return values.index(True) if True in values else len(values)


def _places(words: list[str], partial: Partial) -> dict[int, int]:
    """Which of the words a partial shows, and in which place."""
    shown = [word.text for word in partial.words]
    blocks = SequenceMatcher(None, words, shown, autojunk=False).get_matching_blocks()
    return {block.a + i: block.b + i for block in blocks for i in range(block.size)}


def changed(run: Run) -> dict[str, Any]:
    """How many words that stood were changed later: by another partial, and by the final."""
    stood, by_partial, by_final = 0, 0, 0
    before: tuple[str, ...] = ()
    for _, event in run.events:
        if isinstance(event, Partial):
            words = tuple(word.text for word in event.words[: event.stable])
            by_partial += sum(a != b for a, b in zip(before, words, strict=False)) + max(0, len(before) - len(words))
            before = words
        else:
            final = event.text.split()
            blocks = SequenceMatcher(None, before, final, autojunk=False).get_matching_blocks()
            same = sum(block.size for block in blocks)
            stood, by_final, before = stood + len(before), by_final + len(before) - same, ()
    return {"stood": stood, "changed_by_a_partial": by_partial, "changed_by_the_final": by_final}


def summary(run: Run) -> dict[str, Any]:
    """What is printed."""
    late, never = latencies(run)
    seconds, tenth = len(run.costs) * run.step, max(1, min(len(run.costs) // 2, round(600 / run.step)))
    return {
        "audio_seconds": round(seconds, 1), "words": len(late["first_shown_or_final"]),
        "words_only_in_the_final": never,
        "latency": {
            name: {
                "median": round(float(np.median(values)), 3), "p95": round(float(np.percentile(values, 95)), 3),
                "within_500_ms": round(float(np.mean(np.array(values) <= BAR_SECONDS)), 4),
            } if values else None for name, values in late.items()
        },
        "words_that_stood": changed(run),
        "work_per_second": {
            "all": round(sum(run.costs) / seconds, 3),
            "first": round(sum(run.costs[:tenth]) / (tenth * run.step), 3),
            "last": round(sum(run.costs[-tenth:]) / (tenth * run.step), 3), "of_seconds": round(tenth * run.step),
        },
        "step_cost": {
            "median": round(float(np.median(run.costs)), 3), "p95": round(float(np.percentile(run.costs, 95)), 3),
            "most": round(max(run.costs), 3),
        },
        "steps": len(run.costs), "skipped": run.skipped,
    }


def errors(engine: Engine, run: Run, clips: Sequence[np.ndarray], texts: Sequence[str], options: ListenOptions,
           offline: bool) -> dict[str, float]:
    """Word error rates: of all finals joined, of what stood or was last shown, and of the clips one by one."""
    reference = " ".join(texts)
    last: list[str] = []
    shown: list[str] = []
    for _, event in run.events:
        if isinstance(event, Final):
            shown, last = [*shown, *last], []
        else:
            last = [event.text]
    finals = " ".join(event.text for _, event in run.events if isinstance(event, Final))
    rates = {"finals": finals, "last_partials": " ".join([*shown, *last])}
    result = {name: round(word_errors([reference], [text]).rate, 4) for name, text in rates.items()}
    if offline:
        alone = [engine.transcribe((clip, SAMPLE_RATE), llm=options.llm).text for clip in clips]
        result["clips_one_by_one"] = round(word_errors(list(texts), alone).rate, 4)
    return result


def show(result: dict[str, Any]) -> None:
    """The figures as lines."""
    print(f"{result['audio_seconds']:.0f} s of sound, {result['words']} words in finals, step {result['step']} s")
    for name, values in result["latency"].items():
        if values:
            print(
                f"{name.replace('_', ' '):20} after the word's end: median {1000 * values['median']:.0f} ms, 95th "
                f"percentile {1000 * values['p95']:.0f} ms; {100 * values['within_500_ms']:.1f} % within 500 ms"
            )
    stood, work = result["words_that_stood"], result["work_per_second"]
    print(f"{result['words_only_in_the_final']} words of finals were in no partial")
    print(f"{stood['stood']} words stood; later changed: {stood['changed_by_a_partial']} by a partial, "
          f"{stood['changed_by_the_final']} by the final")
    print(f"word error rates: {result['word_error_rates']}")
    print(f"work for a second of sound: {work['all']:.3f} s; first {work['of_seconds']} s {work['first']:.3f}, "
          f"the last {work['last']:.3f}; a step takes {result['step_cost']}; {result['skipped']} steps skipped")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="recordings with their texts")
    parser.add_argument("--minutes", type=float, default=5.0, help="of sound (%(default)s)")
    parser.add_argument("--hour", action="store_const", const=60.0, dest="minutes", help="the same as --minutes 60")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--no-llm", action="store_true", help="finals by CTC alone")
    parser.add_argument("--no-offline", action="store_true", help="do not transcribe the clips one by one as well")
    parser.add_argument("--step", type=float, default=ListenOptions().step, help="seconds (%(default)s)")
    parser.add_argument("--window", type=float, default=ListenOptions().window, help="seconds (%(default)s)")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="what work is counted in (%(default)s)")
    parser.add_argument("--threads", type=int, help="of torch; with --clock processor give 1")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the pauses (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    clips, texts = zip(*clips_for(chosen.manifest, 60 * chosen.minutes, chosen.seed), strict=True)
    engine = soundwave.load(chosen.model, backend="none" if chosen.no_llm else "torch")
    options = ListenOptions(llm=False if chosen.no_llm else None, step=chosen.step, window=chosen.window)
    with engine.listen(options) as session:
        run = listened(session, spoken(clips, chosen.seed), chosen.step, chosen.clock)
    result = {
        **summary(run), "word_error_rates": errors(engine, run, clips, texts, options, not chosen.no_offline),
        "clips": len(clips), "options": asdict(options), "step": chosen.step, "clock": chosen.clock,
        "seed": chosen.seed, **machine_facts(),
    }
    show(result)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
