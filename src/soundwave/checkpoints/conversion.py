"""Turn the files of our parts into folders that transformers reads: Whisper's encoder, SmolLM2 with its tokenizer.

Knows nothing about where the files come from, caches or locks (`catalog.py`, `parts.py`). The only module of the
catalog that imports torch and transformers, so that looking a model up stays quick.
"""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from soundwave.checkpoints.ctranslate2 import read_tensors
from soundwave.errors import CheckpointError
from soundwave.files import atomic_file

# openai/whisper-base: the multilingual "base" row of Whisper's table of sizes.
WHISPER_BASE = {
    "vocab_size": 51865, "num_mel_bins": 80, "d_model": 512,
    "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048,
    "decoder_layers": 6, "decoder_attention_heads": 8, "decoder_ffn_dim": 2048,
    "max_source_positions": 1500, "max_target_positions": 448, "activation_function": "gelu",
    "bos_token_id": 50257, "eos_token_id": 50257, "pad_token_id": 50257, "decoder_start_token_id": 50258,
}  # fmt: skip

SMOLLM2_IDS = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
SMOLLM2_ROLES = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}

_LAYER_NAMES = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_KIND_NAMES = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def convert_whisper(model_bin: Path, folder: Path) -> None:
    """Write the encoder of a CTranslate2 Whisper base as a transformers folder, in the float16 it is stored in.

    Args:
        model_bin: CTranslate2's `model.bin`.
        folder: An existing folder; gets `config.json`, `model.safetensors` (names of transformers' `WhisperEncoder`)
            and `preprocessor_config.json`.

    Raises:
        CheckpointError: The file is broken, or holds another model than Whisper base.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, array in read_tensors(model_bin, prefix="encoder/"):
        if array.ndim:  # the scalars are settings (num_heads), which the config already states
            tensors.update(_whisper_tensors(name.removeprefix("encoder/"), array))
    _write_whisper(tensors, folder, source=model_bin)


def convert_whisper_from_hub(snapshot: Path, folder: Path) -> None:
    """Write the encoder of a `openai/whisper-base` snapshot as the same folder `convert_whisper` writes.

    Raises:
        CheckpointError: The snapshot has no readable `model.safetensors`, or holds another model than Whisper base.
    """
    prefix = "model.encoder."
    try:
        with safe_open(snapshot / "model.safetensors", "pt") as file:
            tensors = {
                name.removeprefix(prefix): file.get_tensor(name).to(torch.float16)
                for name in file.keys()  # noqa: SIM118 - it has no iterator
                if name.startswith(prefix)
            }
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Cannot read Whisper base in {snapshot}: {error}. Download it again.") from error
    _write_whisper(tensors, folder, source=snapshot)


def _whisper_tensors(name: str, array: np.ndarray) -> dict[str, torch.Tensor]:
    """One CTranslate2 tensor under the name(s) of transformers' WhisperEncoder; fused q/k/v become three."""
    where, kind = name.rsplit("/", 1)
    if name == "position_encodings/encodings":
        return {"embed_positions.weight": _copy(array)}
    kind = _KIND_NAMES.get(kind, kind)
    layer = re.fullmatch(r"layer_(\d+)/(.+)", where)
    if layer is None:
        return {f"{where}.{kind}": _copy(array)}  # conv1, conv2, layer_norm
    number, where = layer.groups()
    if where != "self_attention/linear_0":
        return {f"layers.{number}.{_LAYER_NAMES.get(where, where)}.{kind}": _copy(array)}
    parts = dict(zip(("q_proj", "k_proj", "v_proj"), np.split(array, 3), strict=True))
    if kind == "bias":
        del parts["k_proj"]  # Whisper's keys have no bias; CTranslate2 fills the fused row with zeros
    return {f"layers.{number}.self_attn.{part}.{kind}": _copy(rows) for part, rows in parts.items()}


def _copy(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float16))


def _write_whisper(tensors: dict[str, torch.Tensor], folder: Path, source: Path) -> None:
    config = WhisperConfig(**WHISPER_BASE, architectures=["WhisperEncoder"])
    expected = whisper_encoder_shapes(config)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise CheckpointError(
            f"{source} does not hold Whisper base: {len(names)} tensors are missing, unknown or of another shape, "
            f"the first is {names[0]!r}. Download it again."
        )
    _save(tensors, folder)
    config.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def _save(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    with atomic_file(folder / "model.safetensors") as draft:
        save_file(tensors, draft, metadata={"format": "pt"})


def whisper_encoder_shapes(config: WhisperConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that transformers' `WhisperEncoder` of this config has."""
    with torch.device("meta"):
        encoder = WhisperEncoder(config)
    return {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}


def convert_smollm2(gguf: Path, folder: Path) -> None:
    """Write a GGUF of SmolLM2-Instruct as a transformers folder: float32 weights, tokenizer, chat template.

    The weights are exactly what transformers de-quantises; the tied output matrix is stored once.

    Args:
        gguf: The `.gguf` file.
        folder: An existing folder to write into.

    Raises:
        CheckpointError: The file cannot be read as a Llama, or its tokenizer is not SmolLM2's.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' own progress bars, which cannot be turned off
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"Cannot read {gguf} as a GGUF of SmolLM2: {error}. Download it again.") from error
    # SmolLM2 splits digits before everything else; GGUF stores only the name of that rule ("smollm") and transformers
    # falls back to GPT-2's, which differs after runs of spaces.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    _write_smollm2(model, tokenizer, folder, source=gguf)


def convert_smollm2_from_hub(snapshot: Path, folder: Path) -> None:
    """Write a `HuggingFaceTB/SmolLM2-135M-Instruct` snapshot as the same folder `convert_smollm2` writes.

    Raises:
        CheckpointError: The snapshot cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(snapshot, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read SmolLM2 in {snapshot}: {error}. Download it again.") from error
    _write_smollm2(model, tokenizer, folder, source=snapshot)


def _write_smollm2(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, source: Path) -> None:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SMOLLM2_IDS}
    if ids != SMOLLM2_IDS or not tokenizer.chat_template:
        raise CheckpointError(
            f"The tokenizer in {source} is not SmolLM2-Instruct's: it has the ids {ids}, not {SMOLLM2_IDS}, "
            "or no chat template. Download it again."
        )
    tokenizer.bos_token, tokenizer.unk_token = "<|im_start|>", "<|endoftext|>"
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.update(SMOLLM2_ROLES)
    model.config.rms_norm_eps = 1e-5  # GGUF keeps it in float32, as 9.999999747378752e-06
    for name in ("quantization_config", "_model_name_or_path"):  # "read me as GGUF"; the name of a training run
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.config.architectures = [type(model).__name__]
    # Not model.save_pretrained: transformers refuses to save what it de-quantised from GGUF.
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    _save(tensors, folder)
    model.config.save_pretrained(folder)
    GenerationConfig(**SMOLLM2_ROLES).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
