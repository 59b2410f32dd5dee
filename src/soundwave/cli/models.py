"""The verbs about models themselves: doctor, download, export, and the family lora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soundwave.cli.display import print_answer, print_findings, print_json
from soundwave.cli.loading import fetch
from soundwave.cli.options import Family, JsonOption, QuietOption

ModelArgument = Annotated[str, typer.Argument(help="`mini`, a folder, or a Hugging Face hub id.")]
OutArgument = Annotated[Path, typer.Argument(help="A new folder.")]
DtypeOption = Annotated[str, typer.Option(help="auto (as stored), float32, float16 or bfloat16.")]


def doctor(
    models: Annotated[list[str] | None, typer.Argument(help="Models to look at: `mini`, folders or hub ids.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check versions, devices, weights and memory, and say what to do.

    Nothing is downloaded. The exit code is 1 where something does not work.
    """
    from soundwave.doctor import examine

    findings = examine(models or ["mini"])
    if as_json:
        print_json(findings)
    else:
        print_findings(findings)
    if any(finding.mark == "fail" for finding in findings):
        raise typer.Exit(1)


def download(
    model: Annotated[str, typer.Argument(help="`mini`, or a Hugging Face hub id.")] = "mini",
    quiet: QuietOption = False,
) -> None:
    """Fetch a model's weights, check them, and keep them for later."""
    print_answer(str(fetch(model, quiet)))


def export(model: ModelArgument, out: OutArgument, dtype: DtypeOption = "auto") -> None:
    """Write a model as one Hugging Face folder.

    It holds all weights, tokenizer and processor. A LoRA stays apart, as the PEFT folder `lora/`; `soundwave lora
    merge` puts it into the weights. Prints the folder.
    """
    from soundwave.export.huggingface import export as write

    print_answer(str(write(model, out, dtype)))


lora = Family(name="lora")


@lora.command()
def merge(
    model: ModelArgument,
    out: OutArgument,
    also: Annotated[
        list[Path] | None, typer.Option("--lora", help="A PEFT folder to merge after the model's own; may be repeated.")
    ] = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Merge a model's LoRA into its language model.

    All of it is written as one Hugging Face folder. Typed questions are then answered by the merged language model too;
    apart, a LoRA leaves them to the plain one.
    """
    from soundwave.export.huggingface import export as write

    print_answer(str(write(model, out, dtype, merge=True, loras=also or [])))


@lora.callback()
def _group() -> None:
    """The LoRA of a model.

    To load several, switch between them and unmerge, from Python: docs/recipes.md, "Several LoRAs".
    """
