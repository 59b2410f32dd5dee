"""Memory over hours: what `transcribe` takes while it writes a long recording down, and how much that grows.

The recording is made of a manifest's clips again and again, with gaps. Memory is looked at after each segment; what
comes after the first ten minutes of audio is held against the most until then. Phrases that are said again and again
are counted too.

    python benchmarks/long_memory.py dev-librispeech/manifest.jsonl --hours 3 --json long-memory.json
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import soundfile
from long_audio import recording
from no_invention import loops_in
from timing import machine_facts

import soundwave
from soundwave.audio import SAMPLE_RATE
from soundwave.inference.engine import Engine

WARM_SECONDS = 600.0  # of audio, in which memory may grow
MOST_GROWTH = 0.05
KEPT_EVERY = 60.0  # s of audio: a figure for each minute is kept


def resident() -> int:
    """Memory of this process now, in megabytes.

    Raises:
        SystemExit: this system does not tell.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise SystemExit("Memory is read from /proc/self/status, which this system does not have; run it on Linux.")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text())
    assert found is not None
    return round(int(found[1]) / 1024)


def watched(engine: Engine, source: Path, llm: bool) -> tuple[list[tuple[float, int]], list[str]]:
    """Seconds of audio that are written down, and megabytes then; and the segments."""
    seen, texts = [], []
    with closing(engine.transcribe_stream(source, llm=llm)) as segments:
        for segment in segments:
            texts.append(segment.text)
            seen.append((segment.end, resident()))
            print(f"\r{segment.end / 60:6.1f} min {seen[-1][1]} MB", end="", flush=True)
    print()
    return seen, texts


def summary(seen: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """The most memory in the first ten minutes and after them, and a figure for each minute."""
    warm = max(megabytes for seconds, megabytes in seen if seconds <= WARM_SECONDS)
    later = max((megabytes for seconds, megabytes in seen if seconds > WARM_SECONDS), default=warm)
    each: dict[int, int] = {}
    for seconds, megabytes in seen:
        minute = int(seconds // KEPT_EVERY)
        each[minute] = max(each.get(minute, 0), megabytes)
    growth = round(later / warm - 1, 4)
    return {
        "first_ten_minutes_mb": warm, "later_mb": later, "growth": growth, "met": growth <= MOST_GROWTH,
        "mb_by_minute": list(each.values()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="recordings with their texts")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--hours", type=float, default=3.0, help="of the recording (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order, the gaps and the noise (%(default)s)")
    parser.add_argument("--no-llm", action="store_true", help="by CTC and n-gram alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    engine = soundwave.load(chosen.model, backend="none" if chosen.no_llm else "torch")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "recording.flac"
        with soundfile.SoundFile(source, "w", SAMPLE_RATE, 1, format="FLAC") as file:
            for samples, _, _ in recording(chosen.manifest, 3600 * chosen.hours, chosen.seed):
                file.write(samples)
            seconds = file.frames / SAMPLE_RATE
        seen, texts = watched(engine, source, not chosen.no_llm)
    result = summary(seen) | loops_in(texts)
    print(
        f"{seconds / 3600:.2f} h: at most {result['first_ten_minutes_mb']} MB in the first ten minutes, "
        f"{result['later_mb']} MB after them: {100 * result['growth']:+.1f} %; "
        f"{result['loops']} loops in {result['words']} words"
    )
    if chosen.json:
        about = {"audio_seconds": round(seconds, 1), "seed": chosen.seed, "llm": not chosen.no_llm, **result}
        chosen.json.write_text(json.dumps({**about, **machine_facts()}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
