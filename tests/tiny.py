"""Tiny, seeded models, tokenizers and checkpoints, made in code: everything but its size is as in a real one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from soundwave.audio import SAMPLE_RATE
from soundwave.configuration import SoundwaveConfig
from soundwave.inference.engine import Engine
from soundwave.inference_config import InferenceConfig, TranscribeConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor

MERGES = [
    "t h", "th e", "Ġ the", "a t", "c at", "Ġ cat", "o n", "s o", "so n", "e r", "p er", "per son", "Ġ person", "Ġ a",
]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_SPECIALS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|finetune_right_pad_id|>", "<audio_patch>",
]
ENCODER_WIDTH, LLM_WIDTH = 16, 32


def bpe(specials: list[str], first: list[str] | None = None, merges: list[str] = MERGES) -> Tokenizer:
    """A byte-level BPE: the tokens of `first`, 256 bytes, the merges' results, then the special tokens."""
    pieces = [*(first or []), *sorted(pre_tokenizers.ByteLevel.alphabet()), *(m.replace(" ", "") for m in merges)]
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [tuple(m.split(" ")) for m in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return tokenizer


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Like SmolLM2's: ChatML, special tokens first, no BOS."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe(specials, first=specials), bos_token="<|im_start|>", eos_token="<|im_end|>",
        pad_token="<|im_end|>", chat_template=CHATML,
    )


def released_tokenizer() -> PreTrainedTokenizerFast:
    """Like Llama 3's: every call adds a BOS; the audio placeholder is the last token."""
    tokenizer = bpe(LLAMA3_SPECIALS)
    bos = LLAMA3_SPECIALS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>"
    )


