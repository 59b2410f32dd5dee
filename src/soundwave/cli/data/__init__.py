"""The verbs of `soundwave data`: each reads its arguments, calls `soundwave.datatools`, and prints.

What is heavy is imported inside the verb that needs it.
"""

from __future__ import annotations

from soundwave.cli.data import changing, looking, making
from soundwave.cli.options import Family

app = Family(help="Check, convert, filter, shard and make training data.")
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
app.command()(making.units)
