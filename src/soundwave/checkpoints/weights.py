"""Streams safetensors into a model that has no memory yet, one tensor at a time, so that two copies never exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor

from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError
from soundwave.model.soundwave import SoundwaveForConditionalGeneration

INDEX_NAME = "model.safetensors.index.json"


def empty_model(config: SoundwaveConfig) -> SoundwaveForConditionalGeneration:
    """The model with parameters on `meta` (no memory) and real buffers."""
    with init_empty_weights(include_buffers=False):
        return SoundwaveForConditionalGeneration(config)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a checkpoint: the shards that an index names, or all files of the folder.

    Raises:
        CheckpointError: none there, a named shard is missing, or only pickled weights are there.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not a readable index of weights; download it again.") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {missing[0]}, which {INDEX_NAME} names; download the checkpoint again."
            )
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = next((p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern)), None)
        hint = f"; {pickled} is pickled and is never opened: convert it to safetensors" if pickled else ""
        raise CheckpointError(f"{folder} holds no *.safetensors{hint}.")
    return files


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor) of the files, each read when it is asked for.

    Raises:
        CheckpointError: a file is not intact safetensors.
    """
    for file in files:
        for name in read_shapes([file]):
            # Opened anew for each tensor: an open file keeps every page that was read in memory, a second copy.
            with opened(file) as tensors:
                yield name, tensors.get_tensor(name)


def read_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by name, in the files' order; no values are read.

    Raises:
        CheckpointError: a file is not intact safetensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open has no iterator
                shapes[name] = tuple(tensors.get_slice(name).get_shape())
    return shapes


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file.

    Raises:
        CheckpointError: it is not intact.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not an intact safetensors file ({error}); download it again.") from error


def fill(
    model: SoundwaveForConditionalGeneration, tensors: Iterator[tuple[str, Tensor]],
    rename: Callable[[str, Tensor], list[tuple[str, Tensor]]], device: str, dtype: torch.dtype, source: str,
) -> None:
    """Puts each tensor where `rename` says (nowhere for an empty list).

    Raises:
        CheckpointError: a name that the model does not have, or a shape that differs from the configuration's.
    """
    values = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    shapes = {name: value.shape for name, value in values}
    for name, tensor in tensors:
        for target, value in rename(name, tensor):
            if target not in shapes:
                raise CheckpointError(f"{source} holds the tensor {name}, which this model does not have.")
            if shapes[target] != value.shape:
                raise CheckpointError(
                    f"{source}: {name} has the shape {tuple(value.shape)}, but the configuration asks for "
                    f"{tuple(shapes[target])}; config.json and weights do not belong together."
                )
            set_module_tensor_to_device(model, target, device, value=value.contiguous(), dtype=dtype)


def finish(model: SoundwaveForConditionalGeneration, device: str, source: str) -> SoundwaveForConditionalGeneration:
    """Ties what the LLM ties, moves buffers, checks that nothing is missing, and freezes for inference.

    Raises:
        CheckpointError: a parameter got no value.
    """
    model.language_model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors that the model needs, {missing[0]} first; "
            "the checkpoint is incomplete: download or save it again."
        )
    return model.to(device).eval().requires_grad_(False)
