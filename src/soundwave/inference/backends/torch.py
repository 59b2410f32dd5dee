"""The torch decoder: one visible loop that reads the prompts, then makes a token of every row at each step.

It runs in the caller's thread and knows token ids and embeddings only. transformers' `generate` gives the same greedy
answers (`tests/test_torch_decoder.py`), and `benchmarks/decoding.py` compares their speed.
"""

# R rows of a batch, L positions, D width, V vocabulary, N nodes of a tree of continuations

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from soundwave.errors import ConfigurationError
from soundwave.inference.backends.continuation_tree import ContinuationTree, trees
from soundwave.inference.backends.merged_lora import Twins
from soundwave.inference.backends.protocol import DecoderInfo, Prompt, Token, room_for_answer
from soundwave.inference.backends.sampling import Choose, chooser
from soundwave.inference.options import GenerationOptions

NODES_AT_ONCE = 256  # of a tree of continuations: bounds the memory of their scores (mini: 50 MB)
TAKE_A_TREE = ("sdpa", "eager")  # implementations of attention that take any mask


class TorchDecoder:
    """Runs a transformers LLM.

    Calls from several threads take turns, token by token. A stream that nobody reads at the moment holds its key-value
    cache, but no lock: its reader may make other calls, and so may other threads.

    Args:
        language_model: in evaluation mode, on its device, with a LoRA or without.
        name: told by `info`.
    """

    def __init__(self, language_model: PreTrainedModel, name: str = "torch"):
        self.name = name
        self._open: Twins | None = Twins(language_model)
        self._kept: tuple[tuple[object, ...], _Batch] | None = None  # what `_read` gave last, and for what
        self._lock, self._queue = threading.Lock(), threading.Lock()  # never held while a token is handed over

    @property
    def info(self) -> DecoderInfo:
        """What it is."""
        model = self._twins.language_model
        ends = model.generation_config.eos_token_id
        return DecoderInfo(
            name=self.name, device=str(model.device), dtype=str(model.dtype).removeprefix("torch."),
            eos_ids=frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends]),
            context_length=getattr(model.config, "max_position_embeddings", None),
            width=model.get_input_embeddings().embedding_dim, concurrent=False,
            parameters=model.num_parameters(),
        )

    def generate(
        self, prompts: Sequence[Prompt], options: GenerationOptions, drafts: Sequence[list[int]] | None = None
    ) -> Iterator[Token]:
        """New tokens as they are made; see `Decoder.generate`. Drafts are not used.

        Raises:
            ConfigurationError: a prompt is empty, of another width, or leaves no room in the LLM's context.
        """
        info, model = self.info, self._twins.language_model
        limits = [min(options.max_new_tokens, room_for_answer(prompt, info)) for prompt in prompts]
        choose = chooser(options, model.generation_config, info.eos_ids, len(prompts), model.device)
        return self._generate(prompts, limits, choose, info.eos_ids)

    def _generate(
        self, prompts: Sequence[Prompt], limits: Sequence[int], choose: Choose, eos_ids: frozenset[int]
    ) -> Iterator[Token]:
        for adapted in (True, False):
            rows = [row for row, prompt in enumerate(prompts) if prompt.adapted is adapted]
            answers: dict[int, list[int]] = {row: [] for row in rows}
            batch: _Batch | None = None
            while rows:
                with self._computing() as twins:
                    if batch is None:
                        batch = _Batch(twins.get(adapted), [prompts[row] for row in rows])
                    else:
                        batch.step([answers[row][-1] for row in rows])
                    chosen = choose(batch.scores, rows, [answers[row] for row in rows])
                    tokens, logprobs = chosen.tolist(), batch.logprobs(chosen)
                for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
                    answers[row].append(token)
                    yield Token(row, token, logprob)
                going = [row for row, token in zip(rows, tokens, strict=True) if token not in eos_ids]
                going = [row for row in going if len(answers[row]) < limits[row]]
                if len(going) < len(rows):
                    batch.keep([rows.index(row) for row in going])
                    rows = going

    def score(self, prompt: Prompt, continuations: Sequence[list[int]]) -> list[float]:
        """Natural log-probability of each of several continuations of one prompt.

        The prompt is read once, and so is what several continuations begin with.

        Raises:
            ConfigurationError: as `generate`, or a continuation does not fit into the LLM's context.
        """
        room_for_answer(prompt, self.info, max(map(len, continuations), default=0))
        attention = self._twins.language_model.config._attn_implementation
        most = NODES_AT_ONCE if attention in TAKE_A_TREE else 0  # 0: each text alone
        totals = [0.0] * len(continuations)
        with self._computing() as twins:
            batch = self._read(twins.get(prompt.adapted), prompt)
            for tree in trees(continuations, most):
                for row, total in tree.totals(batch.read(tree)).items():
                    totals[row] = total
        return totals

    def close(self) -> None:
        """Frees the LLM; streams that are open end with an error when they are read on."""
        with self._lock:
            self._open = self._kept = None

    def _read(self, model: PreTrainedModel, prompt: Prompt) -> _Batch:
        """A prompt, read; the last plain one is kept, since the hypotheses of all recordings follow the same one."""
        if prompt.adapted or any(isinstance(segment, np.ndarray) for segment in prompt.segments):
            return _Batch(model, [prompt])
        written = sum(0 if weight.is_inference() else weight._version for weight in model.parameters())
        key = (model, written, tuple(map(tuple, prompt.segments)))
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, _Batch(model, [prompt]))
        return self._kept[1]

    @contextmanager
    def _computing(self) -> Iterator[Twins]:
        with self._queue:  # whoever waits here is next: else who has just computed would take the lock again
            self._lock.acquire()
        try:
            with torch.no_grad():
                yield self._twins
        finally:
            self._lock.release()

    @property
    def _twins(self) -> Twins:
        if self._open is None:
            raise ConfigurationError("This decoder is closed; load the model again.")
        return self._open


