"""Our own format: config.json, safetensors and, where the LLM was adapted, a PEFT folder `lora/`.

A folder may hold everything (`save_pretrained`), or only what was trained (`save_trained`): then the configuration
names what supplies the encoder and the LLM: a catalog part, a hub id, or a whole model, ours or of the released format.
"""

from __future__ import annotations

import copy
import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, WhisperConfig, WhisperFeatureExtractor

from soundwave.checkpoints.catalog import HUB_ID, hub_part_folder, part_folder
from soundwave.checkpoints.folder import model_type, read_pretrained, read_soundwave_config
from soundwave.checkpoints.lora import LORA_FOLDER, load_lora, save_lora
from soundwave.checkpoints.parts import PARTS
from soundwave.checkpoints.released import MODEL_TYPE as RELEASED_TYPE
from soundwave.checkpoints.released import read_released_config, released_processor, rename, set_released_generation
from soundwave.checkpoints.weights import (
    Rename,
    check_shapes,
    empty_encoder,
    empty_model,
    encoder_only,
    fill,
    finish,
    read_tensors,
    renamed_shapes,
    weight_files,
)
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.files import atomic_file
from soundwave.inference_config import InferenceConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.speech_encoder import SpeechEncoder
from soundwave.model.whisper import is_own
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
    config, sources = _checked(folder)
    model = empty_model(config)
    for source in sources:
        fill(model, read_tensors(source.files, source.rename), source.rename, device, dtype, source.name)
    finish(model, device, str(folder))
    language_folder = folder if config.language_model_source is None else resolve_part(config.language_model_source)
    processor = load_processor(config, folder)
    if model_type(language_folder) == RELEASED_TYPE:
        set_released_generation(model, language_folder, processor)
    elif (language_folder / "generation_config.json").is_file():
        model.language_model.generation_config = read_pretrained(
            GenerationConfig, language_folder, "generation_config.json"
        )
    if config.lora or (folder / LORA_FOLDER).is_dir():
        load_lora(model, folder / LORA_FOLDER)
    model.eval().requires_grad_(False)
    return model, processor


def load_native_encoder(
    folder: Path, device: str, dtype: torch.dtype
) -> tuple[SpeechEncoder, SoundwaveProcessor]:
    """Reads the speech encoder of a folder of our own format; see `loading.load_speech_encoder`."""
    config, sources = _checked(folder)
    encoder = empty_encoder(config)
    for source in sources:
        rename = encoder_only(config, source.rename)
        fill(encoder, read_tensors(source.files, rename), rename, device, dtype, source.name)
    finish(encoder, device, str(folder))
    return encoder, load_processor(config, folder)


@dataclass(frozen=True)
class _Source:
    """Files that hold weights, and what they are called there."""

    name: str
    files: list[Path]
    rename: Rename


def _checked(folder: Path) -> tuple[SoundwaveConfig, list[_Source]]:
    """A folder's configuration and where its weights are, compared with each other."""
    config = read_soundwave_config(folder)
    own = _Source(str(folder), weight_files(folder), _same)
    parts = {"audio_tower.": config.audio_tower_source, "language_model.": config.language_model_source}
    sources = [_part(source, prefix) for prefix, source in parts.items() if source is not None]
    sources.append(own)  # last: layers that were learned replace those that they came from
    shapes = {name: shape for source in sources for name, shape in renamed_shapes(source.files, source.rename).items()}
    check_shapes(config, shapes, str(folder))
    return config, sources


def load_processor(
    config: SoundwaveConfig, folder: Path | None = None, inference: InferenceConfig | None = None
) -> SoundwaveProcessor:
    """The processor of a configuration, from the parts that it names or from a complete folder.

    Args:
        config: the model's.
        folder: the model's; None for a new one.
        inference: its prompts; None: those of the folder.
    """
    if config.language_model_source is None:
        assert folder is not None
        processor = read_pretrained(SoundwaveProcessor, folder, "processor and tokenizer")
        return _prepared(processor, config, folder, inference)
    if inference is None:
        inference = InferenceConfig() if folder is None else InferenceConfig.read(folder)
    language_folder = resolve_part(config.language_model_source)
    if model_type(language_folder) == RELEASED_TYPE:
        return released_processor(language_folder, config, inference)
    if model_type(language_folder) == SoundwaveConfig.model_type:
        whole = read_pretrained(SoundwaveProcessor, language_folder, "processor and tokenizer")
        return _for_config(
            language_folder, config, inference, whole.feature_extractor, whole.tokenizer, audio_token=whole.audio_token
        )
    tokenizer = read_pretrained(AutoTokenizer, language_folder, "tokenizer")
    audio_folder = resolve_part(config.audio_tower_source or "")
    extractor = read_pretrained(WhisperFeatureExtractor, audio_folder, "preprocessor_config.json")
    return _for_config(language_folder, config, inference, extractor, tokenizer)


def _prepared(
    processor: SoundwaveProcessor, config: SoundwaveConfig, folder: Path, inference: InferenceConfig | None
) -> SoundwaveProcessor:
    try:
        processor.check(config)
    except ConfigurationError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    processor.inference = inference or processor.inference
    return processor


def _for_config(folder: Path, *arguments: Any, **changes: Any) -> SoundwaveProcessor:
    try:
        return SoundwaveProcessor.for_config(*arguments, **changes)
    except ConfigurationError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def resolve_part(source: str) -> Path:
    """The folder itself, the folder of a catalog part, or that of a hub id such as `openai/whisper-large-v3`."""
    if Path(source).is_dir():
        return Path(source)
    return hub_part_folder(source) if source not in PARTS and HUB_ID.fullmatch(source) else part_folder(source)


