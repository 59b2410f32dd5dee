"""A virtual environment that holds of this one only what a machine with a GPU mostly has: for rehearsals.

    python recipes/mini/bare_environment.py there

Packages are links to this environment's files; what is not in `HAS`, or needed by it, must come in a parcel.
"""

from __future__ import annotations

import argparse
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

HAS = (
    "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "filelock", "huggingface_hub", "numpy",
    "pyyaml", "typer", "rich", "matplotlib", "tensorboard", "requests", "tqdm", "click", "regex",
)  # fmt: skip


def with_needs(names: tuple[str, ...]) -> set[str]:
    """These packages and all that they need, as far as they are installed."""
    found, left = set(), list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # needed on another system only
            continue
        found.add(name)
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                left.append(need.name)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the environment to make")
    folder = parser.parse_args().folder.resolve()
    venv.create(folder, with_pip=True, clear=True)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for name in sorted(with_needs(HAS)):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__", "bin"}:
            source = Path(str(distribution(name).locate_file(top)))
            if source.exists() and not (place / top).exists():
                (place / top).symlink_to(source)
    print(f"{folder}: {len(list(place.iterdir()))} entries")


if __name__ == "__main__":
    main()
