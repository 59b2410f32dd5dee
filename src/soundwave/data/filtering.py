"""The paper's rules for what to train on (section on data quality), as functions of one row; each can be left out.

A rule that does not apply to a row (text only, no transcript, nobody speaks) says nothing about it: the row stays.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundwave.data.formats import write_parts
from soundwave.data.hypotheses import Recogniser, hear_all
from soundwave.data.recordings import facts_of, seconds_of_span
from soundwave.data.rows import Progress, Row, extras_of, read_rows, relative, relocated, with_fields, write_rows
from soundwave.data.spelling import Spelling
from soundwave.errors import AudioError, DataError
from soundwave.evaluation.metrics import word_errors
from soundwave.training.examples import Example
from soundwave.training.shards import is_sharded
from soundwave.training.transcripts import MAX_CTC_TOKENS

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
    source: Path, target: Path, dropped: Path, limits: Limits, spelling: Spelling, *,
    recogniser: Recogniser | None = None, recogniser_name: str = "", progress: Progress | None = None,
) -> Outcome:
    """Writes the rows that pass to `target`, the others with their reasons to `dropped`.

    Args:
        source: a manifest in any format; rows keep theirs, with audio paths relative to the new file.
        target, dropped: files to write, whole or not at all.
        limits: the rules.
        spelling: whose tokens are counted.
        recogniser: hears the rows that bring no `asr_text`; its texts are kept in `<target>.asr.jsonl`.
        recogniser_name: of it, for those notes.

    Raises:
        DataError: no such manifest, or it would be overwritten.
    """
    if source.resolve() in (target.resolve(), dropped.resolve()):
        raise DataError(f"{source}: the filter would overwrite its source; write to another file.")
    sharded = is_sharded(source)
    rows = list(read_rows(source))
    heard = _hypotheses(rows, target, limits, recogniser, recogniser_name, progress)
    outcome, kept, left = Outcome(rows=len(rows)), [], []
    for row in rows:
        hypothesis = heard.get(row.position)
        seconds, reasons, facts = judge(row, limits, spelling, hypothesis)
        outcome.hours += (seconds or 0.0) / 3600
        if row.example and row.example.spoken is not None and "wer" not in limits.skipped:
            outcome.not_judged += hypothesis is None
        fields = _moved(row, target.parent)
        if reasons:
            outcome.first[next(iter(reasons))] += 1
            outcome.broken.update(list(reasons))
            place = {"line": row.position} | ({"shard": row.where} if sharded else {})
            told = {**place, "dropped": reasons, **facts}
            left.append(with_fields(_moved(row, dropped.parent), **told) if fields else told)
        else:
            outcome.kept += 1
            outcome.hours_kept += (seconds or 0.0) / 3600
            kept.append(with_fields(fields, **facts))
    write_rows(target, kept)
    write_rows(dropped, left)
    return outcome


def judge(
    row: Row, limits: Limits, spelling: Spelling, hypothesis: str | None
) -> tuple[float | None, dict[str, str], dict[str, Any]]:
    """One row against all rules.

    Returns:
        The length of its audio in seconds (None: text only, or not known); the rules that it breaks, in the order of
        `RULES`, each with its reason; and what was found out (`asr_text`, `wer`).
    """
    example = row.example
    if example is None:
        return None, {"format": row.problem or ""}, {}  # never skipped: nobody could read such a row
    reasons: dict[str, str] = {}
    seconds: float | None = None
    try:
        seconds = seconds_of_example(example)
    except AudioError as problem:
        reasons["audio"] = str(problem)
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
        wer = word_errors([spoken], [hypothesis]).rate
        facts = {HYPOTHESIS: hypothesis, "wer": round(wer, 4)}
        if wer >= limits.max_wer:
            reasons["wer"] = f"word error rate {wer:.2f}, heard is {hypothesis[:120]!r}"
    return seconds, {rule: reason for rule, reason in reasons.items() if rule not in limits.skipped}, facts


def seconds_of_example(example: Example) -> float | None:
    """The length of all its audio, as stated or else as found; None for text only.

    Raises:
        AudioError: it is not stated, and a recording cannot be read.
    """
    if not example.audios:
        return None
    if example.duration is not None:
        return example.duration
    return sum(seconds_of_span(span, facts_of(span.path).seconds) for span in example.audios)


def _hypotheses(
    rows: list[Row], target: Path, limits: Limits, recogniser: Recogniser | None, name: str,
    progress: Progress | None,
) -> dict[int, str | None]:
    """What is heard in each row, by its position: the row's own `asr_text`, else the recogniser's."""
    if "wer" in limits.skipped:
        return {}
    given = {row.position: extras_of(row.fields).get(HYPOTHESIS) for row in rows if row.example}
    heard: dict[int, str | None] = {position: text for position, text in given.items() if isinstance(text, str)}
    if recogniser is None:
        return heard
    waiting = {
        row.position: row.example.audios[0] for row in rows
        if row.position not in heard and row.example and _may_pass(row.example, limits)
        and row.example.spoken is not None and len(row.example.audios) == 1
    }
    texts = hear_all(waiting.values(), recogniser, name, target.with_name(target.name + ".asr.jsonl"), progress)
    return heard | {position: texts[span] for position, span in waiting.items()}


def _may_pass(example: Example, limits: Limits) -> bool:
    """Whether hearing it can matter: a length that is not allowed drops it anyway."""
    if "duration" in limits.skipped or example.duration is None:
        return True
    return limits.min_seconds <= example.duration <= limits.max_seconds


def _moved(row: Row, folder: Path) -> dict[str, Any]:
    """The row's fields with paths relative to a new folder; rows of a saved data set become content parts."""
    if Path(row.manifest).is_dir() and row.example is not None:
        return write_parts(row.example, extras_of(row.fields), lambda path: relative(path, folder))
    return relocated(row.fields, row.folder, folder) if row.fields else {}
