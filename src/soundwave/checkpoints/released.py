"""The public 9B format: the names, the configuration and the quirks of the released code, read unchanged.

The released names live in this file only. Quirks and their order are listed in `docs/released-format.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, WhisperConfig, WhisperFeatureExtractor

from soundwave.checkpoints.folder import read_config, read_pretrained
from soundwave.checkpoints.weights import (
    check_shapes,
    empty_encoder,
    empty_model,
    encoder_only,
    fill,
    finish,
    read_shapes,
    read_tensors,
    renamed_shapes,
    weight_files,
)
from soundwave.configuration import RUNS_CODE, SoundwaveConfig
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.inference_config import FILE_NAME as INFERENCE_FILE
from soundwave.inference_config import RELEASED, InferenceConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.speech_encoder import SpeechEncoder
from soundwave.processing import SoundwaveProcessor
from soundwave.text.prompt import RELEASED_AUDIO_TOKEN

MODEL_TYPE = "Soundwave"
OWN_KEYS = (
    "adapter_size", "audio_patch_size", "audio_patch_token", "audio_token_len", "audio_tower", "llm_pad_token_id",
)
NOT_LLAMA_KEYS = (*OWN_KEYS, "model_type", "architectures", "transformers_version")
NEEDED_KEYS = ("audio_patch_token", "hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
WHISPER_HEAD_WIDTH = 64  # of every published Whisper

RENAMES = {  # longest prefix first: the last entry takes what is left
    "model.audio_tower.": "audio_tower.",
    "model.mm_projector1.": "alignment.project.",
    "model.asr_transformer_encoder.layers.": "alignment.layers.",
    "model.out_norm.": "alignment.norm.",
    "model.audio_feature_head.": "alignment.ctc_projection.",
    "model.lbm.encoder_attn.": "shrinking.attention.",
    "model.lbm.atten_layer_norm.": "shrinking.norm.",
    "lm_head.": "language_model.lm_head.",
    "model.": "language_model.model.",
}
LAYER_RENAMES = {
    ".self_attn.": ".attention.", ".linear1.": ".ffn_in.", ".linear2.": ".ffn_out.",
    ".norm1.": ".attention_norm.", ".norm2.": ".ffn_norm.",
}


def is_released(config: dict[str, Any]) -> bool:
    """Whether a config.json is of the public 9B format."""
    return config.get("model_type") == MODEL_TYPE


def rename(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """A released name and tensor to ours; packed query-key-value matrices become three."""
    for old, new in RENAMES.items():
        if name.startswith(old):
            name = new + name[len(old) :]
            break
    if name.startswith("alignment.layers."):
        for old, new in LAYER_RENAMES.items():
            name = name.replace(old, new)
    if name.startswith(("alignment.", "shrinking.")) and ".in_proj_" in name:
        kind = name.rsplit("_", 1)[1]  # weight or bias
        stem = name.rsplit(".", 1)[0]
        return [(f"{stem}.{part}_proj.{kind}", piece) for part, piece in zip("qkv", tensor.chunk(3), strict=True)]
    return [(name, tensor)]


def released_config(
    values: dict[str, Any], audio_config: WhisperConfig, layers: int = 1, ffn_dim: int | None = None
) -> SoundwaveConfig:
    """The released `config.json` in our terms, with every quirk as the switch that stands for it.

    Raises:
        CheckpointError: a value is missing, or is not one that transformers can read.
    """
    missing = [key for key in NEEDED_KEYS if values.get(key) is None]
    if missing:
        raise CheckpointError(
            f"The released config.json lacks {missing[0]!r}; this is no complete checkpoint of that format."
        )
    left_out = (*NOT_LLAMA_KEYS, *RUNS_CODE)
    text = {key: value for key, value in values.items() if key not in left_out and value is not None}
    sizes = {} if ffn_dim is None else {"alignment_ffn_dim": ffn_dim}
    try:
        text_config = LlamaConfig(**text)
        blank, heads = int(values["audio_patch_token"]), text_config.num_attention_heads
        return SoundwaveConfig.preset(
            "released", audio_config=audio_config, text_config=text_config, audio_token_id=blank, ctc_blank_id=blank,
            alignment_layers=layers, alignment_heads=heads, look_back_heads=heads, lora=False, **sizes,
        )
    except Exception as error:  # transformers trips over values of a wrong type in many ways
        told = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The released config.json cannot be used ({type(error).__name__}: {told}).") from error


def load_released(
    folder: Path, device: str, dtype: torch.dtype
) -> tuple[SoundwaveForConditionalGeneration, SoundwaveProcessor]:
    """Reads a checkpoint of the released format.

    Args:
        folder: with config.json, safetensors, tokenizer and, where `audio_tower` in the config is a folder in it, the
            encoder's config.json and preprocessor_config.json; otherwise these are derived from the weights' shapes.
        device, dtype: where the weights go, and as what.

    Raises:
        CheckpointError: files are missing or do not fit together.
    """
    config, inference = _checked(folder)
    model = empty_model(config)
    fill(model, read_tensors(weight_files(folder)), rename, device, dtype, str(folder))
    finish(model, device, str(folder))
    processor = released_processor(folder, config, inference)
    set_released_generation(model, folder, processor)
    return model, processor


def load_released_encoder(
    folder: Path, device: str, dtype: torch.dtype
) -> tuple[SpeechEncoder, SoundwaveProcessor]:
    """Reads the speech encoder of a checkpoint of the released format; see `loading.load_speech_encoder`."""
    config, inference = _checked(folder)
    encoder, wanted = empty_encoder(config), encoder_only(config, rename)
    fill(encoder, read_tensors(weight_files(folder), wanted), wanted, device, dtype, str(folder))
    finish(encoder, device, str(folder))
    return encoder, released_processor(folder, config, inference)


def _checked(folder: Path) -> tuple[SoundwaveConfig, InferenceConfig]:
    config, inference = read_released_config(folder)
    check_shapes(config, renamed_shapes(weight_files(folder), rename), str(folder))
    return config, inference


def read_released_config(folder: Path) -> tuple[SoundwaveConfig, InferenceConfig]:
    """The configurations of a checkpoint of the released format; what config.json leaves out is told by the weights.

    An inference.json that was put there goes before what the released code does.

    Raises:
        CheckpointError: files are missing or do not fit together.
    """
    values = read_config(folder)
    shapes = read_shapes(weight_files(folder))
    config = released_config(values, _audio_config(_audio_folder(folder), shapes), *_adapter_sizes(shapes))
    inference = InferenceConfig.read(folder) if (folder / INFERENCE_FILE).is_file() else RELEASED
    return config, inference


def released_processor(folder: Path, config: SoundwaveConfig, inference: InferenceConfig) -> SoundwaveProcessor:
    """The processor of a checkpoint of the released format.

    Raises:
        CheckpointError: there is no tokenizer that transformers can read, or it is of another model.
    """
    extractor = _feature_extractor(_audio_folder(folder), config.audio_config.num_mel_bins)
    # told the configuration, transformers does not look into config.json, whose model_type it does not know
    tokenizer = read_pretrained(AutoTokenizer, folder, "tokenizer", config=config.text_config)
    try:
        return SoundwaveProcessor.for_config(
            config, inference, extractor, tokenizer, audio_token=RELEASED_AUDIO_TOKEN
        )
    except ConfigurationError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def set_released_generation(
    model: SoundwaveForConditionalGeneration, folder: Path, processor: SoundwaveProcessor
) -> None:
    """Gives the LLM the checkpoint's defaults of generation, and the pad token that its config.json names."""
    if (folder / "generation_config.json").is_file():
        model.language_model.generation_config = read_pretrained(GenerationConfig, folder, "generation_config.json")
    pad = read_config(folder).get("llm_pad_token_id", processor.tokenizer.pad_token_id)
    model.language_model.generation_config.pad_token_id = pad


