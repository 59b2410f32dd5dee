"""What a row says beside what training reads of it: fields of the user's own, of the row, its turns and its parts.

A conversion carries them wherever the target has a place for them, and names those that are not found again. Knows
nothing about files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from soundwave.data.manifests import CUSTOM_READ

Fields = dict[str, Any]
Details = dict[tuple[str, int], Any]  # what a thing is called and which one it is, to its value

SHARED = frozenset(["transcript", "duration", "task", "language", "id"])
# What each format defines, by the key that tells it, in the order in which `training.manifests` looks for these keys.
DEFINED: dict[str, frozenset[str]] = {
    "messages": SHARED | {"messages", "audios"},
    "conversations": SHARED | {"conversations"},
    "audio_filepath": SHARED | {"audio_filepath", "text", "prompt", "offset", "start", "end", "lang"},
    "supervisions": frozenset(["id", "type", "start", "duration", "channel", "supervisions", "recording", "custom"]),
    "audio": SHARED | {"audio", "text", "prompt", "start", "end"},
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
    found = {name: value for name, value in custom.items() if name not in read and value is not None}
    return found | _of_all_supervisions(fields)


def without_reserved(extras: Fields, key: str) -> Fields:
    """The extras that a row of the format told by `key` can hold: those that would not be read as something else."""
    keys = list(DEFINED)
    reserved = DEFINED[key] | set(keys[: keys.index(key) + 1])
    return {name: value for name, value in extras.items() if name not in reserved}


def with_details(made: Fields, fields: Fields) -> Fields:
    """A row made from `fields`, with what their turns or supervisions say beside what training reads, where it can."""
    made, turns = dict(made), _turn_extras(fields)
    for name in ("messages", "conversations"):
        if any(turns) and len(made.get(name) or []) == len(turns):
            made[name] = [turn | _without(more, tuple(turn)) for more, turn in zip(turns, made[name], strict=True)]
            if name == "conversations" and any("transcription" in more for more in turns):
                made[name][-1].setdefault("transcription", None)  # the last is the row's, and its words are not known
    custom = fields.get("custom") or {}
    if "supervisions" in made and fields.get("supervisions") and "messages" not in custom:
        elsewhere = set(_of_all_supervisions(fields))  # back to the supervisions
        made["supervisions"] = [{**one, "recording_id": made["id"]} for one in fields["supervisions"]]
        made["custom"] = {name: value for name, value in made["custom"].items() if name not in elsewhere} | custom
    return made


def beside(fields: Fields) -> Details:
    """All that a row says beside what training reads of it, by what a user calls it."""
    extras = extras_of(fields)
    found = {(f"the field {name!r}", 0): value for name, value in extras.items()}
    turns = _turn_extras(fields)
    found |= {
        (f"the field {name!r} of a turn", number): value
        for number, turn in enumerate(turns) for name, value in turn.items()
    }  # fmt: skip
    found |= {
        (f"the field {name!r} of an audio or part", number): value
        for number, sound in enumerate(_sounds(fields)) for name, value in sound.items() if name not in SOUND_DEFINED
    }  # fmt: skip
    return found | (_of_cut(fields, extras) if format_key(fields) == "supervisions" else {})


def lost(made: Fields, fields: Fields) -> list[str]:
    """What a row says beside what training reads of it, and the row made from it does not; by what a user calls it."""
    carried = beside(made)
    return list(dict.fromkeys(told[0] for told, value in beside(fields).items() if carried.get(told) != value))


def _turn_extras(fields: Fields) -> list[Fields]:
    """Of each turn what its format does not define; no turns where the format has none."""
    source = fields.get("custom") or {} if "supervisions" in fields else fields
    if "messages" in source:
        return [_without(message, MESSAGE_DEFINED) for message in source["messages"]]
    turns = source.get("conversations") or []
    heard = max((number for number, turn in enumerate(turns) if "transcription" in turn), default=None)
    # The last transcription is the row's; of those before nothing is read.
    return [
        _without(turn, TURN_DEFINED + (("transcription",) if number == heard else ()))
        for number, turn in enumerate(turns)
    ]


def _without(fields: Fields, names: tuple[str, ...]) -> Fields:
    return {name: value for name, value in fields.items() if name not in names and value is not None}


def _sounds(fields: Fields) -> Iterator[Fields]:
    """The objects in which a row names its sounds, and the other parts of its messages."""
    for name in ("audio", "audios"):
        listed = fields.get(name)
        yield from (one for one in (listed if isinstance(listed, list) else [listed]) if isinstance(one, dict))
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
    said = [_said(one) for one in fields.get("supervisions") or []]
    if not said:
        return {}
    return {name: value for name, value in said[0].items() if all(one.get(name) == value for one in said)}


def _of_cut(fields: Fields, extras: Fields) -> Details:
    """What only a lhotse cut can say: more of its recording, and of its supervisions one by one."""
    found: Details = {(f"the field {name!r}", 0): fields[name] for name in set(fields) - DEFINED["supervisions"]}
    recording = fields.get("recording") or {}
    found |= {(f"the recording's {name}", 0): recording[name] for name in set(recording) - RECORDING_DEFINED}
    custom = fields.get("custom") or {}
    if "messages" in custom:  # a conversation that `soundwave data shard` wrote: nothing is read of its supervisions
        return found
    other = [name for name in custom if name in extras and extras[name] != custom[name]]
    found |= {(f"the cut's own {name}", 0): custom[name] for name in other}
    supervisions = fields.get("supervisions") or []
    for number, one in enumerate(supervisions):
        whole = len(supervisions) == 1 and _is_whole(one, fields)
        read = ("text", "language") if len(supervisions) == 1 else ()
        places = ("start", "duration") if whole else ()
        told = {name: value for name, value in _said(one).items() if extras.get(name) != value}
        told |= _without(one, (*SUPERVISION_DEFINED, *read, *places))
        found |= {(f"{name} of a supervision", number): value for name, value in told.items()}
    return found


def _is_whole(supervision: Fields, cut: Fields) -> bool:
    """Whether a supervision is about the whole cut; one without times is."""
    start, seconds = supervision.get("start") or 0.0, supervision.get("duration")
    ends = seconds is None or abs(seconds - (cut.get("duration") or 0.0)) < WHOLE_TOLERANCE
    return bool(abs(start) < WHOLE_TOLERANCE and ends)
