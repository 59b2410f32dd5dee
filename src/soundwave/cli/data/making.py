"""The verbs that make new data: synth, answer, instruct, splice, units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundwave.cli.data.options import DEFAULT_MODEL, JobsOption, ManifestsArgument, OverwriteOption, SeedOption
from soundwave.cli.display import count_progress, note, print_answer
from soundwave.cli.options import DeviceOption, ModelOption, QuietOption
from soundwave.errors import ConfigurationError, SoundwaveError
from soundwave.files import refuse_existing

if TYPE_CHECKING:
    from soundwave.datatools.voices import Range


def synth(
    texts: Annotated[list[Path], typer.Argument(metavar="TEXTS...", help=".txt: one a line; or JSON lines.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the clips and manifest.jsonl.")],
    voices: Annotated[
        str, typer.Option(help="Comma-separated: flite:slt, espeak:en-us+f2, festival:kal, rhvoice:bdl, piper:joe.")
    ],
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

    They are piper, flite, espeak-ng, festival and RHVoice. The same command again goes on where it was stopped. With
    piper, clips repeat only in one run from the start with one job.
    """
    from soundwave.datatools import synthesize as synthesis
    from soundwave.datatools.voices import Ranges, check_variants, check_voices
    from soundwave.files import claim_folder, hash_json

    names = [name.strip() for name in voices.split(",")]
    check_voices(names)
    check_variants(names)
    ranges = Ranges(_range("--speed", speed), _range("--pitch", pitch), _range("--tract", tract) or (1.0, 1.0))
    loudness = _range("--noise", noise, above=None)
    mixed = synthesis.Noise(loudness, noise_share) if loudness else None
    lines = [line for line in synthesis.read_lines(texts, field) for _ in range(takes)]
    settings = {"voices": names, "speed": speed, "pitch": pitch, "tract": tract, "noise": noise, "takes": takes}
    digest = hash_json([line.text for line in lines])[:16]
    claim_folder(out, {**settings, "texts": digest, "noise_share": noise_share, "seed": seed})
    with count_progress("speaking", quiet) as bar:
        made = synthesis.synthesise(
            lines, out, names, hours=hours, seed=seed, jobs=jobs, ranges=ranges, noise=mixed,
            progress=lambda made: bar(made.clips + made.before, len(lines)),
            on_dropped=lambda clip, why: note(f"dropped: {clip.line.text[:80]!r}: {why}", quiet=False),
        )
    told = f"{made.clips} clips made now, {made.before} before, {made.dropped} dropped"
    print_answer(f"{made.seconds / 3600:.3f} h in {out / 'manifest.jsonl'}: {told}")
    if made.dropped and not made.clips + made.before:
        raise SoundwaveError("no text gave a usable clip; see the lines above.")


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
    read_prompt: Annotated[
        bool, typer.Option("--read-prompt", help="Who answers reads --prompt too, after the words.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Answers are cut to their sentences within these.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that are answered at once.")] = 32,
    quiet: QuietOption = False,
) -> None:
    """Let the language model itself write the replies.

    It answers what the clips say, in writing; with --read-prompt, what the prompt asks about it. Its answers to the
    written words teach nothing new, so nothing is forgotten. The same command again goes on; --limit may grow then,
    and other manifests add their rows.
    """
    from soundwave.checkpoints.catalog import part_folder
    from soundwave.datatools import answer as answers
    from soundwave.files import claim_file

    name = str(Path(language_model).resolve()) if Path(language_model).is_dir() else language_model
    settings = {"language_model": name, "prompt": prompt, "max_new_tokens": max_new_tokens}
    if read_prompt:  # files of earlier versions say nothing of it
        settings["read_prompt"] = True
    claim_file(out, {**settings, "kind": kind, "questions": questions})
    folder = Path(language_model) if Path(language_model).is_dir() else part_folder(language_model)
    with count_progress("answering", quiet) as progress:
        done = answers.answer_manifest(
            manifests, out, answers.plain_model(folder, max_new_tokens), prompt=prompt, kind=kind,
            only_questions=questions, read_prompt=read_prompt, limit=limit, batch_size=batch_size, progress=progress,
        )
    print_answer(f"{done.made} answers now, {done.before} before, {done.without} without a whole sentence; {out}")


