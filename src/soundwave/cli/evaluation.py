"""The verb eval."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from soundwave.cli.display import as_plain, count_progress, print_json, print_table, say_error
from soundwave.cli.loading import load
from soundwave.cli.options import DeviceOption, DtypeOption, JsonOption, ModelOption, QuietOption, text_argument
from soundwave.errors import ConfigurationError
from soundwave.evaluation import TaskName
from soundwave.inference.options import AskOptions, TranscribeOptions, Via

LlmOption = Annotated[bool | None, typer.Option(help=TranscribeOptions.__dataclass_fields__["llm"].metadata["help"])]
ViaOption = Annotated[Via, typer.Option(help=AskOptions.__dataclass_fields__["via"].metadata["help"])]
CascadeOption = Annotated[
    Path | None, typer.Option(help="A folder of faster-whisper: its decoder transcribes, in place of the model.")
]


def evaluate(
    manifests: Annotated[list[str], typer.Argument(help="As for training: audio, and text or answers.")],
    task: Annotated[TaskName, typer.Option(help="What is measured.")] = TaskName.transcribe,
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    prompt: Annotated[str | None, typer.Option(help="Instead of the task's own.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer; default: the task's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips that are asked at once.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many clips of each manifest.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Of rows that state none: chooses normaliser and measure; default: en.")
    ] = None,
    via: ViaOption = "auto",
    llm: LlmOption = None,
    cascade: CascadeOption = None,
    by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Score each value of this field of the rows too, as speaker.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the score and all that decides it.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result of another evaluation.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model on manifests; replies are greedy.

    The model may be the address of a server that runs one, such as http://127.0.0.1:8000; its key, if it has any, is
    taken from SOUNDWAVE_API_KEY. With --out, every reply is kept beside that file, and a stopped evaluation goes on
    where it was. A clip that cannot be used is reported, and the others are still done.
    """
    from soundwave.evaluation import clips, provenance, report, runner, served, systems, tasks

    chosen = tasks.TASKS[task]
    asking = chosen.ask_with(None if prompt is None else text_argument("--prompt", prompt), max_new_tokens, via, llm)
    is_address = model.startswith(("http://", "https://"))
    _check_system(is_address, cascade, task, via, llm)
    lines = clips.read_clips(manifests, chosen.needs, limit, language, by)
    earlier = _earlier_result(out, overwrite)
    engine: Any = served.Served(model) if is_address else load(model, device, dtype, quiet)
    settings = engine.settings if is_address else provenance.settings_of(engine)
    chain = None if cascade is None else systems.WhisperCascade(engine, cascade)
    settings |= {} if chain is None else {"cascade": chain.settings}
    kept = out.with_name(out.name + ".predictions.jsonl") if out else None
    notebook = runner.Notebook(kept, {"task": task.value, **as_plain(asking), **settings}, alone=overwrite)
    result: dict[str, Any] = {"settings": notebook.settings, "limit": limit, "language": language}
    if earlier is not None and not _is_same(earlier, result, sorted({line.manifest.sha256 for line in lines})):
        raise ConfigurationError(
            f"{out} holds the result of another evaluation (model, task, settings, data or code differ); "
            "write to another file, or give --overwrite."
        )
    with count_progress(f"asking {model}", quiet) as progress:
        done = runner.evaluate(
            chain or engine, chosen, lines, asking, notebook, batch_size=batch_size, progress=progress
        )
    result |= report.report(done, engine, lines, settings, batch_size=batch_size, arguments=sys.argv[1:], by=by)
    if out:
        report.write_result(out, result)
    print_json(result) if as_json else print_table(report.table(result))
    _tell_failures(result["failed"], len(lines))


def _tell_failures(failed: list[dict[str, str]], count: int) -> None:
    for failure in failed:
        say_error(f"{failure['audio']}: {failure['reason']}")
    if failed:
        say_error(f"{len(failed)} of {count} clips could not be used; the score leaves them out")
        raise typer.Exit(1)


def _check_system(is_address: bool, cascade: Path | None, task: TaskName, via: Via, llm: bool | None) -> None:
    """Refuses what changes nothing where Whisper's own decoder transcribes, or cannot be asked of a server.

    Raises:
        ConfigurationError: one of these is given.
    """
    if is_address and (cascade is not None or task is TaskName.typed_questions):
        raise ConfigurationError("--model is the address of a server: leave --cascade, --task typed-questions out.")
    if cascade is not None and (task is TaskName.ctc or via != "auto" or llm is not None):
        raise ConfigurationError("--cascade has Whisper's own decoder transcribe; leave --task ctc, --via, --llm out.")


def _earlier_result(out: Path | None, overwrite: bool) -> dict[str, Any] | None:
    """What lies at --out, where that matters: the result of an evaluation, which may be gone on with.

    Raises:
        ConfigurationError: something else lies there.
    """
    if out is None or overwrite or not out.exists():
        return None
    try:
        earlier = json.loads(out.read_text(encoding="utf-8"))
        assert isinstance(earlier, dict)
        return earlier
    except (OSError, ValueError, AssertionError, RecursionError) as error:
        raise ConfigurationError(
            f"{out} is there, and is no result of an evaluation; write to another file, or give --overwrite."
        ) from error


def _is_same(earlier: Mapping[str, Any], now: Mapping[str, Any], manifests: list[str]) -> bool:
    """Whether an earlier result is of the same model, task and settings, over the same data."""
    listed = earlier.get("manifests")
    hashes = sorted(str(one.get("sha256")) for one in listed) if isinstance(listed, list) else []
    return hashes == manifests and all(earlier.get(name) == value for name, value in now.items())
