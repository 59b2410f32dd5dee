"""The public 9B format: the names, the configuration and the quirks of the released code, read unchanged.

The released names live in this file only. Quirks and their order are listed in `docs/released-format.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, WhisperConfig, WhisperFeatureExtractor

from soundwave.checkpoints.weights import empty_model, fill, finish, read_shapes, read_tensors, weight_files
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor
from soundwave.text.prompt import RELEASED_AUDIO_TOKEN

MODEL_TYPE = "Soundwave"
OWN_KEYS = (
    "adapter_size", "audio_patch_size", "audio_patch_token", "audio_token_len", "audio_tower", "llm_pad_token_id",
)
NOT_LLAMA_KEYS = (*OWN_KEYS, "model_type", "architectures", "transformers_version")
NEEDED_KEYS = ("audio_patch_token", "hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
WHISPER_HEAD_WIDTH = 64  # of every published Whisper
RELEASED_FFN_DIM = 8192

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
    values: dict[str, Any], audio_config: WhisperConfig, layers: int = 1, ffn_dim: int = RELEASED_FFN_DIM
) -> SoundwaveConfig:
    """The released `config.json` in our terms, with every quirk as the switch that stands for it."""
    missing = [key for key in NEEDED_KEYS if values.get(key) is None]
    if missing:
        raise CheckpointError(
            f"The released config.json lacks {missing[0]!r}; this is no complete checkpoint of that format."
        )
    text = {key: value for key, value in values.items() if key not in NOT_LLAMA_KEYS and value is not None}
    text_config = LlamaConfig(**text)
    blank = int(values["audio_patch_token"])
    return SoundwaveConfig(
        audio_config=audio_config, text_config=text_config, audio_token_id=blank, ctc_blank_id=blank,
        alignment_layers=layers, alignment_heads=text_config.num_attention_heads, alignment_ffn_dim=ffn_dim,
        look_back_heads=text_config.num_attention_heads,
        alignment_whitening=False, alignment_convolution=0, alignment_attention="frame", ctc_head="projection",
        run_pooling="first", blank_handling="one_per_run",
        look_back_over="kept", audio_embedding="look_back", encoder_window="padded", prompt_format="released",
        text_only="adapted",
    )


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
    config = read_released_config(folder)
    model = empty_model(config)
    fill(model, read_tensors(weight_files(folder)), rename, device, dtype, str(folder))
    finish(model, device, str(folder))
    processor = released_processor(folder, config)
    set_released_generation(model, folder, processor)
    return model, processor


def read_released_config(folder: Path) -> SoundwaveConfig:
    """The configuration of a checkpoint of the released format; what config.json leaves out is told by the weights.

    Raises:
        CheckpointError: files are missing or do not fit together.
    """
    values = json.loads((folder / "config.json").read_text())
    shapes = read_shapes(weight_files(folder))
    return released_config(values, _audio_config(_audio_folder(folder), shapes), *_adapter_sizes(shapes))


def released_processor(folder: Path, config: SoundwaveConfig) -> SoundwaveProcessor:
    """The processor of a checkpoint of the released format.

    Raises:
        CheckpointError: there is no tokenizer that transformers can read.
    """
    extractor = _feature_extractor(_audio_folder(folder), config.audio_config.num_mel_bins)
    return SoundwaveProcessor.for_config(
        config, extractor, _tokenizer(folder, config), audio_token=RELEASED_AUDIO_TOKEN
    )


def set_released_generation(
    model: SoundwaveForConditionalGeneration, folder: Path, processor: SoundwaveProcessor
) -> None:
    """Gives the LLM the checkpoint's defaults of generation, and the pad token that its config.json names."""
    if (folder / "generation_config.json").is_file():
        model.language_model.generation_config = GenerationConfig.from_pretrained(folder)
    pad = json.loads((folder / "config.json").read_text()).get("llm_pad_token_id", processor.tokenizer.pad_token_id)
    model.language_model.generation_config.pad_token_id = pad


def _audio_folder(folder: Path) -> Path:
    values = json.loads((folder / "config.json").read_text())
    return folder / str(values.get("audio_tower", "audio_tower"))


def _tokenizer(folder: Path, config: SoundwaveConfig) -> Any:
    try:
        # told the configuration, transformers does not look into config.json, whose model_type it does not know
        return AutoTokenizer.from_pretrained(folder, config=config.text_config)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} has no tokenizer that transformers can read ({' '.join(str(error).split())}); "
            "put the checkpoint's tokenizer.json and tokenizer_config.json there."
        ) from error


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
        return WhisperConfig.from_pretrained(folder)
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
        return WhisperFeatureExtractor.from_pretrained(folder)
    return WhisperFeatureExtractor(feature_size=mel_bins)
