"""Items to tensors: encoder frames, CTC targets, masked prompts, and the same conversations typed for a teacher."""

# N clips, F aligned frames (25 Hz), E encoder width, R rows, L tokens

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from soundwave.data.example import Example
from soundwave.errors import DataError
from soundwave.model.splice import IGNORED
from soundwave.processing import SoundwaveProcessor
from soundwave.training.features import Clip, Features
from soundwave.training.recipe import Recipe
from soundwave.training.sampler import Item, Said

ENCODER_FRAMES_PER_SECOND = 50
NAMED = 4  # examples of a batch, in a message


@dataclass
class Batch:
    """Tensors of one step; those of the LLM are None in stage I.

    Attributes:
        names: the examples' names.
        encoder_frames: (N, 2 F, E) float32, as stored; None where the speech was made from text.
        frame_mask: (N, F) True where an aligned frame exists.
        ctc: per clip its classes, None where unknown.
        input_ids, attention_mask, labels: (R, L).
        typed_ids, typed_mask, typed_labels: (R', L') the same conversations with the transcript in the audio's place,
            for those rows that have one; None where there is no teacher.
        typed_rows: (R',) their rows, ascending.
        masking: (N, 2 F, E) float32 factors of what the alignment adapter reads; None: `encoder_frames` are masked.
        aligned_frames: (N, F, D) float32, of speech that was made from text.
        stands_in: whether it stands where nothing could be read.
    """

    names: list[str]
    encoder_frames: Tensor | None = None
    frame_mask: Tensor | None = None
    ctc: list[list[int] | None] = field(default_factory=list)
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    typed_ids: Tensor | None = None
    typed_mask: Tensor | None = None
    typed_labels: Tensor | None = None
    typed_rows: Tensor | None = None
    masking: Tensor | None = None
    aligned_frames: Tensor | None = None
    stands_in: bool = False

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


