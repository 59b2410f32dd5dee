"""The torch decoder: one visible loop that reads the prompts, then makes a token of every row at each step.

It runs in the threads of its callers and knows token ids and embeddings only. transformers' `generate` gives the same
greedy answers (`tests/test_torch_decoder.py`), and `benchmarks/decoding.py` compares their speed. The rows are in
`batch.py`, and how those of several callers meet in `joining.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from soundwave.errors import ConfigurationError
from soundwave.inference.backends.batch import TAKE_A_TREE, Batch, can_step_back
from soundwave.inference.backends.continuation_tree import trees
from soundwave.inference.backends.joining import Call, Group, Joined
from soundwave.inference.backends.merged_lora import Twins
from soundwave.inference.backends.protocol import DecoderInfo, Prompt, Token, room_for_answer
from soundwave.inference.backends.sampling import Choose, chooser
from soundwave.inference.backends.speculative import Drafter
from soundwave.inference.options import GenerationOptions

NODES_AT_ONCE = 256  # of a tree of continuations: bounds the memory of their scores (mini: 50 MB)


class TorchDecoder:
    """Runs a transformers LLM.

    Answers of calls from several threads are made together, a token of all of them at each step. A stream that nobody
    reads at the moment holds its key-value cache, but no lock: its reader may make other calls, and so may other
    threads, whose steps make its next tokens too.

    Args:
        language_model: in evaluation mode, on its device, with a LoRA or without.
        name: told by `info`.
    """

    def __init__(self, language_model: PreTrainedModel, name: str = "torch"):
        self.name = name
        self._open: Twins | None = Twins(language_model)
        self._kept: _Kept | None = None
        self._meetings: WeakKeyDictionary[PreTrainedModel, Joined] = WeakKeyDictionary()  # of calls, for each twin

    @property
    def info(self) -> DecoderInfo:
        """What it is."""
        model = self._twins.language_model
        ends = model.generation_config.eos_token_id
        return DecoderInfo(
            name=self.name, device=str(model.device), dtype=str(model.dtype).removeprefix("torch."),
            eos_ids=frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends]),
            context_length=getattr(model.config, "max_position_embeddings", None),
            width=model.get_input_embeddings().embedding_dim, concurrent=True,
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
            if not rows:
                continue
            call = Call(rows, limits, choose, eos_ids, drafters)
            with torch.no_grad():
                model = self._twins.get(adapted)
                call.group = Group(model, call, prompts)
            joined = self._meetings.setdefault(model, Joined())
            try:
                while call.rows or call.made:
                    while call.made:
                        yield call.made.popleft()
                    self._check_open()
                    joined.advance(call)
            finally:
                joined.leave(call)

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
        with torch.no_grad():
            batch = self._read(self._twins.get(prompt.adapted), prompt)
            for tree in trees(continuations, most):
                for row, total in tree.totals(batch.read(tree)).items():
                    totals[row] = total
        return totals

    def close(self) -> None:
        """Frees the LLM; streams that are open end with an error when they are read on."""
        self._open = self._kept = None

    def _read(self, model: PreTrainedModel, prompt: Prompt) -> Batch:
        """A prompt, read; the last plain one is kept, since the hypotheses of all recordings follow the same one."""
        if prompt.adapted or any(isinstance(segment, np.ndarray) for segment in prompt.segments):
            return Batch(model, [prompt])
        kept = self._kept
        weights = kept.weights if kept is not None and kept.batch.model is model else list(model.parameters())
        written = sum(0 if weight.is_inference() else weight._version for weight in weights)
        key = (model, written, tuple(map(tuple, prompt.segments)))
        if kept is None or kept.key != key:
            kept = self._kept = _Kept(key, weights, Batch(model, [prompt]))
        return kept.batch

    @property
    def _twins(self) -> Twins:
        if self._open is None:
            raise ConfigurationError("This decoder is closed; load the model again.")
        return self._open

    def _check_open(self) -> None:
        _ = self._twins


@dataclass(frozen=True)
class _Kept:
    """The last plain prompt, read; for which model, in which state, and which tokens; and that model's weights."""

    key: tuple[object, ...]
    weights: list[nn.Parameter]  # to go through the modules takes longer than to look at these
    batch: Batch
