"""Streams safetensors into a model that has no memory yet, one tensor at a time, so that two copies never exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from soundwave.checkpoints.eight_bit import SCALE_ENDING, unpack
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError
from soundwave.inference_config import read_json
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.speech_encoder import SpeechEncoder
from soundwave.model.whisper import merge_lora

INDEX_NAME = "model.safetensors.index.json"
TOKEN_TABLE = "token_table.weight"  # the speech encoder's name for the LLM's table of token embeddings
TABLE_ENDINGS = tuple(  # of its name in the LLMs of transformers
    f".{name}.weight" for name in ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
)
LAYER = re.compile(r"(audio_tower|alignment|language_model)\.(?:.*\.)?(?:layers|h|blocks|block)\.(\d+)\.")

M = TypeVar("M", bound=nn.Module)
Rename = Callable[[str, Tensor], list[tuple[str, Tensor]]]  # a stored name and tensor to ours: none, one or several


def empty_model(config: SoundwaveConfig) -> SoundwaveForConditionalGeneration:
    """The model with parameters on `meta` (no memory) and real buffers.

    Raises:
        CheckpointError: transformers cannot build it.
    """
    return _empty(SoundwaveForConditionalGeneration, config)


def empty_encoder(config: SoundwaveConfig) -> SpeechEncoder:
    """The speech encoder with parameters on `meta` and real buffers; no part of the LLM but its table is made.

    Raises:
        CheckpointError: transformers cannot build it.
    """
    return _empty(SpeechEncoder, config)


def _empty(kind: type[M], config: SoundwaveConfig) -> M:
    try:
        with init_empty_weights(include_buffers=False):
            return kind(config)
    except Exception as error:  # transformers trips over values of a wrong type in many ways
        told = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"No model can be built by this configuration ({type(error).__name__}: {told}); correct its config.json."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a checkpoint: the shards that an index names, or all files of the folder.

    Raises:
        CheckpointError: none there, a named shard is missing, or only pickled weights are there.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
        except (CheckpointError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not a readable index of weights; download it again.") from error
        if outside := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
            raise CheckpointError(f"{index} names {outside[0]!r}, which is no file of this folder; download it again.")
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


def read_tensors(files: list[Path], rename: Rename | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor) of the files, each read when it is asked for; those that `rename` drops are not read.

    Matrices that are stored in 8 bits (`eight_bit.py`) come as float32.

    Raises:
        CheckpointError: a file is not intact safetensors, or a matrix of 8 bits does not fit its scale.
    """
    for file in files:
        for name, shape in read_shapes([file]).items():
            if rename is not None and not rename(name, torch.empty(shape, device="meta")):
                continue
            # Opened anew for each tensor: an open file keeps every page that was read in memory, a second copy.
            with opened(file) as tensors:
                yield name, _value(tensors, file, name)


def _value(tensors: Any, file: Path, name: str) -> Tensor:
    value: Tensor = tensors.get_tensor(name)
    scale = name + SCALE_ENDING
    packed = scale in tensors.keys()  # noqa: SIM118 - safe_open has no `in`
    if not packed and value.dtype != torch.int8:
        return value
    if not packed:
        raise CheckpointError(f"{file} holds {name} as int8 without its scale, {scale}; download it again.")
    try:
        return unpack(value, tensors.get_tensor(scale))
    except ValueError as error:
        raise CheckpointError(f"{file}: {name} cannot be read: {error}; download it again.") from error


def read_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by name, in the files' order, but for scales of 8 bits; no values are read.

    Raises:
        CheckpointError: a file is not intact safetensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with opened(file) as tensors:
            names = set(tensors.keys())
            for name in tensors.keys():  # noqa: SIM118 - safe_open has no iterator
                if not (name.endswith(SCALE_ENDING) and name.removesuffix(SCALE_ENDING) in names):
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


def renamed_shapes(files: list[Path], rename: Rename) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor under our names, by the headers.

    Raises:
        CheckpointError: a file is not intact safetensors, or a packed matrix is none.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in read_shapes(files).items():
        try:
            shapes |= {new: tuple(t.shape) for new, t in rename(name, torch.empty(shape, device="meta"))}
        except ValueError as error:
            raise CheckpointError(f"{files[0].parent}: {name} has the shape {shape}, which cannot be used.") from error
    return shapes