class Collator:
    """Items to tensors.

    Args:
        store: encoder frames of clips.
        processor: makes prompts; its `frames_per_group` gives F.
        recipe: the masking of training.
        with_text: whether the LLM's tensors are made.
        above_store: whether layers of the encoder come after what is stored: they are not masked, what they give is.
        endless: whether examples are streamed: then what is made of one is not kept for its next time.
        on_short: told of clips whose CTC target has no path through their frames, by name and in words.
    """

    def __init__(
        self, store: Features, processor: SoundwaveProcessor, recipe: Recipe, with_text: bool, endless: bool = False,
        on_short: Callable[[str, str], None] = lambda name, problem: None, above_store: bool = False,
    ):
        self.store, self.processor, self.recipe, self.with_text = store, processor, recipe, with_text
        self.endless, self.on_short, self.above_store = endless, on_short, above_store
        self._tokenized: dict[tuple[str, str | None, bool], tuple[list[int], list[int]]] = {}
        self._stand_in: list[Item] = []

    def __call__(self, items: Sequence[Item], augment_seed: str | None = None) -> Batch:
        """Stacks items; with a seed, encoder frames are masked as the recipe says.

        What cannot be read is left out. Where nothing is left, the first batch that was made stands in: processes wait
        for each other, so each needs a batch. A run makes that one before its first step, also after resuming.

        Raises:
            DataError: no item has audio that can be read, and nothing could be until now.
        """
        read = self._read(items)
        found = [item for item in items if all(clip in read for clip in item.clips)]
        stands_in = not found
        if stands_in:
            if not self._stand_in:
                named = ", ".join(item.name for item in items[:NAMED])
                raise DataError(
                    f"No audio of a batch can be read ({named}); see what was left out above, and correct it."
                )
            read, found = self._read(self._stand_in), self._stand_in
        self._stand_in = self._stand_in or found
        items = found
        batch = Batch([item.name for item in items], stands_in=stands_in)
        frames = [read[clip] for item in items for clip in item.clips]
        if frames:
            self._add_frames(batch, frames, augment_seed)
            batch.ctc = [item.ctc if len(item.clips) == 1 else None for item in items for _ in item.clips]
            self._tell_short(batch, [item.name for item in items for _ in item.clips])
        said = [item.said for item in items if item.said is not None]
        if said:
            assert len(said) == len(items)  # `batches` keeps them apart
            add_said(batch, said)
        if self.with_text:
            self._add_text(batch, items)
        return batch

    def _read(self, items: Sequence[Item]) -> dict[Clip, np.ndarray]:
        """Frames of the clips of items, without those that cannot be read."""
        clips = list(dict.fromkeys(clip for item in items for clip in item.clips))
        found = zip(clips, self.store.frames(clips), strict=True)
        return {clip: frames for clip, frames in found if frames is not None}

    def _add_frames(self, batch: Batch, frames: list[np.ndarray], augment_seed: str | None) -> None:
        group = self.processor.frames_per_group
        longest = max(len(f) for f in frames)
        stacked = np.zeros((len(frames), longest, self.store.width), dtype=np.float32)
        mask = np.zeros((len(frames), longest // group), dtype=bool)
        draw = np.random.default_rng(list(augment_seed.encode())) if augment_seed else None
        masked = stacked
        if self.above_store and draw is not None and (self.recipe.time_masks or self.recipe.feature_dropout):
            masked = np.ones_like(stacked)
            batch.masking = torch.from_numpy(masked)
        for i, clip in enumerate(frames):
            stacked[i, : len(clip)] = clip
            mask[i, : len(clip) // group] = True
            if draw is not None:
                mask_frames(masked[i, : len(clip)], self.recipe, draw)
        batch.encoder_frames, batch.frame_mask = torch.from_numpy(stacked), torch.from_numpy(mask)

    def _tell_short(self, batch: Batch, names: Sequence[str]) -> None:
        """CTC counts such clips as zero: silently, they would teach nothing."""
        assert batch.frame_mask is not None
        for name, target, frames in zip(names, batch.ctc, batch.frame_mask.sum(1).tolist(), strict=True):
            if target is not None and frames_needed(target) > frames:
                self.on_short(
                    f"{name} ctc", f"CTC of {name}: its text needs {frames_needed(target)} frames of 40 ms, the clip "
                    f"has {frames}; check whether text and audio belong together"
                )

    def _add_text(self, batch: Batch, items: Sequence[Item]) -> None:
        spoken = [self._tokens(item) for item in items]
        batch.input_ids, batch.attention_mask, batch.labels = self._padded(spoken)
        if not self.recipe.kl_weight:
            return
        rows, typed = [], []
        for row, item in enumerate(items):
            if item.kl and said_in(item.example) is not None:
                rows.append(row)
                typed.append(self._tokens(item, typed=True))
        if rows:
            batch.typed_ids, batch.typed_mask, batch.typed_labels = self._padded(typed)
            batch.typed_rows = torch.tensor(rows)

    def _padded(self, rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        """(R, L) ids, mask and labels."""
        longest = max(len(ids) for ids, _ in rows)
        pad = self.processor.tokenizer.pad_token_id or 0
        return (
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]),
        )

    def _tokens(self, item: Item, typed: bool = False) -> tuple[list[int], list[int]]:
        key = (item.name, item.prompt, typed)
        if self.endless:
            self._tokenized.clear()
        if key not in self._tokenized:
            messages = [dict(message) for message in item.example.messages]
            if item.prompt is not None:
                messages = with_prompt(messages, item.prompt)
            if typed:
                messages = with_words(messages, said_in(item.example) or "")
            tokens = self.processor.tokenize(messages, reply=False)
            last = max((i for i, said in enumerate(tokens.is_target) if said), default=-1)
            ids = tokens.ids[: last + 1]  # what follows the last reply is never predicted
            labels = [token if said else IGNORED for token, said in zip(ids, tokens.is_target, strict=False)]
            self._tokenized[key] = (ids, labels)
        return self._tokenized[key]


def add_said(batch: Batch, said: Sequence[Said]) -> None:
    """Speech that is made from text. It says nothing new about the alignment adapter, so there is no CTC target."""
    frames = [torch.from_numpy(one.bank.say(one.tokens, one.seed)).float() for one in said]
    batch.aligned_frames = pad_sequence(frames, batch_first=True)
    lengths = torch.tensor([len(one) for one in frames])
    batch.frame_mask = torch.arange(int(lengths.max())) < lengths[:, None]
    batch.ctc = [None] * len(said)


def frames_needed(classes: Sequence[int]) -> int:
    """The fewest frames that spell a CTC target: one a class, and a blank between two that are alike."""
    return len(classes) + sum(one == other for one, other in pairwise(classes))


def said_in(example: Example) -> str | None:
    """What is said in the example's one recording, as it was written; None where that is not known, or nothing."""
    return (example.spoken or example.transcript or None) if len(example.audios) == 1 else None


def with_words(messages: list[dict], words: str) -> list[dict]:
    """The conversation with words typed where its audio stood, on a line of their own."""
    changed = []
    for message in messages:
        parts = message["content"]
        if not isinstance(parts, str):
            last = len(parts) - 1
            parts = [
                {"type": "text", "text": words + "\n" * (i < last)} if part.get("type") != "text" else part
                for i, part in enumerate(parts)
            ]
        changed.append({**message, "content": parts})
    return changed


def with_prompt(messages: list[dict], prompt: str) -> list[dict]:
    """The conversation with the text of its first user turn replaced; audio stays first."""
    for message in messages:
        if message["role"] == "user":
            parts = message["content"] if isinstance(message["content"], list) else []
            audio = [part for part in parts if part.get("type") != "text"]
            message["content"] = [*audio, {"type": "text", "text": prompt}]
            break
    return messages


def mask_frames(frames: np.ndarray, recipe: Recipe, draw: np.random.Generator) -> None:
    """SpecAugment over stored encoder frames (F, E), in place: spans of time and whole channels set to zero."""
    count = round(recipe.time_masks * len(frames) / (10 * ENCODER_FRAMES_PER_SECOND))
    for _ in range(count):
        length = int(draw.integers(0, recipe.time_mask_frames + 1))
        start = int(draw.integers(0, max(1, len(frames) - length)))
        frames[start : start + length] = 0.0
    if recipe.feature_dropout > 0:
        frames *= (draw.random(frames.shape[1]) >= recipe.feature_dropout) / (1.0 - recipe.feature_dropout)
