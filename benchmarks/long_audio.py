"""An hour of speech written down: speed, words and memory of `transcribe` beside faster-whisper's `base`, in one run.

The recording is made of a manifest's clips in a random order, with gaps between them, some of which hold noise. Each
way runs in a process of its own, so that its peak of memory is its own; the model's loading is not in its time. Our
clips one by one are the reference for what cutting a long recording costs in words.

    python recipes/mini/whisper_folder.py --out whisper-base
    python benchmarks/long_audio.py dev-librispeech/manifest.jsonl --whisper whisper-base --json long-audio.json
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from timing import machine_facts

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.text.metrics import word_errors

GAPS = (0.3, 3.0)  # s between two clips
NOISE = (-60.0, -40.0)  # dB of full scale, in every other gap
OURS, OURS_WITHOUT_LLM = "transcribe", "transcribe --no-llm"
CLIPS, CLIPS_WITHOUT_LLM = "clips one by one", "clips one by one, --no-llm"
WHISPER, WHISPER_BATCHED = "faster-whisper base, int8, beam 1", "faster-whisper base, int8, beam 1, batched"


def recording(manifest: Path, seconds: float, seed: int) -> Iterator[tuple[np.ndarray, str, str]]:
    """Clips with the gap after each, their paths and their texts, until there are so many seconds of sound."""
    lines = manifest.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    rng = np.random.default_rng(seed)
    total, noisy = 0, False
    while True:
        for i in rng.permutation(len(rows)):
            clip = load_audio(manifest.parent / rows[i]["audio"])
            gap = rng.standard_normal(round(rng.uniform(*GAPS) * SAMPLE_RATE)).astype(np.float32)
            gap *= 10 ** (rng.uniform(*NOISE) / 20) if noisy else 0
            noisy = not noisy
            yield np.concatenate([clip, gap]), str(manifest.parent / rows[i]["audio"]), rows[i]["text"]
            total += len(clip) + len(gap)
            if total >= seconds * SAMPLE_RATE:
                return


def run(way: str, source: Path, model: str, whisper: Path | None) -> dict[str, Any]:
    """One way's text, seconds and peak of memory in megabytes; of the clips, a text for each."""
    write = ours(way, model) if whisper is None else theirs(way, whisper)
    started = time.perf_counter()
    texts = write(source)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return {"seconds": seconds, "peak_mb": round(int(peak[1]) / 1024) if peak else None, "texts": texts}


def ours(way: str, model: str) -> Callable[[Path], list[str]]:
    """Our way of writing a recording, or the clips that a list names, down."""
    import soundwave

    llm = way in (OURS, CLIPS)
    engine = soundwave.load(model, backend="torch" if llm else "none")

    def write(source: Path) -> list[str]:
        if way in (OURS, OURS_WITHOUT_LLM):
            return [engine.transcribe(source).text]
        return [engine.transcribe(clip).text for clip in json.loads(source.with_suffix(".json").read_text())]

    return write


def theirs(way: str, folder: Path) -> Callable[[Path], list[str]]:
    """faster-whisper's, one window after the other or several at once."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="int8")
    options: dict[str, Any] = {"beam_size": 1, "language": "en"}
    if way == WHISPER_BATCHED:
        batched = BatchedInferencePipeline(model)
        return lambda source: [part.text for part in batched.transcribe(str(source), batch_size=8, **options)[0]]
    return lambda source: [part.text for part in model.transcribe(str(source), **options)[0]]


def in_own_process(way: str, source: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """What `run` gives in a process of its own."""
    command = [sys.executable, __file__, str(chosen.manifest), "--way", way, "--source", str(source)]
    command += ["--model", chosen.model]
    if way in (WHISPER, WHISPER_BATCHED):
        command += ["--whisper", str(chosen.whisper)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="recordings with their texts")
    parser.add_argument("--whisper", type=Path, help="the folder that whisper_folder.py made; left out: no peer")
    parser.add_argument("--model", default="mini", help="what is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3600, help="of the recording (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order, the gaps and the noise (%(default)s)")
    parser.add_argument("--no-llm", action="store_true", help="only the ways without the LLM, which are quicker")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.way:
        print(json.dumps(run(chosen.way, chosen.source, chosen.model, chosen.whisper)))
        return
    ways = [OURS_WITHOUT_LLM, CLIPS_WITHOUT_LLM] if chosen.no_llm else [
        OURS, CLIPS, OURS_WITHOUT_LLM, CLIPS_WITHOUT_LLM,
    ]
    if chosen.whisper is not None:
        ways += [WHISPER, WHISPER_BATCHED]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "recording.flac"
        clips, texts = [], []
        with soundfile.SoundFile(source, "w", SAMPLE_RATE, 1, format="FLAC") as file:
            for samples, clip, text in recording(chosen.manifest, chosen.seconds, chosen.seed):
                file.write(samples)
                clips.append(clip)
                texts.append(text)
            seconds = file.frames / SAMPLE_RATE
        source.with_suffix(".json").write_text(json.dumps(clips))
        print(f"{seconds / 60:.1f} minutes of audio, {len(clips)} clips")
        result = {}
        for way in ways:
            made = in_own_process(way, source, chosen)
            pairs = (texts, made["texts"]) if way in (CLIPS, CLIPS_WITHOUT_LLM) else (
                [" ".join(texts)], [" ".join(made["texts"])],
            )
            errors = word_errors(*pairs).rate
            speed = round(seconds / made["seconds"], 2)
            result[way] = {
                "times_real_time": speed, "word_error_rate": errors, "peak_mb": made["peak_mb"],
                "seconds": round(made["seconds"], 2),
            }
            peak = "" if made["peak_mb"] is None else f", {made['peak_mb']} MB at most"
            print(f"{way:45} {speed:6.1f} x real time, {100 * errors:5.2f} % of the words wrong{peak}", flush=True)
    if chosen.json:
        about = {"audio_seconds": round(seconds, 1), "clips": len(clips), "seed": chosen.seed, "ways": result}
        chosen.json.write_text(json.dumps({**about, **machine_facts()}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
