"""Every row of a manifest held against what training needs: which rows are bad, and why.

Opens every recording unless told not to; knows nothing about models but how one spells.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from soundwave.audio import SAMPLE_RATE, is_silent, load_audio
from soundwave.data.recordings import MAX_SECONDS, facts_of, seconds_of_span
from soundwave.data.rows import Progress, Row, read_rows
from soundwave.data.spelling import Spelling, ctc_frames_needed
from soundwave.errors import AudioError
from soundwave.training.examples import AudioSpan, Example
from soundwave.training.transcripts import MAX_CTC_TOKENS

ERROR, WARNING = "error", "warning"
# What is looked for: rule -> (severity, what it means). An error makes a row bad.
RULES = {
    "format": (ERROR, "no JSON, no known format, or a value that is not allowed"),
    "audio-missing": (ERROR, "the audio file does not exist"),
    "audio-broken": (ERROR, "the audio cannot be decoded"),
    "audio-silent": (ERROR, "words are said to be spoken, but nothing is heard"),
    "duration": (ERROR, "the stated duration is not the audio's"),
    "too-long": (ERROR, f"more than {MAX_SECONDS:g} s of audio in one piece"),
    "text-empty": (ERROR, "the reply is empty although words are spoken, or there is no audio"),
    "ctc-frames": (ERROR, "the transcript has more tokens than the audio has frames"),
    "ctc-tokens": (ERROR, f"the transcript has over {MAX_CTC_TOKENS} tokens"),
    "duplicate": (ERROR, "the same audio and the same conversation as an earlier row"),
    "ctc-spelling": (WARNING, "digits, signs or letters that CTC cannot spell: its term is left out or incomplete"),
    "nobody-speaks": (WARNING, "an empty text: the row teaches the model to write nothing"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row."""

    manifest: str
    line: int
    rule: str
    severity: str
    detail: str


@dataclass
class Report:
    """All that was found: rows looked at, bad rows (with an error; strict: with anything), and findings in order."""

    rows: int = 0
    bad_rows: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Heard:
    """What was found in one audio file: its length, whether anything is audible, or what is wrong with it."""

    seconds: float = 0.0
    silent: bool = False
    rule: str | None = None
    detail: str = ""


def check(
    manifests: Iterable[Path], spelling: Spelling | None, *, decode: bool = True, tolerance: float = 0.1,
    jobs: int = 1, strict: bool = False, progress: Progress | None = None,
) -> Report:
    """Looks at every row of the manifests.

    Args:
        manifests: files or saved data sets.
        spelling: the model whose CTC must spell the transcripts; None: that is not looked at.
        decode: decode every recording; else its header is read only.
        tolerance: seconds by which a stated duration may differ.
        jobs: recordings that are decoded at once.
        strict: warnings make a row bad too.

    Raises:
        DataError: a manifest does not exist or is empty.
    """
    rows = [row for manifest in manifests for row in read_rows(manifest)]
    heard = _hear(rows, decode, jobs, progress)
    report = Report(rows=len(rows))
    seen: dict[str, str] = {}
    for row in rows:
        found = [*_of_row(row, heard, spelling, tolerance), *_duplicate(row, seen)]
        report.findings += [
            Finding(row.manifest, row.number, rule, RULES[rule][0], " ".join(detail.split()))
            for rule, detail in found
        ]
        report.bad_rows += any(strict or RULES[rule][0] == ERROR for rule, _ in found)
    return report


def _hear(rows: Sequence[Row], decode: bool, jobs: int, progress: Progress | None) -> dict[str, Heard]:
    """Every audio file that the rows name, once."""
    # A file that is only ever cut may have any length.
    whole: dict[str, bool] = {}
    for row in rows:
        for span in row.example.audios if row.example else ():
            whole[span.path] = whole.get(span.path, False) or span.end is None
    heard: dict[str, Heard] = {}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        listened = pool.map(lambda path: listen(path, decode, whole[path]), whole)
        for number, (path, found) in enumerate(zip(whole, listened, strict=True), 1):
            heard[path] = found
            if progress:
                progress(number, len(whole))
    return heard


