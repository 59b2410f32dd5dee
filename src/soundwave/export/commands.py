"""`soundwave export` and `soundwave lora`: arguments to calls of this package; what is heavy is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[str, typer.Argument(help="`mini`, a folder, or a Hugging Face hub id.")]
OutArgument = Annotated[Path, typer.Argument(help="A new folder.")]
DtypeOption = Annotated[str, typer.Option(help="auto (as stored), float32, float16 or bfloat16.")]

lora = typer.Typer(name="lora", no_args_is_help=True, rich_markup_mode=None)


def export(model: ModelArgument, out: OutArgument, dtype: DtypeOption = "auto") -> None:
    """Write a model as one Hugging Face folder: all weights, tokenizer and processor.

    A LoRA stays apart, as the PEFT folder `lora/`; `soundwave lora merge` puts it into the weights. Prints the folder.
    """
    from soundwave.export.huggingface import export as write

    print(write(model, out, dtype))


@lora.command()
def merge(
    model: ModelArgument,
    out: OutArgument,
    also: Annotated[
        list[Path] | None, typer.Option("--lora", help="A PEFT folder to merge after the model's own; may be repeated.")
    ] = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Merge a model's LoRA into its language model, and write all of it as one Hugging Face folder.

    Typed questions are then answered by the merged language model too; apart, a LoRA leaves them to the plain one.
    """
    from soundwave.export.huggingface import export as write

    print(write(model, out, dtype, merge=True, loras=also or []))


@lora.callback()
def _group() -> None:
    """The LoRA of a model.

    To load several, switch between them and unmerge, from Python: docs/recipes.md, "Several LoRAs".
    """
