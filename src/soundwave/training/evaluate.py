"""Losses and the CTC path's word error rate on held-out data, during training."""

from __future__ import annotations

from dataclasses import replace

import jiwer
import torch
from accelerate import Accelerator

from soundwave.model.shrink import collapse
from soundwave.training.dataset import Collator, Source, batches
from soundwave.training.modules import StageModule
from soundwave.training.processes import gathered
from soundwave.training.recipe import Recipe


@torch.no_grad()
def evaluate(
    module: StageModule, source: Source, collator: Collator, recipe: Recipe, accelerator: Accelerator
) -> dict[str, float]:
    """Mean losses per batch, and the error rate of greedy CTC against the normalised transcripts.

    Several processes take turns with the batches; all of them return the figures of the whole.

    Returns:
        `loss`; `next_token` where the LLM runs, and `kl` where the text LLM is its teacher; `ctc_wer` (a fraction)
        where transcripts are known.
    """
    plain = replace(recipe, time_masks=0, feature_dropout=0.0)
    decode = source.tokenizer.decode
    losses: list[float] = []
    next_token: list[float] = []
    kl: list[float] = []
    said: list[str] = []
    heard: list[str] = []
    made = batches(source.items(recipe.seed, 0), plain, recipe.seed, 0)
    rank, processes = accelerator.process_index, accelerator.num_processes
    for first in range(0, len(made), processes):
        # Whose turn finds no batch left computes the last one again: all have a part in each pass of a sharded model.
        items = made[min(first + rank, len(made) - 1)]
        batch = collator(items).to(accelerator.device)
        result = module(batch)
        if first + rank >= len(made):
            continue
        losses.append(result.total.item())
        if result.next_token is not None:
            next_token.append(result.next_token.item())
        if result.kl is not None:
            kl.append(result.kl.item())
        if result.paths is None or batch.frame_mask is None:
            continue
        owners = [item for item in items for _ in item.clips]
        for item, path, mask in zip(owners, result.paths.tolist(), batch.frame_mask.tolist(), strict=True):
            if item.ctc is not None and item.example.transcript:
                classes = collapse([token for token, inside in zip(path, mask, strict=True) if inside], module.blank)
                heard.append(decode(classes))
                said.append(item.example.transcript)
    losses, next_token = gathered(accelerator, losses), gathered(accelerator, next_token)
    kl = gathered(accelerator, kl)
    said, heard = gathered(accelerator, said), gathered(accelerator, heard)
    figures = {"loss": sum(losses) / len(losses)}
    if next_token:
        figures["next_token"] = sum(next_token) / len(next_token)
    if kl:
        figures["kl"] = sum(kl) / len(kl)
    if said:
        figures["ctc_wer"] = jiwer.wer(said, heard)
    return figures
