"""The verbs that look at data and change nothing: check, stats, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soundwave.cli.data.options import (
    DEFAULT_MODEL,
    JobsOption,
    ManifestsArgument,
    OverwriteOption,
    SourceArgument,
    SpellingOption,
    spelling_of,
)
from soundwave.cli.display import count_progress, print_answer, print_json, print_table, say
from soundwave.cli.options import JsonOption, QuietOption
from soundwave.files import refuse_existing


def check(
    manifests: ManifestsArgument,
    model: SpellingOption = DEFAULT_MODEL,
    ctc: Annotated[bool, typer.Option(help="Hold transcripts against the CTC of --model.")] = True,
    decode: Annotated[bool, typer.Option(help="Decode every recording; --no-decode reads headers only.")] = True,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Seconds a stated duration may be off.")] = 0.1,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings make a row bad too.")] = False,
    show: Annotated[int, typer.Option(min=0, help="List so many findings; 0: all.")] = 50,
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check every row, say which are bad and why.

    Looked at: format, audio (there, decodes, not silent, at most 30 s), duration, empty texts, marks of noise, the
    model's own tokens, capitals, what CTC can spell and fit into the frames, duplicates. The exit code is 1 where a row
    is bad.
    """
    from soundwave.datatools import check as checks
    from soundwave.datatools import tables

    spelling = spelling_of(model, quiet) if ctc else None
    with count_progress("checking", quiet) as progress:
        report = checks.check(
            manifests, spelling, decode=decode, tolerance=tolerance, jobs=jobs, strict=strict, progress=progress
        )
    if as_json:
        print_json(report)
    else:
        if report.findings:
            print_table(tables.findings_table(report, show or None))
            if show and len(report.findings) > show:
                print_answer(f"… and {len(report.findings) - show} more; --show 0 lists all")
            print_answer("")
            print_table(tables.rules_table(report))
            print_answer("")
        print_answer(f"{report.rows} rows, {report.bad_rows} bad")
    if report.bad_rows:
        raise typer.Exit(1)


def stats(
    manifests: ManifestsArgument,
    plot: Annotated[Path | None, typer.Option(help="Draw the histograms into this picture (.png, .svg, .pdf).")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Count rows, hours, words, speakers and licences.

    Also: text-only rows, lengths as a histogram, characters a second, tasks, languages. Recordings are opened only
    where a row states no duration.
    """
    from soundwave.datatools import summary, tables

    if plot is not None:
        summary.check_picture(plot)
        refuse_existing(plot, overwrite)
    with count_progress("counting", quiet) as progress:
        found = summary.summarise(manifests, progress)
    if as_json:
        print_json(found.as_json())
    else:
        print_table(tables.summary_table(found))
    if plot is not None:
        summary.plot(found, plot)
        say(f"drew {plot}", quiet)


def show(
    manifest: SourceArgument,
    row: Annotated[int, typer.Argument(min=1, help="The row's line; in shards its number among all rows.")] = 1,
    model: SpellingOption = DEFAULT_MODEL,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show one row as the model sees it.

    Its tokens with their loss mask, the facts of its audio, and the pieces of its CTC target. Green tokens are in
    the loss, dim ones are only read.
    """
    from soundwave.datatools import show as showing
    from soundwave.datatools import tables

    chosen = showing.row_at(manifest, row)
    shown = showing.show(chosen, spelling_of(model, quiet))
    if as_json:
        print_json(shown)
    else:
        print_table(tables.shown_example(shown))
