"""What pydantic finds wrong with a request, as one sentence that names the field and says what is allowed."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

from soundwave.errors import shown
from soundwave.serving.fields.chat import NOT_HONOURED, Body, not_honoured

SHOWN_OF_TEXT = 200  # characters; `shown` would write out all 25 MB of a recording first
NO_OBJECT = ("model_attributes_type", "model_type", "dict_type")
# What pydantic puts into a place for a kind that it chose among several, after the part that it stands behind.
KINDS_BEHIND = {"content": ("text", "parts"), "stop": ("one", "several")}
KINDS_OF_ITEMS = ("text", "input_audio", "audio_url")


def said_of(error: RequestValidationError) -> dict[str, Any]:
    """The arguments of an `ApiError` for the first thing that is wrong."""
    first = min(error.errors(), key=lambda one: one["type"] == "missing")  # a wrong name explains a missing one
    kind, parts = first["type"], _parts(first["loc"])
    place, given = _path(parts), first.get("input")
    if kind == "json_invalid":
        return _said(f"The body is not JSON: {first.get('ctx', {}).get('error', 'it ends too early')}.", "invalid_json")
    if not parts and isinstance(given, bytes):
        told = "The body is not sent as JSON; send it with Content-Type: application/json."
        return {**_said(told, "unsupported_media_type"), "status": 415}
    if not parts:
        told = f"The body has or is {_value(given)}; give a JSON object with names that are Unicode."
        return _said("The body is empty; give a JSON object." if given is None else told, "invalid_body")
    if kind == "missing":
        return _said(f"{place} is missing; it must be given.", "missing_required_parameter", place)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(parts[-1]), sorted(_names()), 1)
        hint = f"did you mean {near[0]}?" if near else "leave it out."
        return _said(f"There is no field {shown(place)}; {hint}", "unknown_parameter", place)
    known = parts if first["loc"][0] == "body" else ()  # in messages of a WebSocket, names mean other things
    if why := first["msg"] if kind == NOT_HONOURED else next(filter(None, map(not_honoured, known)), None):
        return _said(f"{place} is {_value(given)}. {why} Leave it out.", "unsupported_parameter", place)
    if kind.startswith("union_tag"):
        place += ".type"
    return _said(f"{place} is {_value(given)}: {first['msg']}.", "invalid_value", place)


def _said(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    return {"message": message, "code": code, "param": param}


def _parts(place: Sequence[Any]) -> list[str | int]:
    """The names and numbers that lead to a value, without where the request had it and what kind it was taken for."""
    parts: list[str | int] = []
    for before, part in itertools.pairwise(place):
        of_item = isinstance(before, int) and part in KINDS_OF_ITEMS
        if not of_item and part not in KINDS_BEHIND.get(str(before), ()):
            parts.append(part)
    return parts


def _path(parts: Sequence[str | int]) -> str:
    """`messages[0].content` for "messages", 0, "content"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _value(given: Any) -> str:
    return shown(given[:SHOWN_OF_TEXT] if isinstance(given, str | bytes) else given)


def _names() -> set[str]:
    """Fields of all kinds of bodies."""
    kinds, names = [Body], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        names |= set(kind.model_fields)
    return names
