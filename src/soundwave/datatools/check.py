"""Every row of a manifest held against what training needs: which rows are bad, and why.

Opens every recording unless told not to, and runs no command; knows nothing about models but how one spells.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soundwave.data.example import AudioSpan, Example
from soundwave.data.manifests import Progress, Row, read_rows, total_rows
from soundwave.data.probe import END_TOLERANCE, MAX_SECONDS, seconds_of_span
from soundwave.datatools.decode import Decoded, DecodeOptions, decoded_rows
from soundwave.datatools.spelling import Spelling
from soundwave.files import hash_json
from soundwave.text.ctc_tokenizer import ctc_frames_needed
from soundwave.text.normalizer import MAX_CTC_TOKENS

ERROR, WARNING = "error", "warning"
# What is looked for: rule -> (severity, what it means). An error makes a row bad.
RULES = {
    "format": (ERROR, "no JSON, no known format, or a value that is not allowed"),
    "audio-missing": (ERROR, "the audio file does not exist"),
    "audio-broken": (ERROR, "the audio cannot be decoded"),
    "audio-silent": (ERROR, "words are said to be spoken, but the audio is silent"),
    "audio-odd": (WARNING, "the audio is not as it should be: channels that cancel, a part that is missing"),
    "duration": (ERROR, "the stated duration is not the audio's, or a cut ends after it"),
    "too-long": (ERROR, f"more than {MAX_SECONDS:g} s of audio in one piece"),
    "text-empty": (ERROR, "the reply is empty although words are spoken, or there is no audio"),
    "no-letters": (ERROR, "a transcript without a letter: there is nothing to align and nothing to learn"),
    "reserved-token": (ERROR, "a text holds a token of the model's own, such as <|im_end|>; it is read as plain text"),
    "ctc-frames": (ERROR, "the audio is too short for its transcript: CTC has no alignment, its loss is 0"),
    "ctc-tokens": (ERROR, f"the transcript has over {MAX_CTC_TOKENS} tokens"),
    "duplicate": (ERROR, "the same audio and the same conversation as an earlier row"),
    "ctc-spelling": (WARNING, "digits, signs or letters that CTC cannot spell: its term is left out or incomplete"),
    "noise-mark": (WARNING, "[noise] or (laughs) in a transcript: the model learns to write it"),
    "upper-case": (WARNING, "texts in capitals, which the model learns to write; recipes/mini/casing.py restores case"),
    "nobody-speaks": (WARNING, "an empty text: the row teaches the model to write nothing"),
}
RESERVED_FORM = re.compile(r"<\|[^<>|\s]{1,60}\|>|<audio_patch>")  # of chat templates, and of the released model
NOISE_MARK = re.compile(r"\[[^\[\]]{1,60}\]|\([^()]{1,60}\)")
FEWEST_LETTERS = 4  # of a text that is called upper case: "OK" and "I" are not


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
    manifests: Iterable[str | Path], spelling: Spelling | None, *, decode: bool = True,
    tolerance: float = END_TOLERANCE, jobs: int = 1, strict: bool = False, progress: Progress | None = None,
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
    seen: dict[str, str] = {}
    cases: dict[str, _Cases] = {}
    for row, recordings in decoded_rows(rows, DecodeOptions(decode, jobs)):
        report.rows += 1
        broken = [*_of_row(row, recordings, spelling, tolerance), *_duplicate(row, seen)]
        report.findings += [_finding(row.manifest, row.number, rule, detail) for rule, detail in broken]
        report.bad_rows += any(strict or RULES[rule][0] == ERROR for rule, _ in broken)
        cases.setdefault(row.manifest, _Cases()).add(row)
        if progress:
            progress(report.rows, total)
    upper = {manifest: counted for manifest, counted in cases.items() if counted.mostly_upper}
    report.findings += [
        _finding(manifest, counted.first, "upper-case", f"{counted.upper} of {counted.rows} texts are in capitals")
        for manifest, counted in upper.items()
    ]
    if strict:
        report.bad_rows += sum(counted.upper for counted in upper.values())
    return report


@dataclass
class _Cases:
    """Of one manifest the transcribed rows with letters that have a case, those all in capitals, and the first such."""

    rows: int = 0
    upper: int = 0
    first: int = 0

    @property
    def mostly_upper(self) -> bool:
        return self.upper > 0 and self.upper * 2 >= self.rows

    def add(self, row: Row) -> None:
        if row.example is None or row.example.spoken is None:
            return
        cased = [letter for letter in row.example.reply if letter.islower() or letter.isupper()]
        upper = len(cased) >= FEWEST_LETTERS and all(letter.isupper() for letter in cased)
        self.rows += bool(cased)
        self.upper += upper
        self.first = self.first or (row.number if upper else 0)


def _finding(manifest: str, line: int, rule: str, detail: str) -> Finding:
    return Finding(manifest, line, rule, RULES[rule][0], " ".join(detail.split()))


def _of_row(
    row: Row, recordings: Sequence[Decoded], spelling: Spelling | None, tolerance: float
) -> list[tuple[str, str]]:
    example = row.example
    if example is None:
        return [("format", row.problem or "")]
    broken = _sound_of(example, recordings, tolerance) + (_reserved_in(example, spelling) or _words_of(example))
    if spelling and len(recordings) == 1 and example.transcript:
        known = recordings[0].rule is None
        seconds = seconds_of_span(example.audios[0], recordings[0].seconds) if known else None
        broken += _ctc_of(example.transcript, seconds, spelling)
    return broken


def _sound_of(example: Example, recordings: Sequence[Decoded], tolerance: float) -> list[tuple[str, str]]:
    broken = [(recording.rule, recording.detail) for recording in recordings if recording.rule]
    if broken or not recordings:
        return broken
    total = 0.0
    for span, recording in zip(example.audios, recordings, strict=True):
        whole, seconds = recording.seconds, seconds_of_span(span, recording.seconds)
        total += seconds
        if seconds > MAX_SECONDS + 1e-6:
            broken.append(("too-long", f"{_named(span)} has {seconds:.2f} s"))
        if (span.start or 0.0) >= whole or (span.end is not None and span.end > whole + tolerance):
            broken.append(("duration", f"the cut {_cut(span)} lies outside of {_named(span)}, which has {whole:.2f} s"))
    if not broken and example.duration is not None and abs(example.duration - total) > tolerance:
        broken.append(("duration", f"stated {example.duration:g} s, the audio has {total:.2f} s"))
    broken += [("audio-odd", told) for recording in recordings for told in recording.warnings]
    if example.transcript and all(recording.silent for recording in recordings):
        broken.append(("audio-silent", f"the audio is silent where {example.transcript[:60]!r} is said"))
    return broken


def _words_of(example: Example) -> list[tuple[str, str]]:
    if not example.reply.strip():
        if example.transcript or not example.audios:
            return [("text-empty", "the reply is empty")]
        return [("nobody-speaks", "the text is empty")]
    spoken = example.spoken or ""
    if spoken.strip() and not any(character.isalnum() for character in spoken):
        return [("no-letters", f"the transcript is {spoken[:80]!r}")]
    broken = [("noise-mark", f"{mark[0]!r} in the transcript")] if (mark := NOISE_MARK.search(spoken)) else []
    if spoken and example.transcript is None:
        broken.append(("ctc-spelling", f"{spoken[:80]!r} does not say how it is spoken"))
    return broken


def _reserved_in(example: Example, spelling: Spelling | None) -> list[tuple[str, str]]:
    """The first token of the model's own in any text of the row."""
    parts = [part["text"] for message in example.messages for part in message["content"] if part["type"] == "text"]
    for text in (*parts, example.spoken or ""):
        if mark := RESERVED_FORM.search(text):
            return [("reserved-token", f"{mark[0]!r} in {text[:80]!r}")]
        named = next((token for token in spelling.reserved if token in text), None) if spelling else None
        if named:
            return [("reserved-token", f"{named!r} in {text[:80]!r}")]
    return []


