"""The mean of several trained folders, weight by weight, as one: often better than each of them.

    python recipes/mini/average.py runs/stage1-human/final runs/stage1-again/final --out runs/stage1-mean/final

For runs that went on from one another, whose weights are near each other (Wortsman et al. 2022, "Model soups"). All but
what was trained comes from the last folder. LoRA is not averaged: the product of two means is no mean of products.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from soundwave.checkpoints.native import TRAINED_FILE
from soundwave.checkpoints.weights import read_tensors
from soundwave.errors import SoundwaveError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="`final` folders of runs of the same shapes")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    if arguments.out.resolve() in [folder.resolve() for folder in arguments.folders]:
        parser.error(f"--out {arguments.out} is one of the folders; name another")
    try:
        tensors = mean_of(arguments.folders)
    except SoundwaveError as error:
        parser.error(str(error))
    shutil.copytree(arguments.folders[-1], arguments.out, dirs_exist_ok=True)
    save_file(tensors, arguments.out / TRAINED_FILE, metadata={"format": "pt"})
    print(f"{arguments.out}: the mean of {len(arguments.folders)} folders, {len(tensors)} tensors")


def mean_of(folders: list[Path]) -> dict[str, torch.Tensor]:
    """The mean of what was trained, in float32; whole numbers are those of the last folder.

    Raises:
        SystemExit: their tensors differ in name or shape.
    """
    read = [dict(read_tensors([folder / TRAINED_FILE])) for folder in folders]
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in read]
    for folder, one in zip(folders, shapes, strict=True):
        if one != shapes[-1]:
            other = sorted(name for name in one.keys() | shapes[-1] if one.get(name) != shapes[-1].get(name))
            raise SystemExit(f"{folder} and {folders[-1]} differ in {other[0]}; give folders of the same shapes.")
    return {
        name: torch.stack([tensors[name].float() for tensors in read]).mean(0) if last.is_floating_point() else last
        for name, last in read[-1].items()
    }


if __name__ == "__main__":
    main()
