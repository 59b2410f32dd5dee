"""The manifest formats, written: each a function from one example to one row that `readers.py` reads back.

And rows as they are, with other paths or more fields.

Knows nothing about files, except that a lhotse cut states facts of its recording.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from soundwave.data.example import DEFAULT_PROMPT, INSIDE, PLACEHOLDER, AudioSpan, Example
from soundwave.data.extras import OF_SUPERVISION, without_reserved
from soundwave.data.probe import facts_of
from soundwave.data.readers import CUSTOM_READ
from soundwave.errors import DataError

Fields = dict[str, Any]
Place = Callable[[str], str]  # an absolute path, as it is to be written
PATH_KEYS = ("path", "url", "audio", "audio_url", "source")
DATA_AUDIO = re.compile(r"data:audio/([\w.+-]+);base64,(.*)", re.S)


class UnwritableRow(DataError):
    """This example has no place in the format at all; the message says why."""


def write_messages(example: Example, extras: Fields, place: Place) -> Fields:
    """ms-swift and LLaMA-Factory: `messages` with `<audio>` marks, and `audios`."""
    messages = [{"role": message["role"], "content": _marked(message["content"])} for message in example.messages]
    row: Fields = {"messages": messages}
    if example.audios:
        row["audios"] = [_sound(span, place) for span in example.audios]
    return row | _known(example) | without_reserved(extras, "messages")


def write_parts(example: Example, extras: Fields, place: Place) -> Fields:
    """Content parts of OpenAI and Hugging Face; a sound inside the manifest becomes an `input_audio` part."""
    spans = iter(example.audios)
    messages = []
    for message in example.messages:
        parts = [_audio_part(next(spans), place) if part["type"] == "audio" else part for part in message["content"]]
        messages.append({"role": message["role"], "content": parts})
    return {"messages": messages} | _known(example) | without_reserved(extras, "messages")


def write_short(example: Example, extras: Fields, place: Place) -> Fields:
    """The short form: `audio`, `text` and, where they differ from what the form implies, `prompt` and `transcript`."""
    asked, reply, spans = first_exchange(example)
    row: Fields = {"audio": [_sound(span, place) for span in spans], "text": reply}
    if len(spans) == 1:
        row["audio"] = place(spans[0].path)
        row |= {name: getattr(spans[0], name) for name in ("start", "end") if getattr(spans[0], name) is not None}
    row |= _asked(example, asked, reply, len(spans)) | _known(example, transcript=False)
    return row | without_reserved(extras, "audio")


def write_conversations(example: Example, extras: Fields, place: Place) -> Fields:
    """The upstream form: `from`, `value` and `audio`; the transcript stands beside the last reply."""
    spans = iter(example.audios)
    turns: list[Fields] = []
    for message in example.messages:
        parts = message["content"]
        count = sum(part["type"] == "audio" for part in parts)
        turn: Fields = {"from": message["role"], "value": _prompt(parts, count)}
        sounds = [_sound(next(spans), place) for _ in range(count)]
        if sounds:
            turn["audio"] = sounds if len(sounds) > 1 else sounds[0]
        turns.append(turn)
    if example.spoken is not None:
        turns[-1]["transcription"] = example.spoken
    return {"conversations": turns} | _known(example, transcript=False) | without_reserved(extras, "conversations")


def write_nemo(example: Example, extras: Fields, place: Place) -> Fields:
    """NeMo: `audio_filepath`, `duration`, `text`, `offset` of a cut; `prompt` and `transcript` where they differ."""
    asked, reply, spans = first_exchange(example)
    if len(spans) != 1 or spans[0].path.startswith(INSIDE):
        raise UnwritableRow(f"a NeMo row holds one audio file, this one holds {_count(spans)}")
    (span,) = spans
    row: Fields = {"audio_filepath": place(span.path), "text": reply}
    if span.start or span.end is not None:
        row["offset"] = span.start or 0.0
    seconds = example.duration if span.end is None else span.end - (span.start or 0.0)
    row["duration"] = seconds if seconds is not None else round(facts_of(span.path).seconds - (span.start or 0.0), 4)
    known = {name: value for name, value in _known(example, transcript=False).items() if name != "duration"}
    return row | _asked(example, asked, reply, 1) | known | without_reserved(extras, "audio_filepath")


def write_lhotse(example: Example, extras: Fields, place: Place) -> Fields:
    """A MonoCut of lhotse with one supervision; what lhotse has no field for is under `custom`.

    Raises:
        AudioError: the recording cannot be read; a cut states its length and rate.
    """
    _, _, spans = first_exchange(example)
    if len(spans) != 1 or spans[0].path.startswith(INSIDE):
        raise UnwritableRow(f"a MonoCut holds one audio file, this one holds {_count(spans)}")
    (span,) = spans
    facts = facts_of(span.path)
    if facts.channels > 1:
        told = f"the mix of {facts.channels} (--audio-dir DIR writes it to a file)"
        raise UnwritableRow(f"a MonoCut is one channel, this recording is {told}")
    start = span.start or 0.0
    seconds = (facts.seconds if span.end is None else span.end) - start
    recording = {
        "id": example.id,
        "sources": [{"type": "file", "channels": [0], "source": place(span.path)}],
        "sampling_rate": facts.rate, "num_samples": facts.frames, "duration": facts.seconds,
    }
    return cut_of_recording(example, extras, recording, start, seconds)


def cut_of_recording(example: Example, extras: Fields, recording: Fields, start: float, seconds: float) -> Fields:
    """A MonoCut's row: the first question and reply of an example about a stretch of one recording."""
    asked, reply, _ = first_exchange(example)
    name = recording["id"]
    said: Fields = {
        "id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0, "text": reply,
        "language": example.language, **{key: extras[key] for key in OF_SUPERVISION if key in extras},
    }
    unread = (*OF_SUPERVISION, *CUSTOM_READ, "messages")  # the last tells a conversation that `data shard` wrote
    custom = {key: value for key, value in extras.items() if key not in unread}
    custom |= _asked(example, asked, reply, 1) | ({} if example.task is None else {"task": example.task})
    return {
        "id": name, "type": "MonoCut", "start": start, "duration": seconds, "channel": 0, "supervisions": [said],
        "recording": recording, "custom": custom,
    }