def check_shapes(config: SoundwaveConfig, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Compares a configuration with the headers of its weights, before anything of its size is built.

    Args:
        config: as config.json has it, which may ask for a million layers.
        shapes: of all tensors, under our names.
        source: what is read.

    Raises:
        CheckpointError: a tensor that the configuration asks for is missing, or has another shape.
    """
    width, frames = config.audio_config.d_model, config.audio_config.max_source_positions
    needed: dict[str, tuple[int, ...]] = {
        "audio_tower.embed_positions.weight": (frames, width),
        "alignment.project.weight": (config.text_config.hidden_size, width * config.frames_per_group),
    }
    if config.alignment_whitening:
        needed |= {"alignment.frame_mean": (width,), "alignment.frame_whitener": (width, width)}
    if config.ctc_merges:
        needed["shrinking.merges"] = (config.ctc_merges, 3)
    for name, shape in needed.items():
        if name not in shapes:
            raise CheckpointError(f"{source} lacks {name}, which config.json asks for; {INCOMPLETE}")
        if shapes[name] != shape:
            raise CheckpointError(_misfit(source, name, shapes[name], shape))
    layers: dict[str, set[str]] = {}
    for part, number in (match.groups() for match in map(LAYER.match, shapes) if match):
        layers.setdefault(part, set()).add(number)
    asked = {
        "audio_tower": config.audio_config.encoder_layers, "alignment": config.alignment_layers,
        "language_model": config.text_config.num_hidden_layers,
    }
    for part, count in asked.items():
        there = len(layers.get(part, ()))
        if there < count and (part != "language_model" or there):
            raise CheckpointError(
                f"{source} lacks layers: config.json asks for {count} of {part}, the weights hold {there}; {INCOMPLETE}"
            )


INCOMPLETE = "the checkpoint is incomplete: download or save it again."


def _misfit(source: str, name: str, stored: tuple[int, ...], asked: tuple[int, ...]) -> str:
    return (
        f"{source}: {name} has the shape {stored}, but the configuration asks for {asked}; config.json and weights do "
        "not belong together."
    )


def encoder_only(config: SoundwaveConfig, rename: Rename) -> Rename:
    """The same names without the LLM's tensors, but for its token embeddings where the speech encoder needs them."""

    def renamed(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        kept = []
        for new, value in rename(name, tensor):
            if not new.startswith("language_model."):
                kept.append((new, value))
            elif config.needs_token_table and new.endswith(TABLE_ENDINGS):
                kept.append((TOKEN_TABLE, value))
        return kept

    return renamed


def fill(
    model: nn.Module, tensors: Iterator[tuple[str, Tensor]], rename: Rename, device: str, dtype: torch.dtype,
    source: str,
) -> None:
    """Puts each tensor where `rename` says (nowhere for an empty list).

    Raises:
        CheckpointError: a name that the model does not have, a shape that differs from the configuration's, or a value
            that is no number.
    """
    values = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    shapes = {name: value.shape for name, value in values}
    for name, tensor in tensors:
        for target, value in rename(name, tensor):
            if target not in shapes:
                raise CheckpointError(f"{source} holds the tensor {name}, which this model does not have.")
            if shapes[target] != value.shape:
                raise CheckpointError(_misfit(source, name, tuple(value.shape), tuple(shapes[target])))
            if not is_finite(value):
                raise CheckpointError(
                    f"{source}: {name} holds values that are no numbers (NaN or infinite); the training that made it "
                    "went wrong, or the file is damaged: download it again, or use an earlier checkpoint."
                )
            set_module_tensor_to_device(model, target, device, value=value.contiguous(), dtype=dtype)


def is_finite(tensor: Tensor) -> bool:
    """Whether every value is a number; a sum shows it without a second copy."""
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    total = tensor.sum(dtype=torch.float32)  # large values may overflow: then each is looked at
    return bool(total.isfinite()) or bool(tensor.isfinite().all())


def finish(model: SoundwaveForConditionalGeneration | SpeechEncoder, device: str, source: str) -> None:
    """Ties what the LLM ties, merges what the encoder learned, checks that nothing is missing, freezes for inference.

    Raises:
        CheckpointError: a parameter got no value.
    """
    if isinstance(model, SoundwaveForConditionalGeneration):
        model.language_model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors that the model needs, {missing[0]} first; {INCOMPLETE}"
        )
    merge_lora(model.audio_tower)
    model.to(device).eval().requires_grad_(False)
