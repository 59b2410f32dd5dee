"""How each task of stage III is put into words: its instructions and the forms of its answers, as data files.

`instructions/TASK.json` holds, for one task:

- `about`: what its answers tell;
- `label`: the manifest's field that holds the answer, unless another is named;
- `names`: labels that are written otherwise in answers, `{"F": "female"}`;
- `options`: further answers to choose from, where a manifest holds fewer than four;
- `usual`: the form of answer that is given where the instruction says nothing about it;
- `choice`: whether multiple choice makes sense;
- `instructions`: the first is the one that evaluations ask; `{word}` is the word that is looked for;
- `sentences`: answers as a sentence, around `{answer}`;
- `transcript_first`: answers that begin with what is said, `{transcript}`.

Knows nothing about manifests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from soundwave.errors import ConfigurationError, DataError

FOLDER = Path(__file__).parent / "instructions"
FORMATS = ("direct", "choice", "sentence", "transcript")


@dataclass(frozen=True)
class Wording:
    """The contents of one file; see the head of this module."""

    task: str
    about: str
    label: str
    instructions: tuple[str, ...]
    usual: str = "direct"
    choice: bool = False
    names: dict[str, str] | None = None
    options: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    transcript_first: tuple[str, ...] = ()

    @property
    def formats(self) -> tuple[str, ...]:
        """The forms that its answers can have, of `FORMATS`."""
        has = {"direct": True, "choice": self.choice, "sentence": self.sentences, "transcript": self.transcript_first}
        return tuple(name for name in FORMATS if has[name])


def task_names() -> list[str]:
    """The tasks that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_wording(task: str) -> Wording:
    """The wording of a shipped task, or of a JSON file of the same form.

    Args:
        task: a name of `task_names`, or the path of a `.json` file.

    Raises:
        ConfigurationError: there is no such task.
        DataError: the file is not of this form.
    """
    path = Path(task) if task.endswith(".json") else FOLDER / f"{task}.json"
    if not path.is_file():
        raise ConfigurationError(
            f"There are no instructions for the task {task!r}; there are some for {', '.join(task_names())}. "
            "Give one of these, or a .json file of your own that is made like theirs."
        )
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); make it like those in {FOLDER}.") from error
    known = {item.name for item in fields(Wording)} - {"task"}
    unknown = sorted(set(content) - known) if isinstance(content, dict) else []
    if not isinstance(content, dict) or unknown or not content.get("instructions") or not content.get("label"):
        wrong = f"unknown {', '.join(map(repr, unknown))}" if unknown else "no `label` or no `instructions`"
        raise DataError(f"{path}: {wrong}; known are {', '.join(sorted(known))}. Make it like those in {FOLDER}.")
    lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
    return Wording(**{"task": path.stem, "about": "", **content, **lists})