def write_columns(example: Example, extras: Fields, place: Place) -> Fields:
    """The short form as columns of a saved data set: every column in every row, plain values only."""
    row = write_short(example, {}, place)
    if not isinstance(row["audio"], str):
        raise UnwritableRow(f"an Audio column holds one recording a row, this one holds {_count(example.audios)}")
    names = ("audio", "text", "prompt", "start", "end", "duration", "language", "task", "id")
    columns = {name: row.get(name) for name in names}
    plain = {name: value for name, value in extras.items() if isinstance(value, str | int | float)}
    return columns | {"transcript": example.spoken} | plain


WRITERS: dict[str, Callable[[Example, Fields, Place], Fields]] = {
    "messages": write_messages,
    "parts": write_parts,
    "short": write_short,
    "conversations": write_conversations,
    "nemo": write_nemo,
    "lhotse": write_lhotse,
    "datasets": write_columns,
}


def first_exchange(example: Example) -> tuple[list[Fields], str, list[AudioSpan]]:
    """Content of the first user turn that is followed by a reply (with audio, if any turn has), reply, and spans."""
    first = 0
    exchange: tuple[list[Fields], str, list[AudioSpan]] | None = None
    for message, following in pairwise(example.messages):
        count = sum(part["type"] == "audio" for part in message["content"])
        spans = list(example.audios[first : first + count])
        first += count
        better = exchange is None or (spans and not exchange[2])
        if better and message["role"] == "user" and following["role"] == "assistant":
            reply = "".join(part["text"] for part in following["content"] if part["type"] == "text")
            exchange = message["content"], reply, spans
    if exchange is None:
        raise UnwritableRow("there is no question with a reply right after it")
    return exchange


def _asked(example: Example, asked: list[Fields], reply: str, audios: int) -> Fields:
    """`prompt` and `transcript` of the short form, left out where the form implies them."""
    prompt = _prompt(asked, audios)
    fields: Fields = {} if prompt == DEFAULT_PROMPT and audios else {"prompt": prompt}
    implied = reply if prompt == DEFAULT_PROMPT else None
    return fields if example.spoken == implied else fields | {"transcript": example.spoken}


