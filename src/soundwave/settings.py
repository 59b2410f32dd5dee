"""Options declared once: a dataclass field with its default, range, choices and help, and the check of its values.

The Python API, the command line, recipes and a server take defaults, ranges and help from these fields. This module
knows no option itself.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, Union, get_args, get_origin

from soundwave.errors import ConfigurationError, SoundwaveError, shown


def setting(
    default: Any = MISSING, *, help: str, factory: Any = MISSING, least: float | None = None,
    most: float | None = None, above: float | None = None, below: float | None = None,
    choices: Sequence[Any] = (), **more: Any,
) -> Any:
    """A dataclass field that says all that is known of an option.

    Args:
        default, factory: as in `dataclasses.field`.
        help: one sentence.
        least, most: the smallest and the greatest value that is allowed.
        above, below: bounds that are themselves not allowed.
        choices: the only values that are allowed.
        more: kept with the field, for those who know what it means.
    """
    known = {"help": help, "least": least, "most": most, "above": above, "below": below, "choices": tuple(choices)}
    values = {"default": default} if factory is MISSING else {"default_factory": factory}
    return field(**values, metadata=known | more)


def check_settings(options: Any, error: type[SoundwaveError] = ConfigurationError, prefix: str = "") -> None:
    """Refuses values of a wrong type or out of range, in the order of the fields.

    Args:
        options: an instance of a dataclass whose fields `setting` made; others are passed over.
        error: what is raised.
        prefix: stands before the option's name, such as `lora.`.

    Raises:
        SoundwaveError: of the class `error`, with the name, the value, and what is allowed.
    """
    hints = hints_of(type(options))
    for one in fields(options):
        if one.name in hints and not _fits(getattr(options, one.name), hints[one.name], one):
            value = getattr(options, one.name)
            raise error(f"{prefix}{one.name} is {shown(value)}; give {allowed(one, hints[one.name])}.")


def hints_of(kind: type) -> dict[str, Any]:
    """The type of each field that `setting` made, by name; of no other, whose types may name what is not imported."""
    declared = {one.name for one in fields(kind) if "help" in one.metadata}
    hints: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        if declared & set(inspect.get_annotations(owner)):
            hints |= inspect.get_annotations(owner, eval_str=True)
    return {name: hint for name, hint in hints.items() if name in declared}


def allowed(one: Field[Any], hint: Any) -> str:
    """What values an option may have, in words: `a number of at least 0 and at most 1`."""
    data = one.metadata
    if data["choices"]:
        some = "some of " if list in _types(hint) else "one of "
        return some + ", ".join(str(choice) for choice in data["choices"])
    kinds = [_KINDS[kind] for kind in _types(hint) if kind in _KINDS]
    words = {"least": "at least", "most": "at most", "above": "above", "below": "below"}
    bounds = [f"{word} {data[key]:.10g}" for key, word in words.items() if data.get(key) is not None]
    none = " or none" if type(None) in _types(hint) else ""
    return " or ".join(kinds or ["a value"]) + (" of " + " and ".join(bounds) if bounds else "") + none


_KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", tuple: "a list",
    dict: "a mapping",
}


def _types(hint: Any) -> tuple[Any, ...]:
    """The plain types of a hint: `float | None` gives float and NoneType, `list[str]` gives list."""
    return tuple(get_origin(kind) or kind for kind in _alternatives(hint))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any, one: Field[Any]) -> bool:
    kinds, data = _types(hint), one.metadata
    if value is None:
        return type(None) in kinds
    if isinstance(value, list | tuple) and type(value) in kinds:  # bounds and choices are those of its parts
        lists = [kind for kind in _alternatives(hint) if get_origin(kind) is type(value)]
        return all(_fits(part, get_args(lists[0])[0] if lists else Any, one) for part in value)
    if data["choices"]:
        return value in data["choices"]
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int | float) and (int in kinds or float in kinds):
        whole = isinstance(value, int) or float in kinds
        return whole and (isinstance(value, int) or math.isfinite(value)) and _within(value, data)
    return not any(kind in _KINDS for kind in kinds) or isinstance(value, tuple(k for k in kinds if k in _KINDS))


def _within(value: float, data: Any) -> bool:
    return (
        (data["least"] is None or value >= data["least"]) and (data["most"] is None or value <= data["most"])
        and (data["above"] is None or value > data["above"]) and (data["below"] is None or value < data["below"])
    )
