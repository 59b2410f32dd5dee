"""Training speed and memory of the 9B model's real sizes on a CUDA GPU, with random weights: no download is needed.

For each stage of the paper's recipe: steps, tokens and audio a second, the share of the GPU's peak, and peak memory, of
whole steps (encoder, forward, backward, clipping, AdamW) on batches of noise. Random CTC decisions keep nearly every
frame, so a stage with the LLM is given clips whose runs are drawn: as many positions as speech of that length gives.
Beside each figure stands what `soundwave train --estimate` derives for the same batch.

    python benchmarks/gpu_training.py --stages 1 2 3 --json gpu_training.json
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate.utils import set_module_tensor_to_device
from timing import machine_facts

from soundwave.checkpoints.lora import attach_lora
from soundwave.checkpoints.weights import empty_model
from soundwave.configuration import SoundwaveConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.whisper import encode_window
from soundwave.training.build import lora_of
from soundwave.training.collate import Batch
from soundwave.training.cost.estimate import Workload, count_parameters, flops, memory, paper_clip_seconds, workload
from soundwave.training.cost.estimate_table import model_config
from soundwave.training.objective import StageModule
from soundwave.training.recipe import Recipe
from soundwave.training.recipe_io import read_recipe
from soundwave.training.stages import Stage, mark_trained, stage_named

PAPER = Path(__file__).resolve().parents[1] / "recipes" / "paper"
NEEDED_GIGABYTES = 40
MEL_FRAMES_PER_ENCODER_FRAME = 2
GIGABYTE = 1e9
NO_GPU = 2  # exit code
# FLOP/s of NVIDIA's data sheets: dense bf16, as in training/public_sizes.py; H100 and H200 are the SXM modules
PEAKS = {"A100": 312e12, "A800": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "4090": 165e12, "3090": 71e12}


@dataclass(frozen=True)
class Speed:
    """What a step of one device comes to."""

    steps_per_second: float
    clips_per_second: float
    audio_seconds_per_second: float
    tokens_per_second: float
    tflops_per_second: float
    share_of_peak: float | None


def speed(seconds_per_step: float, work: Workload, flops_of_clip: float, peak: float | None) -> Speed:
    """A step's time to rates; the share of the peak counts recomputation, as the estimate does."""
    rate = flops_of_clip * work.clips / seconds_per_step
    return Speed(
        1 / seconds_per_step, work.clips / seconds_per_step, work.clips * work.seconds / seconds_per_step,
        work.clips * work.positions / seconds_per_step, rate / 1e12, rate / peak if peak else None,
    )


def peak_of(device: str) -> float | None:
    """The data sheet's rate for a GPU of that name; None where this table does not have it."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def random_model(config: SoundwaveConfig, recipe: Recipe, stage: Stage, device: torch.device) -> Any:
    """A model as a run lays it out: frozen parts in bf16, what is trained in float32, no encoder inside.

    Returns:
        The model and the encoder.
    """
    model = empty_model(config)
    torch.manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        if name.startswith("language_model.") and not stage.next_token and "embed_tokens" not in name:
            continue
        own = name.startswith(("alignment.", "shrinking.")) and "ctc_projection" not in name
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.02
        value = torch.randn(parameter.shape, device=device, dtype=torch.bfloat16) * scale
        if "norm" in name and name.endswith("weight"):
            value += 1
        set_module_tensor_to_device(model, name, device, value=value, dtype=torch.float32 if own else torch.bfloat16)
    tower = model.audio_tower.eval().requires_grad_(False)
    model.audio_tower = None
    if stage.next_token:
        model.language_model.to(device)  # its buffers
    if stage.lora:
        attach_lora(model, **vars(lora_of(recipe, None)))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(device, torch.float32)
    if stage.next_token and recipe.gradient_checkpointing:
        enable = getattr(model.language_model, "activation_checkpointing_enable", None)
        (enable or model.language_model.gradient_checkpointing_enable)({"use_reentrant": False})
    mark_trained(model, stage)
    return model.train(), tower


class Trainer:
    """Whole steps of one stage on batches of noise.

    Args:
        model: from `random_model`.
        tower: the encoder.
        recipe: its batch and optimizer.
        stage: what is trained.
        work: what a batch holds.
        device: where.
    """

    def __init__(
        self, model: SoundwaveForConditionalGeneration, tower: Any, recipe: Recipe, stage: Stage, work: Workload,
        device: torch.device,
    ):
        self.module = StageModule(model, stage, recipe.ctc_weight).to(device)
        self.model, self.tower, self.work, self.device, self.recipe = model, tower, work, device, recipe
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, fused=device.type == "cuda")
        if stage.next_token:
            self._make_decisions()

    def _make_decisions(self) -> None:
        """Lets the CTC head decide as speech would: runs of tokens with blanks between, whatever the frames hold."""
        config, work = self.model.config, self.work
        path = torch.full((work.aligned,), config.blank_class, device=self.device)
        starts = torch.linspace(0, work.aligned - 2, work.replied, device=self.device).long()
        path[starts] = torch.arange(len(starts), device=self.device) % (config.ctc_classes - 1)
        bias = torch.zeros(work.aligned, config.ctc_classes, device=self.device, dtype=torch.bfloat16)
        bias[torch.arange(work.aligned, device=self.device), path] = 1e3
        scores = self.model.alignment.ctc_logits
        self.model.alignment.ctc_logits = lambda aligned, table=None: scores(aligned, table) + bias

    def batch(self) -> Batch:
        """Noise, encoded as a run on the fly does."""
        config, work = self.model.config, self.work
        mels = config.audio_config.num_mel_bins
        shape = (work.clips, mels, MEL_FRAMES_PER_ENCODER_FRAME * work.frames)
        noise = torch.randn(shape, device=self.device, dtype=self.tower.conv1.weight.dtype)
        with torch.no_grad():
            frames = encode_window(self.tower, noise, None)
        prompt = work.positions - work.audio_positions - work.replied
        ids = torch.ones(work.clips, prompt + work.replied, dtype=torch.long, device=self.device)
        ids[:, 2] = config.audio_token_id
        labels = ids.masked_fill(torch.arange(ids.shape[1], device=self.device) < prompt, -100)
        targets: list[list[int] | None] = [[1 + i % 50 for i in range(work.replied)] for _ in range(work.clips)]
        mask = torch.ones(work.clips, work.aligned, dtype=torch.bool, device=self.device)
        return Batch(["noise"] * work.clips, frames, mask, targets, ids, torch.ones_like(ids), labels)

    def step(self) -> float:
        """One optimizer step without accumulation; its loss."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            losses = self.module(self.batch())
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(losses.total.item())  # waits for the GPU

    def seconds(self, steps: int, warmup: int, until: float | None = None) -> list[float]:
        """Time of each step, the first `warmup` left out; none begins after `until` but the first that counts."""
        times: list[float] = []
        for _ in range(warmup + steps):
            if until is not None and len(times) > warmup and time.monotonic() > until:
                break
            began = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - began)
        return times[warmup:]


