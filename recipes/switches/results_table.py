"""The rows of compare.py as tables in Markdown, each figure with its difference to the recipe as it is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

FIGURES = {
    "ctc_wer": ("CTC word errors, %", 100.0, 1), "ctc_nats_per_character": ("CTC nats a character", 1.0, 3),
    "next_token": ("next-token loss", 1.0, 3), "answered": ("questions answered, %", 100.0, 1),
    "times_real_time": ("times real time", 1.0, 0),
}  # name in a row: heading, factor, decimals


def markdown(rows: Sequence[dict[str, Any]], groups: Sequence[str]) -> str:
    """One table a group; several seeds of a row are averaged."""
    tables = []
    for group in groups:
        of_group = [row for row in rows if row["group"] == group]
        if of_group:
            tables.append("\n".join(_table(group, of_group)))
    return "\n\n".join(tables)


def _table(group: str, rows: list[dict[str, Any]]) -> list[str]:
    names = [name for name in FIGURES if any(row.get(name) is not None for row in rows)]
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        f"`{group}`, {rows[0]['steps']} steps, seeds {', '.join(map(str, seeds))}:", "",
        "| changed | " + " | ".join(FIGURES[name][0] for name in names) + " |", "|---" * (len(names) + 1) + "|",
    ]  # fmt: skip
    base = [row for row in rows if row["changed"] == "nothing"]
    for changed in dict.fromkeys(row["changed"] for row in rows):
        alike = [row for row in rows if row["changed"] == changed]
        cells = [_cell(name, alike, [] if changed == "nothing" else base) for name in names]
        lines.append(f"| {changed} | " + " | ".join(cells) + " |")
    return lines


def _cell(name: str, rows: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    _, factor, decimals = FIGURES[name]
    values = [row[name] * factor for row in rows if row.get(name) is not None]
    others = [row[name] * factor for row in base if row.get(name) is not None]
    if not values:
        return "–"
    shown = f"{mean(values):.{decimals}f}"
    return f"{shown} ({mean(values) - mean(others):+.{decimals}f})" if others and name != "times_real_time" else shown
