"""Make training speech from text with free synthesisers, until there are enough hours.

    python recipes/mini/make_speech.py --texts texts --out speech/flite --hours 5 --voices flite:awb,flite:rms,flite:slt

Writes FLAC clips (16 kHz, mono) and `manifest.jsonl`, one line a clip, added as each clip is done: a run that was
stopped goes on where it was, and the same arguments give the same clips (piper: the same texts and settings).
Sentences are chosen for breadth of words (see `sentences.py`).

Whoever adds a synthesiser: dev-questions is spoken by Kokoro, so Kokoro must not be among the training voices.
"""

import argparse
import sys
import time
from pathlib import Path

from sentences import KINDS, choose, manifest_texts, read_sentences

from soundwave.datatools.synthesize import Clip, Line, Made, synthesise
from soundwave.datatools.voices import check_voices
from soundwave.files import rows_of


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the .jsonl.gz text files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and manifest.jsonl")
    parser.add_argument("--hours", type=float, required=True, help="stop when there is this much audio")
    parser.add_argument(
        "--voices", required=True, help="comma-separated, as for soundwave data synth: flite:slt, espeak:en-us+f2, …"
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
    parser.add_argument("--jobs", type=int, default=1, help="clips that are made at once (%(default)s)")
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


def main() -> None:
    arguments = parse_arguments()
    manifest = arguments.out / "manifest.jsonl"
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
    check_voices(voices)
    lines = (Line(one.text, {"kind": one.kind, "language": "en", "source": one.source}) for one in plan)
    began = time.monotonic()
    began_at = sum(row["duration"] for row in rows_of(manifest))

    def told(made: Made) -> None:
        if made.clips % 200 == 0:
            speed = (made.seconds - began_at) / (time.monotonic() - began)
            now = f"{made.seconds / 3600:.2f} of {arguments.hours:g} h, {made.clips} clips now"
            print(f"{arguments.out.name}: {now}, {speed:.0f}x real time", flush=True)

    def dropped(clip: Clip, error: Exception) -> None:
        print(f"dropped: {clip.line.text!r} by {clip.take.speaker}: {error}", file=sys.stderr, flush=True)

    made = synthesise(
        lines, arguments.out, voices, hours=arguments.hours, seed=arguments.seed, jobs=arguments.jobs, progress=told,
        on_dropped=dropped,
    )
    counts = f"{made.clips} clips made now, {made.before} before, {made.dropped} dropped"
    print(f"{arguments.out.name}: done, {made.seconds / 3600:.2f} h, {counts}", flush=True)


if __name__ == "__main__":
    main()
