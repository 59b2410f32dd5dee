"""The recordings that the page offers to those who have none at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A recording that comes with the project.

    Attributes:
        path: where it lies.
        label: what its button says.
    """

    path: Path
    label: str


LABELS = {  # what is said in them: examples/README.md
    "question.wav": "A question",
    "statement.flac": "An umbrella",
    "flite.ogg": "A request",
    "espeak.mp3": "A library",
    "noise.wav": "Only noise",
}


def examples() -> list[Example]:
    """Those that are there: in the package where it is a wheel, else in the source tree."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "examples", package.parents[1] / "examples"):
        found = [Example(folder / name, label) for name, label in LABELS.items() if (folder / name).is_file()]
        if found:
            return found
    return []
