"""The recording of a lhotse cut, where it is simply one file; all else that a cut can say of its sound is refused.

lhotse computes a cut's sound as it loads it: channels are chosen, speed and volume changed, tracks mixed. Training
reads files, so a cut that means something else than the sound of its file would teach the wrong text. Knows nothing
about what is said in a cut.
"""

from __future__ import annotations

from typing import Any

from soundwave.audio import SAMPLE_RATE
from soundwave.errors import DataError

SAVE_FIRST = "Save the cuts' own sound to files first (lhotse: cuts.save_audios(FOLDER).to_file('cuts.jsonl'))."


def recording_of(row: dict[str, Any], where: str) -> tuple[str, float | None]:
    """Path (or `data:` text) and stated seconds of the recording that a cut is a stretch of.

    Args:
        row: a line of a CutSet.
        where: file and line, for messages.

    Raises:
        DataError: the cut is no MonoCut of a file with one channel, or its sound is changed as it is loaded.
    """
    kind = row.get("type", "MonoCut")
    recording = row.get("recording")
    sources = recording.get("sources") if isinstance(recording, dict) else None
    if kind != "MonoCut" or not isinstance(recording, dict) or not sources:
        raise DataError(
            f"{where}: a lhotse {kind} without one recording; only plain cuts (MonoCut) of a recording are read. "
            f"{SAVE_FIRST}"
        )
    if not isinstance(sources, list) or not all(isinstance(one, dict) for one in sources):
        raise DataError(f"{where}: the recording's sources are {sources!r}; they must be a list with one object.")
    if sources[0].get("type") != "file":
        raise DataError(
            f"{where}: the recording's source is of type {sources[0].get('type')!r}; only files are read. {SAVE_FIRST}"
        )
    _check_channel(row.get("channel"), recording, where)
    _check_transforms(recording.get("transforms"), where)
    return sources[0].get("source"), recording.get("duration")


def _check_channel(channel: Any, recording: dict[str, Any], where: str) -> None:
    """The cut is the only channel of its recording's only file."""
    sources = recording["sources"]
    stated = recording.get("channel_ids") or [one for source in sources for one in source.get("channels") or []]
    if len(sources) > 1 or len(stated) > 1:
        raise DataError(
            f"{where}: the cut is channel {channel} of a recording with {len(stated)} channels in {_files(sources)}; "
            f"only recordings of one channel in one file are read, since channels are mixed here. {SAVE_FIRST}"
        )
    wanted = channel if isinstance(channel, list) else [channel]
    if channel is not None and wanted != (stated or [0]):
        raise DataError(
            f"{where}: the cut is channel {channel}, and its recording has only channel {(stated or [0])[0]}; "
            "correct or remove this line."
        )


def _files(sources: list[Any]) -> str:
    return "1 file" if len(sources) == 1 else f"{len(sources)} files"


def _check_transforms(transforms: Any, where: str) -> None:
    """Nothing changes the sound but what training does itself: another sampling rate, of at least its own."""
    for one in transforms or []:
        name = one.get("name") if isinstance(one, dict) else one
        options = (one.get("kwargs") if isinstance(one, dict) else None) or {}
        if name == "Resample" and options.get("target_sampling_rate", 0) >= SAMPLE_RATE:
            continue
        told = ", ".join(f"{key} {value}" for key, value in options.items())
        raise DataError(
            f"{where}: the recording's sound is to be changed by {name}{f' ({told})' if told else ''} as it is loaded; "
            f"files are read as they are. {SAVE_FIRST}"
        )
