"""The frozen language model in 4 bits, as QLoRA trains over it (arXiv 2305.14314), by bitsandbytes.

Knows nothing about LoRA or training. bitsandbytes is an extra, and its kernels for this need a CUDA GPU.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from soundwave.errors import ConfigurationError


def quantisation_config(compute_dtype: torch.dtype = torch.bfloat16) -> BitsAndBytesConfig:
    """What QLoRA uses: NF4, the scales quantised too, products in `compute_dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def require_four_bit(device: torch.device) -> ModuleType:
    """bitsandbytes, if 4-bit weights can be used here.

    Raises:
        ConfigurationError: the package or a CUDA GPU is missing.
    """
    if device.type != "cuda":
        raise ConfigurationError(
            f"llm_quantization=4bit needs a CUDA GPU, and this run is on {device.type}; "
            "set llm_quantization=none, or run it on a machine with a GPU."
        )
    return _bitsandbytes()


def _bitsandbytes() -> ModuleType:
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigurationError(
            "llm_quantization=4bit needs the package bitsandbytes, which is not installed or cannot be loaded "
            f"({' '.join(str(error).split())[:200]}); run: pip install 'soundwave-llm[qlora]'."
        ) from error


def quantise(language_model: PreTrainedModel, config: BitsAndBytesConfig, device: torch.device) -> None:
    """Packs every matrix of the LLM's layers, one at a time, on its way to the device; embeddings and head stay.

    Raises:
        ConfigurationError: bitsandbytes is missing.
    """
    bnb: Any = _bitsandbytes()
    head = language_model.get_output_embeddings()
    options = {
        "compress_statistics": config.bnb_4bit_use_double_quant, "quant_type": config.bnb_4bit_quant_type,
    }
    for name, module in list(language_model.named_modules()):
        if type(module) is not nn.Linear or module is head:
            continue
        packed = bnb.nn.Linear4bit(
            module.in_features, module.out_features, module.bias is not None,
            compute_dtype=config.bnb_4bit_compute_dtype, device="meta", **options,
        )
        packed.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, module=packed, **options)
        packed.bias = module.bias
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, packed.to(device))
    language_model.is_loaded_in_4bit = True  # PEFT chooses its LoRA layer by it