class _Batch:
    """Rows that are continued together: their key-value cache, and the scores of each one's next token.

    Attributes:
        scores: (R, V) float32 logits.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Prompt]):
        self.model = model
        rows = [embedded(model, prompt) for prompt in prompts]
        lengths = [len(row) for row in rows]
        inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")  # (R, L, D)
        self._cache = cache_for(model)
        self._mask: Tensor | None = None  # (R, positions) 1 inside a row; None: no row is padded
        self._places: Tensor | None = None  # (R, 1) of the newest position, where rows are padded
        places = None
        if min(lengths) < max(lengths):
            self._mask = torch.tensor([[0] * (max(lengths) - n) + [1] * n for n in lengths], device=model.device)
            places = (self._mask.cumsum(-1) - 1).clamp(min=0)
            self._places = places[:, -1:]
        self._forward(inputs_embeds=inputs, position_ids=places)

    def step(self, tokens: Sequence[int]) -> None:
        """Reads the newest token of every row."""
        if self._mask is not None and self._places is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
            self._places = self._places + 1
        self._forward(input_ids=torch.tensor(tokens, device=self.model.device)[:, None], position_ids=self._places)

    def keep(self, rows: Sequence[int]) -> None:
        """Leaves out all rows but these."""
        index = torch.tensor(rows, dtype=torch.long, device=self.model.device)
        for cache in self._cache.values():
            cache.batch_select_indices(index)
        if self._mask is not None and self._places is not None:
            self._mask, self._places = self._mask[index], self._places[index]

    def logprobs(self, tokens: Tensor) -> list[float]:
        """Natural log-probability of a next token of every row."""
        chosen = self.scores.gather(-1, tokens[:, None])[:, 0]
        return (chosen - self.scores.logsumexp(-1)).tolist()

    def read(self, tree: ContinuationTree) -> np.ndarray:
        """(nodes,) natural log-probability of every node of a tree after the only row, which stays as it is."""
        logprobs = np.zeros(len(tree.tokens))
        tree.fill(logprobs, self.scores, [-1])
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

    def _forward(self, **inputs: Any) -> None:
        made = self.model(attention_mask=self._mask, use_cache=True, logits_to_keep=1, **inputs, **self._cache)
        self.scores = made.logits[:, -1].float()


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
