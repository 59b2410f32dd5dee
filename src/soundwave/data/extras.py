"""What a row says beside what training reads of it: fields of the user's own, of the row, its turns and its parts.

A conversion carries them wherever the target has a place for them, and names those that are not found again. Knows
nothing about files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from soundwave.data.readers import CUSTOM_READ

Fields = dict[str, Any]
Details = dict[tuple[str, int], Any]  # what a thing is called and which one it is, to its value

SHARED = frozenset(["transcript", "duration", "task", "language", "id"])
# What each format defines, by the key that tells it, in the order in which `readers.py` looks for these keys.
DEFINED: dict[str, frozenset[str]] = {
    "messages": SHARED | {"messages", "audios"},
    "conversations": SHARED | {"conversations"},
    "audio_filepath": SHARED | {"audio_filepath", "text", "prompt", "offset", "start", "end", "lang"},
    "supervisions": frozenset(["id", "type", "start", "duration", "channel", "supervisions", "recording", "custom"]),
    "audio": SHARED | {"audio", "text", "prompt", "offset", "start", "end"},
}
OF_SUPERVISION = ("speaker", "gender", "alignment")  # fields of a lhotse supervision that are extras elsewhere
RECORDING_DEFINED = frozenset(
    ["id", "sources", "sampling_rate", "num_samples", "duration", "channel_ids", "transforms"]
)
# Ids and channels tie the parts of a cut together; they are made anew.
SUPERVISION_DEFINED = frozenset(["id", "recording_id", "channel", "custom", *OF_SUPERVISION])
MESSAGE_DEFINED = ("role", "content")
TURN_DEFINED = ("from", "value", "audio")
SOUND_DEFINED = frozenset(["type", "path", "url", "audio", "audio_url", "input_audio", "bytes", "start", "end", "text"])
WHOLE_TOLERANCE = 0.01  # seconds by which a supervision of the whole cut may differ from it


def format_key(fields: Fields) -> str:
    """The key that tells the row's format."""
    return next((key for key in DEFINED if key in fields), "audio")


def extras_of(fields: Fields) -> Fields:
    """The fields that the row's format does not define (speaker, licence, kind, …), wherever the format keeps them."""
    key = format_key(fields)
    if key != "supervisions":
        return {name: value for name, value in fields.items() if name not in DEFINED[key] and value is not None}
    custom = fields.get("custom") or {}
    read = DEFINED["messages"] if "messages" in custom else CUSTOM_READ
    stated = {name: value for name, value in custom.items() if name not in read and value is not None}
    return stated | _of_all_supervisions(fields)


def without_reserved(extras: Fields, key: str) -> Fields:
    """The extras that a row of the format told by `key` can hold: those that would not be read as something else."""
    keys = list(DEFINED)
    reserved = DEFINED[key] | set(keys[: keys.index(key) + 1])
    return {name: value for name, value in extras.items() if name not in reserved}


def with_details(written: Fields, fields: Fields) -> Fields:
    """A row made from `fields`, with what their turns or supervisions say beside what training reads, where it can."""
    written, turns = dict(written), _turn_extras(fields)
    for name in ("messages", "conversations"):
        if any(turns) and len(written.get(name) or []) == len(turns):
            both = zip(turns, written[name], strict=True)
            written[name] = [turn | _without(more, tuple(turn)) for more, turn in both]
            if name == "conversations" and any("transcription" in more for more in turns):
                written[name][-1].setdefault("transcription", None)  # the row's: its words are not known
    custom = fields.get("custom") or {}
    if "supervisions" in written and fields.get("supervisions") and "messages" not in custom:
        elsewhere = set(_of_all_supervisions(fields))  # back to the supervisions
        written["supervisions"] = [{**part, "recording_id": written["id"]} for part in fields["supervisions"]]
        written["custom"] = {name: value for name, value in written["custom"].items() if name not in elsewhere} | custom
    return written