def instruct(
    manifest: Annotated[str, typer.Argument(help="A manifest whose rows have a label.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The manifest to write, in the form `messages`.")],
    task: Annotated[
        str, typer.Option(help="asr, translation, intent, sound, …; an unknown name lists all; or a .json file.")
    ],
    label_field: Annotated[
        str | None, typer.Option(help="The field that holds the answer; default: the task's own.")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(help="direct, choice, sentence, transcript, with shares as in direct=2,choice=1; default: all."),
    ] = None,
    takes: Annotated[int, typer.Option(min=1, help="Rows for each clip, each with another instruction.")] = 1,
    standard_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The share of rows asked as evaluations ask.")
    ] = 0.0,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn labels into instructions and answers.

    Each row gets an instruction and a form of answer, drawn with the seed: the label alone, a choice among A to D, a
    sentence, or what is said and then the answer. The same command gives the same file.
    """
    from soundwave.datatools import instruct as instructing
    from soundwave.datatools.wordings import read_wording

    wording = read_wording(task)
    if out.resolve() == Path(manifest).resolve():
        raise ConfigurationError(f"{out}: the instructions would overwrite their source; write to another file.")
    refuse_existing(out, overwrite)
    with count_progress("wording", quiet) as progress:
        done = instructing.instruct(
            manifest, out, wording, label_field=label_field, formats=_format_shares(formats), takes=takes,
            standard_share=standard_share, seed=seed, progress=progress,
        )
    told = ", ".join(f"{count} {name}" for name, count in sorted(done.formats.items()))
    left = f"; {done.without} rows without a label" if done.without else ""
    print_answer(f"{done.rows} rows in {out}: {told}{left}")


def splice(
    speech: Annotated[str, typer.Argument(help="Manifest of utterances with transcripts, and `speaker`.")],
    sounds: Annotated[str, typer.Argument(help="Manifest of sounds with a `label`; - for none.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the clips and manifest.jsonl.")],
    clips: Annotated[int, typer.Option(min=0, help="Clips with a sound between two utterances.")] = 100,
    speakers: Annotated[int, typer.Option(min=0, help="Clips of two speakers in turn.")] = 100,
    sound_seconds: Annotated[float, typer.Option(min=0.1, max=30.0, help="A sound's loudest so many seconds.")] = 3.0,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Join sounds and speakers into new clips.

    A sound, with its `<tag>` in the text, between two utterances; two speakers in turn. The same command again goes
    on where it was stopped; more clips may be asked for then.
    """
    from soundwave.datatools import splice as splicing
    from soundwave.files import claim_folder

    without = sounds == "-"
    sources = {"speech": _absolute(speech), "sounds": "-" if without else _absolute(sounds)}
    claim_folder(out, {"seed": seed, "sound_seconds": sound_seconds, **sources})
    with count_progress("splicing", quiet) as progress:
        done = splicing.splice(
            speech, None if without else sounds, out, sound_clips=0 if without else clips, speaker_clips=speakers,
            seed=seed, sound_seconds=sound_seconds, progress=progress,
        )
    print_answer(f"{done.made} clips made now, {done.before} before, {done.failed} failed; {out / 'manifest.jsonl'}")
    if done.failed:
        raise typer.Exit(1)


def units(
    manifests: ManifestsArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the bank.")],
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    hours: Annotated[float | None, typer.Option(min=0.0, help="Stop at so much speech (mini: 104 MB an hour).")] = None,
    feature_dropout: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="The share of the encoder's channels set to zero, for each clip.")
    ] = 0.0,
    max_error: Annotated[
        float, typer.Option(min=0.0, help="Leave out clips of which CTC gets a larger share of the words wrong.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the order in which clips come.")] = 0,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cut real speech into units, to say texts with.

    A unit is what the model's alignment adapter makes of one token that is said. A recipe's `simulate` puts units
    together to what a text says: training speech from text alone, with the errors of real speech. Take speech that
    the adapter was not trained on: in what it knows by heart it makes too few errors, unless --feature-dropout makes
    it hear worse.
    """
    from soundwave.cli.loading import load
    from soundwave.datatools.units import make_bank

    engine = load(model, device, "float32", quiet, backend="none")  # the bank knows its adapter by exact weights
    with count_progress("cutting", quiet) as progress:
        done = make_bank(
            manifests, out, engine.encoder, engine.processor, hours=hours,
            feature_dropout=feature_dropout, max_error=max_error, seed=seed, overwrite=overwrite, progress=progress,
            on_dropped=lambda clip, why: note(f"left out: {clip}: {why}", quiet),
        )
    told = f"{done.units} units of {done.clips} clips ({done.seconds / 3600:.2f} h) in {out}"
    print_answer(f"{told}; {done.dropped} clips left out; CTC gets {done.error:.1%} of their words wrong")


def _absolute(place: str) -> str:
    """The same place from any folder; an address or a pipe is that already."""
    return place if "://" in place or place.startswith("pipe:") else str(Path(place).resolve())


def _format_shares(text: str | None) -> dict[str, float] | None:
    """direct=2,choice to {"direct": 2, "choice": 1}."""
    if text is None:
        return None
    shares = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share or 1)
        except ValueError as error:
            raise ConfigurationError(f"--formats {text}: {share!r} is no number; write direct=2,choice=1.") from error
    return shares


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
        allowed = "numbers" if above is None else f"numbers over {above:g}"
        raise ConfigurationError(f"{option} {text}: write LOW:HIGH with {allowed}, as in 0.9:1.1.")
    return found
