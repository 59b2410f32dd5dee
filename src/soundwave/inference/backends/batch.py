"""Rows that an LLM of transformers continues together: their key-value cache, mask and positions.

It knows token ids and embeddings, and nothing of how tokens are chosen or of who asked for them.
"""

# R rows of a batch, L positions, K of a run, D width, V vocabulary, N nodes of a tree of continuations

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from soundwave.inference.backends.continuation_tree import ContinuationTree
from soundwave.inference.backends.protocol import Prompt

TAKE_A_TREE = ("sdpa", "eager")  # implementations of attention that take any mask


class Batch:
    """Rows that are continued together: their key-value cache, and the scores of each one's next tokens.

    Beside the newest token of a row, the LLM reads a run of K tokens that may come next; `keep` says what came.

    Attributes:
        model: the LLM.
        rows: R.
        can_join: whether `join` can be called.
        scores: (R, K + 1, V) logits: of what follows the newest token, and of what follows each token of its run.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Prompt], runs: Sequence[list[int]] = ([],)):
        self.model, self.rows = model, len(prompts)
        rows = [embedded(model, prompt) for prompt in prompts]
        lengths = [len(row) for row in rows]
        inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")  # (R, L, D)
        self._cache, self._run = cache_for(model), 0
        self.can_join = _is_plain(model, self._cache)
        self._mask: Tensor | None = None  # (R, positions) 1 inside a row; None: no row has gaps
        if min(lengths) < max(lengths):
            self._mask = torch.tensor([[0] * (max(lengths) - n) + [1] * n for n in lengths], device=model.device)
        run = self._padded(runs)
        if run.shape[1]:
            inputs = torch.cat([inputs, model.get_input_embeddings()(run)], 1)
        self._forward(inputs.shape[1], run.shape[1], inputs_embeds=inputs)

    def step(self, tokens: Sequence[int], runs: Sequence[list[int]]) -> None:
        """Reads the newest token of every row, and the run after it."""
        inputs = self._padded([[token, *run] for token, run in zip(tokens, runs, strict=True)])
        self._forward(inputs.shape[1], inputs.shape[1] - 1, input_ids=inputs)

    def keep(self, rows: Sequence[int], right: Sequence[int]) -> None:
        """Leaves out all rows but these, and of their runs all but the first tokens.

        Args:
            rows: numbers in the batch, at least one.
            right: for each of them, how many tokens of its run stay; none where nothing was read since the last call.
        """
        (cache,) = self._cache.values()
        run, most, self._run = self._run, max(right), 0
        left = len(rows) < self.rows
        start = cache.get_seq_length() - run
        if most < run:
            cache.crop(most - run)  # less than 0: so many positions go
        if left:
            self.rows = len(rows)
            index = torch.tensor(rows, dtype=torch.long, device=self.model.device)
            cache.batch_select_indices(index)
            self._mask = None if self._mask is None else self._mask[index]
        if self._mask is not None or min(right) < most:
            before = torch.ones(len(rows), start, dtype=torch.long, device=self.model.device)
            before = before if self._mask is None else self._mask[:, :start]
            stay = torch.tensor([[1] * n + [0] * (most - n) for n in right], dtype=torch.long, device=before.device)
            self._mask = torch.cat([before, stay], 1)  # other rows' tokens left gaps, which nobody sees
        if left and self.can_join and self._mask is not None:
            self._trim()

    def join(self, other: Batch) -> None:
        """Takes the rows of another batch behind its own; between `keep` and `step`, and where `can_step_back`."""
        (cache,), (others,) = self._cache.values(), other._cache.values()
        lengths = [cache.get_seq_length(), others.get_seq_length()]
        if self._mask is not None or other._mask is not None or lengths[0] != lengths[1]:
            masks = [
                torch.ones(one.rows, length, dtype=torch.long, device=self.model.device) if one._mask is None
                else one._mask
                for one, length in zip((self, other), lengths, strict=True)
            ]
            self._mask = torch.cat([_lengthened(mask, max(lengths), -1) for mask in masks])
        for layer, more in zip(cache.layers, others.layers, strict=True):
            layer.keys, layer.values = (
                torch.cat([_lengthened(one, max(lengths), -2) for one in pair])
                for pair in ((layer.keys, more.keys), (layer.values, more.values))
            )
        self.rows += other.rows

    def _trim(self) -> None:
        """Leaves out the positions at the beginning that no row has: the rows that had them are gone."""
        assert self._mask is not None
        unused = int(self._mask.any(0).int().argmax())
        if unused:
            (cache,) = self._cache.values()
            self._mask = self._mask[:, unused:]
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[..., unused:, :], layer.values[..., unused:, :]
        if bool(self._mask.all()):
            self._mask = None

    def read(self, tree: ContinuationTree) -> np.ndarray:
        """(nodes,) natural log-probability of every node of a tree after the only row, which stays as it is."""
        logprobs = np.zeros(len(tree.tokens))
        tree.fill(logprobs, self.scores[0], [-1])
        if not tree.read:
            return logprobs
        device, dtype = self.model.device, self.model.dtype
        cache = copy.deepcopy(self._cache)
        start = next(iter(cache.values())).get_seq_length()
        seen = np.concatenate([np.ones((len(tree.read), start), bool), tree.ancestors()], 1)
        mask = None
        if not tree.is_chain:
            mask = torch.zeros(seen.shape, dtype=dtype, device=device)
            mask = mask.masked_fill(torch.tensor(~seen, device=device), torch.finfo(dtype).min)[None, None]
        logits = self.model(
            input_ids=torch.tensor([[tree.tokens[node] for node in tree.read]], device=device), attention_mask=mask,
            position_ids=torch.tensor([[start + tree.depths[node] for node in tree.read]], device=device),
            use_cache=True, **cache,
        ).logits[0]
        tree.fill(logprobs, logits, tree.read)
        return logprobs

    def _padded(self, runs: Sequence[list[int]]) -> Tensor:
        """(R, K) tokens; what stands after a shorter run is seen by nothing before it, and never kept."""
        longest = max(map(len, runs))
        rows = [run + [0] * (longest - len(run)) for run in runs]
        return torch.tensor(rows, dtype=torch.long, device=self.model.device)

    def _forward(self, length: int, run: int, **inputs: Any) -> None:
        places = None
        if self._mask is not None:
            (cache,) = self._cache.values()
            new = cache.get_seq_length() + length - self._mask.shape[1]
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), new)], 1)
            places = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -length:]
        self._run = run
        self.scores = self.model(
            attention_mask=self._mask, position_ids=places, use_cache=True, logits_to_keep=run + 1, **inputs,
            **self._cache,
        ).logits


def _lengthened(values: Tensor, length: int, axis: int) -> Tensor:
    """Values with zeros before them along an axis, so that it has this length."""
    missing = length - values.shape[axis]
    return values if not missing else nn.functional.pad(values, (*(0, 0) * (-1 - axis), missing, 0))


def can_step_back(model: PreTrainedModel) -> bool:
    """Whether tokens that an LLM has read can be taken out of its cache, and any of them hidden from later ones."""
    return _is_plain(model, cache_for(model))


def _is_plain(model: PreTrainedModel, keyword: dict[str, DynamicCache]) -> bool:
    (cache,) = keyword.values()
    plain = all(type(layer) is DynamicLayer for layer in cache.layers)
    return plain and model.config._attn_implementation in TAKE_A_TREE


def embedded(model: PreTrainedModel, prompt: Prompt) -> Tensor:
    """(L, D) what the LLM reads for a prompt: its token embeddings, and the audio's between them."""
    table = model.get_input_embeddings()
    parts = [
        torch.tensor(segment, dtype=table.weight.dtype, device=model.device) if isinstance(segment, np.ndarray)
        else table(torch.tensor(segment, dtype=torch.long, device=model.device))
        for segment in prompt.segments
    ]
    return torch.cat(parts)


def cache_for(model: PreTrainedModel) -> dict[str, DynamicCache]:
    """An empty key-value cache, as the keyword argument for the LLM's `forward`."""
    # its name in transformers 5.24 and newer, and before
    parameters = inspect.signature(model.get_decoder().forward).parameters
    return {"cache" if "cache" in parameters else "past_key_values": DynamicCache(config=model.config)}
