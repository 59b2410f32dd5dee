"""The verbs of `soundwave data`: each reads its arguments, calls `soundwave.data`, and prints.

What is heavy is imported inside the verb that needs it.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from soundwave.cli.data import changing, looking, making
from soundwave.errors import SoundwaveError


class DataVerbs(TyperGroup):
    """The one place where a package that is not installed becomes a line that says how to have it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as problem:
            raise SoundwaveError(
                f"the data tools need the package {problem.name!r}, which is not installed; "
                "run: pip install 'soundwave-llm[train]' (in a source tree: pip install -e '.[train]')"
            ) from problem


app = typer.Typer(
    cls=DataVerbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Check, count, convert, show, filter, shard and make training data.",
)
app.command()(looking.check)
app.command()(looking.stats)
app.command()(changing.convert)
app.command()(looking.show)
app.command("filter")(changing.filter_rows)
app.command()(changing.shard)
app.command()(making.synth)
app.command()(making.answer)
app.command()(making.instruct)
app.command()(making.splice)