def beside(fields: Fields) -> Details:
    """All that a row says beside what training reads of it, by what a user calls it."""
    extras = extras_of(fields)
    details = {(f"the field {name!r}", 0): value for name, value in extras.items()}
    turns = _turn_extras(fields)
    details |= {
        (f"the field {name!r} of a turn", number): value
        for number, turn in enumerate(turns) for name, value in turn.items()
    }  # fmt: skip
    details |= {
        (f"the field {name!r} of an audio or part", number): value
        for number, sound in enumerate(_sounds(fields)) for name, value in sound.items() if name not in SOUND_DEFINED
    }  # fmt: skip
    return details | (_of_cut(fields, extras) if format_key(fields) == "supervisions" else {})


def lost(written: Fields, fields: Fields) -> list[str]:
    """What a row says beside what training reads of it, and the row made from it does not; by what a user calls it."""
    carried = beside(written)
    return list(dict.fromkeys(told[0] for told, value in beside(fields).items() if carried.get(told) != value))


def _turn_extras(fields: Fields) -> list[Fields]:
    """Of each turn what its format does not define; no turns where the format has none."""
    source = fields.get("custom") or {} if "supervisions" in fields else fields
    if "messages" in source:
        return [_without(message, MESSAGE_DEFINED) for message in source["messages"]]
    turns = source.get("conversations") or []
    last = max((number for number, turn in enumerate(turns) if "transcription" in turn), default=None)
    # The last transcription is the row's; of those before nothing is read.
    return [
        _without(turn, TURN_DEFINED + (("transcription",) if number == last else ()))
        for number, turn in enumerate(turns)
    ]


def _without(fields: Fields, names: tuple[str, ...]) -> Fields:
    return {name: value for name, value in fields.items() if name not in names and value is not None}


def _sounds(fields: Fields) -> Iterator[Fields]:
    """The objects in which a row names its sounds, and the other parts of its messages."""
    for name in ("audio", "audios"):
        listed = fields.get(name)
        yield from (sound for sound in (listed if isinstance(listed, list) else [listed]) if isinstance(sound, dict))
    for turn in fields.get("conversations") or []:
        yield from _sounds({"audio": turn.get("audio")})
    for message in fields.get("messages") or []:
        if isinstance(message["content"], list):
            yield from message["content"]


def _said(supervision: Fields) -> Fields:
    """What a supervision says beside its text and its place."""
    own = {name: supervision[name] for name in OF_SUPERVISION if supervision.get(name) is not None}
    return {name: value for name, value in (supervision.get("custom") or {}).items() if value is not None} | own


def _of_all_supervisions(fields: Fields) -> Fields:
    """What all supervisions of a cut say alike."""
    said = [_said(supervision) for supervision in fields.get("supervisions") or []]
    if not said:
        return {}
    return {name: value for name, value in said[0].items() if all(other.get(name) == value for other in said)}


def _of_cut(fields: Fields, extras: Fields) -> Details:
    """What only a lhotse cut can say: more of its recording, and of its supervisions one by one."""
    details: Details = {(f"the field {name!r}", 0): fields[name] for name in set(fields) - DEFINED["supervisions"]}
    recording = fields.get("recording") or {}
    details |= {(f"the recording's {name}", 0): recording[name] for name in set(recording) - RECORDING_DEFINED}
    custom = fields.get("custom") or {}
    if "messages" in custom:  # a conversation that `soundwave data shard` wrote: nothing is read of its supervisions
        return details
    other = [name for name in custom if name in extras and extras[name] != custom[name]]
    details |= {(f"the cut's own {name}", 0): custom[name] for name in other}
    supervisions = fields.get("supervisions") or []
    for number, supervision in enumerate(supervisions):
        whole = len(supervisions) == 1 and _is_whole(supervision, fields)
        read = ("text", "language") if len(supervisions) == 1 else ()
        places = ("start", "duration") if whole else ()
        told = {name: value for name, value in _said(supervision).items() if extras.get(name) != value}
        told |= _without(supervision, (*SUPERVISION_DEFINED, *read, *places))
        details |= {(f"{name} of a supervision", number): value for name, value in told.items()}
    return details


def _is_whole(supervision: Fields, cut: Fields) -> bool:
    """Whether a supervision is about the whole cut; one without times is."""
    start, seconds = supervision.get("start") or 0.0, supervision.get("duration")
    ends = seconds is None or abs(seconds - (cut.get("duration") or 0.0)) < WHOLE_TOLERANCE
    return bool(abs(start) < WHOLE_TOLERANCE and ends)
