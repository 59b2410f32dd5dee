"""Say the texts of train-piper again, which comes without its sounds: each as the manifest's `speaker` tells.

    python recipes/mini/make_piper.py --texts speech/train-piper/manifest.jsonl --out synth/piper --jobs 2

`joe0.92` is piper's voice joe with its sound stretched to 1/0.92 of its length: slower and lower at once. Writes FLAC
clips and `manifest.jsonl`, one line a clip, added as each clip is done: a run that was stopped goes on where it was.
"""

import argparse
import re
import sys
from pathlib import Path

from soundwave.data.manifests import numbered_lines
from soundwave.datatools.synthesize import Clip, Line, Made, synthesise
from soundwave.datatools.voices import Take, check_voices
from soundwave.errors import DataError
from soundwave.files import decode_line

VOICE = "piper:joe"
LIVELINESS = 67.0  # piper's own noise: 0.67
PROGRESS_EVERY = 200
KEPT = ("language", "kind", "licence")


def line_of(row: dict[str, object], where: str) -> Line:
    """A row's text with the take that its speaker names.

    Raises:
        DataError: it names none.
    """
    named = re.fullmatch(r"joe(\d\.\d+)", str(row.get("speaker")))
    if not named or not row.get("text"):
        raise DataError(f"{where}: give a text and a speaker such as joe0.92; it has {row}.")
    take = Take(VOICE, 1.0, LIVELINESS, float(named[1]))
    return Line(str(row["text"]), {name: row[name] for name in KEPT if name in row}, take)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="the manifest of train-piper")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and manifest.jsonl")
    parser.add_argument("--jobs", type=int, default=1, help="clips that are made at once (%(default)s)")
    arguments = parser.parse_args()
    if not arguments.texts.is_file():
        parser.error(f"not found: {arguments.texts}")
    check_voices([VOICE])
    places = ((raw, f"{arguments.texts}:{number}") for number, raw in numbered_lines(arguments.texts) if raw.strip())
    lines = [line_of(decode_line(raw, where), where) for raw, where in places]

    def told(made: Made) -> None:
        if made.clips % PROGRESS_EVERY == 0:
            print(f"{arguments.out.name}: {made.clips + made.before} of {len(lines)} clips", flush=True)

    def dropped(clip: Clip, error: Exception) -> None:
        print(f"dropped: {clip.line.text!r}: {error}", file=sys.stderr, flush=True)

    made = synthesise(lines, arguments.out, [VOICE], jobs=arguments.jobs, progress=told, on_dropped=dropped)
    counts = f"{made.clips} clips made now, {made.before} before, {made.dropped} dropped"
    print(f"{arguments.out.name}: done, {made.seconds / 3600:.2f} h, {counts}", flush=True)


if __name__ == "__main__":
    main()
