"""A model by its name to an engine: found, read, put on its device, its linear layers on their fastest way."""

from __future__ import annotations

import os

import torch

from soundwave.checkpoints.catalog import resolve_model
from soundwave.checkpoints.loading import load_checkpoint, load_speech_encoder
from soundwave.errors import ConfigurationError
from soundwave.inference.backends.torch import TorchDecoder
from soundwave.inference.devices import has_fast_bfloat16, resolve_device, resolve_dtype
from soundwave.inference.engine import Engine
from soundwave.model.linear import use_onednn

BACKENDS = ("torch", "none")


def load(
    model: str | os.PathLike[str] = "mini", *, device: str = "auto", dtype: str = "auto", backend: str = "torch"
) -> Engine:
    """Loads a model for asking.

    Args:
        model: `mini`, a folder (our format or the released 9B's), or a hub id.
        device: `auto` (CUDA, else Apple's GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (bfloat16 on a CUDA GPU that has it, else float32, but for Whisper's encoder on a processor that
            computes in bfloat16), `float32`, `float16`, `bfloat16`.
        backend: what runs the LLM: `torch`; or `none`: it is not loaded, and transcripts are CTC's.

    Raises:
        CheckpointError: the model cannot be found, downloaded or read.
        ConfigurationError: an unknown device, dtype or backend.
    """
    if backend not in BACKENDS:
        raise ConfigurationError(f"backend={backend!r} is not known; choose one of {', '.join(BACKENDS)}.")
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    folder = resolve_model(model)
    if backend == "torch":
        loaded, processor, inference = load_checkpoint(folder, place, kind)
        use_onednn(loaded)
        encoder, decoder = loaded.speech_encoder, TorchDecoder(loaded.language_model)
    else:
        encoder, processor, inference = load_speech_encoder(folder, place, kind)
        use_onednn(encoder)
        decoder = None
    if dtype == "auto" and place == "cpu" and has_fast_bfloat16():
        encoder.audio_tower.to(torch.bfloat16)  # 1.4 times as fast, the same words (docs/experiments.md)
    return Engine(encoder, decoder, processor, inference, name=str(model), folder=folder)