def whisper_config(**changes: Any) -> WhisperConfig:
    sizes = {
        "d_model": ENCODER_WIDTH, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24,
        "num_mel_bins": 80, "max_source_positions": 1500, "decoder_layers": 1, "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    return WhisperConfig(**sizes | changes)


def llama_config(**changes: Any) -> LlamaConfig:
    tokenizer = chat_tokenizer()
    sizes = {
        "hidden_size": LLM_WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return LlamaConfig(**sizes | changes)


def config(tied: bool = False, **switches: Any) -> SoundwaveConfig:
    """A new model's configuration, its alignment adapter the paper's; switches are as in `SoundwaveConfig`."""
    sizes: dict[str, Any] = {
        "audio_config": whisper_config(), "text_config": llama_config(tie_word_embeddings=tied), "alignment_heads": 4,
        "alignment_ffn_dim": 40, "look_back_heads": 4, "alignment_whitening": False, "alignment_convolution": 0,
    }
    return SoundwaveConfig(**sizes | switches)


def randomise(module: nn.Module, seed: int) -> None:
    """Weights of a size that lets every part matter: no vector is drowned, no decision is the same everywhere."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=draw)
            if parameter.dim() >= 2:
                fan_in = 1 if "embed" in name else math.prod(parameter.shape[1:])
                parameter.copy_(values * 1.5 / math.sqrt(fan_in))
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * values)
            else:
                parameter.copy_(0.2 * values)


def model(configuration: SoundwaveConfig | None = None, seed: int = 0) -> SoundwaveForConditionalGeneration:
    """A seeded model, for inference, without any generation default of its own but the pad token."""
    made = SoundwaveForConditionalGeneration(configuration or config())
    randomise(made, seed)
    with torch.no_grad():
        made.audio_tower.embed_positions.weight.mul_(0.1)
        if made.config.ctc_head == "embeddings":
            made.alignment.ctc_scale.fill_(math.log(20.0))
    text = made.config.text_config
    made.language_model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    )
    return made.eval().requires_grad_(False)


def processor(configuration: SoundwaveConfig | None = None, **prompts: Any) -> SoundwaveProcessor:
    """The processor that fits `config()`; `prompts` are as in `InferenceConfig`."""
    return SoundwaveProcessor.for_config(
        configuration or config(), InferenceConfig.of(prompts), WhisperFeatureExtractor(), chat_tokenizer()
    )


def engine(
    configuration: SoundwaveConfig | None = None, model: SoundwaveForConditionalGeneration | None = None,
    inference: InferenceConfig | None = None, llm: bool = True, gates: bool = False,
) -> Engine:
    """An engine over a model, `model()` if none is given; without `llm`, over its speech encoder alone.

    Its random weights find words in any sound; `gates` would keep all of them back.
    """
    whole = model or globals()["model"](configuration)
    prompts = inference or InferenceConfig(transcribe=TranscribeConfig(llm=True))
    if not gates:
        prompts = prompts.changed({"transcribe": {"gates": {"speech": False, "disagreement": 1.0, "repeats": 10**6}}})
    fitting = SoundwaveProcessor.for_config(whole.config, prompts, WhisperFeatureExtractor(), chat_tokenizer())
    return Engine.of(whole, fitting, "tiny") if llm else Engine(whole.speech_encoder, None, fitting, prompts, "tiny")


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """(samples,) float32 at 16 kHz: another chord with noise every 0.12 s, so that frames differ as in speech."""
    draw = np.random.default_rng(seed)
    total, piece = round(seconds * SAMPLE_RATE), round(0.12 * SAMPLE_RATE)
    time = np.arange(piece) / SAMPLE_RATE
    chords = []
    for _ in range(-(-total // piece) + 1):
        pitches, levels = draw.uniform(100, 6000, 3), draw.uniform(0, 0.3, 4)
        waves = [level * np.sin(2 * np.pi * pitch * time) for pitch, level in zip(pitches, levels, strict=False)]
        chords.append(sum(waves) + levels[3] * 0.2 * draw.standard_normal(piece))
    return np.concatenate(chords)[:total].astype(np.float32)


def user(prompt: str, *clips: np.ndarray) -> dict[str, Any]:
    """A user's message: its audios, then its text."""
    audio = [{"type": "audio", "audio": (clip, SAMPLE_RATE)} for clip in clips]
    return {"role": "user", "content": [*audio, {"type": "text", "text": prompt}]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def part_folders(parent: Path, tied: bool = True) -> tuple[Path, Path]:
    """An encoder's and a language model's folder, as the catalog makes them."""
    encoder_folder, language_folder = parent / "tiny-whisper", parent / "tiny-llm"
    audio = whisper_config()
    encoder = WhisperEncoder(audio)
    randomise(encoder, 11)
    audio.save_pretrained(encoder_folder)
    save_file(dict(encoder.state_dict()), encoder_folder / "model.safetensors", metadata={"format": "pt"})
    WhisperFeatureExtractor().save_pretrained(encoder_folder)
    text = llama_config(tie_word_embeddings=tied)
    language_model = LlamaForCausalLM(text)
    randomise(language_model, 12)
    language_model.save_pretrained(language_folder)
    chat_tokenizer().save_pretrained(language_folder)
    return encoder_folder, language_folder


def released_config() -> dict[str, Any]:
    """A config.json of the released format; sizes aside, its keys and habits are the public model's."""
    tokenizer = released_tokenizer()
    return {
        "adapter_size": ENCODER_WIDTH, "architectures": ["SoundwaveForCausalLM"], "audio_patch_size": 1,
        "audio_patch_token": tokenizer.convert_tokens_to_ids("<audio_patch>"), "audio_tower": "audio_tower",
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "hidden_act": "silu",
        "hidden_size": LLM_WIDTH, "intermediate_size": 48, "llm_pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 4096, "model_type": "Soundwave", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "torch_dtype": "float32", "transformers_version": "4.43.1", "vocab_size": len(tokenizer),
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512,
            "rope_type": "llama3",
        },
    }


def released_tensors(seed: int = 5, ffn_dim: int = 40) -> dict[str, torch.Tensor]:
    """A state dict with the released names, made of the modules that the released code names."""
    values = released_config()
    width = values["hidden_size"]
    audio = WhisperEncoder(whisper_config())
    randomise(audio, seed)
    audio.embed_positions.weight.data.mul_(0.1)
    llama_keys = ("intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    llama = LlamaForCausalLM(LlamaConfig(hidden_size=width, **{key: values[key] for key in llama_keys}))
    heads = values["num_attention_heads"]
    adapters = nn.ModuleDict({
        "mm_projector1": nn.Linear(2 * ENCODER_WIDTH, width),
        "asr_transformer_encoder": nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, heads, ffn_dim, norm_first=True), 1, enable_nested_tensor=False
        ),
        "out_norm": nn.LayerNorm(width),
        "audio_feature_head": nn.Linear(width, values["vocab_size"], bias=False),
        "lbm": nn.ModuleDict({
            "encoder_attn": nn.MultiheadAttention(width, heads), "atten_layer_norm": nn.LayerNorm(width),
        }),
    })
    for i, module in enumerate((llama, adapters), 1):
        randomise(module, seed + i)
    tensors = {f"model.audio_tower.{name}": value for name, value in audio.state_dict().items()}
    tensors |= {f"model.{name}": value for name, value in adapters.state_dict().items()}
    return tensors | dict(llama.state_dict())


def released_folder(folder: Path, **tensor_options: Any) -> Path:
    """A whole checkpoint of the released format, small enough to be wrong in seconds."""
    (folder / "audio_tower").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(released_config(), indent=2))
    tensors = {name: value.contiguous() for name, value in released_tensors(**tensor_options).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    released_tokenizer().save_pretrained(folder)
    whisper_config().save_pretrained(folder / "audio_tower")
    WhisperFeatureExtractor().save_pretrained(folder / "audio_tower")
    return folder
