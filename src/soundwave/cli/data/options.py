"""Options that several verbs of `soundwave data` take, and the tokenizer that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from soundwave.cli.display import count_progress

if TYPE_CHECKING:
    from soundwave.datatools.spelling import Spelling

# Texts, not paths: shards may be at an address (https://…, s3://…) or come out of a pipe.
ManifestsArgument = Annotated[
    list[str], typer.Argument(metavar="MANIFEST...", help="JSON lines, plain or .gz; shards; an address of shards.")
]
SourceArgument = Annotated[
    str, typer.Argument(metavar="IN", help="A manifest in any format that is read; shards, also at an address.")
]
SpellingOption = Annotated[
    str, typer.Option("--model", "-m", help="Whose tokens: a catalog part, `mini`, a folder or a hub id.")
]
SeedOption = Annotated[int, typer.Option(help="The same seed and settings give the same clips.")]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="So many at once.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is in OUT's place.")]
DEFAULT_MODEL = "smollm2-135m-instruct"


def spelling_of(model: str, quiet: bool) -> Spelling:
    """The spelling that --model names; a bar where a part has to be fetched first."""
    from soundwave.datatools.spelling import load_spelling

    with count_progress("fetching the tokenizer", quiet) as bar:
        return load_spelling(model, lambda _, done, total: bar(done, total or 0))
