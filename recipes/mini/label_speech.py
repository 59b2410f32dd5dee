r"""Write transcripts as people write them: for clips without text, and for text without casing or punctuation.

    python recipes/mini/label_speech.py --speech speech/train-read --texts texts --whisper whisper-base-ct2 \
        --out labels/train-read.jsonl

- A clip without text gets what Whisper hears (faster-whisper, greedy); unsure ones are dropped.
- A clip whose text is all in one case keeps its words; Whisper's capitals and punctuation are laid over them.
- A clip with written text keeps it, with a capital first and a stop at the end.

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

from soundwave.text.normalizer import normalise_transcript

KEPT = ("duration", "speaker", "language", "licence", "gender")
PROGRESS_EVERY = 200


class Whisper:
    """Greedy faster-whisper that spells numbers as words."""

    def __init__(self, folder: Path, threads: int) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
        vocabulary: dict[str, int] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"][
            "vocab"
        ]
        self._digits = [
            -1,
            *(number for token, number in vocabulary.items() if any(c in "0123456789%$£&" for c in token)),
        ]

    def __call__(self, audio: Path) -> tuple[str, float]:
        """The text of a clip of at most 30 s, and the mean log-probability of its tokens (0 is sure, -1 is poor)."""
        segments, _ = self._model.transcribe(
            str(audio),
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            suppress_tokens=self._digits,
        )
        found = list(segments)
        text = " ".join(segment.text.strip() for segment in found)
        return text, min((segment.avg_logprob for segment in found), default=0.0)


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
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of Whisper (%(default)s)")
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="manifests whose texts must not appear (test sets)"
    )
    arguments = parser.parse_args()
    if missing := [
        str(p) for p in [arguments.speech / "manifest.jsonl", arguments.texts, *arguments.exclude] if not p.exists()
    ]:
        parser.error(f"not found: {', '.join(missing)}")
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
    row: dict[str, Any], audio: Path, whisper: Whisper | None, truecase: Truecase, least: float
) -> dict[str, Any] | None:
    """The new fields of one clip, or `None` where it cannot be labelled."""
    text = row.get("text")
    if text is None:
        if whisper is None:
            return None
        heard, sure = whisper(audio)
        if sure < least or not words_of(heard):
            return None
        written = tidy(heard, "prose")
        return {
            "text": written,
            "transcript": normalise_transcript(written),
            "labels": "whisper-base",
            "logprob": round(sure, 3),
        }
    if needs_casing(text):
        heard = whisper(audio)[0] if whisper else ""
        written, agreement = with_casing(text, heard, truecase)
        spoken = " ".join(words_of(text))
        if whisper is None:
            return {"text": written, "transcript": spoken, "labels": "truecased"}
        return {"text": written, "transcript": spoken, "labels": "aligned", "agreement": round(agreement, 3)}
    written = tidy(text.rstrip(" )'"), "prose")
    return {"text": written, "transcript": normalise_transcript(text), "labels": "source"}


def main() -> None:
    arguments = parse_arguments()
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    done = (
        {json.loads(line)["audio"] for line in out.read_text(encoding="utf-8").splitlines()} if out.exists() else set()
    )
    rows = [json.loads(line) for line in (arguments.speech / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    # What needs no recogniser comes first, so that training can begin on it.
    rows.sort(key=lambda row: row.get("text") is None or needs_casing(row["text"]))
    excluded = {
        " ".join(words_of(json.loads(line)["text"] or ""))
        for path in arguments.exclude
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    truecase = Truecase(prose(arguments.texts))
    whisper = Whisper(arguments.whisper, arguments.threads) if arguments.whisper else None
    began, dropped = time.monotonic(), 0
    with out.open("a", encoding="utf-8") as lines:
        for number, row in enumerate(rows, 1):
            audio = arguments.speech / row["audio"]
            name = os.path.relpath(audio, out.parent)
            if name in done:
                continue
            fields = label(row, audio, whisper, truecase, arguments.min_logprob)
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
