"""Make training speech from text with free synthesisers, until there are enough hours.

    python recipes/mini/make_speech.py --texts texts --out speech/flite --hours 5 --voices flite:awb,flite:rms,flite:slt

Writes FLAC clips (16 kHz, mono) and `manifest.jsonl`, one line a clip, added as each clip is done: a run that was
stopped goes on where it was, and the same arguments give the same clips (piper: the same texts and settings).
Sentences are chosen for breadth of words (see `sentences.py`).
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
from sentences import KINDS, Sentence, choose, manifest_texts, read_sentences
from voices import SAMPLE_RATE, Take, draw_take, speak

SHORTEST, LONGEST = 0.4, 20.0  # Seconds; clips outside are dropped.
QUIET = 1e-3  # A clip whose loudest sample is below this holds no speech.


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the .jsonl.gz text files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and manifest.jsonl")
    parser.add_argument("--hours", type=float, required=True, help="stop when there is this much audio")
    parser.add_argument(
        "--voices", required=True, help="comma-separated: flite:slt, espeak:en-gb+f2, piper:joe, piper:VOICE.onnx"
    )
    parser.add_argument(
        "--shares", default="prose=0.8,question=0.12,command=0.08", help="share of each kind of text (%(default)s)"
    )
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="manifests whose texts must not be spoken (test sets)"
    )
    parser.add_argument(
        "--already", type=Path, nargs="*", default=[], help="manifests of speech at hand: texts are not repeated"
    )
    parser.add_argument("--max-words", type=int, default=22, help="longest sentence (%(default)s)")
    parser.add_argument("--max-question-words", type=int, default=14, help="longest question (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="fixes texts, voices, speeds and pitches (%(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.shares = {
            kind: float(share) for kind, _, share in (part.partition("=") for part in arguments.shares.split(","))
        }
    except ValueError:
        parser.error(f"--shares {arguments.shares}: write it like prose=0.8,question=0.2")
    if unknown := set(arguments.shares) - set(KINDS):
        parser.error(f"--shares: unknown kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    if missing := [
        str(path) for path in [arguments.texts, *arguments.exclude, *arguments.already] if not path.exists()
    ]:
        parser.error(f"not found: {', '.join(missing)}")
    return arguments


def clips_done(manifest: Path) -> dict[str, float]:
    """Audio name -> seconds of the clips in a manifest that an earlier run began. A torn last line is taken off."""
    if not manifest.exists():
        return {}
    whole = manifest.read_text(encoding="utf-8")
    complete = whole[: whole.rfind("\n") + 1]
    if complete != whole:
        manifest.write_text(complete, encoding="utf-8")
    rows = [json.loads(line) for line in complete.splitlines()]
    return {row["audio"]: row["duration"] for row in rows}


def record(sentence: Sentence, take: Take, seed: int, audio: Path) -> float:
    """Speak one sentence into a FLAC file; gives its length in seconds.

    Raises:
        RuntimeError: No usable speech came out.
    """
    samples = speak(sentence.text, take, seed)
    seconds = len(samples) / SAMPLE_RATE
    peak = float(np.abs(samples).max(initial=0.0))
    if not SHORTEST <= seconds <= LONGEST or peak < QUIET:
        raise RuntimeError(f"{seconds:.2f} s with a peak of {peak:.4f} is no usable clip")
    if peak > 0.95:
        samples = samples * (0.95 / peak)
    soundfile.write(audio, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return seconds


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    manifest = arguments.out / "manifest.jsonl"
    done = clips_done(manifest)
    pool = read_sentences(
        arguments.texts, max_words=arguments.max_words, max_question_words=arguments.max_question_words
    )
    plan = choose(
        pool,
        arguments.shares,
        excluded=manifest_texts(arguments.exclude),
        already=manifest_texts(arguments.already),
        seed=arguments.seed,
    )
    voices = arguments.voices.split(",")
    made = failed = 0
    total = 0.0
    began, began_at = time.monotonic(), sum(done.values())
    with manifest.open("a", encoding="utf-8") as lines:
        for index, sentence in enumerate(plan):
            if total >= arguments.hours * 3600:
                break
            rng = random.Random(f"{arguments.seed}/{index}")
            take = draw_take(rng.choice(voices), rng)
            name = f"{index:06d}.flac"
            if name in done:
                total += done[name]
                continue
            try:
                seconds = record(sentence, take, rng.getrandbits(31), arguments.out / name)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"dropped: {sentence.text!r} by {take.speaker}: {error}", file=sys.stderr, flush=True)
                continue
            row = {"audio": name, "text": sentence.text, "duration": round(seconds, 3), "speaker": take.speaker}
            row |= {"kind": sentence.kind, "language": "en", "source": sentence.source}
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            made, total = made + 1, total + seconds
            if made % 200 == 0:
                speed = (total - began_at) / (time.monotonic() - began)
                progress = f"{total / 3600:.2f} of {arguments.hours:g} h, {made} clips now, {speed:.0f}x real time"
                print(f"{arguments.out.name}: {progress}", flush=True)
    counts = f"{made} clips made now, {len(done)} before, {failed} dropped"
    print(f"{arguments.out.name}: done, {total / 3600:.2f} h, {counts}", flush=True)


if __name__ == "__main__":
    main()
