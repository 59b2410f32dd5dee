"""Training runs that take a second: tiny parts, made audio, and a recipe for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import tiny
import torch
from safetensors.torch import load_file

from soundwave.audio import SAMPLE_RATE
from soundwave.training.recipe import DataSource, LoraRecipe, Recipe

TRANSCRIPTS = ["the cat", "a son", "the person", "cat", "a person on the cat", "the son", "so", "on"]
SHORTEST = 0.5  # seconds; clip i is i tenths longer


def manifest_of(folder: Path, rows: list[dict[str, Any]], name: str = "manifest.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def clips(folder: Path, count: int = 8) -> list[dict[str, Any]]:
    """Made recordings, and a row of a manifest for each."""
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        seconds = SHORTEST + i / 10
        soundfile.write(folder / f"{i}.wav", tiny.sound(seconds, seed=i), SAMPLE_RATE)
        text = TRANSCRIPTS[i % len(TRANSCRIPTS)]
        rows.append({"audio": f"{i}.wav", "text": f"{text.capitalize()}.", "transcript": text, "duration": seconds})
    return rows


def recipe(folder: Path, **changes: Any) -> Recipe:
    """A run of stage I over tiny parts and eight clips; everything it writes is under `folder`."""
    if not (folder / "tiny-llm").is_dir():
        tiny.part_folders(folder)
        manifest_of(folder / "data", clips(folder / "data"))
    plain = Recipe(
        stage="alignment", output_dir=str(folder / "run"), features=str(folder / "features"),
        audio_tower=str(folder / "tiny-whisper"), language_model=str(folder / "tiny-llm"),
        model={"alignment_heads": 4, "alignment_ffn_dim": 40, "look_back_heads": 4, "alignment_dropout": 0.1},
        ctc_vocabulary_size=100, train=[DataSource(manifest=str(folder / "data" / "manifest.jsonl"))],
        learning_rate=3e-3, max_steps=6, batch_seconds=3.0, max_batch_size=3, mixed_precision="no",
        lora=LoraRecipe(r=4, lora_alpha=8), logging_steps=1, eval_steps=100, save_steps=100, time_masks=4,
    )
    return replace(plain, **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a finished run trained, LoRA included."""
    lora = folder / "lora" / "adapter_model.safetensors"
    return load_file(folder / "adapters.safetensors") | (load_file(lora) if lora.is_file() else {})


def losses(output_dir: str) -> list[dict[str, Any]]:
    """The figures of every step."""
    return [json.loads(line) for line in (Path(output_dir) / "metrics.jsonl").read_text().splitlines()]
