"""Names of devices and dtypes to what this machine has."""

from __future__ import annotations

import torch

from soundwave.errors import ConfigurationError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def resolve_device(name: str) -> str:
    """A device that is there; `auto`: CUDA, else Apple's GPU, else the CPU.

    Raises:
        ConfigurationError: it is unknown, or not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(f"device={name!r} is not known; give auto, cpu, cuda, cuda:0 or mps.") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise ConfigurationError(f"device={name!r} is not available here; give --device cpu, or auto.")
    return "cpu" if device.type == "cpu" else name  # torch names a CPU with and without a number, safetensors without


def has_fast_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 itself; others emulate it, which is slower than float32."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """A dtype; `auto`: bfloat16 on a CUDA GPU that has it, else float32.

    Raises:
        ConfigurationError: it is unknown.
    """
    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32
    if name not in DTYPES:
        raise ConfigurationError(f"dtype={name!r} is not known; choose auto, {', '.join(DTYPES)}.")
    return DTYPES[name]