def _prompt(parts: list[Fields], audios: int) -> str:
    """The text of a turn; its audio is marked only where it is not simply in front."""
    texts = [part["text"] for part in parts if part["type"] == "text"]
    in_front = all(part["type"] == "audio" for part in parts[:audios]) and len(texts) == 1
    return texts[0] if in_front else _marked(parts)


def _marked(parts: list[Fields]) -> str:
    return "".join(PLACEHOLDER if part["type"] == "audio" else part["text"] for part in parts)


def _sound(span: AudioSpan, place: Place) -> str | Fields:
    """A path; an object with the path where the sound is a cut."""
    if span.start is None and span.end is None:
        return place(span.path)
    cut = {"path": place(span.path), "start": span.start, "end": span.end}
    return {name: value for name, value in cut.items() if value is not None}


def _audio_part(span: AudioSpan, place: Place) -> Fields:
    inside = DATA_AUDIO.fullmatch(span.path)
    if inside and span.start is None and span.end is None:
        return {"type": "input_audio", "input_audio": {"data": inside[2], "format": inside[1]}}
    sound = _sound(span, place)
    return {"type": "audio", **(sound if isinstance(sound, dict) else {"path": sound})}


def _known(example: Example, transcript: bool = True) -> Fields:
    known = {"duration": example.duration, "language": example.language, "task": example.task}
    if transcript:
        known = {"transcript": example.spoken, **known}
    if example.id != example.where:
        known["id"] = example.id
    return {name: value for name, value in known.items() if value is not None}


def _count(spans: Any) -> str:
    if len(spans) == 1:
        return "sound inside the data (--audio-dir DIR writes it to a file)"
    return f"{len(spans)} of them" if spans else "none"


# --- rows as they are -------------------------------------------------------------------------------------------------


def with_fields(fields: dict[str, Any], **added: Any) -> dict[str, Any]:
    """The row, which may be a bad one, with more fields where its format keeps them."""
    custom = fields.get("custom") or {}
    if "supervisions" in fields and isinstance(custom, dict):
        return {**fields, "custom": {**custom, **added}}
    return {**fields, **added}


def relocated(fields: dict[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """The row, which may be a bad one, with its audio paths relative to another folder.

    What is no path stays as it is: an address, a data: text, or what should have been a path.
    """

    def move(source: Any) -> Any:
        if isinstance(source, list):
            return [move(item) for item in source]
        if isinstance(source, dict):
            return {key: move(value) if key in PATH_KEYS else value for key, value in source.items()}
        return relative(str((old / source).absolute()), new) if _is_path(source) else source

    def move_part(part: Any) -> Any:
        return move(part) if isinstance(part, dict) and part.get("type") in ("audio", "audio_url") else part

    moved = dict(fields)
    for name in ("audio", "audios", "audio_filepath"):
        if name in moved:
            moved[name] = move(moved[name])
    if isinstance(moved.get("messages"), list):
        moved["messages"] = [
            {**message, "content": [move_part(part) for part in message["content"]]}
            if isinstance(message, dict) and isinstance(message.get("content"), list) else message
            for message in moved["messages"]
        ]
    if isinstance(moved.get("conversations"), list):
        moved["conversations"] = [
            {**turn, "audio": move(turn["audio"])} if isinstance(turn, dict) and "audio" in turn else turn
            for turn in moved["conversations"]
        ]
    if isinstance(recording := moved.get("recording"), dict) and isinstance(recording.get("sources"), list):
        moved["recording"] = {**recording, "sources": move(recording["sources"])}
    return moved


def _is_path(source: Any) -> bool:
    return (
        isinstance(source, str) and bool(source) and not source.startswith(INSIDE)
        and "://" not in source and "\0" not in source
    )


def relative(path: str, folder: Path) -> str:
    """An absolute path as it is written in a manifest of `folder`; a data: text as it is.

    Links among the folders are followed, because `..` is; the file itself may be a link.
    """
    if path.startswith(INSIDE):
        return path
    return os.path.relpath(Path(path).parent.resolve() / Path(path).name, folder.resolve())
