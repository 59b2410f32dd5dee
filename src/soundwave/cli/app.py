"""The command line: one verb is one typed function, in a file for each family of verbs.

Knows nothing about models: a verb reads arguments, calls the library, and prints. Answers go to standard output;
status, progress and errors go to standard error. What is heavy is imported inside the verb that needs it, so that
`soundwave --help` answers at once.

Exit codes: 0 all went well, 1 something failed, 2 the command was used wrongly, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import soundwave
from soundwave.cli import data, demo, evaluation, language_model, live, models, serve, speech, streams, training
from soundwave.cli.display import say_error
from soundwave.cli.options import Family
from soundwave.errors import ConfigurationError, SoundwaveError
from soundwave.inference.processes import wait_as_fits

EXTRAS = {  # what a verb needs beyond the core
    "train": "train", "data": "train", "eval": "eval", "lm": "train", "live": "live", "serve": "serve",
    "demo": "demo",
}


class Verbs(TyperGroup):
    """The one place where a failure becomes a line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a reader that went away shows here, while it can still be handled
            return result
        except SoundwaveError as problem:
            say_error(problem)
            raise typer.Exit(exit_code_of(problem)) from problem
        except KeyboardInterrupt as problem:
            typer.echo("\nstopped", err=True)
            raise typer.Exit(130) from problem  # 128 + SIGINT, as shells count it
        except BrokenPipeError as problem:
            # Whoever reads our output has seen enough (`| head`). The interpreter flushes standard output once more
            # when it ends; what is left goes nowhere instead of into a second error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from problem
        except OSError as problem:
            say_error(f"{problem.filename}: {problem.strerror}" if problem.filename else problem)
            raise typer.Exit(1) from problem
        except ModuleNotFoundError as problem:
            extra = EXTRAS.get(ctx.invoked_subcommand or "")
            if extra is None or str(problem.name).startswith("soundwave"):
                raise
            say_error(
                f"soundwave {ctx.invoked_subcommand} needs the package {problem.name!r}, which is not installed; "
                f"run: pip install 'soundwave-llm[{extra}]' (in a source tree: pip install -e '.[{extra}]')"
            )
            raise typer.Exit(1) from problem


def exit_code_of(problem: SoundwaveError) -> int:
    """2 for a setting that is not allowed, 1 for everything else that can go wrong."""
    return 2 if isinstance(problem, ConfigurationError) else 1


app = Family(
    name="soundwave",
    cls=Verbs,
    help="Speech in, answer out. Ask a recording a question, or have it written down.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"soundwave {soundwave.__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Speech in, answer out. Ask a recording a question, or have it written down."""


app.command()(speech.ask)
app.command()(speech.transcribe)
app.command()(live.live)
app.command()(serve.serve)
app.command()(demo.demo)
app.command()(models.doctor)
app.command()(models.download)
app.command()(training.train)
app.command("eval")(evaluation.evaluate)
app.add_typer(data.app, name="data")
app.command("export")(models.export)
app.add_typer(models.lora)
app.add_typer(language_model.lm)


def main() -> None:
    """The `soundwave` command."""
    streams.prepare()
    wait_as_fits()
    app(prog_name="soundwave")
