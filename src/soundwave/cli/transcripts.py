"""What becomes of transcripts on the command line: printed as they come, or written to files, with a state to resume.

Beside the file that a recording's transcript will be written to lies `NAME.unfinished.jsonl` until it is whole. It
knows nothing of how recordings are written down.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import soundwave
from soundwave.cli import recordings
from soundwave.cli.display import audio_progress, clock, note, print_answer, say_error, to_json
from soundwave.errors import ConfigurationError, SoundwaveError, SoundwaveWarning
from soundwave.files import write_text
from soundwave.inference.options import AudioOptions, SubtitleOptions, TranscribeOptions

if TYPE_CHECKING:
    from soundwave.inference.engine import Engine
    from soundwave.inference.longform import Part
    from soundwave.inference.results import Transcript
    from soundwave.inference.resuming import Journal
    from soundwave.inference.stretches import Listening

AT_ONCE = 32  # recordings whose state is open


class OutputFormat(str, Enum):
    """How a transcript is written; the names are those of Whisper's command line."""

    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    tsv = "tsv"
    json = "json"
    all = "all"


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        options, sound: of the transcripts.
        form, layout: of what is printed or written.
        folder: where files are written; None: standard output.
        resume: whether stopped runs are gone on with.
        quiet: nothing on standard error but errors.
    """

    options: TranscribeOptions
    sound: AudioOptions
    form: OutputFormat
    layout: SubtitleOptions
    folder: Path | None
    resume: bool
    quiet: bool

    def check(self, count: int) -> None:
        """Refuses what cannot be done with so many recordings.

        Raises:
            ConfigurationError: with what is needed.
        """
        if self.folder is not None:
            return
        if self.resume:
            raise ConfigurationError("--resume goes on with what lies in --output-dir; name that folder too.")
        if self.form is OutputFormat.all:
            raise ConfigurationError("--output-format all makes several files; give --output-dir too.")
        if count > 1 and self.form not in (OutputFormat.txt, OutputFormat.json):
            raise ConfigurationError(
                f"--output-format {self.form.value} of several recordings makes a file each; give --output-dir too."
            )


@dataclass
class _Task:
    """One recording on its way to its transcript."""

    recording: recordings.Recording
    listening: Listening
    files: dict[str, Path]  # by format
    journal: Journal | None = None
    parts: list[Part] = field(default_factory=list)
    bytes_before: int | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return bool(self.parts) and self.parts[-1].whole

    @property
    def seconds(self) -> float:
        """How much of it is done."""
        return max((part.seconds for part in self.parts), default=self.listening.sound.start)


class Transcribing:
    """Writes recordings down and puts their transcripts where they are wanted.

    Args:
        engine: finds the words.
        model: its name.
        wanted: what is asked for.
        alone: whether it is about one recording, whose name need not be said.
    """

    def __init__(self, engine: Engine, model: str, wanted: Wanted, alone: bool):
        self.engine, self.wanted, self.alone = engine, wanted, alone
        self.about = self._about(model) if wanted.folder is not None else {}
        self.failed = 0
        self._finished: list[Journal] = []

    def _about(self, model: str) -> dict[str, Any]:
        """What decides a text, beside the recording."""
        from soundwave.audio.cutting import CutOptions
        from soundwave.inference.resuming import fingerprint

        known = self.engine.describe()
        return {
            "version": soundwave.__version__, "model": model, "weights": fingerprint(self.engine.folder),
            "device": known["device"].partition(":")[0], "dtype": known["dtype"],
            "audio_tower_dtype": known["audio_tower_dtype"], "backend": known["backend"],
            **asdict(self.wanted.sound), **asdict(self.wanted.options),
            "hotwords": list(self.wanted.options.hotwords), "cut": asdict(CutOptions()),
        }

    def run(self, chosen: Sequence[recordings.Recording], files: dict[str, dict[str, Path]]) -> None:
        """Writes all down; what cannot be is said, and counted in `failed`.

        Args:
            chosen: the recordings.
            files: by the recording's name, and by format; none: they are printed.

        Raises:
            ConfigurationError: a stopped run had other options, or another recording.
        """
        what = chosen[0].name if len(chosen) == 1 else f"{len(chosen)} recordings"
        total = recordings.total_seconds(chosen, self.wanted.sound)
        done = 0.0
        try:
            with audio_progress(f"transcribing {what}", total, self.wanted.quiet) as progress:
                for first in range(0, len(chosen), AT_ONCE):
                    tasks = [self._task(one, files.get(one.name, {})) for one in chosen[first : first + AT_ONCE]]
                    for current in self._transcribed(tasks):
                        progress(done + current)
                    done += sum(task.seconds - self.wanted.sound.start for task in tasks)
                progress(None)
        finally:
            for journal in self._finished:
                journal.remove()

    def _task(self, one: recordings.Recording, files: dict[str, Path]) -> _Task:
        from soundwave.inference.stretches import Listening

        audio: Any = one.audio
        if self.wanted.resume and not isinstance(audio, str):
            audio = _kept(audio)  # it is read twice: once to see that it is the same
        task = _Task(one, Listening(audio, self.wanted.sound, "skip"), files)
        if self.wanted.folder is None:
            return task
        from soundwave.inference.resuming import Journal, file_facts, marks_of

        facts = file_facts(audio)
        task.bytes_before = facts["bytes"] if facts else None
        path = recordings.state_file(one, self.wanted.folder)
        if path.exists() and not self.wanted.resume:
            note(f"{path} of a stopped run is replaced; --resume would have gone on with it", self.wanted.quiet)
        task.journal = Journal(path, self.about, one.name, anew=not self.wanted.resume)
        task.parts = task.journal.resume(task.listening)
        task.listening = replace(task.listening, marks=marks_of(task.parts))
        if task.parts and not task.whole:
            note(f"{one.name}: going on from {clock(task.seconds)}", self.wanted.quiet)
        for part in task.parts:
            self._warn(task, part)
        return task

    def _transcribed(self, tasks: list[_Task]) -> Iterator[float]:
        """Seconds of audio that are done of these recordings, as they come."""
        for task in tasks:
            if task.whole:
                self._finish(task)
        todo = [task for task in tasks if not task.whole]
        done = sum(task.seconds - self.wanted.sound.start for task in tasks if task.whole)
        listenings = [task.listening for task in todo]
        try:
            with closing(self.engine.transcribe_parts(listenings, self.wanted.options)) as parts:
                for part in parts:
                    self._take(todo[part.recording], part)
                    yield done + sum(task.seconds - self.wanted.sound.start for task in todo)
        finally:
            for task in todo:
                if task.journal is not None:
                    task.journal.close()

    def _take(self, task: _Task, part: Part) -> None:
        if part.error is not None:
            self._fail(task, str(part.error))
            if task.journal is not None and not task.parts:
                task.journal.remove()
            return
        task.parts.append(part)
        self._warn(task, part)
        if task.journal is not None:
            task.journal.add(part)
        if self.wanted.folder is None and self.alone and self.wanted.form is OutputFormat.txt:
            self._print_lines(part)
        if part.whole:
            self._finish(task)

    def _print_lines(self, part: Part) -> None:
        from soundwave.inference.longform import spoken_in

        for segment in spoken_in(part, self.wanted.sound):
            print_answer(f"[{segment.speaker}]: {segment.text}" if segment.speaker else segment.text)

    def _warn(self, task: _Task, part: Part) -> None:
        if part.lost and part.warning not in task.problems:
            task.problems.append(part.warning)
            say_error(part.warning)
        elif part.warning and not part.lost:
            warnings.warn(part.warning, SoundwaveWarning, stacklevel=2)

    def _fail(self, task: _Task, told: str) -> None:
        self.failed += 1
        say_error(told if self.alone or task.recording.name in told else f"{task.recording.name}: {told}")

    def _finish(self, task: _Task) -> None:
        """Prints or writes a whole transcript."""
        from soundwave.inference.longform import joined

        transcript = joined(task.parts, self.engine.source(self.wanted.options))
        try:
            self._write(task, transcript)
        except SoundwaveError as problem:
            self._fail(task, str(problem))
            return
        self.failed += bool(task.problems)
        if task.journal is None:
            return
        task.journal.close()
        facts = self._facts(task)
        if facts is not None and task.bytes_before is not None and facts > task.bytes_before:
            note(f"{task.recording.name} has grown meanwhile; --resume takes what is new", self.wanted.quiet)
        else:
            self._finished.append(task.journal)

    def _facts(self, task: _Task) -> int | None:
        from soundwave.inference.resuming import file_facts

        facts = file_facts(task.listening.audio)
        return facts["bytes"] if facts else None

    def _write(self, task: _Task, transcript: Transcript) -> None:
        from soundwave.inference.subtitles import format_transcript

        name, form = task.recording.name, self.wanted.form
        for kind, path in task.files.items():
            write_text(path, _as_json(name, transcript, 2) + "\n" if kind == "json"
                       else format_transcript(transcript, cast(Any, kind), self.wanted.layout))  # fmt: skip
        if task.files:
            return
        if form is OutputFormat.json:
            print_answer(_as_json(name, transcript))
        elif form is not OutputFormat.txt:
            print_answer(format_transcript(transcript, cast(Any, form.value), self.wanted.layout), end="")
        elif not self.alone:
            print_answer(f"{name}: {' '.join(transcript.text.split())}")
        elif not transcript.segments:
            print_answer(transcript.text)


def _as_json(name: str, transcript: Transcript, indent: int | None = None) -> str:
    from soundwave.inference.subtitles import whisper_json

    return to_json({"audio": name, **whisper_json(transcript)}, indent)


def _kept(stream: Any) -> Any:
    """A stream that can be read again: standard input in a temporary file."""
    copy = tempfile.SpooledTemporaryFile(1 << 23)  # noqa: SIM115  # lives as long as the process
    while data := stream.read(1 << 20):
        copy.write(data)
    copy.seek(0)
    return copy
