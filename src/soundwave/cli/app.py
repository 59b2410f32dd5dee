"""The command line: one verb is one typed function.

Knows nothing about models: it reads arguments, calls the library, and prints. Answers go to standard output; status,
progress and errors go to standard error. What is heavy is imported inside the verb that needs it, so that
`soundwave --help` answers at once.

Exit codes: 0 all went well, 1 something failed, 2 the command was used wrongly, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import soundwave
from soundwave.cli import data as cli_data
from soundwave.cli.display import (
    as_plain,
    count_progress,
    print_findings,
    print_json,
    print_table,
    progress_bar,
    say,
    say_error,
    with_progress,
)
from soundwave.cli.options import JsonOption, QuietOption
from soundwave.errors import ConfigurationError, SoundwaveError
from soundwave.evaluation import TaskName
from soundwave.export import commands as exporting

if TYPE_CHECKING:
    from rich.progress import TaskID

    from soundwave.inference.engine import Engine
    from soundwave.inference.results import Chunk


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


def exit_code_of(problem: SoundwaveError) -> int:
    """2 for a setting that is not allowed, 1 for everything else that can go wrong."""
    return 2 if isinstance(problem, ConfigurationError) else 1


app = typer.Typer(
    name="soundwave",
    cls=Verbs,
    help="Speech in, answer out. Ask a recording a question, or have it written down.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: importing rich for it costs as much time as all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class OutputFormat(str, Enum):
    """How a transcript is written: `txt`, the words alone, or `json`, all that is known about it."""

    txt = "txt"
    json = "json"


# Each option is declared once, here; a verb says which of them it takes.
ModelOption = Annotated[str, typer.Option("--model", "-m", help="`mini`, a folder, or a Hugging Face hub id.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest word.")]
TopPOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from the likeliest words with this share.")]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")]
SeedOption = Annotated[int | None, typer.Option(help="Makes a sampled answer repeatable.")]
OutputFormatOption = Annotated[OutputFormat, typer.Option(help="txt: the words; json: one object a recording.")]
OutputDirOption = Annotated[
    Path | None, typer.Option(help="Write one file a recording here, named after it, instead of printing.")
]


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


@app.command()
def ask(
    audio: Annotated[str, typer.Argument(help="A recording (any format FFmpeg reads), or - for standard input.")],
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to do with it; if left out, the model's own. Mini knows two prompts (see its card)."),
    ] = None,
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    temperature: TemperatureOption = 0.2,
    top_p: TopPOption = 0.9,
    max_new_tokens: MaxNewTokensOption = 512,
    seed: SeedOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Ask about a recording; the answer is printed while it is made."""
    source = _audio_argument(audio)
    engine = _load(model, device, dtype, quiet)

    def show(chunk: Chunk) -> None:
        if not as_json:
            sys.stdout.write(chunk.text)
            sys.stdout.flush()

    reply = engine.ask(
        source, engine.default_prompt if prompt is None else prompt, temperature=temperature, top_p=top_p,
        max_new_tokens=max_new_tokens, seed=seed, on_chunk=show,
    )
    if as_json:
        print_json(reply)
        return
    sys.stdout.write("\n")
    if reply.finish_reason == "length":
        say(f"cut after {max_new_tokens} tokens; --max-new-tokens allows more", quiet)
    if not reply.text:
        say("no speech was heard, so there is no answer", quiet)
    if reply.heard:
        say(f"heard: {reply.heard}", quiet)
    say(f"first words after {reply.timings.first_token:.2f} s, all after {reply.timings.total:.2f} s", quiet)


