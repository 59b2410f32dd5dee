"""The sizes of public encoders, language models and GPUs, so that an estimate needs no download.

Knows published numbers only, each with its source. What is not listed here is read from its folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, LlamaConfig, WhisperConfig

from soundwave.checkpoints.catalog import models_cache
from soundwave.checkpoints.released import released_config
from soundwave.configuration import SoundwaveConfig
from soundwave.errors import ConfigurationError

RELEASED_9B = "FreedomIntelligence/Soundwave"

# Layers, width, heads and mel bins: the config.json of each model on the hub, and Table 1 of the Whisper paper.
_WHISPER = {
    "whisper-base": (6, 512, 8, 80),
    "openai/whisper-base": (6, 512, 8, 80),
    "openai/whisper-small": (12, 768, 12, 80),
    "openai/whisper-medium": (24, 1024, 16, 80),
    "openai/whisper-large-v2": (32, 1280, 20, 80),
    "openai/whisper-large-v3": (32, 1280, 20, 128),
}
# The config.json of each model on the hub.
_LLAMA_3_1_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}
_SMOLLM2_135M = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}
_LLAMA = {
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_3_1_8B,
    "smollm2-135m-instruct": _SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOLLM2_135M,
}


@dataclass(frozen=True)
class Gpu:
    """A GPU (bf16) or CPU (float32) as its data sheet gives it: peak dense rate in FLOP/s, memory in bytes."""

    name: str
    peak: float
    memory: float


# NVIDIA's data sheets, tensor cores, bf16 with float32 sums, without sparsity. The A800 computes like the A100.
GPUS = (
    Gpu("A100 / A800 80 GB", 312e12, 80e9),
    Gpu("H100 SXM 80 GB", 989e12, 80e9),
    Gpu("L40S 48 GB", 362e12, 48e9),
    Gpu("RTX 4090 24 GB", 165e12, 24e9),
    Gpu("RTX 3090 24 GB", 71e12, 24e9),
)
# Four cores at 3 GHz, each with two AVX2 units: 2 units x 8 float32 x 2 (a multiply-add) in a cycle.
LAPTOP = Gpu("laptop CPU, 4 cores", 4 * 3e9 * 32, 16e9)


def audio_config(name: str) -> WhisperConfig:
    """The encoder's configuration, from a folder or the table.

    Raises:
        ConfigurationError: neither has it.
    """
    if name in _WHISPER and not Path(name).is_dir():
        layers, width, heads, mels = _WHISPER[name]
        return WhisperConfig(
            encoder_layers=layers, d_model=width, encoder_attention_heads=heads, encoder_ffn_dim=4 * width,
            num_mel_bins=mels, decoder_layers=0,
        )
    return WhisperConfig.from_pretrained(_folder(name, _WHISPER), trust_remote_code=False)


def text_config(name: str) -> Any:
    """The language model's configuration, from a folder or the table.

    Raises:
        ConfigurationError: neither has it.
    """
    if name in _LLAMA and not Path(name).is_dir():
        return LlamaConfig(**_LLAMA[name])
    return AutoConfig.from_pretrained(_folder(name, _LLAMA), trust_remote_code=False)


def released_9b() -> SoundwaveConfig:
    """The public 9B model: Llama 3.1 8B with one token more, over Whisper large-v2 (its `config.json`)."""
    values = _LLAMA_3_1_8B | {"vocab_size": 128257, "audio_patch_token": 128256}
    return released_config(values, audio_config("openai/whisper-large-v2"))


def mini() -> SoundwaveConfig:
    """soundwave-mini, as recipes/mini/stage1.yaml makes it."""
    return SoundwaveConfig(
        audio_config=audio_config("whisper-base"), text_config=text_config("smollm2-135m-instruct"),
        alignment_layers=2, alignment_heads=9, alignment_ffn_dim=1536, look_back_heads=9,
        ctc_vocabulary=list(range(250)),
    )


def _folder(name: str, known: dict[str, Any]) -> Path:
    for folder in (Path(name), models_cache() / name):
        if (folder / "config.json").is_file():
            return folder
    raise ConfigurationError(
        f"The sizes of {name} are not known here; give a folder with its config.json, or one of {', '.join(known)}."
    )
