"""Parcels: something large, cut into pieces that can be carried one by one, and put together where they arrive.

    python recipes/mini/parcels.py PARCEL --into PLACE

A parcel is a folder: a stretch of one tar, and `parcel.json` with its hash. They arrive in any order, also twice; with
the last one the tar is unpacked. Needs nothing but Python. What is in them is up to `pack_parcels.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path

NOTE = "parcel.json"
PIECE = "piece"


class ParcelError(ValueError):
    """A parcel that is not what it should be."""


def hash_of(file: Path) -> str:
    """Its sha256."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cut(whole: Path, out: Path, most: int) -> int:
    """Cuts a file into parcels of at most `most` bytes, all as large; returns their number."""
    size, pack_id = whole.stat().st_size, hash_of(whole)
    count = -(-size // most)
    with whole.open("rb") as file:
        for number in range(1, count + 1):
            content = file.read(-(-size // count))
            parcel = out / f"{number:02d}-of-{count:02d}"
            parcel.mkdir()
            (parcel / PIECE).write_bytes(content)
            note = {"whole": pack_id, "number": number, "of": count, "sha256": hashlib.sha256(content).hexdigest()}
            (parcel / NOTE).write_text(json.dumps(note) + "\n")
    return count


def unpack(parcel: Path, place: Path) -> bool:
    """Takes in one parcel; with the last of them everything is unpacked. What was taken in before is passed over.

    Returns:
        Whether all parcels are there now.

    Raises:
        ParcelError: the parcel is not whole.
    """
    try:
        note = json.loads((parcel / NOTE).read_text())
        arrived = hash_of(parcel / PIECE)
    except (OSError, ValueError) as error:
        raise ParcelError(f"{parcel} is no parcel ({error}); give a folder that `gpu.sh pack` made.") from error
    if arrived != note["sha256"]:
        raise ParcelError(f"{parcel} was damaged: its hash is {arrived}, not {note['sha256']}; bring it again.")
    taken = place / "parcels" / note["whole"]
    done = taken / "unpacked"
    if done.is_file():
        print(f"{parcel.name}: everything is unpacked in {place}")
        return True
    taken.mkdir(parents=True, exist_ok=True)
    piece = taken / f"{note['number']:02d}"
    if not piece.is_file():
        shutil.copy(parcel / PIECE, piece.with_suffix(".part"))
        piece.with_suffix(".part").rename(piece)
    numbers = range(1, note["of"] + 1)
    missing = [number for number in numbers if not (taken / f"{number:02d}").is_file()]
    if missing:
        print(f"{parcel.name}: taken in; still to come: {', '.join(f'{number:02d}' for number in missing)}")
        return False
    whole = taken / "whole.tar"
    with whole.open("wb") as file:
        for number in numbers:
            file.write((taken / f"{number:02d}").read_bytes())
    if hash_of(whole) != note["whole"]:
        raise ParcelError(f"The {note['of']} parcels in {taken} are no whole; delete that folder, bring them again.")
    with tarfile.open(whole) as tar:
        tar.extractall(place, filter="data")
    whole.unlink()
    done.touch()
    for number in numbers:
        (taken / f"{number:02d}").unlink()
    print(f"{parcel.name}: the last one; everything is unpacked in {place}")
    return True


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parcel", type=Path)
    parser.add_argument("--into", type=Path, required=True, help="folder for what is in them")
    arguments = parser.parse_args()
    try:
        unpack(arguments.parcel, arguments.into.resolve())
    except ParcelError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