def _ctc_of(transcript: str, seconds: float | None, spelling: Spelling) -> list[tuple[str, str]]:
    """Whether CTC can spell the transcript, and whether the recording, if its length is known, has frames for it."""
    classes = spelling.ctc.encode(transcript)
    spelt = spelling.ctc.decode(classes)
    if spelt != transcript:
        return [("ctc-spelling", f"{transcript[:60]!r} would be spelt {spelt[:60]!r}")]
    if len(classes) > MAX_CTC_TOKENS:
        return [("ctc-tokens", f"{len(classes)} tokens, at most {MAX_CTC_TOKENS} are learnt")]
    if seconds is None:
        return []
    frames = spelling.frames(seconds)
    if (needed := ctc_frames_needed(classes)) > frames:
        return [("ctc-frames", f"{len(classes)} tokens need {needed} frames, {seconds:.2f} s of audio give {frames}")]
    # Pieces may be whole words, and fit where no mouth can be so fast: frames are 25 a second.
    if (letters := sum(character.isalpha() for character in transcript)) > frames:
        return [("ctc-frames", f"{letters} letters in {seconds:.2f} s of audio, which give {frames} frames")]
    return []


def _duplicate(row: Row, seen: dict[str, str]) -> list[tuple[str, str]]:
    if row.example is None:
        return []
    spans = [
        (span.path if span.path.startswith("data:") else os.path.realpath(span.path), span.start, span.end)
        for span in row.example.audios
    ]
    key = hash_json([row.example.messages, spans])  # a sound may be in it
    if key in seen:
        return [("duplicate", f"the same as {seen[key]}")]
    seen[key] = row.where
    return []


def _named(span: AudioSpan) -> str:
    return "the sound in this row" if span.path.startswith("data:") else span.path


def _cut(span: AudioSpan) -> str:
    return f"{span.start or 0.0:g}–{'end' if span.end is None else f'{span.end:g} s'}"