def _audio_folder(folder: Path) -> Path:
    """Where the encoder's configuration may be, inside the checkpoint's own folder; else its sizes are derived."""
    named = Path(str(read_config(folder).get("audio_tower", "audio_tower")))
    return folder / named.name if named.is_absolute() or ".." in named.parts else folder / named


def _adapter_sizes(shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    stem = "model.asr_transformer_encoder.layers."
    layers = {name[len(stem) :].split(".")[0] for name in shapes if name.startswith(stem)}
    return len(layers), _shape(shapes, f"{stem}0.linear1.weight")[0]


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"The weights lack {name}; this is no complete checkpoint of the released format.")
    return shapes[name]


def _audio_config(folder: Path, shapes: dict[str, tuple[int, ...]]) -> WhisperConfig:
    if (folder / "config.json").is_file():
        return read_pretrained(WhisperConfig, folder, "config.json")
    stem = "model.audio_tower."
    width, mels, _ = _shape(shapes, f"{stem}conv1.weight")
    if width % WHISPER_HEAD_WIDTH:
        raise CheckpointError(
            f"The encoder is {width} wide, unlike any published Whisper, so its number of heads cannot be told from "
            f"the weights; put the encoder's config.json into {folder}."
        )
    layers = {name.split(".")[3] for name in shapes if name.startswith(f"{stem}layers.")}
    return WhisperConfig(
        d_model=width, num_mel_bins=mels, encoder_layers=len(layers), decoder_layers=0,
        encoder_attention_heads=width // WHISPER_HEAD_WIDTH,
        encoder_ffn_dim=_shape(shapes, f"{stem}layers.0.fc1.weight")[0],
        max_source_positions=_shape(shapes, f"{stem}embed_positions.weight")[0],
    )


def _feature_extractor(folder: Path, mel_bins: int) -> WhisperFeatureExtractor:
    if (folder / "preprocessor_config.json").is_file():
        return read_pretrained(WhisperFeatureExtractor, folder, "preprocessor_config.json")
    return WhisperFeatureExtractor(feature_size=mel_bins)
