"""Readers of the manifest formats of the field: each a function from one row to one `Example`.

1. ms-swift, LLaMA-Factory: `{"messages": [{"role", "content": "<audio>What …?"}, …], "audios": ["clips/x.mp3"]}`
2. content parts (OpenAI, Hugging Face): `{"messages": [{"role", "content": [{"type": "audio", "path"}, …]}, …]}`
3. short: `{"audio": "clips/x.mp3", "text": "…"}`
4. conversations (released code): `{"conversations": [{"from", "value", "audio"}, {"from", "value", "transcription"}]}`
5. NeMo: `{"audio_filepath", "duration", "text"}`, and cuts of lhotse: `{"recording", "supervisions", "start", …}`

Knows nothing about reading files: rows come in as dictionaries.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from soundwave.audio import SAMPLE_RATE
from soundwave.data.example import (
    AUDIO_PART,
    DEFAULT_PROMPT,
    INSIDE,
    PLACEHOLDER,
    AudioSpan,
    Example,
    check_characters,
    check_conversation,
    parts_of,
    require_text,
    role_of,
    seconds_of,
    text_part,
)
from soundwave.errors import DataError
from soundwave.text.normalizer import normalise_transcript

Row = dict[str, Any]
CUSTOM_READ = ("prompt", "transcript", "task")  # under `custom` of a lhotse cut; all else there is the user's own
PART_TYPES = ("text", "audio", "input_audio", "audio_url")
SAVE_FIRST = "Save the cuts' own sound to files first (lhotse: cuts.save_audios(FOLDER).to_file('cuts.jsonl'))."


def parse_row(row: Any, folder: Path, where: str) -> Example:
    """One row of any known format.

    Args:
        row: the decoded JSON of one line.
        folder: audio paths are relative to it.
        where: file and line, for messages.

    Raises:
        DataError: no known format, or a value that is not allowed.
    """
    if not isinstance(row, dict):
        raise DataError(f'{where}: the line is {type(row).__name__}, not an object; write {{"audio": …, "text": …}}.')
    check_characters(row, where)
    cut = str(row.get("type")).endswith("Cut")  # of lhotse; a mix of tracks, or padding, has no supervisions
    if cut or "supervisions" in row:
        _check_cut(row, where)
    for key, parse in FORMATS.items():
        if key in row:
            return parse(row, folder, where)
    if cut:
        return _lhotse(row, folder, where)
    raise DataError(
        f"{where}: no known manifest format; the keys are {', '.join(map(repr, row)) or 'none'}. A line needs one of "
        f'{", ".join(FORMATS)}; the short form is {{"audio": "clip.wav", "text": "what is said"}}.'
    )


def _messages(row: Row, folder: Path, where: str) -> Example:
    listed = row.get("audios") or []
    if not isinstance(listed, list):
        raise DataError(f'{where}: audios is {listed!r}; it must be a list of paths, as in ["clips/x.mp3"].')
    if not isinstance(row["messages"], list):
        raise DataError(f"{where}: messages is {row['messages']!r}; it must be a list of role and content.")
    waiting = [_span(source, folder, where) for source in listed]
    messages, audios = [], []
    for message in row["messages"]:
        if not isinstance(message, dict):
            raise DataError(f"{where}: a message is {message!r}; it must be an object with role and content.")
        content = message.get("content")
        sources: list[Any] = [None] * content.count(PLACEHOLDER) if isinstance(content, str) else []
        parts = parts_of(content, where) if isinstance(content, str) else _parts(content, sources, where)
        for source in sources:
            # A part that names no file takes the next of the row's list; what is missing is counted below.
            if source is not None:
                audios.append(_span(source, folder, where))
            elif waiting:
                audios.append(waiting.pop(0))
        messages.append({"role": role_of(message.get("role"), where), "content": parts})
    return _example(row, messages, [*audios, *waiting], row.get("transcript"), where)


def _parts(content: Any, sources: list[Any], where: str) -> list[dict[str, Any]]:
    """Content parts in our form; the sound of each audio part (None: not named here) is added to `sources`."""
    if not isinstance(content, list):
        raise DataError(f"{where}: a message's content is {content!r}; it must be a text or a list of parts.")
    parts: list[dict[str, Any]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            parts.append(text_part(require_text(part.get("text"), "a text part", where)))
        elif kind in PART_TYPES:
            parts.append(AUDIO_PART)
            sources.append(_part_source(part, where))
        else:
            raise DataError(f"{where}: a content part is {part!r}; its type must be one of {', '.join(PART_TYPES)}.")
    return parts or [text_part("")]


def _part_source(part: Row, where: str) -> Any:
    if part["type"] == "input_audio":
        sound = part.get("input_audio")
        if not isinstance(sound, dict) or not isinstance(sound.get("data"), str):
            raise DataError(f'{where}: input_audio must be {{"data": base64 text, "format": "wav"}}.')
        return f"data:audio/{sound.get('format', 'wav')};base64,{sound['data']}"
    source = next((part[name] for name in ("path", "url", "audio", "audio_url") if part.get(name) is not None), None)
    if isinstance(source, dict) and "url" in source:
        source = source["url"]
    if source is None or isinstance(source, dict):
        return source
    return {"path": source, "start": part.get("start"), "end": part.get("end")}


def _short(row: Row, folder: Path, where: str) -> Example:
    if "text" not in row or row["text"] is None:
        raise DataError(
            f"{where}: no text; the short form is audio and text. Transcribe the clip first (soundwave transcribe "
            "clips/*.wav --json > clips.jsonl), make rows of labels (soundwave data instruct), or remove the line."
        )
    reply = require_text(row["text"], "text", where)
    prompt = row.get("prompt")
    given = row["audio"] if isinstance(row["audio"], list) else [row["audio"]]
    spans = [_span(source, folder, where) for source in given]
    start, end = seconds_of(row, "start", where), seconds_of(row, "end", where)
    offset, duration = seconds_of(row, "offset", where), seconds_of(row, "duration", where)
    if start is None and offset is not None:
        # NeMo's duration is the length of the cut, so it ends the cut only where an offset begins one.
        end = offset + duration if end is None and duration is not None else end
        start = offset or (None if end is None else 0.0)
    if start is not None or end is not None:
        if len(spans) != 1:
            raise DataError(f"{where}: start and end with {len(spans)} audio files; they need exactly one.")
        spans = [_cut(spans[0].path, start, end, where)]
    asked = parts_of(DEFAULT_PROMPT if prompt is None else require_text(prompt, "prompt", where), where)
    if AUDIO_PART not in asked:
        asked = [AUDIO_PART] * len(spans) + asked  # The audio comes before the instruction (as in the paper's data).
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": [text_part(reply)]}]
    # Without a prompt of its own the reply is the transcript; under any other prompt it need not be.
    spoken = row.get("transcript", reply if prompt in (None, DEFAULT_PROMPT) else None)
    return _example(row, messages, spans, spoken, where)


def _conversations(row: Row, folder: Path, where: str) -> Example:
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"{where}: conversations is {turns!r}; it must be a list of objects with from and value.")
    messages, audios = [], []
    spoken = row.get("transcript")
    for turn in turns:
        parts = parts_of(require_text(turn.get("value"), "a turn's value", where), where)
        sound = turn.get("audio")
        listed = [] if sound is None else sound if isinstance(sound, list) else [sound]
        if AUDIO_PART not in parts:
            parts = [AUDIO_PART] * len(listed) + parts
        audios += [_span(source, folder, where) for source in listed]
        messages.append({"role": role_of(turn.get("from"), where), "content": parts})
        spoken = turn.get("transcription", spoken)
    return _example(row, messages, audios, spoken, where)


def _nemo(row: Row, folder: Path, where: str) -> Example:
    language = row.get("language", row.get("lang"))
    return _short({**row, "audio": row["audio_filepath"], "language": language}, folder, where)


def _lhotse(row: Row, folder: Path, where: str) -> Example:
    custom, supervisions = row.get("custom") or {}, row.get("supervisions") or []
    if "messages" in custom:
        return _cut_of_messages(row, custom, folder, where)
    source, seconds = recording_of(row, where)
    start, duration = seconds_of(row, "start", where) or 0.0, seconds_of(row, "duration", where)
    whole = start == 0 and duration == seconds
    spoken = [supervision for supervision in supervisions if supervision.get("text") is not None]
    short: Row = {name: custom[name] for name in CUSTOM_READ if name in custom}
    short |= {"audio": source, "duration": duration, "id": row.get("id")}
    if spoken:
        short["text"] = " ".join(require_text(part["text"], "a supervision's text", where) for part in spoken)
        short["language"] = spoken[0].get("language")
    if not whole:
        short |= {"start": start, "end": None if duration is None else start + duration}
    return _short(short, folder, where)


def _check_cut(row: Row, where: str) -> None:
    """The parts of a cut of lhotse are objects and lists where lhotse has them; each may also be missing."""
    custom, recording = row.get("custom") or {}, row.get("recording") or {}
    if not isinstance(custom, dict):
        raise DataError(f'{where}: custom is {custom!r}; it must be an object, as in {{"licence": "CC0"}}.')
    if not isinstance(recording, dict):
        raise DataError(f"{where}: recording is {recording!r}; it must be an object with sources.")
    listed = {
        "supervisions": row.get("supervisions"), "recording's sources": recording.get("sources"),
        "custom audios": custom.get("audios") if "messages" in custom else None,
    }
    for name, values in listed.items():
        if values is not None and not (isinstance(values, list) and all(isinstance(part, dict) for part in values)):
            raise DataError(f"{where}: the {name} are {values!r}; they must be a list of objects.")
    for part in row.get("supervisions") or []:
        if not isinstance(part.get("custom") or {}, dict):
            raise DataError(f"{where}: custom of a supervision is {part['custom']!r}; it must be an object.")


def _cut_of_messages(row: Row, custom: Row, folder: Path, where: str) -> Example:
    """A cut that carries a whole conversation (`soundwave data shard`): its sounds are spans of its one recording."""
    spans = custom.get("audios") or []
    source = recording_of(row, where)[0] if spans else None
    fields = {"id": row.get("id"), "duration": row.get("duration") if spans else None}
    return _messages({**fields, **custom, "audios": [{"path": source, **span} for span in spans]}, folder, where)


# The key that tells a format, in order of precedence.
FORMATS: dict[str, Callable[[Row, Path, str], Example]] = {
    "messages": _messages,
    "conversations": _conversations,
    "audio_filepath": _nemo,
    "supervisions": _lhotse,
    "audio": _short,
}


def _span(source: Any, folder: Path, where: str) -> AudioSpan:
    """A path, a `data:` text, or an object with `path` or `bytes`, with optional start and end."""
    if isinstance(source, dict):
        if isinstance(source.get("bytes"), bytes):
            encoded = base64.b64encode(source["bytes"]).decode()
            return AudioSpan(f"data:audio/any;base64,{encoded}")
        path = _span(source.get("path"), folder, where).path
        return _cut(path, seconds_of(source, "start", where), seconds_of(source, "end", where), where)
    if not isinstance(source, str) or not source:
        raise DataError(f"{where}: the audio is {source!r}; it must be a path, relative to the manifest's folder.")
    if source.startswith(INSIDE):
        return AudioSpan(source)
    if "\0" in source:
        raise DataError(f"{where}: the audio is {source!r}; no file's name has a NUL character in it.")
    if source.startswith("file://"):
        source = unquote(urlsplit(source).path)
    if "://" in source:
        raise DataError(f"{where}: the audio is the address {source}; training reads files only. Download it first.")
    return AudioSpan(str((folder / source).absolute()))


def _cut(path: str, start: float | None, end: float | None, where: str) -> AudioSpan:
    if end is not None and end <= (start or 0.0):
        raise DataError(
            f"{where}: end is {end:g} s and start is {start or 0.0:g} s; the end must come after the start."
        )
    return AudioSpan(path, start, end)


def _example(row: Row, messages: list[Row], audios: list[AudioSpan], spoken: str | None, where: str) -> Example:
    check_conversation(messages, len(audios), where)
    duration = seconds_of(row, "duration", where)
    if duration is None and len(audios) == 1 and audios[0].end is not None:
        duration = audios[0].end - (audios[0].start or 0.0)
    language = _named(row, "language", where)
    spoken = None if spoken is None else require_text(spoken, "transcript", where)
    words = audios[0].words if len(audios) == 1 else None
    spoken = words if spoken is None else spoken
    said = spoken if words is None else words
    transcript = None if said is None else normalise_transcript(said, language)
    name = row.get("id")
    return Example(
        messages=messages,
        audios=tuple(audios),
        transcript=transcript,
        duration=duration,
        task=_named(row, "task", where),
        language=language,
        id=where if name is None else str(name),
        where=where,
        spoken=spoken,
    )


def _named(row: Row, name: str, where: str) -> str | None:
    """A field that is one text, or missing."""
    return None if row.get(name) is None else require_text(row[name], name, where)


# --- lhotse: the recording of a cut ----------------------------------------------------------------------------------
# lhotse computes a cut's sound as it loads it: channels are chosen, speed and volume changed, tracks mixed. Training
# reads files, so a cut that means something else than the sound of its file would teach the wrong text.


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
    if not isinstance(sources, list) or not all(isinstance(item, dict) for item in sources):
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
    stated = recording.get("channel_ids") or [number for source in sources for number in source.get("channels") or []]
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
    for transform in transforms or []:
        name = transform.get("name") if isinstance(transform, dict) else transform
        options = (transform.get("kwargs") if isinstance(transform, dict) else None) or {}
        if name == "Resample" and options.get("target_sampling_rate", 0) >= SAMPLE_RATE:
            continue
        told = ", ".join(f"{key} {value}" for key, value in options.items())
        raise DataError(
            f"{where}: the recording's sound is to be changed by {name}{f' ({told})' if told else ''} as it is loaded; "
            f"files are read as they are. {SAVE_FIRST}"
        )
