"""What the benchmarks measure: an engine over mini's weights, its 30-s twin, and clips of speech of any length."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.checkpoints.catalog import resolve_model
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.checkpoints.lora import attach_lora
from soundwave.checkpoints.native import fill_part, load_processor, new_config
from soundwave.checkpoints.weights import empty_model, fill, finish
from soundwave.errors import CheckpointError
from soundwave.inference.engine import Engine
from soundwave.model.linear import use_onednn
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SPEECH = EXAMPLES / "statement.flac"
RANDOM_WEIGHTS = "random adapters at mini's sizes over its real parts: times mean something, answers do not"
# mini's sizes, for the day its trained weights are not at hand
MINI_SIZES = {
    "alignment_layers": 2, "alignment_heads": 9, "alignment_ffn_dim": 1536, "look_back_heads": 9,
    "ctc_vocabulary": list(range(1000)),
}
LORA: dict[str, Any] = {
    "r": 64, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
}


def engine_of(model: str) -> tuple[Engine, SoundwaveForConditionalGeneration, str]:
    """The engine in float32 on the CPU, the whole model that it runs, and what its weights are.

    Where mini's trained weights are missing, adapters and LoRA of its sizes are drawn at random.
    """
    try:
        whole, processor, _ = load_checkpoint(resolve_model(model), "cpu", torch.float32)
        weights = f"the weights of {Path(model).name}"
    except CheckpointError as problem:
        if model != "mini" or "neither in" not in str(problem):
            raise
        (whole, processor), weights = random_mini(), RANDOM_WEIGHTS
    use_onednn(whole)
    return Engine.of(whole, processor, name=model), whole, weights


def random_mini(seed: int = 0) -> tuple[SoundwaveForConditionalGeneration, SoundwaveProcessor]:
    """Whisper base, SmolLM2 and untrained adapters between them."""
    config = new_config("whisper-base", "smollm2-135m-instruct", **MINI_SIZES)
    model = empty_model(config)
    adapters = SoundwaveForConditionalGeneration.fresh_adapters(config, seed)
    fill(model, iter(adapters.items()), lambda name, value: [(name, value)], "cpu", torch.float32, "random weights")
    fill_part(model, "whisper-base", "audio_tower.", "cpu", torch.float32)
    fill_part(model, "smollm2-135m-instruct", "language_model.", "cpu", torch.float32)
    finish(model, "cpu", "random weights")
    attach_lora(model, **LORA)
    return model.eval().requires_grad_(False), load_processor(config)


def padded(engine: Engine) -> Engine:
    """The same model, its encoder's window always 30 s."""
    processor = copy.copy(engine.processor)
    processor.encoder_window = "padded"
    return Engine(engine.encoder, engine.decoder, processor, engine.inference, f"{engine.name}, 30-s window")


def speech(seconds: float) -> np.ndarray:
    """(samples,) of an example recording, repeated and cut to a length."""
    samples = load_audio(SPEECH)
    wanted = round(seconds * SAMPLE_RATE)
    return np.tile(samples, -(-wanted // len(samples)))[:wanted]