def measure(
    recipe: Recipe, config: SoundwaveConfig, device: torch.device, steps: int, warmup: int = 2,
    until: float | None = None,
) -> dict[str, Any]:
    """One stage: rates, memory, and what the estimate says of them."""
    stage, recipe = stage_named(recipe.stage), replace(recipe, lora=lora_of(recipe, None))
    parts, work = count_parameters(config, recipe.lora), workload(config, recipe, paper_clip_seconds(stage))
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    model, tower = random_model(config, recipe, stage, device)
    times = Trainer(model, tower, recipe, stage, work, device).seconds(steps, warmup, until)
    cost = flops(config, stage, parts, work, checkpointing=recipe.gradient_checkpointing).total
    rates = speed(median(times), work, cost, peak_of(torch.cuda.get_device_name(device)) if cuda else None)
    return {
        "stage": stage.name, "clips": work.clips, "clip_seconds": work.seconds, "positions": work.positions,
        "seconds": times, **vars(rates), "trained": parts.trained(stage),
        "peak_gigabytes": torch.cuda.max_memory_allocated(device) / GIGABYTE if cuda else None,
        "estimated_gigabytes": memory(config, recipe, stage, parts, work).total / GIGABYTE,
    }


def show(row: dict[str, Any]) -> str:
    """A stage's figures for people."""
    share, held = row["share_of_peak"], row["peak_gigabytes"]
    return (
        f"{row['stage']}: {row['clips']} clips of {row['clip_seconds']:.1f} s, {row['trained'] / 1e6:.0f}M trained\n"
        f"  {row['steps_per_second']:8.3f} steps a second, {row['clips_per_second']:.1f} clips, "
        f"{row['audio_seconds_per_second']:.0f} s of audio, {row['tokens_per_second']:.0f} LLM positions\n"
        f"  {row['tflops_per_second']:8.1f} TFLOP/s"
        + (", the data sheet's peak is not in the table" if share is None else f", {share:.1%} of the peak")
        + f"\n  {'unknown' if held is None else f'{held:8.1f}'} GB at the peak, "
        f"{row['estimated_gigabytes']:.1f} estimated"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--batch", type=int, help="clips of a batch; default: the paper's 32, 16, 8")
    parser.add_argument("--steps", type=int, default=10, help="measured steps, after two that are not")
    parser.add_argument(
        "--minutes", type=float, default=3, help="divided among the stages: no step begins after its part (%(default)g)"
    )
    parser.add_argument("--json", type=Path, help="keep everything that was measured here")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"gpu_training.py needs a CUDA GPU with {NEEDED_GIGABYTES} GB or more, and torch sees none. "
            "`soundwave train recipes/paper/stage1.yaml --estimate` derives figures without one.",
            file=sys.stderr,
        )
        raise SystemExit(NO_GPU)
    rows, ends = list[dict[str, Any]](), time.monotonic() + 60 * options.minutes
    for done, number in enumerate(options.stages):
        recipe = read_recipe(PAPER / f"stage{number}.yaml")
        if options.batch:
            recipe = replace(recipe, max_batch_size=options.batch, batch_seconds=30.0 * options.batch)
        until = time.monotonic() + (ends - time.monotonic()) / (len(options.stages) - done)
        rows.append(measure(recipe, model_config(recipe)[0], torch.device("cuda"), options.steps, until=until))
        print(show(rows[-1]), flush=True)
        gc.collect()  # the model of this stage, before the next one's
        torch.cuda.empty_cache()
    if options.json:
        about = {"device": torch.cuda.get_device_name(), "machine": machine_facts(), "stages": rows}
        options.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
