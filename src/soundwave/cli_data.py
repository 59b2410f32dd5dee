"""The verbs of `soundwave data`: each reads its arguments, calls `soundwave.data`, and prints.

What is heavy is imported inside the verb that needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import soundwave
from soundwave.cli_options import JsonOption, QuietOption
from soundwave.errors import ConfigurationError, SoundwaveError
from soundwave.terminal import count_progress, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from soundwave.data.hypotheses import Recogniser
    from soundwave.data.spelling import Spelling
    from soundwave.data.voices import Range


class DataVerbs(TyperGroup):
    """The one place where a package that is not installed becomes a line that says how to have it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as problem:
            raise SoundwaveError(
                f"the data tools need the package {problem.name!r}, which is not installed; "
                "run: pip install 'soundwave-llm[train]' (in a source tree: pip install -e '.[train]')"
            ) from problem


app = typer.Typer(
    cls=DataVerbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Check, count, convert, show, filter and make training data.",
)


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


ManifestsArgument = Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="JSON lines, plain or .gz.")]
SpellingOption = Annotated[
    str, typer.Option("--model", "-m", help="Whose tokens: a catalog part, `mini`, a folder or a hub id.")
]
SeedOption = Annotated[int, typer.Option(help="The same seed and settings give the same clips.")]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="So many at once.")]
DEFAULT_MODEL = "smollm2-135m-instruct"


