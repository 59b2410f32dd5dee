"""How the next token is chosen: a function made from options, so that the decoding loop sees none of them.

Equal to transformers' `generate` in what may be chosen, except that every row draws from a generator of its own.
"""

# R rows of a batch, V vocabulary, K candidates

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from soundwave.inference.options import GenerationOptions

# (R, V) float32 scores, the number of each row among all prompts, and the tokens of its answer so far → (R,) tokens
Choose = Callable[[Tensor, Sequence[int], Sequence[list[int]]], Tensor]
TOP_K = 50  # candidates, where a checkpoint's generation_config names no number: transformers' default


def chooser(
    options: GenerationOptions, defaults: GenerationConfig, eos_ids: Iterable[int], rows: int,
    device: torch.device | str = "cpu",
) -> Choose:
    """A function that chooses the next token of every row.

    The same seed gives a row the same tokens alone and in a batch.

    Args:
        options: temperature, top-p and seed.
        defaults: of the checkpoint; `top_k`, `repetition_penalty`, `no_repeat_ngram_size` and `min_new_tokens` are
            taken from it.
        eos_ids: tokens that end an answer.
        rows: of all prompts.
        device: of the scores.
    """
    penalties = _penalties(defaults, list(eos_ids), device)
    top_k = TOP_K if defaults.top_k is None else defaults.top_k
    generators = [torch.Generator() for _ in range(rows)]
    for generator in generators:
        if options.seed is None:
            generator.seed()
        else:
            generator.manual_seed(options.seed)

    def choose(scores: Tensor, numbers: Sequence[int], answers: Sequence[list[int]]) -> Tensor:
        if penalties:  # row by row: answers of drafts differ in length
            told = [torch.tensor([answer], dtype=torch.long, device=scores.device) for answer in answers]
            scores = torch.cat([penalties(ids, row[None]) for ids, row in zip(told, scores, strict=True)])
        if options.temperature == 0:
            return scores.argmax(-1)
        draws = [torch.rand((), generator=generators[number]).item() for number in numbers]
        return sample(scores / options.temperature, torch.tensor(draws), top_k, options.top_p)

    return choose


def sample(scores: Tensor, draws: Tensor, top_k: int, top_p: float) -> Tensor:
    """(R,) tokens, each drawn by its row's number between 0 and 1.

    Args:
        scores: (R, V) logits, divided by the temperature.
        draws: (R,).
        top_k: only so many of the likeliest tokens; 0: all.
        top_p: only the likeliest of these that share this probability.
    """
    count = scores.shape[-1]
    kept, tokens = scores.topk(min(top_k, count) if top_k else count)  # (R, K), likeliest first
    probabilities = kept.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p, 0.0)  # the likeliest always stays
    sums = probabilities.cumsum(-1)
    reached = sums > draws.to(sums)[:, None] * sums[:, -1:]
    return tokens.gather(-1, reached.long().argmax(-1, keepdim=True))[:, 0]


def _penalties(defaults: GenerationConfig, eos_ids: list[int], device: torch.device | str) -> Any:
    """What a checkpoint's generation_config changes in the scores, in the order of transformers."""
    penalties = LogitsProcessorList()
    if defaults.repetition_penalty not in (None, 1.0):
        penalties.append(RepetitionPenaltyLogitsProcessor(defaults.repetition_penalty))
    if defaults.no_repeat_ngram_size:
        penalties.append(NoRepeatNGramLogitsProcessor(defaults.no_repeat_ngram_size))
    if defaults.min_new_tokens and eos_ids:
        penalties.append(MinNewTokensLengthLogitsProcessor(0, defaults.min_new_tokens, eos_ids, device))
    return penalties
