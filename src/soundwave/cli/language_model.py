"""The verbs of `soundwave lm`: n-grams that help a CTC model to words are trained, converted and looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soundwave.cli.display import print_json
from soundwave.cli.options import JsonOption

lm = typer.Typer(
    name="lm",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Word n-grams for `transcribe`: train one on your own texts, or bring one as ARPA.",
)
FileArgument = Annotated[Path, typer.Argument(metavar="NGRAM", help=".npz as Soundwave writes it, or .arpa[.gz].")]


@lm.command()
def train(
    texts: Annotated[list[Path], typer.Argument(metavar="TEXTS...", help=".txt or .jsonl files, also with .gz.")],
    out: Annotated[Path, typer.Option(help="File to write: .npz, or .arpa[.gz].")],
    order: Annotated[int, typer.Option(help="Words of the longest n-gram.")] = 3,
    prune: Annotated[float, typer.Option(help="Leave out what raises the perplexity by less; 0 keeps all.")] = 0.0,
    least: Annotated[int, typer.Option(help="Words that occur less often are unknown.")] = 2,
    words: Annotated[
        Path | None, typer.Option(help="A .txt file of words that are known however often they occur.")
    ] = None,
) -> None:
    """Count an n-gram on texts, with modified Kneser-Ney smoothing. Its words are what a recording can say.

    Digits become words, and each word is written as it mostly is inside a sentence: names keep their capitals.
    """
    from soundwave.ctc.ngram_training import train_ngram
    from soundwave.datatools.spoken_text import read_texts, sentences

    _check_name(out)
    known = [word for line in read_texts([words]) for word in line.split()] if words else []
    ngram = train_ngram(sentences(read_texts(texts)), order, prune, least, known)
    ngram.save(out)
    print(out)


@lm.command()
def convert(
    source: FileArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .npz, or .arpa[.gz].")],
) -> None:
    """Write an n-gram in another format. An .npz has one byte a probability: it is not the same to the last digit."""
    from soundwave.ctc.ngram import Ngram

    _check_name(out)
    Ngram.load(source).save(out)
    print(out)


@lm.command()
def info(
    source: FileArgument,
    text: Annotated[Path | None, typer.Option(help="Also the perplexity of this .txt or .jsonl file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how large an n-gram is, and how well it predicts a text."""
    from soundwave.ctc.ngram import Ngram

    ngram = Ngram.load(source)
    found: dict[str, object] = {"order": ngram.order, "n-grams": list(ngram.counts), "bytes": source.stat().st_size}
    if text is not None:
        from soundwave.datatools.spoken_text import read_texts, sentences

        found["perplexity"], found["unknown words"] = ngram.perplexity(sentences(read_texts([text])))
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            print(f"{name}: {' '.join(map(str, value)) if isinstance(value, list) else value}")


def _check_name(out: Path) -> None:
    from soundwave.errors import ConfigurationError

    if not out.name.endswith((".npz", ".arpa", ".arpa.gz")):
        raise ConfigurationError(f"OUT is {out}; its name must end with .npz, .arpa or .arpa.gz.")