def start_config(folder: Path, name: str) -> tuple[SoundwaveConfig, InferenceConfig]:
    """The configurations of a model to train further; a whole model names itself as what its parts come from.

    Args:
        folder: of a trained or whole model of our format, or of the released one.
        name: how it is found again: a hub id, or a path.

    Raises:
        CheckpointError: the folder holds no model of either format.
    """
    kind = model_type(folder)
    if kind not in (RELEASED_TYPE, SoundwaveConfig.model_type):
        raise CheckpointError(f"{folder} holds a model of type {kind!r}, not a Soundwave model to train further.")
    if kind == RELEASED_TYPE:
        config, inference = read_released_config(folder)
    else:
        config, inference = read_soundwave_config(folder), InferenceConfig.read(folder)
    if config.language_model_source is None:
        config.audio_tower_source = config.language_model_source = name
    return config, inference


def adapter_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the adapters, and what the encoder learned, of a trained or whole model, under our names."""
    config, _ = start_config(folder, "")
    to_ours = rename if model_type(folder) == RELEASED_TYPE else _same
    for name, tensor in read_tensors(weight_files(folder)):
        yield from ((new, value) for new, value in to_ours(name, tensor) if is_trained_part(config, new))


def is_trained_part(config: SoundwaveConfig, name: str) -> bool:
    """Whether the weight of that full name is of what this project trains and not of the parts that it stands on."""
    return name.startswith(TRAINED_PREFIXES) or is_own(config, name)


def new_config(audio_tower: str, language_model: str, **switches: object) -> SoundwaveConfig:
    """The configuration of a new model over two parts."""
    return SoundwaveConfig(
        audio_config=read_pretrained(WhisperConfig, resolve_part(audio_tower), "config.json"),
        text_config=read_pretrained(AutoConfig, resolve_part(language_model), "config.json"),
        audio_tower_source=audio_tower, language_model_source=language_model, **switches,
    )


def fill_part(
    model: SoundwaveForConditionalGeneration, source: str, prefix: str, device: str, dtype: torch.dtype,
    only: Callable[[str], bool] | None = None,
) -> None:
    """Fills the encoder or the LLM from a part or a whole model; `only`: just the tensors of these names."""
    part = _part(source, prefix)

    def chosen(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        return [pair for pair in part.rename(name, tensor) if only is None or only(pair[0])]

    fill(model, read_tensors(part.files, chosen), chosen, device, dtype, source)


def _part(source: str, prefix: str) -> _Source:
    """Where the encoder's or the LLM's weights are: in a part, or in a whole model."""
    folder = resolve_part(source)
    kind = model_type(folder)

    def from_whole(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        named = rename(name, tensor) if kind == RELEASED_TYPE else [(name, tensor)]
        return [(new, value) for new, value in named if new.startswith(prefix)]

    def from_part(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        for stem in ("model.encoder.", "encoder."):  # a complete Whisper of the hub
            name = name.removeprefix(stem)
        unwanted = prefix == "audio_tower." and name.startswith(("model.decoder.", "decoder.", "proj_out."))
        return [] if unwanted else [(prefix + name, tensor)]

    whole = kind in (RELEASED_TYPE, SoundwaveConfig.model_type)
    return _Source(source, weight_files(folder), from_whole if whole else from_part)


def save_trained(
    model: SoundwaveForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.float16,
    inference: InferenceConfig | None = None, start: Path | None = None,
) -> None:
    """Writes the configurations, the adapters and the LoRA: what this project trains, not its frozen parts.

    Args:
        model: over parts.
        folder: made when missing.
        dtype: of floating-point weights; those that are narrower stay so.
        inference: the model's prompts; None: the defaults.
        start: the folder that training began from, whose files of the search go along, and its LoRA where none is in
            memory.

    Raises:
        OSError: something cannot be written, or `start` is gone.
    """
    if start is not None and not start.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the model that training began from is gone; put it back", str(start))
    folder.mkdir(parents=True, exist_ok=True)
    config, inference = copy.deepcopy(model.config), inference or InferenceConfig()
    kept = start is not None and not model.has_lora and (start / LORA_FOLDER).is_dir()
    config.lora = model.has_lora or kept
    config.save_pretrained(folder)
    inference.write(folder)
    with atomic_file(folder / TRAINED_FILE) as draft:
        save_file(dict(_trained(model, dtype)), draft, metadata={"format": "pt"})
    if model.has_lora:
        save_lora(model, folder / LORA_FOLDER)
    if start is not None:
        copy_search(inference, start, folder)
        if kept:
            shutil.copytree(start / LORA_FOLDER, folder / LORA_FOLDER, dirs_exist_ok=True)


def copy_search(inference: InferenceConfig, source: Path, target: Path) -> None:
    """Copies the files that a model's search needs from its folder, as far as they are there, to another."""
    for name in inference.transcribe.files:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _trained(model: SoundwaveForConditionalGeneration, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if is_trained_part(model.config, name) and not value.is_meta:
            narrower = value.is_floating_point() and value.dtype.itemsize >= dtype.itemsize  # never wider than it is
            kept = dtype if narrower else value.dtype
            yield name, value.detach().to("cpu", kept).contiguous()


def _same(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    return [(name, tensor)]
