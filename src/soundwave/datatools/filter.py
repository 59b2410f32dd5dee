"""The paper's rules for what to train on (section on data quality), as functions of one row; each can be left out.

A rule that does not apply to a row (text only, no transcript, nobody speaks) says nothing about it: the row stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundwave.data.example import AudioSpan, Example
from soundwave.data.extras import extras_of
from soundwave.data.manifests import Progress, Row, read_rows, total_rows, writing
from soundwave.data.probe import MAX_SECONDS, seconds_of_span
from soundwave.data.shards import is_sharded
from soundwave.data.writers import relative, relocated, with_fields, write_parts
from soundwave.datatools.asr import Recogniser, resumable
from soundwave.datatools.decode import Decoded, DecodeOptions, decoded_rows
from soundwave.datatools.spelling import Spelling
from soundwave.errors import DataError
from soundwave.text.metrics import word_errors
from soundwave.text.normalizer import MAX_CTC_TOKENS

FEATURE_FRAMES_PER_SECOND = 100  # Whisper's log-mel; the paper's "frames" in "frames ≤ 100 × text length"
RULES = ("format", "audio", "duration", "tokens", "frames", "wer")
MEANINGS = {
    "format": "no known format",
    "audio": "a recording that cannot be read",
    "duration": "shorter or longer than allowed",
    "tokens": "a transcript with too many tokens",
    "frames": "too much audio for its text",
    "wer": "a recogniser hears other words",
}
HYPOTHESIS = "asr_text"


@dataclass(frozen=True)
class Limits:
    """What is kept.

    Attributes:
        min_seconds, max_seconds: length of a row's audio.
        max_tokens: of the transcript, in the language model's tokens.
        frames_per_token: feature frames (100 a second) for each token of the transcript at most; the paper says "100 ×
            text length", which we read as at least one token a second.
        max_wer: the word error rate of the recogniser must be under this.
        skipped: rules that are not applied.
    """

    min_seconds: float = 3.0
    max_seconds: float = 30.0
    max_tokens: int = MAX_CTC_TOKENS
    frames_per_token: float = 100.0
    max_wer: float = 0.1
    skipped: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """What a filter did.

    Attributes:
        rows, kept: how many there were, and are.
        first: dropped rows by the first rule that they broke; sums to the dropped rows.
        broken: rows that each rule would drop alone.
        not_judged: rows with a transcript whose WER is not known because nothing was heard in them.
        hours, hours_kept: of audio whose length is known.
    """

    rows: int = 0
    kept: int = 0
    first: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    not_judged: int = 0
    hours: float = 0.0
    hours_kept: float = 0.0


def filter_manifest(
    source: str | Path, target: Path, dropped: Path, limits: Limits, spelling: Spelling, *, decode: bool = True,
    jobs: int = 1, recogniser: Recogniser | None = None, recogniser_name: str = "", progress: Progress | None = None,
) -> Outcome:
    """Writes the rows that pass to `target`, the others with their reasons to `dropped`.

    Args:
        source: a manifest in any format; rows keep theirs, with audio paths relative to the new file.
        target, dropped: files to write, whole or not at all.
        limits: the rules.
        spelling: whose tokens are counted.
        decode: decode every recording for the rule `audio`; else its header is read only.
        jobs: recordings that are decoded at once.
        recogniser: hears the rows that bring no `asr_text`; its texts are kept in `<target>.asr.jsonl`.
        recogniser_name: of it, for those notes.

    Raises:
        DataError: no such manifest, or one of the files would overwrite another.
    """
    files = Path(source).resolve(), target.resolve(), dropped.resolve()
    if files[0] in files[1:]:
        raise DataError(f"{source}: the filter would overwrite its source; write to another file.")
    if files[1] == files[2]:
        raise DataError(f"{target}: the dropped rows would overwrite those that are kept; write them to another file.")
    total, sharded = total_rows([source]), is_sharded(source)
    longest = float("inf") if "duration" in limits.skipped else max(MAX_SECONDS, limits.max_seconds)
    options = DecodeOptions(decode and "audio" not in limits.skipped, jobs, longest, stated="audio" in limits.skipped)
    recognising: AbstractContextManager[Callable[[AudioSpan], str | None] | None] = nullcontext()
    if recogniser is not None and "wer" not in limits.skipped:
        recognising = resumable(recogniser, recogniser_name, target.with_name(target.name + ".asr.jsonl"))
    outcome = Outcome()
    with recognising as transcribe, writing(target) as keep, writing(dropped) as drop:
        for row, recordings in decoded_rows(read_rows(source), options):
            hypothesis = _hypothesis(row, recordings, limits, transcribe)
            reasons, facts = _counted(outcome, row, recordings, limits, spelling, hypothesis)
            fields = _moved(row, (dropped if reasons else target).parent)
            if reasons:
                place = {"line": row.position} | ({"shard": row.where} if sharded else {})
                told = {**place, "dropped": reasons, **facts}
                drop(with_fields(fields, **told) if fields else told)
            else:
                keep(with_fields(fields, **facts))
            if progress:
                progress(outcome.rows, total)
    return outcome


def _counted(
    outcome: Outcome, row: Row, recordings: Sequence[Decoded], limits: Limits, spelling: Spelling,
    hypothesis: str | None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """What `judge` says of a row, added to the outcome."""
    seconds, reasons, facts = judge(row, recordings, limits, spelling, hypothesis)
    hours = (seconds or 0.0) / 3600
    outcome.rows += 1
    outcome.hours += hours
    if row.example and row.example.spoken is not None and "wer" not in limits.skipped:
        outcome.not_judged += hypothesis is None
    if reasons:
        outcome.first[next(iter(reasons))] += 1
        outcome.broken.update(list(reasons))
    else:
        outcome.kept += 1
        outcome.hours_kept += hours
    return reasons, facts


def judge(
    row: Row, recordings: Sequence[Decoded], limits: Limits, spelling: Spelling, hypothesis: str | None
) -> tuple[float | None, dict[str, str], dict[str, Any]]:
    """One row, with what is known of its recordings, against all rules.

    Returns:
        The length of its audio in seconds (None: text only, or not known); the rules that it breaks, in the order of
        `RULES`, each with its reason; and what was found out (`asr_text`, `wer`).
    """
    example = row.example
    if example is None:
        return None, {"format": row.problem or ""}, {}  # never skipped: nobody could read such a row
    reasons: dict[str, str] = {}
    seconds = seconds_of_example(example, recordings)
    if (problem := _unreadable(example, recordings)) is not None:
        reasons["audio"] = problem
    if seconds is not None and not limits.min_seconds <= seconds <= limits.max_seconds:
        reasons["duration"] = f"{seconds:.2f} s, allowed are {limits.min_seconds:g} to {limits.max_seconds:g}"
    spoken = example.spoken or ""
    tokens = len(spelling.tokens(spoken)) if spoken.strip() else 0
    if tokens > limits.max_tokens:
        reasons["tokens"] = f"{tokens} tokens, allowed are {limits.max_tokens}"
    if tokens and seconds is not None and (frames := seconds * FEATURE_FRAMES_PER_SECOND) > (
        allowed := limits.frames_per_token * tokens
    ):
        reasons["frames"] = f"{frames:.0f} frames for {tokens} tokens, allowed are {allowed:.0f}"
    facts: dict[str, Any] = {}
    if hypothesis is not None and example.spoken is not None:
        wer = word_errors([spoken], [hypothesis], [example.language]).rate
        facts = {HYPOTHESIS: hypothesis, "wer": round(wer, 4)}
        if wer >= limits.max_wer:
            reasons["wer"] = f"word error rate {wer:.2f}, heard is {hypothesis[:120]!r}"
    return seconds, {rule: reason for rule, reason in reasons.items() if rule not in limits.skipped}, facts


def seconds_of_example(example: Example, recordings: Sequence[Decoded]) -> float | None:
    """The length of all its audio, as stated or else as found; None for text only, and where it cannot be found."""
    if not example.audios:
        return None
    if example.duration is not None:
        return example.duration
    if not recordings or any(recording.rule for recording in recordings):
        return None
    pairs = zip(example.audios, recordings, strict=True)
    return sum(seconds_of_span(span, recording.seconds) for span, recording in pairs)


def _unreadable(example: Example, recordings: Sequence[Decoded]) -> str | None:
    """Why one of the recordings cannot be used, if so; those that were not opened are taken for good."""
    for span, recording in zip(example.audios, recordings, strict=False):
        if recording.rule:
            return recording.detail
        if not seconds_of_span(span, recording.seconds):
            return f"the recording has nothing from {span.start or 0.0:g} s on; it is {recording.seconds:.2f} s long"
    return None


def _hypothesis(
    row: Row, recordings: Sequence[Decoded], limits: Limits, transcribe: Callable[[AudioSpan], str | None] | None
) -> str | None:
    """What is heard in a row: its own `asr_text`, else the recogniser's text where it can matter."""
    example = row.example
    if example is None or example.spoken is None or "wer" in limits.skipped:
        return None
    given = extras_of(row.fields).get(HYPOTHESIS)
    if isinstance(given, str):
        return given
    if transcribe is None or len(example.audios) != 1:
        return None
    seconds = seconds_of_example(example, recordings)
    allowed = "duration" in limits.skipped or seconds is None or limits.min_seconds <= seconds <= limits.max_seconds
    return transcribe(example.audios[0]) if allowed and not any(recording.rule for recording in recordings) else None


def _moved(row: Row, folder: Path) -> dict[str, Any]:
    """The row's fields with paths relative to a new folder; rows of a saved data set become content parts."""
    if Path(row.manifest).is_dir() and row.example is not None:
        return write_parts(row.example, extras_of(row.fields), lambda path: relative(path, folder))
    return relocated(row.fields, row.folder, folder) if row.fields else {}
