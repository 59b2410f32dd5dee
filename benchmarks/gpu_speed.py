"""Speed and memory of the 9B model's real sizes on a CUDA GPU, with random weights: no download is needed.

Prints, in bfloat16: the front end's time for a 30-s window and for short clips, the time to the first token, tokens per
second alone and in a batch, and peak memory. Random CTC decisions keep nearly every frame, so the language model is
given a stated number of audio positions instead of what the random head keeps.

    python benchmarks/gpu_speed.py --json gpu.json
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_module_tensor_to_device
from timing import interleaved, machine_facts, medians
from torch import Tensor
from transformers import GenerationConfig, WhisperConfig

from soundwave.checkpoints.released import released_config
from soundwave.checkpoints.weights import empty_model
from soundwave.configuration import SoundwaveConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration

MEL_FRAMES_PER_SECOND = 100
WINDOW_SECONDS = 30.0
PROMPT_TOKENS = 90  # the released prompt with a question in it
AUDIO_POSITIONS = 38  # 2.5 % of 1,500 frames: what the paper's ablation keeps of 30 s
GIGABYTE = 1e9
NEEDED_GIGABYTES = 24
WHISPER_LARGE_V2 = {
    "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "num_mel_bins": 80,
    "decoder_layers": 0, "max_source_positions": 1500,
}
LLAMA_3_1_8B = {  # and one more token, the audio placeholder
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128257, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "audio_patch_token": 128256,
    "bos_token_id": 128000, "eos_token_id": 128009, "pad_token_id": 128009,
}


def full_size() -> SoundwaveConfig:
    """The public 9B model's configuration."""
    return released_config(dict(LLAMA_3_1_8B), WhisperConfig(**WHISPER_LARGE_V2))


def random_model(config: SoundwaveConfig, device: str, dtype: torch.dtype) -> SoundwaveForConditionalGeneration:
    """Weights drawn on the device itself, one tensor at a time, so that two copies never exist."""
    model = empty_model(config)
    torch.manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.02
        value = torch.randn(parameter.shape, device=device, dtype=dtype) * scale
        if "norm" in name and name.endswith("weight"):
            value += 1
        set_module_tensor_to_device(model, name, device, value=value)
    model.language_model.generation_config = GenerationConfig(pad_token_id=0)  # no end token: lengths are as asked
    return model.to(device).eval().requires_grad_(False)


class Bench:
    """One model on one device, and the requests that it is timed on.

    Args:
        model: on its device.
        audio_positions: what the language model reads for a clip.
    """

    def __init__(self, model: SoundwaveForConditionalGeneration, audio_positions: int = AUDIO_POSITIONS):
        self.model, self.positions, self.device = model, audio_positions, model.device

    def settled(self, work: Callable[[], object]) -> Callable[[], object]:
        """The same work, waited for."""

        def run() -> None:
            with torch.no_grad():
                work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return run

    def features(self, seconds: float, clips: int = 1) -> Tensor:
        """(clips, mel, frames) of noise."""
        mels, frames = self.model.config.audio_config.num_mel_bins, int(seconds * MEL_FRAMES_PER_SECOND) // 4 * 4
        return torch.randn(clips, mels, frames, device=self.device, dtype=self.model.dtype)

    def encode(self, features: Tensor) -> list[Tensor]:
        """The front end; of what it keeps, as many positions as a real clip gives, repeated where need be."""
        kept = self.model.encode_speech(features).kept()
        return [row.repeat(-(-self.positions // len(row)), 1)[: self.positions] for row in kept]

    def ask(self, features: Tensor, tokens: int) -> Tensor:
        """Front end, prompt and `tokens` new tokens, for every clip."""
        audio = self.encode(features)
        ids = torch.ones(len(audio), PROMPT_TOKENS, dtype=torch.long, device=self.device)
        ids[:, PROMPT_TOKENS // 2] = self.model.config.audio_token_id
        return self.model.generate(
            ids, torch.ones_like(ids), audio_embeddings=audio, do_sample=False, max_new_tokens=tokens
        )


def measure(
    bench: Bench, seconds: list[float], tokens: int, batch: int, repeats: int, until: float | None = None
) -> dict[str, Any]:
    """Times of every request, medians of interleaved rounds, and what follows from them."""
    window = bench.features(WINDOW_SECONDS)
    many = bench.features(WINDOW_SECONDS, batch)
    variants = {"encode 30-s window": bench.settled(lambda: bench.encode(window))}
    for length in seconds:
        variants[f"encode {length:g} s"] = bench.settled(partial(bench.encode, bench.features(length)))
    variants |= {
        "first token": bench.settled(lambda: bench.ask(window, 1)),
        f"answer of {tokens} tokens": bench.settled(lambda: bench.ask(window, tokens)),
        f"first token, batch of {batch}": bench.settled(lambda: bench.ask(many, 1)),
        f"answers of {tokens} tokens, batch of {batch}": bench.settled(lambda: bench.ask(many, tokens)),
    }
    times = interleaved(variants, repeats, until=until)
    middle = medians(times)
    alone = middle[f"answer of {tokens} tokens"] - middle["first token"]
    together = middle[f"answers of {tokens} tokens, batch of {batch}"] - middle[f"first token, batch of {batch}"]
    return {
        "seconds": middle, "all_seconds": times, "audio_positions": bench.positions, "prompt_tokens": PROMPT_TOKENS,
        "tokens_per_second": (tokens - 1) / alone, "tokens_per_second_in_batch": batch * (tokens - 1) / together,
    }


def show(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{result['parameters'] / 1e9:.2f}B random parameters, {result['dtype']}, on {result['device']}; "
        f"{result['audio_positions']} audio positions, {result['prompt_tokens']} prompt tokens"
    ]
    lines += [f"{1000 * seconds:10.1f} ms  {name}" for name, seconds in result["seconds"].items()]
    lines += [
        f"{result['tokens_per_second']:10.1f} tokens a second alone, "
        f"{result['tokens_per_second_in_batch']:.1f} in a batch of {result['batch']}",
        f"{result['weights_gigabytes']:10.2f} GB of weights, {result['peak_gigabytes']:.2f} GB at the peak",
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 5.0, 10.0], help="lengths of short clips")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--batch", type=int, default=8, help="clips asked at once")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds")
    parser.add_argument(
        "--minutes", type=float, default=3, help="no round begins after these (%(default)g), but the first"
    )
    parser.add_argument("--json", type=Path, help="keep everything that was measured here")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            f"gpu_speed.py needs a CUDA GPU with {NEEDED_GIGABYTES} GB, and PyTorch {torch.__version__} sees none. "
            "On a CPU run benchmarks/speed.py, with mini."
        )
    until = time.monotonic() + 60 * options.minutes
    torch.cuda.reset_peak_memory_stats()
    model = random_model(full_size(), "cuda", torch.bfloat16)
    weights = torch.cuda.memory_allocated() / GIGABYTE
    result = measure(Bench(model), options.seconds, options.tokens, options.batch, options.repeats, until)
    result |= {
        "parameters": sum(parameter.numel() for parameter in model.parameters()), "dtype": "bfloat16",
        "device": torch.cuda.get_device_name(), "batch": options.batch, "machine": machine_facts(),
        "weights_gigabytes": weights, "peak_gigabytes": torch.cuda.max_memory_allocated() / GIGABYTE,
    }
    print(show(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
