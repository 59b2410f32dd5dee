"""The verbs that listen: ask and transcribe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundwave.cli import recordings, streams
from soundwave.cli.display import as_plain, note, print_answer, print_json, say, say_error
from soundwave.cli.loading import load
from soundwave.cli.options import DeviceOption, DtypeOption, JsonOption, ModelOption, QuietOption, takes, text_argument
from soundwave.cli.transcripts import OutputFormat, Transcribing, Wanted
from soundwave.errors import ConfigurationError
from soundwave.inference.options import AskOptions, AudioOptions, SubtitleOptions, TranscribeOptions

if TYPE_CHECKING:
    from soundwave.inference.results import Chunk, Reply

WAYS = {
    "audio": "answered from the audio itself",
    "transcript": "answered from the words that were found",
    "text": "answered without a recording",
}


@takes(AskOptions)
@takes(AudioOptions, "sound")
def ask(
    audio: Annotated[
        str | None,
        typer.Argument(metavar="AUDIO", help="A recording (any format FFmpeg reads), or - for standard input."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What to do with it; default: the model's own, which its card states."),
    ] = None,
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="There is no recording, only the prompt: a typed question.")
    ] = False,
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    *,
    options: AskOptions,
    sound: AudioOptions,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Ask about a recording; the answer is printed while it is made.

    Without a recording: soundwave ask --no-audio "What is the capital of France?"
    """
    streams.need_output()
    if no_audio:
        if audio is None or prompt is not None:
            raise ConfigurationError('--no-audio takes the prompt alone: soundwave ask --no-audio "What is ...?"')
        if options.via != "auto" or sound != AudioOptions():
            raise ConfigurationError(
                "--via, --channels, --track, --start and --end say how a recording is read; leave them out with "
                "--no-audio."
            )
        audio, prompt = None, audio
    elif audio is None:
        raise typer.BadParameter('name a recording, or ask without one: soundwave ask --no-audio "What is ...?"')
    prompt = None if prompt is None else text_argument("the prompt", prompt)
    source = None if audio is None else recordings.recording(audio).audio
    engine = load(model, device, dtype, quiet)

    def show(chunk: Chunk) -> None:
        if not as_json:
            print_answer(chunk.text, end="")

    which = asdict(sound) if sound != AudioOptions() else {}
    reply = engine.ask(source, prompt, **as_plain(options), **which, on_chunk=show)
    if as_json:
        print_json(reply)
        return
    print_answer("")
    _tell_about(reply, options.max_new_tokens, quiet)


def _tell_about(reply: Reply, max_new_tokens: int, quiet: bool) -> None:
    """What one should know beside an answer: which way it was taken, whether it is whole, and how long it took."""
    words = f": {reply.transcript}" if reply.transcript else ""
    note(WAYS.get(reply.via, reply.via) + words, quiet)
    if reply.finish_reason == "length":
        note(f"cut after {max_new_tokens} tokens; --max-new-tokens allows more", quiet)
    if not reply.text:
        note("no speech was recognised, so there is no answer", quiet)
    say(f"first words after {reply.timings.first_token:.2f} s, all after {reply.timings.total:.2f} s", quiet)


@takes(TranscribeOptions)
@takes(AudioOptions, "sound")
@takes(SubtitleOptions, "layout")
def transcribe(
    audio: Annotated[
        list[str],
        typer.Argument(
            metavar="AUDIO", help='Recordings, folders of them, quoted patterns ("*.wav"), or - for standard input.'
        ),
    ],
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    *,
    options: TranscribeOptions,
    sound: AudioOptions,
    ctc: Annotated[bool, typer.Option("--ctc", hidden=True, help="The older name of --no-llm.")] = False,
    output_format: Annotated[
        OutputFormat, typer.Option(help="txt: a line a segment; json: one object a recording; all: a file of each.")
    ] = OutputFormat.txt,
    layout: SubtitleOptions,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write files here, named after the recording, instead of printing.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a stopped run with the same --output-dir was.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write down what is said in recordings of any length.

    The words of one recording are printed as they are found; of several, each line begins with the recording's name.
    A recording that cannot be read is reported, and the others are still done.
    """
    if output_dir is None:
        streams.need_output()
    if ctc and options.llm:
        raise ConfigurationError("--ctc is the older name of --no-llm; it cannot stand beside --llm.")
    hotwords = tuple(text_argument("--hotwords", word) for word in options.hotwords)
    options = TranscribeOptions(False if ctc else options.llm, hotwords)
    form = OutputFormat.json if as_json else output_format
    wanted = Wanted(options, sound, form, layout, output_dir, resume, quiet)
    wanted.check(len(audio))
    chosen, problems = recordings.named(audio)
    asked, failed = len(chosen) + len(problems), len(problems)
    wanted.check(asked)
    files = recordings.outputs(chosen, output_dir, _formats(form)) if output_dir is not None else {}
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
    for problem in problems:
        say_error(problem)
    if chosen:
        engine = load(model, device, dtype, quiet, backend="none" if options.llm is False else "torch")
        work = Transcribing(engine, model, wanted, alone=asked == 1)
        work.run(chosen, files)
        failed += work.failed
    if failed and asked > 1:
        say_error(f"{failed} of {asked} recordings could not be transcribed")
    if failed:
        raise typer.Exit(1)


def _formats(form: OutputFormat) -> list[str]:
    return [one.value for one in OutputFormat if one is not OutputFormat.all and form in (one, OutputFormat.all)]
