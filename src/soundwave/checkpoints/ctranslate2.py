"""Read the tensors of a CTranslate2 `model.bin`, one at a time, without CTranslate2.

Knows the binary list of named tensors and nothing about the model inside it; `conversion.py` knows what they mean.
The format is the one CTranslate2's own converters write (`ctranslate2.specs.model_spec`, version 6), little-endian:

    u32 version · string model name · u32 revision · u32 count
    count × ( string name · u8 rank · rank × u32 dimension · u8 type · u32 bytes · data )
    u32 aliases · aliases × ( string alias · string name )

A string is a u16 length that counts a closing NUL, then UTF-8 bytes and the NUL.
"""

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from soundwave.errors import CheckpointError

FORMAT_VERSION = 6
ELEMENT_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}
LARGEST_RANK = 8  # more dimensions than any model has: a sign that we are reading noise


def read_tensors(path: str | os.PathLike[str], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors whose names start with `prefix`; the others are skipped over and never held in memory.

    Args:
        path: A CTranslate2 `model.bin`.
        prefix: For instance `"encoder/"`.

    Yields:
        Pairs of a name such as `"encoder/conv1/weight"` and its array, in the order of the file. A scalar has shape ().

    Raises:
        CheckpointError: The file is missing, not of version 6, cut short, or inconsistent with itself.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            yield from _read_tensors(file, path.stat().st_size, prefix)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}. Download it again.") from error
    except (struct.error, UnicodeDecodeError, _Inconsistent) as error:
        raise CheckpointError(
            f"{path} is not a whole CTranslate2 model of version {FORMAT_VERSION} ({error}). Download it again."
        ) from error


class _Inconsistent(Exception):
    """The bytes contradict the format; `read_tensors` turns it into a CheckpointError that names the file."""


def _read_tensors(file: BinaryIO, size: int, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    version = _number(file, "<I")
    if version != FORMAT_VERSION:
        raise _Inconsistent(f"its first number, the version, is {version}")
    _string(file)  # the model's class, for instance WhisperSpec
    _number(file, "<I")  # the revision of that class
    for _ in range(_number(file, "<I")):
        name = _string(file)
        rank = _number(file, "<B")
        if rank > LARGEST_RANK:
            raise _Inconsistent(f"tensor {name!r} says it has {rank} dimensions")
        shape = struct.unpack(f"<{rank}I", file.read(4 * rank))
        type_id, byte_count = _number(file, "<B"), _number(file, "<I")
        if file.tell() + byte_count > size:
            raise _Inconsistent(f"the file ends inside tensor {name!r}")
        if not name.startswith(prefix):
            file.seek(byte_count, os.SEEK_CUR)
            continue
        yield name, _tensor(file.read(byte_count), name, shape, type_id)


def _tensor(data: bytes, name: str, shape: tuple[int, ...], type_id: int) -> np.ndarray:
    if type_id not in ELEMENT_TYPES:
        raise _Inconsistent(f"tensor {name!r} has the unknown element type {type_id}")
    element = ELEMENT_TYPES[type_id]
    if len(data) != math.prod(shape) * element.itemsize:
        raise _Inconsistent(f"tensor {name!r} of shape {shape} has {len(data)} bytes")
    return np.frombuffer(data, element).reshape(shape)


def _number(file: BinaryIO, layout: str) -> int:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]


def _string(file: BinaryIO) -> str:
    length = _number(file, "<H")
    data = file.read(length)
    if len(data) != length or not data.endswith(b"\0"):
        raise _Inconsistent("a name does not end where it should")
    return data[:-1].decode("utf-8")
