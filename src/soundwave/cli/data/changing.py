"""The verbs that write what they read in another form, or less of it: convert, filter and shard."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import soundwave
from soundwave.cli.data.options import (
    DEFAULT_MODEL,
    JobsOption,
    OverwriteOption,
    SourceArgument,
    SpellingOption,
    spelling_of,
)
from soundwave.cli.display import count_progress, note, print_answer, print_json, print_table
from soundwave.cli.options import JsonOption, QuietOption
from soundwave.errors import ConfigurationError
from soundwave.files import refuse_existing

if TYPE_CHECKING:
    from soundwave.datatools.asr import Recogniser


class Format(str, Enum):
    """A manifest format, as `data convert` writes it."""

    messages = "messages"
    parts = "parts"
    short = "short"
    conversations = "conversations"
    nemo = "nemo"
    lhotse = "lhotse"
    datasets = "datasets"


class Rule(str, Enum):
    """A rule of `data filter` that can be left out."""

    audio = "audio"
    duration = "duration"
    tokens = "tokens"
    frames = "frames"
    wer = "wer"


class Layout(str, Enum):
    """How `data shard` lays out what it writes."""

    shar = "shar"
    webdataset = "webdataset"


class Encoding(str, Enum):
    """How `data shard` stores sound."""

    flac = "flac"
    opus = "opus"
    wav = "wav"


def convert(
    source: SourceArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write (.gz packs it); datasets: a folder.")],
    to: Annotated[Format, typer.Option(help="The format to write.")],
    allow_loss: Annotated[bool, typer.Option("--allow-loss", help="Write even where something is lost.")] = False,
    absolute: Annotated[
        bool, typer.Option("--absolute-paths", help="Absolute audio paths; else relative to OUT's folder.")
    ] = False,
    audio_dir: Annotated[
        Path | None, typer.Option(help="Writes sounds inside IN (shards, base64) here as FLAC; OUT names the files.")
    ] = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a manifest in another format.

    What would be lost is said, and refused unless --allow-loss. The formats messages and parts hold all turns and
    fields, and lhotse alone the single supervisions of its cuts; fields of your own go along everywhere.
    """
    from soundwave.datatools.convert import convert as convert_manifest

    if target.resolve() == Path(source).resolve():
        raise ConfigurationError(f"{target}: the conversion would overwrite its source; write to another file.")
    refuse_existing(target, overwrite)
    with count_progress("converting", quiet) as progress:
        done = convert_manifest(
            source, target, to.value, allow_loss=allow_loss, absolute=absolute, audio_dir=audio_dir,
            overwrite=overwrite, progress=progress,
        )
    for meaning, count in done.losses.most_common():
        note(f"lost in {count} rows: {meaning}", quiet=False)
    print_answer(f"{done.rows} rows in {target}" + (f", {done.skipped} skipped" if done.skipped else ""))


def filter_rows(
    source: SourceArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The rows that pass; they keep their format.")],
    dropped: Annotated[
        Path | None, typer.Option(help="The other rows, with reasons; default: OUT's name and .dropped.jsonl.")
    ] = None,
    min_seconds: Annotated[float, typer.Option(min=0.0, help="The shortest audio.")] = 3.0,
    max_seconds: Annotated[float, typer.Option(min=0.0, help="The longest audio.")] = 30.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest transcript, in tokens of --model.")] = 200,
    frames_per_token: Annotated[
        float, typer.Option(min=0.0, help="The most 10-ms frames for each token of the transcript.")
    ] = 100.0,
    max_wer: Annotated[float, typer.Option(min=0.0, help="What is heard must differ by less, 0.1 is 10 %.")] = 0.1,
    skip: Annotated[list[Rule] | None, typer.Option(help="Leave this rule out; may be given again.")] = None,
    asr: Annotated[
        str | None,
        typer.Option(help="Hears rows without `asr_text`: a CTranslate2 Whisper folder, `mini` or a model of ours."),
    ] = None,
    language: Annotated[str, typer.Option(help="Of the speech, for Whisper.")] = "en",
    decode: Annotated[bool, typer.Option(help="Decode every recording; --no-decode reads headers only.")] = True,
    jobs: JobsOption = 1,
    model: SpellingOption = DEFAULT_MODEL,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Keep the rows that the paper's rules allow.

    The others go to a file of their own, with reasons. The rules: audio that can be decoded, 3 to 30 s of it, at most
    200 tokens, at most 100 frames a token, word error rate of a recogniser under 10 %. What the recogniser hears is
    kept beside OUT as it is heard: the same command again goes on.
    """
    from soundwave.datatools import filter as filtering
    from soundwave.datatools import tables

    limits = filtering.Limits(
        min_seconds, max_seconds, max_tokens, frames_per_token, max_wer, frozenset(rule.value for rule in skip or [])
    )
    aside = dropped or target.with_name(target.name + ".dropped.jsonl")
    if Path(source).resolve() not in (target.resolve(), aside.resolve()):  # that is never meant, and told below
        refuse_existing(target, overwrite)
        refuse_existing(aside, overwrite)
    spelling = spelling_of(model, quiet)
    hearing = None if asr is None or "wer" in limits.skipped else _recogniser(asr, language)
    with count_progress("filtering", quiet) as progress:
        outcome = filtering.filter_manifest(
            source, target, aside, limits, spelling, decode=decode, jobs=jobs, recogniser=hearing,
            recogniser_name="" if asr is None else f"{Path(asr).name}/{language}", progress=progress,
        )
    if as_json:
        print_json(outcome)
    else:
        print_table(tables.filter_table(outcome, limits.skipped))
        print_answer(f"{target}, dropped rows in {aside}")


def shard(
    source: SourceArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    to: Annotated[Layout, typer.Option(help="shar: lhotse's cuts and tars; webdataset: tars.")] = Layout.shar,
    shard_size: Annotated[int, typer.Option(min=1, help="Examples in a shard.")] = 1000,
    encoding: Annotated[Encoding, typer.Option("--format", help="Of the sound; opus loses a little.")] = Encoding.flac,
    jobs: JobsOption = 1,
    quiet: QuietOption = False,
) -> None:
    """Write a manifest as shards, for training that streams.

    A recipe's `manifest` may name OUT. Sound becomes 16 kHz mono. The same command again goes on where it was
    stopped; OUT appears when all of it is there. The exit code is 1 where a row's audio could not be used.
    """
    from soundwave.datatools.shard import shard as shard_manifest

    with count_progress("sharding", quiet) as progress:
        done = shard_manifest(
            source, target, layout=to.value, encoding=encoding.value, shard_size=shard_size, jobs=jobs,
            progress=progress, on_bad=lambda told: note(f"skipped: {told}", quiet=False),
        )
    print_answer(f"{done.made} shards made now, {done.before} before, {done.skipped} rows skipped; {target}")
    if done.skipped:
        raise typer.Exit(1)


def _recogniser(name: str, language: str) -> Recogniser:
    """Whisper where the folder is one, else a model of ours."""
    from soundwave.audio import SAMPLE_RATE
    from soundwave.datatools.asr import whisper

    if (Path(name) / "model.bin").is_file():
        return whisper(Path(name), language, threads=int(os.environ.get("OMP_NUM_THREADS", "0")))
    engine = soundwave.load(name)
    return lambda samples: engine.transcribe((samples, SAMPLE_RATE)).text
