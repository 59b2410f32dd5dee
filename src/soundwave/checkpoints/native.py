"""Our own format: config.json, safetensors and, where the LLM was adapted, a PEFT folder `lora/`.

A folder may hold everything (`save_pretrained`), or only what was trained (`save_trained`): then the configuration
names the catalog parts that supply the encoder and the LLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, WhisperConfig, WhisperFeatureExtractor

from soundwave.checkpoints.catalog import HUB_ID, hub_part_folder, part_folder
from soundwave.checkpoints.lora import LORA_FOLDER, load_lora, save_lora
from soundwave.checkpoints.parts import PARTS
from soundwave.checkpoints.weights import empty_model, fill, finish, read_tensors, weight_files
from soundwave.configuration import SoundwaveConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor

TRAINED_FILE = "adapters.safetensors"
TRAINED_PREFIXES = ("alignment.", "shrinking.")


def load_native(
    folder: Path, device: str, dtype: torch.dtype
) -> tuple[SoundwaveForConditionalGeneration, SoundwaveProcessor]:
    """Reads a folder of our own format, with the parts that it names.

    Raises:
        CheckpointError: files are missing or do not fit together, or a part cannot be had.
    """
    config = SoundwaveConfig.from_pretrained(folder)
    model = empty_model(config)
    fill(model, read_tensors(weight_files(folder)), _same, device, dtype, str(folder))
    sources = {"audio_tower.": config.audio_tower_source, "language_model.": config.language_model_source}
    for prefix, source in sources.items():
        if source is not None:
            fill_part(model, source, prefix, device, dtype)
    finish(model, device, str(folder))
    language_folder = folder if config.language_model_source is None else resolve_part(config.language_model_source)
    if (language_folder / "generation_config.json").is_file():
        model.language_model.generation_config = GenerationConfig.from_pretrained(language_folder)
    if (folder / LORA_FOLDER).is_dir():
        load_lora(model, folder / LORA_FOLDER)
    model.eval().requires_grad_(False)
    return model, load_processor(config, folder)


def load_processor(config: SoundwaveConfig, folder: Path | None = None) -> SoundwaveProcessor:
    """The processor of a configuration, from the parts that it names or from a complete folder."""
    if config.language_model_source is None:
        return SoundwaveProcessor.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(resolve_part(config.language_model_source))
    audio_folder = resolve_part(config.audio_tower_source or "")
    return SoundwaveProcessor.for_config(config, WhisperFeatureExtractor.from_pretrained(audio_folder), tokenizer)


def resolve_part(source: str) -> Path:
    """The folder itself, the folder of a catalog part, or that of a hub id such as `openai/whisper-large-v3`."""
    if Path(source).is_dir():
        return Path(source)
    return hub_part_folder(source) if source not in PARTS and HUB_ID.fullmatch(source) else part_folder(source)


def new_config(audio_tower: str, language_model: str, **switches: object) -> SoundwaveConfig:
    """The configuration of a new model over two parts."""
    return SoundwaveConfig(
        audio_config=WhisperConfig.from_pretrained(resolve_part(audio_tower)),
        text_config=AutoConfig.from_pretrained(resolve_part(language_model)),
        audio_tower_source=audio_tower, language_model_source=language_model, **switches,
    )


def fill_part(
    model: SoundwaveForConditionalGeneration, source: str, prefix: str, device: str, dtype: torch.dtype,
    only: str | None = None,
) -> None:
    """Fills the encoder or the LLM from a part; `only` takes just the tensors whose name contains it."""
    folder = resolve_part(source)

    def rename(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        for stem in ("model.encoder.", "encoder."):  # a complete Whisper of the hub
            name = name.removeprefix(stem)
        unwanted = prefix == "audio_tower." and name.startswith(("model.decoder.", "decoder.", "proj_out."))
        return [] if unwanted or (only and only not in name) else [(prefix + name, tensor)]

    fill(model, read_tensors(weight_files(folder)), rename, device, dtype, source)


def save_trained(model: SoundwaveForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes config.json, the adapters and the LoRA: what this project trains, not its frozen parts."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    save_file(dict(_trained(model, dtype)), folder / TRAINED_FILE, metadata={"format": "pt"})
    if model.has_lora:
        save_lora(model, folder / LORA_FOLDER)


def _trained(model: SoundwaveForConditionalGeneration, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.startswith(TRAINED_PREFIXES) and not value.is_meta:
            kept = dtype if value.is_floating_point() else value.dtype
            yield name, value.detach().to("cpu", kept).contiguous()


def _same(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    return [(name, tensor)]
