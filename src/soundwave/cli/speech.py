"""The verbs that listen: ask and transcribe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundwave.cli import recordings, streams
from soundwave.cli.display import (
    as_plain,
    count_progress,
    note,
    print_answer,
    print_json,
    say,
    say_error,
    to_json,
)
from soundwave.cli.loading import load
from soundwave.cli.options import DeviceOption, DtypeOption, JsonOption, ModelOption, QuietOption, takes, text_argument
from soundwave.errors import ConfigurationError, SoundwaveError
from soundwave.files import write_text
from soundwave.inference.options import AskOptions, AudioOptions, TranscribeOptions

if TYPE_CHECKING:
    from soundwave.audio import AudioInput
    from soundwave.inference.engine import Engine
    from soundwave.inference.results import Chunk, Reply, Transcript

BATCH = 8  # recordings that are transcribed at once; more gain little on a CPU

WAYS = {
    "audio": "answered from the audio itself",
    "transcript": "answered from the words that were found",
    "text": "answered without a recording",
}


class OutputFormat(str, Enum):
    """How a transcript is written: `txt`, the words alone, or `json`, all that is known about it."""

    txt = "txt"
    json = "json"


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
    source = None if audio is None else recordings.sound_of(recordings.recording(audio).audio, sound)
    engine = load(model, device, dtype, quiet)

    def show(chunk: Chunk) -> None:
        if not as_json:
            print_answer(chunk.text, end="")

    reply = engine.ask(source, prompt, **as_plain(options), on_chunk=show)
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
        OutputFormat, typer.Option(help="txt: the words; json: one object a recording.")
    ] = OutputFormat.txt,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write one file a recording here, named after it, instead of printing.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write down what is said in recordings.

    The words of one recording are printed as they are; of several, each line begins with the recording's name.
    A recording that cannot be read is reported, and the others are still done.
    """
    if output_dir is None:
        streams.need_output()
    if ctc and options.llm:
        raise ConfigurationError("--ctc is the older name of --no-llm; it cannot stand beside --llm.")
    llm = False if ctc else options.llm
    hotwords = tuple(text_argument("--hotwords", word) for word in options.hotwords)
    chosen, problems = recordings.named(audio)
    asked, failed = len(chosen) + len(problems), len(problems)
    write = _writer(chosen, output_dir, OutputFormat.json if as_json else output_format, alone=asked == 1)
    for problem in problems:
        say_error(problem)
    engine = load(model, device, dtype, quiet, backend="none" if llm is False else "torch") if chosen else None
    for one, result in _transcripts(engine, chosen, sound, llm, hotwords, quiet) if engine else ():
        try:
            if isinstance(result, SoundwaveError):
                raise result
            write(one, result)
        except SoundwaveError as problem:
            failed += 1
            told = str(problem)
            say_error(told if asked == 1 or one.name in told else f"{one.name}: {told}")
    if failed and asked > 1:
        say_error(f"{failed} of {asked} recordings could not be transcribed")
    if failed:
        raise typer.Exit(1)


def _transcripts(
    engine: Engine, chosen: list[recordings.Recording], sound: AudioOptions, llm: bool | None,
    hotwords: tuple[str, ...], quiet: bool,
) -> Iterator[tuple[recordings.Recording, Transcript | SoundwaveError]]:
    """Each recording with its transcript, or with why there is none; made in batches, with a bar."""
    described = f"transcribing {chosen[0].name}" if len(chosen) == 1 else f"transcribing {len(chosen)} recordings"
    with count_progress(described, quiet) as progress:
        for start in range(0, len(chosen), BATCH):
            batch = chosen[start : start + BATCH]
            progress(start, len(chosen))
            read = [_sound_or_error(one, sound) for one in batch]
            usable = [audio for audio in read if not isinstance(audio, SoundwaveError)]
            results = iter(engine.transcribe_batch(usable, llm=llm, hotwords=hotwords, return_errors=True))
            progress(start + len(batch), len(chosen))
            for one, audio in zip(batch, read, strict=True):
                result = audio if isinstance(audio, SoundwaveError) else next(results)
                yield one, result if isinstance(result, SoundwaveError) else recordings.in_place(result, sound)


def _sound_or_error(one: recordings.Recording, sound: AudioOptions) -> AudioInput | SoundwaveError:
    try:
        return recordings.sound_of(one.audio, sound)
    except SoundwaveError as problem:
        return problem


def _writer(
    chosen: list[recordings.Recording], folder: Path | None, form: OutputFormat, alone: bool
) -> Callable[[recordings.Recording, Transcript], None]:
    """What is done with a transcript: printed, or written to a file of its own in a folder."""
    files = recordings.outputs(chosen, folder, f".{form.value}") if folder is not None else {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def write(one: recordings.Recording, transcript: Transcript) -> None:
        text = transcript.text
        if form is OutputFormat.json:
            text = to_json({"audio": one.name, **as_plain(transcript)})
        elif not alone and not files:
            text = f"{one.name}: {text}"
        if files:
            write_text(files[one.name], text + "\n")
        else:
            print_answer(text)

    return write
