"""What is in manifests: rows, hours, lengths, words, speed of speech, speakers, tasks, languages, licences.

Recordings are opened only where a row does not state its duration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from soundwave.data.example import Example
from soundwave.data.extras import extras_of
from soundwave.data.manifests import Progress, Row, read_rows, total_rows, without_text
from soundwave.data.probe import facts_of, seconds_of_span
from soundwave.errors import AudioError, ConfigurationError, DataError
from soundwave.files import atomic_file

EDGES = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, float("inf"))  # seconds, of the histogram
SPEAKER_FIELDS = ("speaker", "speaker_id", "spk_id", "voice")
LICENCE_FIELDS = ("licence", "license")
UNKNOWN = "not stated"


@dataclass
class Summary:
    """Counts over all rows.

    Attributes:
        rows, bad_rows: bad ones have no known format and are counted nowhere else.
        without_text: rows of recordings of which nothing is said; training refuses them, but their hours count.
        seconds: of all audio whose length is known; `unknown_seconds` counts the rows where it is not.
        durations: seconds of each row with audio.
        words, characters: of the transcripts, or of the replies where there is no transcript; spaces not counted.
        characters_a_second: of each row with words and one length.
        text_only, transcribed, nobody_speaks: rows without audio, with a CTC target, with an empty transcript.
        speakers, tasks, languages, licences: how many rows each has.
        vocabulary: different words.
    """

    rows: int = 0
    bad_rows: int = 0
    without_text: int = 0
    seconds: float = 0.0
    unknown_seconds: int = 0
    words: int = 0
    characters: int = 0
    vocabulary: int = 0
    text_only: int = 0
    transcribed: int = 0
    nobody_speaks: int = 0
    durations: list[float] = field(default_factory=list)
    characters_a_second: list[float] = field(default_factory=list)
    speakers: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)

    def histogram(self) -> list[tuple[str, int]]:
        """Rows by their length: a label and a count for each bin."""
        bins = []
        for low, high in pairwise(EDGES):
            label = f"over {low:g} s" if high == float("inf") else f"{low:g}–{high:g} s"
            bins.append((label, sum(low < seconds <= high for seconds in self.durations)))
        return bins

    def as_json(self) -> dict[str, object]:
        """What a program needs, without the lists of every row."""
        return {
            "rows": self.rows, "bad_rows": self.bad_rows, "without_text": self.without_text,
            "hours": round(self.seconds / 3600, 4),
            "rows_of_unknown_length": self.unknown_seconds, "text_only": self.text_only,
            "transcribed": self.transcribed, "nobody_speaks": self.nobody_speaks, "words": self.words,
            "different_words": self.vocabulary, "characters": self.characters,
            "characters_a_second": percentiles(self.characters_a_second), "seconds": percentiles(self.durations),
            "histogram": dict(self.histogram()), "speakers": len(self.speakers),
            "tasks": dict(self.tasks.most_common()), "languages": dict(self.languages.most_common()),
            "licences": dict(self.licences.most_common()),
        }


def summarise(manifests: Iterable[str | Path], progress: Progress | None = None) -> Summary:
    """Counts what is in the manifests.

    Raises:
        DataError: a manifest does not exist or is empty.
    """
    manifests = list(manifests)
    total = total_rows(manifests)
    summary = Summary()
    words: set[str] = set()
    for row in (row for manifest in manifests for row in read_rows(manifest)):
        summary.rows += 1
        example = row.example or _untranscribed(row)
        if example is None:
            summary.bad_rows += 1
        else:
            summary.without_text += row.example is None
            words.update(_add(summary, row, example))
        if progress:
            progress(summary.rows, total)
    summary.vocabulary = len(words)
    return summary


def _untranscribed(row: Row) -> Example | None:
    try:
        return without_text(row)
    except DataError:
        return None


def _add(summary: Summary, row: Row, example: Example) -> list[str]:
    """Adds one row; gives its words."""
    text = example.reply if example.transcript is None else example.transcript
    words = text.lower().split()
    characters = sum(len(word) for word in words)
    summary.words += len(words)
    summary.characters += characters
    summary.transcribed += bool(example.transcript)
    summary.nobody_speaks += example.transcript == ""
    seconds = _seconds(example)
    if not example.audios:
        summary.text_only += 1
    elif seconds is None:
        summary.unknown_seconds += 1
    else:
        summary.seconds += seconds
        summary.durations.append(seconds)
        if example.transcript and seconds > 0:
            summary.characters_a_second.append(characters / seconds)
    extras = extras_of(row.fields)
    speaker = next((str(extras[name]) for name in SPEAKER_FIELDS if extras.get(name) is not None), None)
    if speaker is not None:
        summary.speakers[speaker] += 1
    summary.tasks[example.task or UNKNOWN] += 1
    summary.languages[example.language or UNKNOWN] += 1
    summary.licences[next((str(extras[name]) for name in LICENCE_FIELDS if name in extras), UNKNOWN)] += 1
    return words


def _seconds(example: Example) -> float | None:
    if example.duration is not None or not example.audios:
        return example.duration
    try:
        return sum(seconds_of_span(span, facts_of(span.path).seconds) for span in example.audios)
    except AudioError:
        return None


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 5th, 50th and 95th percentile (nearest rank) and the mean; empty for no values."""
    if not values:
        return {}
    ranked = sorted(values)
    shares = {f"p{share}": round(ranked[round((len(ranked) - 1) * share / 100)], 3) for share in (5, 50, 95)}
    return {"mean": round(sum(values) / len(values), 3), **shares}


def check_picture(path: Path) -> None:
    """Said before all rows are read: a picture of this name can be drawn.

    Raises:
        ConfigurationError: its ending names no kind of picture.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise ConfigurationError(f"{path}: no kind of picture has this ending; choose one of {', '.join(kinds)}.")


def plot(summary: Summary, path: Path) -> None:
    """Draws the durations and the speed of speech as two histograms into a picture.

    The name's ending chooses the kind of picture (.png, .svg, .pdf).

    Raises:
        ConfigurationError: its ending names no kind of picture.
    """
    import matplotlib

    check_picture(path)

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.hist(summary.durations, bins=40)
    left.set(xlabel="seconds", ylabel="rows", title=f"{summary.seconds / 3600:.2f} h in {len(summary.durations)} rows")
    right.hist(summary.characters_a_second, bins=40)
    right.set(xlabel="characters a second", title="speed of speech")
    with atomic_file(path) as draft:
        figure.savefig(draft, dpi=120)
    pyplot.close(figure)
