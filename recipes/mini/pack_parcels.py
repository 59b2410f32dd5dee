"""What recipes need, packed into parcels of limited size for a machine without network.

    python recipes/mini/pack_parcels.py RECIPE… --out PARCELS --with models/whisper-base=FOLDER

In them are the manifests that the recipes name by `$SPEECH` and `$WORK`, in `speech/` and `work/`, their sounds as Opus
in `audio/`, and the folders given by `--with`. `parcels.py` unpacks them there. Knows nothing about training.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import soundfile
import yaml
from parcels import cut

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.data.extras import extras_of
from soundwave.data.manifests import read_rows
from soundwave.data.writers import relative, write_messages
from soundwave.errors import DataError, SoundwaveError
from soundwave.files import atomic_folder

OPUS = (".ogg", ".opus")
SOURCES = ("train", "evaluation")
NOTE_BYTES = 1000  # of parcel.json, at most


def manifests_of(recipes: Iterable[Path]) -> dict[str, Path]:
    """The manifests that recipes name: their place in a parcel (`speech/x.jsonl`), and where they are here."""
    found = {}
    for recipe in recipes:
        content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        for source in (source for part in SOURCES for source in content.get(part) or []):
            root, _, rest = source["manifest"].partition("/")
            if root not in ("$SPEECH", "$WORK"):
                raise DataError(f"{recipe}: {source['manifest']}: a manifest to pack begins with $SPEECH/ or $WORK/.")
            found[f"{root[1:].lower()}/{rest}"] = Path(os.path.expandvars(source["manifest"]))
    return found


def pack(recipes: list[Path], folders: dict[str, Path], out: Path, most: int) -> list[Path]:
    """Writes parcels of at most `most` bytes, and returns them; those that `out` held before go.

    Raises:
        DataError: a recipe's manifest is bad, or none of them is there.
    """
    named = manifests_of(recipes)
    there = {place: manifest for place, manifest in named.items() if manifest.is_file()}
    for place in sorted(set(named) - set(there)):
        print(f"left out: {place}, not there")
    if named and not there:
        raise DataError(f"None of the {len(named)} manifests of these recipes is there, such as {min(named.values())}.")
    with atomic_folder(out, overwrite=True) as draft, tempfile.TemporaryDirectory(dir=out.parent) as staging:
        stage = Path(staging)
        sounds = Sounds(stage)
        for place, manifest in there.items():
            copy_manifest(manifest, stage / place, sounds)
        sounds.write()
        for name, folder in folders.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).symlink_to(folder.resolve(strict=True))
        whole = draft / "whole.tar"
        with tarfile.open(whole, "w", dereference=True) as tar:
            tar.add(stage, ".", filter=plain)
        count = cut(whole, draft, most)
        whole.unlink()
    print(f"{count} parcels in {out}: {len(there)} manifests, {len(sounds.places)} sounds")
    return sorted(out.iterdir())


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whose a file was, and when it was made, is nobody's business there; but the store of features goes by time."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


class Sounds:
    """The sounds of a parcel: each once, in Opus, under `audio/` with its folder's name."""

    def __init__(self, stage: Path):
        self.stage = stage
        self.places: dict[Path, Path] = {}
        self._folders: dict[Path, str] = {}

    def place(self, sound: str) -> str:
        """Where a sound will be."""
        source = Path(sound).resolve()
        if source not in self.places:
            folder = self._folders.setdefault(source.parent, f"{len(self._folders):02d}-{source.parent.name}")
            self.places[source] = self.stage / "audio" / folder / f"{source.name.replace('.', '-')}.ogg"
        return str(self.places[source])

    def write(self) -> None:
        """Puts them there."""
        for folder in {target.parent for target in self.places.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(as_opus, self.places.keys(), self.places.values()))


def as_opus(source: Path, target: Path) -> None:
    """A sound in Opus: a link to what is in it already, otherwise encoded from 16 kHz mono."""
    if source.suffix in OPUS:
        target.symlink_to(source)
    else:
        soundfile.write(target, load_audio(source), SAMPLE_RATE, format="OGG", subtype="OPUS")


def copy_manifest(manifest: Path, target: Path, sounds: Sounds) -> None:
    """The same examples, with their sounds where a parcel has them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8") as file:
        for row in read_rows(manifest):
            if row.example is None:
                raise DataError(f"{row.where}: {row.problem}")
            spans = tuple(replace(span, path=sounds.place(span.path)) for span in row.example.audios)
            moved = replace(row.example, audios=spans)
            written = write_messages(moved, extras_of(row.fields), partial(relative, folder=target.parent))
            file.write(json.dumps(written, ensure_ascii=False) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the parcels into")
    parser.add_argument("--with", dest="folders", action="append", default=[], help="PLACE=FOLDER to pack too")
    parser.add_argument("--megabytes", type=float, default=60, help="of a parcel, at most (%(default)g)")
    arguments = parser.parse_args()
    folders = {place: Path(folder) for place, _, folder in (one.partition("=") for one in arguments.folders)}
    for place, folder in folders.items():
        if not folder.is_dir():
            parser.error(f"--with {place}={folder}: no such folder")
    if arguments.megabytes < 0.01:
        parser.error(f"--megabytes {arguments.megabytes:g}: give 0.01 or more")
    try:
        pack(arguments.recipes, folders, arguments.out.resolve(), int(arguments.megabytes * 1e6) - NOTE_BYTES)
    except SoundwaveError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
