"""What pydantic finds wrong with a request, as one sentence that names the field and says what is allowed."""

from __future__ import annotations

import difflib
import re
from typing import Any

from fastapi.exceptions import RequestValidationError

from soundwave.errors import shown

PLACES = ("body", "query", "path", "header")
SHOWN_OF_TEXT = 200  # characters; `shown` would write out all 25 MB of a recording first


def said_of(error: RequestValidationError) -> dict[str, Any]:
    """The arguments of an `ApiError` for the first thing that is wrong."""
    first = min(error.errors(), key=lambda one: one["type"] == "missing")  # a wrong name explains a missing one
    kind, place = first["type"], _path(first["loc"])
    if kind == "json_invalid":
        told = first.get("ctx", {}).get("error", "it ends too early")
        return {"message": f"The body is not JSON: {told}.", "code": "invalid_json"}
    if not place and kind in ("model_attributes_type", "dict_type", "model_type"):
        return {"message": "The body must be a JSON object, sent with Content-Type: application/json.", "status": 415
                if isinstance(first.get("input"), bytes) else 400, "code": "invalid_body"}
    if kind == "missing":
        return {"message": f"{place or 'The body'} is missing; it must be given.", "param": place or None,
                "code": "missing_required_parameter"}
    if kind == "extra_forbidden":
        return {"message": f"There is no field {place}; leave it out.", "param": place, "code": "unknown_parameter"}
    given = first.get("input")
    value = shown(given[:SHOWN_OF_TEXT] if isinstance(given, str | bytes) else given)
    return {"message": f"{place} is {value}: {first['msg']}.", "param": place, "code": "invalid_value"}


def _path(place: tuple[Any, ...]) -> str:
    """`messages[0].content` for ("body", "messages", 0, "content")."""
    parts = [part for part in place if part not in PLACES[:1]]
    return re.sub(r"^\.", "", "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts))


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that is likely meant."""
    return next(iter(difflib.get_close_matches(name, known, 1, 0.6)), None)
