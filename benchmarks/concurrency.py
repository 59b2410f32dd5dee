"""What requests from several threads get of one engine: audio seconds a second, and tokens a second.

Recordings are written down, and typed questions answered, one after the other and by several threads, with one and with
two threads of PyTorch in each. A server that takes one request at a time is the first row.

    python benchmarks/concurrency.py dev-librispeech/manifest.jsonl --json concurrency.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from timing import interleaved, machine_facts, medians

import soundwave
from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.inference.engine import Engine

QUESTIONS = [
    "What is the capital of France?", "Name three colours.", "What do bees make?", "Write a line about the sea.",
    "How many days has a week?", "What is a fox?", "Tell me about the moon.", "Why is the sky blue?",
]

Given = TypeVar("Given")
Result = TypeVar("Result")


def spread(
    requests: Sequence[Given], workers: int, threads: int, work: Callable[[Given], Result]
) -> Callable[[], list[Result]]:
    """A run of all requests by so many threads, PyTorch with so many in each."""

    def run() -> list[Result]:
        torch.set_num_threads(threads)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            return list(pool.map(work, requests))

    return run


def ways_of(requests: Sequence[Given], workers: Sequence[int], cores: int, work: Callable[[Given], Any]) -> Any:
    """One at a time with a thread of PyTorch for each core; every number of workers with so many and with one."""
    pairs = [(1, cores), *((some, threads) for threads in sorted({1, cores}) for some in workers)]
    return {f"{some} at a time, {threads} threads": spread(requests, some, threads, work) for some, threads in pairs}


def rates(ways: dict[str, Callable[[], Any]], repeats: int, amount: float, unit: str, first: str) -> dict[str, Any]:
    """What each way does in a second, and that beside the first's."""
    spent = interleaved(ways, repeats)
    middle = medians(spent)
    rows = {
        name: {unit: round(amount / one, 2), "ratio": round(middle[first] / one, 2), "seconds": spent[name]}
        for name, one in middle.items()
    }
    for name, row in rows.items():
        print(f"{name:30} {row[unit]:8.2f} {unit.replace('_', ' ')} {row['ratio']:6.2f} x")
    return rows


def measure(engine: Engine, clips: Sequence[Any], workers: Sequence[int], tokens: int, repeats: int) -> dict[str, Any]:
    """Both kinds of requests, in every way."""
    cores = torch.get_num_threads()
    seconds = sum(len(samples) for samples, _ in clips) / SAMPLE_RATE
    first = f"1 at a time, {cores} threads"  # a loop over requests, with PyTorch as it comes

    def answered(question: str) -> int:
        reply = engine.ask(None, question, temperature=0, max_new_tokens=tokens)
        return reply.usage.completion_tokens

    made = sum(map(answered, QUESTIONS))
    print(f"{len(clips)} recordings, {seconds:.0f} s; {len(QUESTIONS)} questions, {made} tokens")
    few = [some for some in workers if some <= 2 * cores]  # more wait for cores only
    heard = ways_of(clips, few, cores, lambda clip: engine.transcribe(clip).text)
    asked = ways_of(QUESTIONS, workers, cores, answered)
    return {
        "clips": len(clips), "audio_seconds": round(seconds, 1), "tokens": made,
        "transcribe": rates(heard, repeats, seconds, "audio_seconds_per_second", first),
        "ask": rates(asked, repeats, made, "tokens_per_second", first),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="recordings with their texts")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--clips", type=int, default=16, help="how many of the recordings (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8], help="threads of callers (%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer at most (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    lines = chosen.manifest.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()][: chosen.clips]
    clips = [(load_audio(chosen.manifest.parent / row["audio"]), SAMPLE_RATE) for row in rows]
    engine = soundwave.load(chosen.model)
    found = measure(engine, clips, chosen.workers, chosen.tokens, chosen.repeats)
    if chosen.json:
        about = {"data": chosen.manifest.parent.name, **found, **machine_facts()}
        chosen.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