@app.command()
def transcribe(
    audio: Annotated[list[str], typer.Argument(help="Recordings (any format FFmpeg reads), or - for standard input.")],
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    output_format: OutputFormatOption = OutputFormat.txt,
    output_dir: OutputDirOption = None,
    ctc: Annotated[
        bool, typer.Option("--ctc", help="By the CTC path alone, without the language model: faster, with more errors.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write down what is said in recordings.

    The words of one recording are printed as they are; of several, each line begins with the recording's name.
    A recording that cannot be read is reported, and the others are still done.
    """
    if as_json:
        output_format = OutputFormat.json
    files = _output_files(audio, output_dir, output_format) if output_dir else {}
    engine = _load(model, device, dtype, quiet)
    failed = 0
    for name in with_progress(audio, quiet):
        try:
            sound = _audio_argument(name)
            transcript = engine.read(sound) if ctc else engine.transcribe(sound)
        except SoundwaveError as problem:
            if len(audio) == 1:
                raise
            failed += 1
            message = str(problem)
            say_error(message if name in message else f"{name}: {message}")
            continue
        if output_format is OutputFormat.json:
            text = json.dumps({"audio": name, **as_plain(transcript)}, ensure_ascii=False)
        elif len(audio) > 1 and not files:
            text = f"{name}: {transcript.text}"
        else:
            text = transcript.text
        if files:
            _write_file(files[name], text + "\n")
        else:
            print(text, flush=True)
    if failed:
        say_error(f"{failed} of {len(audio)} recordings could not be transcribed")
        raise typer.Exit(1)


@app.command()
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


@app.command()
def download(
    model: Annotated[str, typer.Argument(help="`mini`, or a Hugging Face hub id.")] = "mini",
    quiet: QuietOption = False,
) -> None:
    """Fetch a model's weights, check them, and keep them for later."""
    print(_fetch(model, quiet))


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a YAML file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that replace the recipe's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print an estimate, check everything, run two batches, then stop.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only print the estimate: needs neither data nor weights.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on from the run's newest checkpoint, if it has one.")] = True,
) -> None:
    """Train a model by a recipe, or go on with a stopped run.

    Prints the folder of the trained model. An estimate of memory and cost is derived, not measured: each line says how.
    """
    try:
        from soundwave.training.estimate_table import estimate_text
        from soundwave.training.loop import train_from_recipe
    except ModuleNotFoundError as problem:
        raise _without_extra("training", "train", problem) from problem
    if estimate:
        print(estimate_text(recipe, settings or []))
        return
    print(train_from_recipe(recipe, settings or [], dry_run=dry_run, resume=resume))


@app.command("eval")
def evaluate(
    manifests: Annotated[list[Path], typer.Argument(help="JSON-lines files: audio, and text or answers.")],
    task: Annotated[TaskName, typer.Option(help="What is measured.")] = TaskName.transcribe,
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    prompt: Annotated[str | None, typer.Option(help="Instead of the task's own.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer; default: the task's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips that are asked at once.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many clips of each manifest.")] = None,
    search: Annotated[bool, typer.Option(help="Transcripts by LLM and CTC, or the LLM alone.")] = True,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the score and all that decides it.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model on manifests; replies are greedy.

    With --out, every reply is kept beside that file, and a stopped evaluation goes on where it was. A clip that cannot
    be used is reported, and the others are still done.
    """
    try:
        from soundwave.evaluation import clips, provenance, report, runner, tasks
    except ModuleNotFoundError as problem:
        raise _without_extra("evaluation", "eval", problem) from problem
    chosen = tasks.TASKS[task]
    asking = chosen.ask_with(prompt, max_new_tokens)
    lines = clips.read_clips(manifests, chosen.needs, limit)
    engine = _load(model, device, dtype, quiet)
    engine.search = search
    settings = provenance.settings_of(engine)
    kept = out.with_name(out.name + ".predictions.jsonl") if out else None
    notebook = runner.Notebook(kept, {"task": task.value, **as_plain(asking), **settings})
    with count_progress(f"asking {model}", quiet) as progress:
        done = runner.evaluate(engine, chosen, lines, asking, notebook, batch_size=batch_size, progress=progress)
    result = report.report(done, engine, lines, settings, batch_size=batch_size, arguments=sys.argv[1:])
    if out:
        report.write_result(out, result)
    if as_json:
        print_json(result)
    else:
        print_table(report.table(result))
    for failure in result["failed"]:
        say_error(f"{failure['audio']}: {failure['reason']}")
    if done.failures:
        say_error(f"{len(done.failures)} of {len(lines)} clips could not be used; the score leaves them out")
        raise typer.Exit(1)


app.add_typer(cli_data.app, name="data")
app.command("export")(exporting.export)
app.add_typer(exporting.lora)


def main() -> None:
    """The `soundwave` command."""
    app(prog_name="soundwave")


def _without_extra(what: str, extra: str, problem: ModuleNotFoundError) -> SoundwaveError:
    return SoundwaveError(
        f"{what} needs the package {problem.name!r}, which is not installed; "
        f"run: pip install 'soundwave-llm[{extra}]' (in a source tree: pip install -e '.[{extra}]')"
    )


def _audio_argument(name: str) -> str | bytes:
    """A path as it is; the bytes of standard input for `-`."""
    if name != "-":
        return name
    if sys.stdin.isatty():
        raise typer.BadParameter("- reads a recording from standard input, which is a terminal; pipe a file into it")
    return sys.stdin.buffer.read()


def _load(model: str, device: str, dtype: str, quiet: bool) -> Engine:
    from soundwave.checkpoints.catalog import SHIPPED

    start = time.perf_counter()
    if model in SHIPPED:
        _fetch(model, quiet)  # only the first time it has something to do; then it may take minutes, so it is shown
    say(f"loading {model} ...", quiet)
    engine = soundwave.load(model, device=device, dtype=dtype)
    say(f"loaded {model} in {time.perf_counter() - start:.1f} s", quiet)
    return engine


def _fetch(model: str, quiet: bool) -> Path:
    """Download what a model lacks, with a bar for each step; the bar appears when there is something to do."""
    from soundwave.checkpoints import catalog

    if quiet or not sys.stderr.isatty():
        return catalog.download(model)
    tasks: dict[str, TaskID] = {}
    with progress_bar() as bar:

        def show(description: str, done: int, total: int | None) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        return catalog.download(model, progress=show)


def _output_files(audio: list[str], folder: Path, output_format: OutputFormat) -> dict[str, Path]:
    """The file for each recording; refuses two recordings that would write the same one."""
    files: dict[str, Path] = {}
    taken: dict[Path, str] = {}
    for name in audio:
        path = folder / f"{'stdin' if name == '-' else Path(name).stem}.{output_format.value}"
        if path in taken:
            raise typer.BadParameter(
                f"{taken[path]} and {name} would both be written to {path}; rename one, or run them one by one"
            )
        files[name], taken[path] = path, name
    folder.mkdir(parents=True, exist_ok=True)
    return files


def _write_file(path: Path, text: str) -> None:
    """All or nothing: a reader never sees half a transcript."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
