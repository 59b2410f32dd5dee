"""Any model that we read, as one Hugging Face folder that `from_pretrained` reads: weights, tokenizer, processor.

A trained folder names the public parts it stands on; an exported one holds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from soundwave.checkpoints.catalog import resolve_model
from soundwave.checkpoints.folder import read_config
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.checkpoints.lora import fold_lora, load_lora
from soundwave.checkpoints.native import copy_search, resolve_part
from soundwave.checkpoints.weights import opened, weight_files
from soundwave.errors import ConfigurationError
from soundwave.files import atomic_folder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # safetensors' names


def export(model: str, out: Path, dtype: str = "auto", merge: bool = False, loras: Sequence[Path] = ()) -> Path:
    """Writes a model whole.

    Args:
        model: `mini`, a folder (trained, whole, or of the released 9B format) or a hub id.
        out: a folder that is not there yet, or is empty.
        dtype: `float32`, `float16`, `bfloat16`, or `auto`: as most of the LLM's weights are stored.
        merge: whether a LoRA becomes part of the LLM's weights; else it stays a PEFT folder, `lora/`.
        loras: PEFT folders that are merged after the model's own, in this order; `merge` only.

    Returns:
        `out`.

    Raises:
        CheckpointError: the model or a LoRA cannot be read.
        WriteError: `out` holds something, or it cannot be written.
        ConfigurationError: an unknown dtype, or nothing to merge.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ConfigurationError(f"dtype={dtype!r} is not known; choose auto, {', '.join(DTYPES)}.")
    with atomic_folder(out) as draft:
        folder = resolve_model(model)
        loaded, processor, _ = load_checkpoint(folder, "cpu", DTYPES.get(dtype) or stored_dtype(folder))
        if merge:
            if not loaded.has_lora and not loras:
                raise ConfigurationError(f"{model} has no LoRA to merge; `soundwave export` writes it as it is.")
            fold_lora(loaded)
            for lora in loras:
                load_lora(loaded, lora)
                fold_lora(loaded)
        loaded.save_pretrained(draft)
        processor.save_pretrained(draft)
        copy_search(processor.inference, folder, draft)
    return out


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that most of the LLM's weights are stored in."""
    source = read_config(folder).get("language_model_source")
    files = weight_files(resolve_part(source) if source else folder)
    sizes: Counter[str] = Counter()
    for file in files:
        with opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open has no iterator
                part = tensors.get_slice(name)
                sizes[part.get_dtype()] += torch.Size(part.get_shape()).numel()
    return STORED.get(sizes.most_common(1)[0][0], torch.float32)
