"""The torch decoder: one visible loop that reads the prompts, then makes a token of every row at each step.

It runs in the caller's thread and knows token ids and embeddings only. transformers' `generate` gives the same greedy
answers (`tests/test_torch_decoder.py`), and `benchmarks/decoding.py` compares their speed.
"""

# R rows of a batch, L positions, K of a run, D width, V vocabulary, N nodes of a tree of continuations

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from soundwave.errors import ConfigurationError
from soundwave.inference.backends.continuation_tree import ContinuationTree, trees
from soundwave.inference.backends.merged_lora import Twins
from soundwave.inference.backends.protocol import DecoderInfo, Prompt, Token, room_for_answer
from soundwave.inference.backends.sampling import Choose, chooser
from soundwave.inference.backends.speculative import Drafter
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
        self._kept: _Kept | None = None
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
        """New tokens as they are made; see `Decoder.generate`. Drafts are checked many tokens at a time.

        Raises:
            ConfigurationError: a prompt is empty, of another width, or leaves no room in the LLM's context.
        """
        info, model = self.info, self._twins.language_model
        limits = [min(options.max_new_tokens, room_for_answer(prompt, info)) for prompt in prompts]
        choose = chooser(options, model.generation_config, info.eos_ids, len(prompts), model.device)
        if drafts is None or not can_step_back(model):
            drafts = [[] for _ in prompts]
        return self._generate(prompts, limits, choose, info.eos_ids, list(map(Drafter, drafts)))

    def _generate(
        self, prompts: Sequence[Prompt], limits: Sequence[int], choose: Choose, eos_ids: frozenset[int],
        drafters: Sequence[Drafter],
    ) -> Iterator[Token]:
        for adapted in (True, False):
            rows = [row for row, prompt in enumerate(prompts) if prompt.adapted is adapted]
            answers: dict[int, list[int]] = {row: [] for row in rows}
            batch: _Batch | None = None
            while rows:
                runs = [drafters[row].propose(limits[row] - len(answers[row]) - 1) for row in rows]
                with self._computing() as twins:
                    if batch is None:
                        batch = _Batch(twins.get(adapted), [prompts[row] for row in rows], runs)
                    else:
                        batch.step([answers[row][-1] for row in rows], runs)
                    made = _checked(batch, rows, runs, choose, answers, eos_ids)
                for row, run, tokens in zip(rows, runs, made, strict=True):
                    drafters[row].checked(run, [token.id for token in tokens])
                yield from chain.from_iterable(made)
                going = [
                    i for i, row in enumerate(rows)
                    if answers[row][-1] not in eos_ids and len(answers[row]) < limits[row]
                ]
                if going:
                    batch.keep(going, [len(made[i]) - 1 for i in going])
                rows = [rows[i] for i in going]

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
        kept = self._kept
        weights = kept.weights if kept is not None and kept.batch.model is model else list(model.parameters())
        written = sum(0 if weight.is_inference() else weight._version for weight in weights)
        key = (model, written, tuple(map(tuple, prompt.segments)))
        if kept is None or kept.key != key:
            kept = self._kept = _Kept(key, weights, _Batch(model, [prompt]))
        return kept.batch

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


@dataclass(frozen=True)
class _Kept:
    """The last plain prompt, read; for which model, in which state, and which tokens; and that model's weights."""

    key: tuple[object, ...]
    weights: list[nn.Parameter]  # to go through the modules takes longer than to look at these
    batch: _Batch


def _checked(
    batch: _Batch, rows: Sequence[int], runs: Sequence[list[int]], choose: Choose, answers: dict[int, list[int]],
    eos_ids: frozenset[int],
) -> list[list[Token]]:
    """The next tokens of every row, chosen one after the other as without a draft, up to the first that leaves its run.

    They are added to the answers.
    """
    made: list[list[Token]] = [[] for _ in rows]
    going, place = list(range(len(rows))), 0
    while going:
        scores = batch.scores[going, place].float()
        chosen = choose(scores, [rows[i] for i in going], [answers[rows[i]] for i in going])
        logprobs = scores.gather(-1, chosen[:, None])[:, 0] - scores.logsumexp(-1)
        for i, token, logprob in zip(going, chosen.tolist(), logprobs.tolist(), strict=True):
            made[i].append(Token(rows[i], token, logprob))
            answers[rows[i]].append(token)
        going = [i for i in going if runs[i][place : place + 1] == [made[i][-1].id] and made[i][-1].id not in eos_ids]
        place += 1
    return made


class _Batch:
    """Rows that are continued together: their key-value cache, and the scores of each one's next tokens.

    Beside the newest token of a row, the LLM reads a run of K tokens that may come next; `keep` says what came.

    Attributes:
        scores: (R, K + 1, V) logits: of what follows the newest token, and of what follows each token of its run.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Prompt], runs: Sequence[list[int]] = ([],)):
        self.model = model
        rows = [embedded(model, prompt) for prompt in prompts]
        lengths = [len(row) for row in rows]
        inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")  # (R, L, D)
        self._cache = cache_for(model)
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
            rows: numbers in the batch.
            right: for each of them, how many tokens of its run stay.
        """
        (cache,) = self._cache.values()
        run, most = self.scores.shape[1] - 1, max(right)
        start = cache.get_seq_length() - run
        if most < run:
            cache.crop(most - run)  # less than 0: so many positions go
        if len(rows) < len(self.scores):
            index = torch.tensor(rows, dtype=torch.long, device=self.model.device)
            cache.batch_select_indices(index)
            self._mask = None if self._mask is None else self._mask[index]
        if self._mask is not None or min(right) < most:
            before = torch.ones(len(rows), start, dtype=torch.long, device=self.model.device)
            before = before if self._mask is None else self._mask[:, :start]
            stay = torch.tensor([[1] * n + [0] * (most - n) for n in right], dtype=torch.long, device=before.device)
            self._mask = torch.cat([before, stay], 1)  # other rows' tokens left gaps, which nobody sees

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
        self.scores = self.model(
            attention_mask=self._mask, position_ids=places, use_cache=True, logits_to_keep=run + 1, **inputs,
            **self._cache,
        ).logits


def can_step_back(model: PreTrainedModel) -> bool:
    """Whether tokens that an LLM has read can be taken out of its cache, and any of them hidden from later ones."""
    (cache,) = cache_for(model).values()
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
