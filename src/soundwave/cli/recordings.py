"""Recordings as they are named on the command line: files, folders, quoted globs and standard input; and their outputs.

What can be known without a model is checked here, before one is loaded. Whether a file holds sound is not known here.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from soundwave.cli import streams
from soundwave.errors import AudioError, ConfigurationError
from soundwave.inference.options import AudioOptions

if TYPE_CHECKING:
    from soundwave.audio import AudioInput
    from soundwave.inference.results import Transcript

# What a folder is searched for; a file that is named itself may be called anything.
SUFFIXES = {
    *(".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".mkv"),
    *(".mov", ".mp2", ".mp3", ".mp4", ".mpga", ".oga", ".ogg", ".opus", ".wav", ".webm", ".wma", ".wv"),
}


@dataclass(frozen=True)
class Recording:
    """One recording: its name in what is printed, and what the engine reads."""

    name: str
    audio: str | BinaryIO


def named(names: list[str]) -> tuple[list[Recording], list[AudioError]]:
    """The recordings behind names, in their order, and what is wrong with those that are not there.

    Raises:
        SoundwaveError: standard input is named, and cannot be read.
        ConfigurationError: it is named twice.
    """
    if names.count("-") > 1:
        raise ConfigurationError("- is given twice, but standard input can be read only once.")
    recordings, missing = [], []
    for name in names:
        try:
            recordings += [recording(path) for path in _expanded(name)]
        except AudioError as problem:
            missing.append(problem)
    return recordings, missing


def recording(name: str) -> Recording:
    """One recording by its name; - is standard input.

    Raises:
        AudioError: there is no such file.
        SoundwaveError: standard input cannot be read.
    """
    if name == "-":
        return Recording("-", streams.standard_input())
    if not name.startswith("data:") and "://" not in name and not _exists(name):
        raise AudioError(f"there is no file {name!r}; check the path.")
    return Recording(name, name)


def in_place(transcript: Transcript, sound: AudioOptions) -> Transcript:
    """A transcript of a cut with the times of the whole recording."""
    if not sound.start:
        return transcript
    from soundwave.inference.results import later

    return later(transcript, sound.start)


def sound_of(audio: str | BinaryIO, sound: AudioOptions) -> AudioInput:
    """What the engine reads: the recording as it is named or, where other sound of it is wanted, its samples.

    Raises:
        AudioError: it has no such sound.
    """
    if sound == AudioOptions():
        return audio
    from soundwave.audio import SAMPLE_RATE, load_audio

    return load_audio(audio, **sound.arguments()), SAMPLE_RATE


def _expanded(name: str) -> list[str]:
    """The files that a folder or a pattern stands for; any other name as it is."""
    if name == "-" or name.startswith("data:"):
        return [name]
    if Path(name).is_dir():
        inside = sorted(str(path) for path in Path(name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not inside:
            raise AudioError(f"the folder {name!r} holds no recordings (*.wav, *.mp3, ...); name another.")
        return inside
    if set(name) & set("*?[") and not _exists(name):
        matching = sorted(path for path in glob.glob(name, recursive=True) if Path(path).is_file())
        if not matching:
            raise AudioError(f"no file matches {name!r}; check the pattern, ** stands for folders of any depth.")
        return matching
    return [name]


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or with a zero byte: no file's name
        return False


def outputs(recordings: list[Recording], folder: Path, suffix: str) -> dict[str, Path]:
    """The file in a folder for each recording's transcript, by the recording's name.

    Raises:
        ConfigurationError: two recordings would be written to the same file.
    """
    files: dict[str, Path] = {}
    taken: dict[Path, str] = {}
    for one in recordings:
        path = folder / f"{'stdin' if one.name == '-' else Path(one.name).stem}{suffix}"
        if path in taken:
            raise ConfigurationError(
                f"{taken[path]} and {one.name} would both be written to {path}; rename one, or run them one by one."
            )
        files[one.name], taken[path] = path, one.name
    return files
