r"""Write transcripts as people write them: for clips without text, and for text without casing or punctuation.

    python recipes/mini/label_speech.py --speech speech/train-read --texts texts --whisper whisper-base-ct2 \
        --out labels/train-read.jsonl

- A clip without text gets what Whisper hears (faster-whisper, greedy), where it is sure and hears the same words with
  five beams; others are dropped.
- A clip whose text is all in one case keeps its words; Whisper's capitals and punctuation are laid over them.
- A clip with written text keeps it, with a capital first and a stop at the end.
- With --max-wer Whisper hears every clip, and one of which it hears too many other words is dropped.

Each line: `text` as written, `transcript` as spoken (lower case; null where digits or signs hide it), and the
source's fields.
A run that was stopped goes on where it was.
"""

import argparse
import gzip
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from casing import Truecase, needs_casing, with_casing, words_of
from sentences import SOURCES, tidy

from soundwave.audio import load_audio
from soundwave.datatools.asr import Heard, Hearing, hearing
from soundwave.text.metrics import normalise, word_errors
from soundwave.text.normalizer import normalise_transcript

BEAMS = 5  # with which a clip without text is heard again
KEPT = ("duration", "speaker", "language", "licence", "gender")
PROGRESS_EVERY = 200


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True, help="folder with manifest.jsonl and its clips")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write; its audio paths are relative to it")
    parser.add_argument(
        "--texts", type=Path, required=True, help="folder of .jsonl.gz texts: how words are mostly written"
    )
    parser.add_argument(
        "--whisper", type=Path, help="CTranslate2 Whisper folder; without it, casing comes from --texts alone"
    )
    parser.add_argument(
        "--min-logprob", type=float, default=-0.6, help="drop what Whisper is less sure of (%(default)s)"
    )
    parser.add_argument(
        "--max-wer", type=float, help="drop clips in whose text Whisper gets more words wrong, as 0.5 (default: none)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of Whisper (%(default)s)")
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="manifests whose texts must not appear (test sets)"
    )
    arguments = parser.parse_args()
    if missing := [
        str(p) for p in [arguments.speech / "manifest.jsonl", arguments.texts, *arguments.exclude] if not p.exists()
    ]:
        parser.error(f"not found: {', '.join(missing)}")
    if arguments.max_wer is not None and (arguments.max_wer < 0 or arguments.whisper is None):
        parser.error(f"--max-wer {arguments.max_wer:g}: give a number from 0, and --whisper, which hears the clips")
    return arguments


def prose(folder: Path) -> list[str]:
    """Every line of the prose files, for counting how words are written."""
    lines: list[str] = []
    for name, (kind, field) in SOURCES.items():
        if kind == "prose" and (folder / name).exists():
            with gzip.open(folder / name, "rt", encoding="utf-8") as rows:
                lines += [json.loads(row)[field] for row in rows]
    return lines


def label(
    row: dict[str, Any], audio: Path, whisper: Hearing | None, truecase: Truecase, least: float, most: float | None
) -> dict[str, Any] | None:
    """The new fields of one clip, or `None` where it cannot be labelled or is not what its text says."""
    text = row.get("text")
    if text is None:
        heard = heard_twice(audio, whisper, least) if whisper else None
        if heard is None:
            return None
        written, sure = tidy(heard.text, "prose"), round(heard.logprob, 3)
        return {"text": written, "transcript": normalise_transcript(written), "labels": "whisper-base", "logprob": sure}
    cased = not needs_casing(text)
    heard = whisper(load_audio(audio), 1) if whisper and (most is not None or not cased) else None
    checked = {}
    if heard and most is not None:
        wer = word_errors([text], [heard.text]).rate
        if wer > most:
            return None
        checked = {"wer": round(wer, 3)}
    if cased:
        written = tidy(text.rstrip(" )'"), "prose")
        return {"text": written, "transcript": normalise_transcript(text), "labels": "source", **checked}
    written, agreement = with_casing(text, heard.text if heard else "", truecase)
    labels = {"labels": "aligned", "agreement": round(agreement, 3)} if heard else {"labels": "truecased"}
    return {"text": written, "transcript": " ".join(words_of(text)), **labels, **checked}


def heard_twice(audio: Path, whisper: Hearing, least: float) -> Heard | None:
    """What Whisper hears in a clip; `None` where it is not sure, or hears other words with more beams.

    Of 24 clips of train-librispeech the two agree on 18, with 2.9 % of their words wrong instead of 4.4. A copy that is
    a twentieth slower as the second hearing was no better: 17 clips, 3.6 %.
    """
    samples = load_audio(audio)
    first = whisper(samples, 1)
    if first.logprob < least or not words_of(first.text):
        return None
    return first if normalise(first.text) == normalise(whisper(samples, BEAMS).text) else None


def main() -> None:
    arguments = parse_arguments()
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    done = (
        {json.loads(line)["audio"] for line in out.read_text(encoding="utf-8").splitlines()} if out.exists() else set()
    )
    rows = [json.loads(line) for line in (arguments.speech / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    # What needs no recogniser comes first, so that training can begin on it.
    if arguments.max_wer is None:
        rows.sort(key=lambda row: row.get("text") is None or needs_casing(row["text"]))
    excluded = {
        " ".join(words_of(json.loads(line)["text"] or ""))
        for path in arguments.exclude
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    truecase = Truecase(prose(arguments.texts))
    whisper = hearing(arguments.whisper, threads=arguments.threads) if arguments.whisper else None
    began, dropped = time.monotonic(), 0
    with out.open("a", encoding="utf-8") as lines:
        for number, row in enumerate(rows, 1):
            audio = arguments.speech / row["audio"]
            name = os.path.relpath(audio, out.parent)
            if name in done:
                continue
            fields = label(row, audio, whisper, truecase, arguments.min_logprob, arguments.max_wer)
            if fields is None or fields["transcript"] in excluded:
                dropped += 1
                print(f"dropped: {row['audio']}", file=sys.stderr, flush=True)
                continue
            lines.write(json.dumps({"audio": name, **fields, **{key: row[key] for key in KEPT if key in row}}) + "\n")
            lines.flush()
            if number % PROGRESS_EVERY == 0:
                rate = number / (time.monotonic() - began)
                print(f"{out.name}: {number} of {len(rows)} clips, {rate:.1f} a second", flush=True)
    print(f"{out.name}: done, {dropped} of {len(rows)} dropped", flush=True)


if __name__ == "__main__":
    main()
