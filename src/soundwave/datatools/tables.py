"""What the data tools found, as tables and texts of rich.

Knows nothing about where they are printed.
"""

from __future__ import annotations

from collections import Counter

from rich.console import Group
from rich.table import Table
from rich.text import Text

from soundwave.datatools.check import ERROR, RULES, Report
from soundwave.datatools.filter import MEANINGS, Outcome
from soundwave.datatools.filter import RULES as FILTER_RULES
from soundwave.datatools.show import Shown, ShownAudio
from soundwave.datatools.summary import Summary, percentiles

MOST_SHOWN = 10
BAR_WIDTH = 40  # characters
COLOURS = {"read": "dim", "learnt": "bold green", "audio": "bold magenta"}


def plain_table(*headings: str) -> Table:
    return Table(*headings, box=None, padding=(0, 2, 0, 0), header_style="bold")


def findings_table(report: Report, most: int | None) -> Table:
    """A line for each finding: which row, and why."""
    table = plain_table("row", "rule", "why")
    shown = report.findings if most is None else report.findings[:most]
    for finding in shown:
        colour = "red" if finding.severity == ERROR else "yellow"
        place = f"{finding.manifest}:{finding.line}"
        table.add_row(Text(place), Text(finding.rule, style=colour), Text(finding.detail))
    return table


def rules_table(report: Report) -> Table:
    """How many rows each rule found."""
    counts = Counter(finding.rule for finding in report.findings)
    table = plain_table("rows", "rule", "severity", "meaning")
    for rule, (severity, meaning) in RULES.items():
        if counts[rule]:
            table.add_row(str(counts[rule]), rule, severity, meaning)
    return table


def summary_table(summary: Summary) -> Group:
    """All counts, then the lengths as bars."""
    table = plain_table()
    table.show_header = False
    hours = f"{summary.seconds / 3600:.2f}"
    if summary.unknown_seconds:
        hours += f" and {summary.unknown_seconds} rows of unknown length"
    rows = {
        "rows": f"{summary.rows}" + (f", {summary.bad_rows} of them bad" if summary.bad_rows else ""),
        "hours": hours,
        "seconds a row": _spread(summary.durations),
        "without a text": str(summary.without_text),
        "text only": str(summary.text_only),
        "with a CTC target": str(summary.transcribed),
        "nobody speaks": str(summary.nobody_speaks),
        "words": f"{summary.words}, {summary.vocabulary} different",
        "characters a second": _spread(summary.characters_a_second),
        "speakers": f"{len(summary.speakers)}" + (f": {_most(summary.speakers)}" if summary.speakers else ""),
        "tasks": _most(summary.tasks),
        "languages": _most(summary.languages),
        "licences": _most(summary.licences),
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value))
    return Group(table, Text(), histogram(summary.histogram()))


def histogram(bins: list[tuple[str, int]]) -> Table:
    """Bars of characters, the longest as wide as allowed."""
    table = plain_table("length", "rows", "")
    most = max((count for _, count in bins), default=0)
    for label, count in bins:
        table.add_row(label, str(count), Text("█" * round(BAR_WIDTH * count / max(1, most)), style="cyan"))
    return table


def filter_table(outcome: Outcome, skipped: frozenset[str]) -> Table:
    """Dropped rows by rule, and what is left."""
    table = plain_table("rule", "dropped", "would drop alone", "meaning")
    for rule in FILTER_RULES:
        if rule in skipped:
            table.add_row(rule, "off", "off", MEANINGS[rule], style="dim")
        else:
            table.add_row(rule, str(outcome.first[rule]), str(outcome.broken[rule]), MEANINGS[rule])
    table.add_row("kept", str(outcome.kept), "", f"of {outcome.rows} rows", style="bold")
    table.add_row("hours", f"{outcome.hours_kept:.2f}", "", f"of {outcome.hours:.2f}", style="bold")
    if outcome.not_judged:
        meaning = "rows with a transcript and nothing heard: --asr makes the pass"
        table.add_row("no WER", str(outcome.not_judged), "", meaning, style="yellow")
    return table


def shown_example(shown: Shown) -> Group:
    """One example: fields, recordings, tokens in colours, and the CTC target."""
    facts = plain_table()
    facts.show_header = False
    for name, value in shown.fields.items():
        facts.add_row(Text(name, style="bold"), Text(str(value)))
    for number, audio in enumerate(shown.audios, 1):
        facts.add_row(Text(f"audio {number}", style="bold"), _audio(audio))
    learnt = sum(token.kind == "learnt" for token in shown.tokens)
    legend = Text.assemble(
        f"{len(shown.tokens)} tokens: ", ("read", COLOURS["read"]), ", ",
        (f"learnt ({learnt})", COLOURS["learnt"]), ", ", ("audio", COLOURS["audio"]),
    )
    tokens = plain_table("id", "token", "loss")
    for token in shown.tokens:
        style = COLOURS[token.kind]
        tokens.add_row(str(token.id), Text(repr(token.text), style=style), Text(token.kind, style=style))
    return Group(Text(shown.where, style="bold"), facts, Text(), legend, tokens, Text(), _target(shown))


def _target(shown: Shown) -> Text:
    if shown.transcript is None:
        return Text("CTC target: none, the transcript is not known or cannot be spelt; the CTC term is left out")
    if not shown.pieces:
        return Text("CTC target: empty, every frame is blank" if not shown.transcript else "CTC target: none")
    frames = shown.audios[0].frames
    text = Text(f"CTC target: {len(shown.pieces)} pieces, {shown.ctc_frames} frames needed, {frames} there\n")
    for number, piece in enumerate(shown.pieces):
        text.append(piece.replace(" ", "␣"), style="black on cyan" if number % 2 else "black on green")
    return text


def _audio(audio: ShownAudio) -> Text:
    path = audio.span.path if len(audio.span.path) < 200 else audio.span.path[:60] + "…"
    if audio.facts is None:
        return Text(f"{path}: {audio.problem}", style="red")
    cut = "" if audio.span.start is None and audio.span.end is None else f" (of {audio.facts.seconds:.2f} s)"
    return Text(
        f"{path}: {audio.seconds:.2f} s{cut}, {audio.facts.rate} Hz, {audio.facts.channels} channels, "
        f"{audio.facts.format}; {audio.frames} aligned frames"
    )


def _spread(values: list[float]) -> str:
    shares = percentiles(values)
    return "–" if not shares else f"{shares['mean']:.2f} on average, 5–95 %: {shares['p5']:.2f} to {shares['p95']:.2f}"


def _most(counts: Counter[str]) -> str:
    told = ", ".join(f"{name} {count}" for name, count in counts.most_common(MOST_SHOWN))
    return told + (f" and {len(counts) - MOST_SHOWN} more" if len(counts) > MOST_SHOWN else "")