def listen(path: str, decode: bool, whole: bool) -> Heard:
    """One audio file, opened; what is wrong with it is said, not raised."""
    if not path.startswith("data:") and not os.path.isfile(path):
        return Heard(rule="audio-missing", detail=f"{path} does not exist")
    try:
        seconds = facts_of(path).seconds
        if not decode or (whole and seconds > MAX_SECONDS):
            return Heard(seconds)  # too long is said by whoever asks for all of it
        samples = load_audio(path, max_seconds=None)
        return Heard(len(samples) / SAMPLE_RATE, is_silent(samples))
    except AudioError as problem:
        return Heard(rule="audio-broken", detail=str(problem))


def _of_row(
    row: Row, heard: dict[str, Heard], spelling: Spelling | None, tolerance: float
) -> list[tuple[str, str]]:
    example = row.example
    if example is None:
        return [("format", row.problem or "")]
    found = [*_sound_of(example, heard, tolerance), *_words_of(example)]
    usable = all(heard[span.path].rule is None for span in example.audios)
    if spelling and usable and len(example.audios) == 1 and example.transcript:
        span = example.audios[0]
        found += _ctc_of(example.transcript, seconds_of_span(span, heard[span.path].seconds), spelling)
    return found


def _sound_of(example: Example, heard: dict[str, Heard], tolerance: float) -> list[tuple[str, str]]:
    found = [(one.rule, one.detail) for one in (heard[span.path] for span in example.audios) if one.rule]
    if found or not example.audios:
        return found
    lengths = [seconds_of_span(span, heard[span.path].seconds) for span in example.audios]
    for span, seconds in zip(example.audios, lengths, strict=True):
        whole = heard[span.path].seconds
        if seconds > MAX_SECONDS + 1e-6:
            found.append(("too-long", f"{_named(span)} has {seconds:.2f} s"))
        if (span.start or 0.0) >= whole or (span.end is not None and span.end > whole + tolerance):
            found.append(("duration", f"the cut {_cut(span)} lies outside of {_named(span)}, which has {whole:.2f} s"))
    total = sum(lengths)
    if not found and example.duration is not None and abs(example.duration - total) > tolerance:
        found.append(("duration", f"stated {example.duration:g} s, the audio has {total:.2f} s"))
    if example.transcript and all(heard[span.path].silent for span in example.audios):
        found.append(("audio-silent", f"nothing is heard where {example.transcript[:60]!r} is said"))
    return found


def _words_of(example: Example) -> list[tuple[str, str]]:
    if not example.reply.strip():
        if example.transcript or not example.audios:
            return [("text-empty", "the reply is empty")]
        return [("nobody-speaks", "the text is empty")]
    if example.transcript is None and example.spoken is not None:
        return [("ctc-spelling", f"{example.spoken[:80]!r} does not say how it is spoken")]
    return []


def _ctc_of(transcript: str, seconds: float, spelling: Spelling) -> list[tuple[str, str]]:
    classes = spelling.ctc.encode(transcript)
    spelt = spelling.ctc.decode(classes)
    if spelt != transcript:
        return [("ctc-spelling", f"{transcript[:60]!r} would be spelt {spelt[:60]!r}")]
    if len(classes) > MAX_CTC_TOKENS:
        return [("ctc-tokens", f"{len(classes)} tokens, at most {MAX_CTC_TOKENS} are learnt")]
    needed, frames = ctc_frames_needed(classes), spelling.frames(seconds)
    if needed > frames:
        return [("ctc-frames", f"{len(classes)} tokens need {needed} frames, {seconds:.2f} s of audio give {frames}")]
    return []


def _duplicate(row: Row, seen: dict[str, str]) -> list[tuple[str, str]]:
    if row.example is None:
        return []
    spans = [(os.path.realpath(span.path), span.start, span.end) for span in row.example.audios]
    key = json.dumps([row.example.messages, spans])
    if key in seen:
        return [("duplicate", f"the same as {seen[key]}")]
    seen[key] = row.where
    return []


def _named(span: AudioSpan) -> str:
    return "the sound in this row" if span.path.startswith("data:") else span.path


def _cut(span: AudioSpan) -> str:
    return f"{span.start or 0.0:g}–{'end' if span.end is None else f'{span.end:g} s'}"
