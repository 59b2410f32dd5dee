"""Every row of a manifest held against what training needs: which rows are bad, and why.

Opens every recording unless told not to; knows nothing about models but how one spells.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soundwave.data.example import AudioSpan, Example
from soundwave.data.probe import MAX_SECONDS, seconds_of_span
from soundwave.data.rows import Progress, Row, read_rows, total_rows
from soundwave.datatools.listening import Attention, Heard, heard_rows
from soundwave.datatools.spelling import Spelling, ctc_frames_needed
from soundwave.text.normalizer import MAX_CTC_TOKENS

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


def check(
    manifests: Iterable[str | Path], spelling: Spelling | None, *, decode: bool = True, tolerance: float = 0.1,
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
    manifests = list(manifests)
    total = total_rows(manifests)
    rows = (row for manifest in manifests for row in read_rows(manifest))
    report = Report()
    seen: dict[bytes, str] = {}
    for row, heard in heard_rows(rows, Attention(decode, jobs)):
        report.rows += 1
        found = [*_of_row(row, heard, spelling, tolerance), *_duplicate(row, seen)]
        report.findings += [
            Finding(row.manifest, row.number, rule, RULES[rule][0], " ".join(detail.split()))
            for rule, detail in found
        ]
        report.bad_rows += any(strict or RULES[rule][0] == ERROR for rule, _ in found)
        if progress:
            progress(report.rows, total)
    return report


def _of_row(
    row: Row, heard: Sequence[Heard], spelling: Spelling | None, tolerance: float
) -> list[tuple[str, str]]:
    example = row.example
    if example is None:
        return [("format", row.problem or "")]
    found = [*_sound_of(example, heard, tolerance), *_words_of(example)]
    if spelling and len(heard) == 1 and heard[0].rule is None and example.transcript:
        found += _ctc_of(example.transcript, seconds_of_span(example.audios[0], heard[0].seconds), spelling)
    return found


def _sound_of(example: Example, heard: Sequence[Heard], tolerance: float) -> list[tuple[str, str]]:
    found = [(one.rule, one.detail) for one in heard if one.rule]
    if found or not example.audios:
        return found
    total = 0.0
    for span, one in zip(example.audios, heard, strict=True):
        whole, seconds = one.seconds, seconds_of_span(span, one.seconds)
        total += seconds
        if seconds > MAX_SECONDS + 1e-6:
            found.append(("too-long", f"{_named(span)} has {seconds:.2f} s"))
        if (span.start or 0.0) >= whole or (span.end is not None and span.end > whole + tolerance):
            found.append(("duration", f"the cut {_cut(span)} lies outside of {_named(span)}, which has {whole:.2f} s"))
    if not found and example.duration is not None and abs(example.duration - total) > tolerance:
        found.append(("duration", f"stated {example.duration:g} s, the audio has {total:.2f} s"))
    if example.transcript and all(one.silent for one in heard):
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


def _duplicate(row: Row, seen: dict[bytes, str]) -> list[tuple[str, str]]:
    if row.example is None:
        return []
    spans = [
        (span.path if span.path.startswith("data:") else os.path.realpath(span.path), span.start, span.end)
        for span in row.example.audios
    ]
    key = hashlib.sha256(json.dumps([row.example.messages, spans]).encode()).digest()  # a sound may be in it
    if key in seen:
        return [("duplicate", f"the same as {seen[key]}")]
    seen[key] = row.where
    return []


def _named(span: AudioSpan) -> str:
    return "the sound in this row" if span.path.startswith("data:") else span.path


def _cut(span: AudioSpan) -> str:
    return f"{span.start or 0.0:g}–{'end' if span.end is None else f'{span.end:g} s'}"
