"""Recordings as they are named on the command line: files, folders, quoted globs and standard input; and their outputs.

What can be known without a model is checked here, before one is loaded. Whether a file holds sound is not known here.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from soundwave.cli import streams
from soundwave.errors import AudioError, ConfigurationError
from soundwave.inference.options import AudioOptions

# What a folder is searched for; a file that is named itself may be called anything.
SUFFIXES = {
    *(".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".mkv"),
    *(".mov", ".mp2", ".mp3", ".mp4", ".mpga", ".oga", ".ogg", ".opus", ".wav", ".webm", ".wma", ".wv"),
}
LONGEST_NAME = 240  # bytes of a state's name; a lock beside it has a longer one


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


def total_seconds(recordings: Sequence[Recording], sound: AudioOptions) -> float:
    """How much there is to listen to, as far as headers say; 0 where one does not. For a bar, and nothing else."""
    import av

    total = 0.0
    for one in recordings:
        try:
            with av.open(one.audio if isinstance(one.audio, str) else "", metadata_errors="ignore") as container:
                stated = (container.duration or 0) / av.time_base
        except (av.FFmpegError, OSError, ValueError):
            stated = 0.0
        if not stated:
            return 0.0
        total += max(0.0, (stated if sound.end is None else min(stated, sound.end)) - sound.start)
    return total


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


def outputs(recordings: list[Recording], folder: Path, forms: Sequence[str]) -> dict[str, dict[str, Path]]:
    """The files in a folder for each recording's transcript, by the recording's name and by format.

    Raises:
        ConfigurationError: two recordings would be written to the same file.
    """
    files: dict[str, dict[str, Path]] = {}
    taken: dict[Path, str] = {}
    for one in recordings:
        files[one.name] = {form: folder / f"{_stem(one)}.{form}" for form in forms}
        for path in files[one.name].values():
            if path in taken:
                raise ConfigurationError(
                    f"{taken[path]} and {one.name} would both be written to {path}; rename one, or run them one by one."
                )
            taken[path] = one.name
    return files


def state_file(one: Recording, folder: Path) -> Path:
    """Where the parts of an unfinished transcript are kept."""
    name = f"{_stem(one)}.unfinished.jsonl"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + ".unfinished.jsonl"
    return folder / name


def _stem(one: Recording) -> str:
    return "stdin" if one.name == "-" else Path(one.name).stem
