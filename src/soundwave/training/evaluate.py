"""Losses and the CTC path's word error rate on held-out data, during training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import jiwer
import torch
from accelerate import Accelerator

from soundwave.model.shrink import collapse
from soundwave.training.dataset import Collator, Source, batches
from soundwave.training.modules import StageModule
from soundwave.training.processes import gathered
from soundwave.training.recipe import Recipe


def held_out_names(manifests: Sequence[str]) -> list[str]:
    """What the figures of each held-out manifest are called, no two alike.

    Args:
        manifests: paths, in the recipe's order.

    Returns:
        For each the name of its folder; where several manifests share that, `folder_stem`; where they share that too,
        with a number from the second on. Without a folder it is the stem.

    Example:
        >>> held_out_names(["books/manifest.jsonl", "dev/asr.jsonl", "dev/translation.jsonl"])
        ['books', 'dev_asr', 'dev_translation']
    """
    paths = [Path(manifest) for manifest in manifests]
    folders = [path.parent.name or path.stem for path in paths]
    shared = Counter(folders)
    taken = {folder for folder in folders if shared[folder] == 1}
    names = []
    for path, folder in zip(paths, folders, strict=True):
        name = folder
        if shared[folder] > 1:
            stem = f"{folder}_{path.stem}"
            name = next(n for n in (stem if i == 1 else f"{stem}_{i}" for i in count(1)) if n not in taken)
            taken.add(name)
        names.append(name)
    return names


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
