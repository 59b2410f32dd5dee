"""The recipe that a run keeps in its folder, and what a run that goes on may change of it.

A checkpoint's position is an epoch and a batch of it, so it means something only where the data are drawn as before;
likewise its weights and moments where the model, the loss and the kind of optimizer are the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from soundwave.data.shards import is_sharded
from soundwave.data.units import UnitBank
from soundwave.errors import TrainingError
from soundwave.files import hash_file, write_text
from soundwave.training.augmentation import NoiseAugmentation
from soundwave.training.recipe import DataSource, Recipe

KEPT_RECIPE = "recipe.yaml"  # the exact recipe, in the run's folder
FREE = tuple(one.name for one in fields(Recipe) if one.metadata.get("resume"))  # what may change
PLACES = {  # options that may hold a path
    one.name for kind in (Recipe, DataSource, NoiseAugmentation) for one in fields(kind) if one.metadata.get("path")
}
RESTING_AT_ZERO = ("alignment_learning_rate_scale", "encoder_learning_rate_scale")
ONE_KIND = ("auto", "adamw", "adamw_fused")  # optimizers with the same moments
LONGEST_SHOWN = 200  # characters of a value in a message
DELETE_IT = "delete it, and the same command goes on without comparing recipes."


@dataclass(frozen=True)
class Change:
    """An option, as the run's folder has it and as it is now; `model.x` that is not set is None."""

    option: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.option} from {_shown(self.before)} to {_shown(self.now)}"

    @property
    def harmless(self) -> bool:
        """Whether the run can go on with it."""
        if self.option in RESTING_AT_ZERO and (self.before == 0) != (self.now == 0):
            return False  # the optimizer would lack a part's moments
        if self.option.partition("[")[0] in FREE:
            return True
        if self.option == "optimizer":
            return self.before in ONE_KIND and self.now in ONE_KIND
        return self.option.rpartition(".")[2] in PLACES and _moved(self.before, self.now)


def read_kept(folder: Path) -> dict[str, Any] | None:
    """The recipe that a run's folder keeps; None where it has none.

    Raises:
        TrainingError: the file cannot be read.
    """
    file = folder / KEPT_RECIPE
    if not file.is_file():
        return None
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise TrainingError(f"{file} cannot be read ({' '.join(str(error).split())}); {DELETE_IT}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{file} is damaged: it holds no `key: value` lines; {DELETE_IT}")
    return values


def keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Writes the recipe into the run's folder.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    write_text(folder / KEPT_RECIPE, yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True))


def check_changes(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Holds a recipe against the one that the run in its `output_dir` was begun with, and says what has changed.

    Options that the kept recipe lacks were not known when it was written; they are not compared.

    Raises:
        TrainingError: an option differs that would make it another run.
    """
    folder = Path(recipe.output_dir)
    kept = read_kept(folder)
    if kept is None:
        return
    changes = list(_changes(asdict(recipe), kept))
    refused = [change for change in changes if not change.harmless]
    if recipe.augmentation.active and (recipe.features is None) != (kept.get("features") is None):
        refused += [change for change in changes if change.option == "features"]  # only a store has certain takes
    if refused:
        raise TrainingError(
            f"{folder} holds a run of another recipe; changed since: {'; '.join(map(str, refused))}. Undo that, or "
            f"change output_dir to start a new run. A run that goes on may change {', '.join(FREE)}."
        )
    if changes:
        say(f"the recipe has changed since this run began: {'; '.join(map(str, changes))}")


def data_marks(recipe: Recipe) -> dict[str, str]:
    """What each manifest holds, as a short mark, by its path; of shards a position keeps the list itself."""
    marks = {}
    for source in [*recipe.train, *recipe.evaluation]:
        if source.simulate is not None:
            marks[source.simulate] = UnitBank(Path(source.simulate)).mark()
        path, digest = Path(source.manifest), hashlib.sha256()
        if is_sharded(source.manifest) or not path.exists():
            continue
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if path.is_dir():  # of a saved data set: rows lie in large files, which are written anew when they change
                digest.update(f"{file.name}|{file.stat().st_size}|{file.stat().st_mtime_ns}".encode())
                continue
            digest.update(hash_file(file).encode())
        marks[source.manifest] = digest.hexdigest()[:16]
    return marks


def tell_changed_data(before: dict[str, str], now: dict[str, str], say: Callable[[str], None]) -> None:
    """Says which manifests are not what they were when the run began."""
    changed = [manifest for manifest, mark in before.items() if now.get(manifest, mark) != mark]
    if changed:
        say(
            f"warning: {', '.join(changed)} changed since this run began; the new rows are learned from, in another "
            "order, and held-out figures before and after may not compare"
        )


def _changes(now: Any, kept: Any, path: str = "") -> Iterator[Change]:
    if isinstance(now, dict) and isinstance(kept, dict):
        for key in (now | kept) if path == "model" else [key for key in now if key in kept]:
            option = f"{path}.{key}" if path else key
            if option != "output_dir":  # the folder itself, wherever it is now
                yield from _changes(now.get(key), kept.get(key), option)
    elif _of_parts(now) and _of_parts(kept) and len(now) == len(kept):
        for number, (one, other) in enumerate(zip(now, kept, strict=True)):
            yield from _changes(one, other, f"{path}[{number}]")
    elif now != kept and not (path.rpartition(".")[2] in PLACES and _same_place(kept, now)):
        yield Change(path, kept, now)


def _of_parts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def _same_place(one: Any, other: Any) -> bool:
    """Whether two texts are one path that exists."""
    both = isinstance(one, str) and isinstance(other, str)
    return both and os.path.exists(one) and os.path.realpath(one) == os.path.realpath(other)


def _moved(before: Any, now: Any) -> bool:
    """Whether a file or folder is no longer at its absolute path, and one of the same name is named instead."""
    if not (isinstance(before, str) and isinstance(now, str)):
        return False
    return os.path.isabs(before) and not os.path.exists(before) and Path(before).name == Path(now).name


def _shown(value: Any) -> str:
    if isinstance(value, list) and value and _of_parts(value):
        value = [part.get("manifest") for part in value]
    text = "null" if value is None else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