@app.command()
def check(
    manifests: ManifestsArgument,
    model: SpellingOption = DEFAULT_MODEL,
    ctc: Annotated[bool, typer.Option(help="Hold transcripts against the CTC of --model.")] = True,
    decode: Annotated[bool, typer.Option(help="Decode every recording; --no-decode reads headers only.")] = True,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Seconds a stated duration may be off.")] = 0.1,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings make a row bad too.")] = False,
    show: Annotated[int, typer.Option(min=0, help="List so many findings; 0: all.")] = 50,
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check every row, say which are bad and why.

    Looked at: format, audio (there, decodes, not silent, at most 30 s), duration, empty texts, what CTC can spell and
    fit into the frames, duplicates. The exit code is 1 where a row is bad.
    """
    from soundwave.data import checks, tables

    spelling = _spelling(model, quiet) if ctc else None
    with count_progress("listening", quiet) as progress:
        report = checks.check(
            manifests, spelling, decode=decode, tolerance=tolerance, jobs=jobs, strict=strict, progress=progress
        )
    if as_json:
        print_json(report)
    else:
        if report.findings:
            print_table(tables.findings_table(report, show or None))
            if show and len(report.findings) > show:
                print(f"… and {len(report.findings) - show} more; --show 0 lists all")
            print()
            print_table(tables.rules_table(report))
            print()
        print(f"{report.rows} rows, {report.bad_rows} bad")
    if report.bad_rows:
        raise typer.Exit(1)


@app.command()
def stats(
    manifests: ManifestsArgument,
    plot: Annotated[Path | None, typer.Option(help="Draw the histograms into this picture (.png, .svg, .pdf).")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Count rows, hours, words, speakers and licences.

    Also: text-only rows, lengths as a histogram, characters a second, tasks, languages. Recordings are opened only where a row states no duration.
    """
    from soundwave.data import summary, tables

    with count_progress("counting", quiet) as progress:
        found = summary.summarise(manifests, progress)
    if as_json:
        print_json(found.as_json())
    else:
        print_table(tables.summary_table(found))
    if plot is not None:
        summary.plot(found, plot)
        say(f"drew {plot}", quiet)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A manifest in any format that is read.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write (.gz packs it); datasets: a folder.")],
    to: Annotated[Format, typer.Option(help="The format to write.")],
    allow_loss: Annotated[bool, typer.Option("--allow-loss", help="Write even where something is lost.")] = False,
    absolute: Annotated[
        bool, typer.Option("--absolute-paths", help="Absolute audio paths; else relative to OUT's folder.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Write a manifest in another format.

    What would be lost is said, and refused unless --allow-loss. The formats messages and parts hold everything; short, conversations, nemo, lhotse and datasets do not.
    """
    from soundwave.data.conversion import convert as convert_manifest

    if target.resolve() == source.resolve():
        raise ConfigurationError(f"{target}: the conversion would overwrite its source; write to another file.")
    with count_progress("converting", quiet) as progress:
        done = convert_manifest(
            source, target, to.value, allow_loss=allow_loss, absolute=absolute, progress=progress
        )
    for meaning, count in done.losses.most_common():
        typer.echo(f"lost in {count} rows: {meaning}", err=True)
    print(f"{done.rows} rows in {target}" + (f", {done.left_out} left out" if done.left_out else ""))


@app.command()
def show(
    manifest: Annotated[Path, typer.Argument(help="A manifest in any format that is read.")],
    row: Annotated[int, typer.Argument(min=1, help="The row's line.")] = 1,
    model: SpellingOption = DEFAULT_MODEL,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show one row as the model sees it.

    Its tokens with their loss mask, the facts of its audio, and the pieces of its CTC target. Green tokens are in the loss, dim ones are only read.
    """
    from soundwave.data import showing, tables

    chosen = showing.row_at(manifest, row)
    shown = showing.show(chosen, _spelling(model, quiet))
    if as_json:
        print_json(shown)
    else:
        print_table(tables.shown_example(shown))


@app.command("filter")
def filter_rows(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A manifest in any format that is read.")],
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
    model: SpellingOption = DEFAULT_MODEL,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Keep the rows that the paper's rules allow.

    The others go to a file of their own, with reasons. The rules: 3 to 30 s of audio, at most 200 tokens, at most 100 frames a token, word error rate of a recogniser under
    10 %. What the recogniser hears is kept beside OUT as it is heard: the same command again goes on.
    """
    from soundwave.data import filtering, tables

    limits = filtering.Limits(
        min_seconds, max_seconds, max_tokens, frames_per_token, max_wer, frozenset(rule.value for rule in skip or [])
    )
    aside = dropped or target.with_name(target.name + ".dropped.jsonl")
    spelling = _spelling(model, quiet)
    hearing = None if asr is None or "wer" in limits.skipped else _recogniser(asr, language)
    with count_progress("hearing", quiet) as progress:
        outcome = filtering.filter_manifest(
            source, target, aside, limits, spelling, recogniser=hearing,
            recogniser_name="" if asr is None else f"{Path(asr).name}/{language}", progress=progress,
        )
    if as_json:
        print_json(outcome)
    else:
        print_table(tables.filter_table(outcome, limits.skipped))
        print(f"{target}, dropped rows in {aside}")


@app.command()
def synth(
    texts: Annotated[list[Path], typer.Argument(metavar="TEXTS...", help=".txt: one a line; or JSON lines.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the clips and manifest.jsonl.")],
    voices: Annotated[str, typer.Option(help="Comma-separated: flite:slt, espeak:en-gb+f2, piper:joe, piper:X.onnx.")],
    field: Annotated[str, typer.Option(help="The field of JSON lines that holds the text.")] = "text",
    hours: Annotated[float | None, typer.Option(min=0.0, help="Stop when there is this much audio.")] = None,
    takes: Annotated[int, typer.Option(min=1, help="Say each text so often, each time otherwise.")] = 1,
    speed: Annotated[str | None, typer.Option(help="LOW:HIGH; 1 is the voice's own, 1.2 a fifth faster.")] = None,
    pitch: Annotated[str | None, typer.Option(help="LOW:HIGH; 1 is the voice's own; piper has none.")] = None,
    tract: Annotated[str, typer.Option(help="LOW:HIGH of timbre for half the clips; not espeak.")] = "0.88:1.14",
    noise: Annotated[str | None, typer.Option(help="LOW:HIGH decibels by which noise is quieter than speech.")] = None,
    noise_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="The share of clips with noise.")] = 1.0,
    seed: SeedOption = 0,
    jobs: JobsOption = 1,
    quiet: QuietOption = False,
) -> None:
    """Make speech from texts with free synthesisers.

    They are piper, flite and espeak-ng. The same command again goes on where it was stopped. With piper, clips repeat only in one run from the start with
    one job.
    """
    import hashlib

    from soundwave.data import rows, synthesis
    from soundwave.data.voices import Ranges, check_voices

    names = [name.strip() for name in voices.split(",")]
    check_voices(names)
    ranges = Ranges(_range("--speed", speed), _range("--pitch", pitch), _range("--tract", tract) or (1.0, 1.0))
    loudness = _range("--noise", noise, above=None)
    mixed = synthesis.Noise(loudness, noise_share) if loudness else None
    lines = [line for line in synthesis.read_lines(texts, field) for _ in range(takes)]
    digest = hashlib.sha256("\n".join(line.text for line in lines).encode()).hexdigest()[:16]
    settings = {"texts": digest, "voices": names, "speed": speed, "pitch": pitch, "tract": tract, "noise": noise}
    rows.claim(out, {**settings, "noise_share": noise_share, "seed": seed, "takes": takes})
    with count_progress("speaking", quiet) as bar:
        made = synthesis.synthesise(
            lines, out, names, hours=hours, seed=seed, jobs=jobs, ranges=ranges, noise=mixed,
            progress=lambda made: bar(made.clips + made.before, len(lines)),
            on_dropped=lambda clip, why: typer.echo(f"dropped: {clip.line.text[:80]!r}: {why}", err=True),
        )
    told = f"{made.clips} clips made now, {made.before} before, {made.dropped} dropped"
    print(f"{made.seconds / 3600:.3f} h in {out / 'manifest.jsonl'}: {told}")
    if made.dropped and not made.clips + made.before:
        raise SoundwaveError("no text gave a usable clip; see the lines above.")


@app.command()
def answer(
    manifests: ManifestsArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The manifest to write, in the short form.")],
    language_model: Annotated[
        str, typer.Option("--language-model", "-m", help="Who answers: a catalog part, or a language model's folder.")
    ] = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option(help="What the speech model is asked about the clip.")] = (
        "Please answer the question that the person asks."
    ),
    kind: Annotated[str | None, typer.Option(help="Only rows whose field `kind` is this.")] = None,
    questions: Annotated[bool, typer.Option("--questions", help="Only texts that end with a question mark.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Answers are cut to their sentences within these.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that are answered at once.")] = 32,
    quiet: QuietOption = False,
) -> None:
    """Let the language model itself write the replies.

    It answers what the clips say, in writing. Its answers to the written words teach nothing new, so nothing is forgotten. The same command again goes on.
    """
    from soundwave.checkpoints.catalog import part_folder
    from soundwave.data import answers

    folder = Path(language_model) if Path(language_model).is_dir() else part_folder(language_model)
    with count_progress("answering", quiet) as progress:
        done = answers.answer_manifest(
            manifests, out, answers.plain_model(folder, max_new_tokens), prompt=prompt, kind=kind,
            only_questions=questions, limit=limit, batch_size=batch_size, progress=progress,
        )
    print(f"{done.made} answers now, {done.before} before, {done.without} texts without a whole sentence; {out}")


@app.command()
def splice(
    speech: Annotated[Path, typer.Argument(help="Manifest of utterances with transcripts, and `speaker`.")],
    sounds: Annotated[Path, typer.Argument(help="Manifest of sounds with a `label`; - for none.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the clips and manifest.jsonl.")],
    clips: Annotated[int, typer.Option(min=0, help="Clips with a sound between two utterances.")] = 100,
    speakers: Annotated[int, typer.Option(min=0, help="Clips of two speakers in turn.")] = 100,
    sound_seconds: Annotated[float, typer.Option(min=0.1, max=30.0, help="A sound's loudest so many seconds.")] = 3.0,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Join sounds and speakers into new clips.

    A sound, with its `<tag>` in the text, between two utterances; two speakers in turn. The same command again goes on where it was stopped; more clips may be asked for then.
    """
    from soundwave.data import rows, splicing

    without = str(sounds) == "-"
    sources = {"speech": str(speech.resolve()), "sounds": "-" if without else str(sounds.resolve())}
    rows.claim(out, {"seed": seed, "sound_seconds": sound_seconds, **sources})
    with count_progress("splicing", quiet) as progress:
        done = splicing.splice(
            speech, None if without else sounds, out, sound_clips=0 if without else clips, speaker_clips=speakers,
            seed=seed, sound_seconds=sound_seconds, progress=progress,
        )
    print(f"{done.made} clips made now, {done.before} before, {done.failed} failed; {out / 'manifest.jsonl'}")
    if done.failed:
        raise typer.Exit(1)


def _range(option: str, text: str | None, above: float | None = 0.0) -> Range | None:
    """LOW:HIGH, or one number for both."""
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        found = float(low), float(high if colon else low)
    except ValueError:
        found = (1.0, 0.0)
    if found[0] > found[1] or (above is not None and found[0] <= above):
        raise ConfigurationError(f"{option} {text}: write LOW:HIGH with numbers over {above or '-inf'}, as in 0.9:1.1.")
    return found


def _spelling(model: str, quiet: bool) -> Spelling:
    from soundwave.data.spelling import load_spelling

    with _downloading(quiet) as progress:
        return load_spelling(model, progress)


@contextmanager
def _downloading(quiet: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for a part that has to be fetched first."""
    with count_progress("fetching the tokenizer", quiet) as bar:
        yield lambda _, done, total: bar(done, total or 0)


def _recogniser(name: str, language: str) -> Recogniser:
    """Whisper where the folder is one, else a model of ours."""
    from soundwave.audio import SAMPLE_RATE
    from soundwave.data.hypotheses import whisper

    if (Path(name) / "model.bin").is_file():
        return whisper(Path(name), language, threads=int(os.environ.get("OMP_NUM_THREADS", "0")))
    engine = soundwave.load(name)
    return lambda samples: engine.transcribe((samples, SAMPLE_RATE)).text
