"""Recipes as YAML files with dotted overrides. Files are UTF-8, whatever the system's own encoding.

What an option may be is in `recipe.py`. `$NAME` is replaced in options that hold a path, and nowhere else: what the
environment holds may be a secret, and must not become a hub id or a text.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from soundwave.errors import ConfigurationError, shown
from soundwave.training.recipe import Recipe, check_recipe, settings_of

VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")
COMMAND = "pipe:"  # lhotse runs what follows in a shell


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a YAML recipe and applies overrides: `learning_rate=1e-3`, `lora.r=32`, `train.0.manifest=x.jsonl`.

    Raises:
        ConfigurationError: no such file, not a mapping, an unknown key (the nearest known one is named), a wrong type
            or value.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigurationError(
            f"There is no recipe {file}; give the path of a YAML file, such as recipes/mini/stage1.yaml."
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read ({error}); save it as UTF-8 text.") from error
    values = _parse(text, str(file)) or {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"{file} must hold `key: value` lines, but holds a {type(values).__name__}.")
    for override in overrides:
        _apply_override(values, override)
    recipe = _build(Recipe, values, str(file))
    check_recipe(recipe, str(file))
    return recipe


def _parse(text: str, what: str) -> Any:
    """The values of a YAML text.

    Raises:
        ConfigurationError: it is not YAML, has a value that YAML cannot make (a date, a number), or is too deep.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(
            f"{what} is not valid YAML ({' '.join(str(error).split())[:300]}); put quotes around a text that has signs "
            "of YAML in it."
        ) from error
    except RecursionError as error:
        raise ConfigurationError(f"{what} is nested too deeply; a recipe is three levels deep at most.") from error


def check_places(recipe: Recipe, output: bool = True) -> None:
    """Looks for commands that are not allowed, and for `$NAME` that the environment did not know, in every path.

    A command's own variables are left to the shell.

    Args:
        recipe: as it was read, so with all known ones replaced.
        output: whether the output folder is looked at too; a dry run writes nothing there.

    Raises:
        ConfigurationError: one is not set, or a command is not allowed; the message names the option.
    """
    for option, path, data in settings_of(recipe):
        if not data.get("path") or not path or (option == "output_dir" and not output):
            continue
        if COMMAND in path:
            if not recipe.allow_commands:
                raise ConfigurationError(
                    f"{option} is {path}, which runs a command; look at it, and set allow_commands=true to run it."
                )
        elif unset := VARIABLE.search(path):
            raise ConfigurationError(
                f"{option} is {path}, but ${unset[1]} is not set; export {unset[1]}=… before the run, or name the path."
            )


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigurationError(f"{override!r} is no override; write key=value, such as learning_rate=1e-3.")
    *parents, last = key.split(".")
    inside: Any = values
    for parent in parents:
        of_list = isinstance(inside, list)
        inside = inside[_index(inside, parent, key)] if of_list else inside.setdefault(parent, {})
        if not isinstance(inside, dict | list):
            raise ConfigurationError(f"{key} cannot be set: {parent} has no parts.")
    value = _parse(text, f"The override {override!r}")
    if isinstance(inside, list):
        inside[_index(inside, last, key)] = value
    else:
        inside[last] = value


def _index(entries: list[Any], number: str, key: str) -> int:
    if not number.isdecimal() or int(number) >= len(entries):
        raise ConfigurationError(
            f"{key} cannot be set: {number!r} is none of the recipe's {len(entries)} entries; count from 0."
        )
    return int(number)


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigurationError(f"{where}: expected `key: value` pairs, but found {shown(values)}.")
    known = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}."
            raise ConfigurationError(f"{where}: {shown(key)} is not a known option{hint}")
    return cls(**{
        key: _convert(value, hints[key], f"{where}: {key}", bool(known[key].metadata.get("path")))
        for key, value in values.items()
    })


def _convert(value: Any, hint: Any, where: str, path: bool = False) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, arguments[0], where, path)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin is list:
        if not isinstance(value, list):
            raise ConfigurationError(f"{where} must be a list, but is {shown(value)}.")
        return [_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigurationError(f"{where} must be `key: value` pairs, but is {shown(value)}.")
        return value
    if hint is str and isinstance(value, str):
        return _place(value) if path else value
    if hint is str and value is False:
        return "no"  # which YAML takes for false, where it is not in quotes
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except (ValueError, OverflowError):
            pass
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigurationError(f"{where} must be {hint.__name__}, but is {shown(value)}.")
    return value


def _place(text: str) -> str:
    """A path with its variables replaced, so that a recipe can say $SPEECH/train/manifest.jsonl.

    What comes out of a variable is a path and never the name of a model: the value would go to the hub as its id.
    """
    if COMMAND in text:
        return text
    replaced = os.path.expandvars(text)
    if replaced == text or os.path.isabs(replaced) or "://" in replaced or VARIABLE.search(replaced):
        return replaced
    return os.path.join(os.curdir, replaced)
