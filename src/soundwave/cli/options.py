"""Flags: those that several verbs take, and those that are made from settings declared elsewhere.

A setting's default, range, choices and help stand once, where it is declared (`soundwave.settings`); a verb that takes
`options: AskOptions` gets a flag for each of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from soundwave.cli import streams
from soundwave.cli.display import warnings_as_lines
from soundwave.errors import ConfigurationError

ModelOption = Annotated[str, typer.Option("--model", "-m", help="`mini`, a folder, or a Hugging Face hub id.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what lies at OUT.")]


class Verb(TyperCommand):
    """A verb: only its answers reach standard output, and with --quiet only errors reach standard error."""

    def invoke(self, ctx: Any) -> Any:
        quiet = bool(ctx.params.get("quiet"))
        with streams.only_answers(quiet), warnings_as_lines(quiet):
            return super().invoke(ctx)


class Family(typer.Typer):
    """Verbs that belong together; the help is plain, since to import rich for it takes as long as all the rest."""

    def __init__(self, **options: Any):
        super().__init__(no_args_is_help=True, add_completion=False, rich_markup_mode=None, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, **{"cls": Verb, **options})


def takes(settings: type, name: str = "options") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: an argument of the verb becomes one flag for each field of a dataclass of settings.

    A setting that is a list of texts may be given several times, and each time with commas between them.

    Args:
        settings: a dataclass whose fields `setting` made; an instance of it is what the verb gets.
        name: of the argument.
    """
    hints = get_type_hints(settings)
    flags = [_flag(item, hints[item.name]) for item in fields(settings)]

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(verb, eval_str=True).parameters.values():
            parameters += flags if parameter.name == name else [parameter]

        @wraps(verb)
        def run(**given: Any) -> Any:
            values = {flag.name: given.pop(flag.name) for flag in flags}
            lists = {flag: _split(value) for flag, value in values.items() if isinstance(value, list)}
            return verb(**given, **{name: settings(**values | lists)})

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _flag(item: Field[Any], hint: Any) -> inspect.Parameter:
    """A field as a parameter of a verb: its type, range and help as typer has them."""
    default: Any = item.default if item.default_factory is MISSING else item.default_factory()
    told = item.metadata["help"]
    if hint == tuple[str, ...]:
        hint, default, told = list[str], list(default), f"{told} Comma-separated; may be given again."
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    number = {int, float} & set(kinds)
    bounds = {"min": item.metadata["least"], "max": item.metadata["most"]} if number else {}
    option = typer.Option(help=told, **bounds)
    annotation = Annotated[hint, option]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _split(values: list[str]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def text_argument(name: str, text: str) -> str:
    """A text of the command line as Unicode; where the locale could not read its bytes, they are read as UTF-8.

    Raises:
        ConfigurationError: its bytes are no text.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        shown = ascii(text if len(text) <= 60 else text[:60] + "...")
        raise ConfigurationError(f"{name} {shown} is not UTF-8 text; type it anew, or convert it.") from error
