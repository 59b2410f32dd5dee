"""Our own format: config.json, safetensors and, where the LLM was adapted, a PEFT folder `lora/`.

A folder may hold everything (`save_pretrained`), or only what was trained (`save_trained`): then the configuration
names what supplies the encoder and the LLM: a catalog part, a hub id, or a whole model, ours or of the released format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, WhisperConfig, WhisperFeatureExtractor

from soundwave.checkpoints.catalog import HUB_ID, hub_part_folder, part_folder
from soundwave.checkpoints.lora import LORA_FOLDER, load_lora, save_lora
from soundwave.checkpoints.parts import PARTS
from soundwave.checkpoints.released import MODEL_TYPE as RELEASED_TYPE
from soundwave.checkpoints.released import read_released_config, released_processor, rename, set_released_generation
from soundwave.checkpoints.weights import empty_model, fill, finish, read_tensors, weight_files
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError
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
    processor = load_processor(config, folder)
    if model_type(language_folder) == RELEASED_TYPE:
        set_released_generation(model, language_folder, processor)
    elif (language_folder / "generation_config.json").is_file():
        model.language_model.generation_config = GenerationConfig.from_pretrained(language_folder)
    if (folder / LORA_FOLDER).is_dir():
        load_lora(model, folder / LORA_FOLDER)
    model.eval().requires_grad_(False)
    return model, processor


def load_processor(config: SoundwaveConfig, folder: Path | None = None) -> SoundwaveProcessor:
    """The processor of a configuration, from the parts that it names or from a complete folder."""
    if config.language_model_source is None:
        return SoundwaveProcessor.from_pretrained(folder)
    language_folder = resolve_part(config.language_model_source)
    if model_type(language_folder) == RELEASED_TYPE:
        return released_processor(language_folder, config)
    if model_type(language_folder) == SoundwaveConfig.model_type:
        whole = SoundwaveProcessor.from_pretrained(language_folder)
        return SoundwaveProcessor.for_config(
            config, whole.feature_extractor, whole.tokenizer, audio_token=whole.audio_token
        )
    tokenizer = AutoTokenizer.from_pretrained(language_folder)
    audio_folder = resolve_part(config.audio_tower_source or "")
    return SoundwaveProcessor.for_config(config, WhisperFeatureExtractor.from_pretrained(audio_folder), tokenizer)


def resolve_part(source: str) -> Path:
    """The folder itself, the folder of a catalog part, or that of a hub id such as `openai/whisper-large-v3`."""
    if Path(source).is_dir():
        return Path(source)
    return hub_part_folder(source) if source not in PARTS and HUB_ID.fullmatch(source) else part_folder(source)


def model_type(folder: Path) -> str | None:
    """The `model_type` in a folder's config.json: ours and the released format's are whole models, others are parts."""
    file = folder / "config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("model_type") if file.is_file() else None


def start_config(folder: Path, name: str) -> SoundwaveConfig:
    """The configuration of a model to train further; a whole model names itself as what its parts come from.

    Args:
        folder: of a trained or whole model of our format, or of the released one.
        name: how it is found again: a hub id, or a path.

    Raises:
        CheckpointError: the folder holds no model of either format.
    """
    kind = model_type(folder)
    if kind not in (RELEASED_TYPE, SoundwaveConfig.model_type):
        raise CheckpointError(f"{folder} holds a model of type {kind!r}, not a Soundwave model to train further.")
    released = kind == RELEASED_TYPE
    config = read_released_config(folder) if released else SoundwaveConfig.from_pretrained(folder)
    if config.language_model_source is None:
        config.audio_tower_source = config.language_model_source = name
    return config


def adapter_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The adapters' tensors of a trained or whole model, under our names."""
    to_ours = rename if model_type(folder) == RELEASED_TYPE else _same
    for name, tensor in read_tensors(weight_files(folder)):
        yield from ((new, value) for new, value in to_ours(name, tensor) if new.startswith(TRAINED_PREFIXES))


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
    """Fills the encoder or the LLM from a part or a whole model; `only`: just the tensors whose name contains it."""
    folder = resolve_part(source)
    kind = model_type(folder)

    def from_whole(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        named = rename(name, tensor) if kind == RELEASED_TYPE else [(name, tensor)]
        return [(new, value) for new, value in named if new.startswith(prefix) and (only is None or only in new)]

    def from_part(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        for stem in ("model.encoder.", "encoder."):  # a complete Whisper of the hub
            name = name.removeprefix(stem)
        unwanted = prefix == "audio_tower." and name.startswith(("model.decoder.", "decoder.", "proj_out."))
        return [] if unwanted or (only and only not in name) else [(prefix + name, tensor)]

    whole = kind in (RELEASED_TYPE, SoundwaveConfig.model_type)
    fill(model, read_tensors(weight_files(folder)), from_whole if whole else from_part, device, dtype, source)


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
            narrower = value.is_floating_point() and value.dtype.itemsize >= dtype.itemsize  # never wider than it is
            kept = dtype if narrower else value.dtype
            yield name, value.detach().to("cpu", kept).contiguous()


def _same(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    return [(name, tensor)]
