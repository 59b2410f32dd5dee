"""Examples to batches: CTC targets, masked prompts, stored encoder frames, buckets of similar length.

The order of an epoch depends on the seed and the epoch number only, so a position in the data is (epoch, batch).
"""

# N clips, F aligned frames (25 Hz), E encoder width, R rows, L tokens

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soundwave.data.example import AudioSpan
from soundwave.data.readers import Example, read_manifest
from soundwave.errors import DataError
from soundwave.model.splice import IGNORED
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer
from soundwave.text.normalizer import MAX_CTC_TOKENS
from soundwave.training.effects import Effects
from soundwave.training.features import Clip, Features
from soundwave.training.recipe import DataSource, Recipe

ENCODER_FRAMES_PER_SECOND = 50
NAMED = 4  # examples of a batch, in a message
BUCKET_BATCHES = 64  # examples are sorted by length within about this many batches


@dataclass(frozen=True)
class Item:
    """One example of one epoch.

    Attributes:
        name: manifest and line, for messages.
        clips: its audio, in the order of the placeholders.
        ctc: CTC classes, None where the transcript is unknown.
        prompt: an instruction that replaces the example's own.
        example: where its messages are.
        seconds: length of its audio, for batching; 0 without audio.
        kl: whether the text LLM is its teacher where the recipe has one.
    """

    name: str
    clips: tuple[Clip, ...]
    ctc: list[int] | None
    prompt: str | None
    example: Example
    seconds: float
    kl: bool = True


@dataclass
class Batch:
    """Tensors of one step; those of the LLM are None in stage I.

    Attributes:
        names: the examples' names.
        encoder_frames: (N, 2 F, E) float32.
        frame_mask: (N, F) True where a frame exists.
        ctc: per clip its classes, None where unknown.
        input_ids, attention_mask, labels: (R, L).
        typed_ids, typed_mask, typed_labels: (R', L') the same conversations with the transcript in the audio's place,
            for those rows that have one; None where there is no teacher.
        typed_rows: (R',) their rows, ascending.
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

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


class Source:
    """A manifest, read once.

    Args:
        source: the recipe's entry.
        ctc: makes CTC classes from transcripts.
        effects: what may happen to its waveforms.
        number: its place in the recipe. Draws depend on it and not on the folder, so a run repeats wherever data lies.
    """

    def __init__(self, source: DataSource, ctc: CtcTokenizer, effects: Effects | None = None, number: int = 0):
        self.source, self.tokenizer, self.effects, self.number = source, ctc, effects, number
        self.examples = list(read_manifest(source.manifest))
        self.ctc = [ctc_target(example, ctc) for example in self.examples]

    def keep_stored(self, store: Features) -> None:
        """Drops examples whose audio could not be encoded (unreadable, or too long), at any speed.

        Raises:
            DataError: none is left.
        """
        kept = [
            i for i, example in enumerate(self.examples)
            if all(store.holds(clip) for audio in example.audios for clip in self.versions(audio))
        ]
        if not kept:
            raise DataError(f"{self.source.manifest}: no example is left; its audio is unreadable or over 30 s long.")
        self.examples = [self.examples[i] for i in kept]
        self.ctc = [self.ctc[i] for i in kept]

    def keep_transcribed(self) -> None:
        """Drops examples without a CTC target: stage I learns nothing from them.

        Raises:
            DataError: none is left.
        """
        kept = [i for i, target in enumerate(self.ctc) if target is not None]
        if not kept:
            raise DataError(
                f"{self.source.manifest}: no example has one audio and a transcript that can be spelt; "
                "the alignment stage learns from transcripts only. Add `transcript`, or leave this manifest out."
            )
        self.examples = [self.examples[i] for i in kept]
        self.ctc = [self.ctc[i] for i in kept]

    def size(self) -> int:
        """Examples of one epoch, as the recipe's `repeat` asks for them."""
        whole = int(self.source.repeat)
        return whole * len(self.examples) + round((self.source.repeat - whole) * len(self.examples))

    def items(self, seed: int, epoch: int, count: int | None = None) -> list[Item]:
        """The examples of one epoch, with the speeds and prompts drawn for it.

        Args:
            seed, epoch: the same give the same.
            count: how many; None: `size()`. As many whole passes as it holds, then a random part of another.
        """
        draw = random.Random(f"{seed}/{epoch}/source {self.number}")
        passes, rest = divmod(self.size() if count is None else count, len(self.examples))
        chosen = list(range(len(self.examples))) * passes
        chosen += draw.sample(range(len(self.examples)), rest)
        return [
            item_of(self.examples[i], self.ctc[i], self.source, draw, self.effects, f"{seed}/{epoch}/{number}")
            for number, i in enumerate(chosen)
        ]

    def versions(self, audio: AudioSpan) -> Iterator[Clip]:
        """Every clip that a stretch of audio can be asked for as: at each speed, in each take that a store holds."""
        takes = ("",) if self.effects is None else self.effects.takes
        for speed in self.source.speeds:
            for take in takes:
                yield Clip(audio.path, audio.start, audio.end, speed, self.effects, take)


def item_of(
    example: Example, ctc: list[int] | None, source: DataSource, draw: random.Random, effects: Effects | None, take: str
) -> Item:
    """An example as one epoch has it: with a speed, a prompt and effects that are drawn for it.

    Args:
        example, ctc: what there is.
        source: the speeds and prompts to draw from.
        draw: decides.
        effects: what may happen to the waveform.
        take: decides what does, unless a store holds certain takes only.
    """
    speed = draw.choice(source.speeds)
    prompt = draw.choice(source.prompts) if source.prompts else None
    if effects is None:
        take = ""
    elif effects.takes:
        take = draw.choice(effects.takes)
    clips = tuple(Clip(a.path, a.start, a.end, speed, effects, take, example.where) for a in example.audios)
    seconds = (example.duration or 10.0 * len(clips)) / speed if clips else 0.0  # max_batch_size alone bounds text
    return Item(example.where, clips, ctc, prompt, example, seconds, source.kl)


def ctc_target(example: Example, ctc: CtcTokenizer) -> list[int] | None:
    if example.transcript is None or len(example.audios) != 1:
        return None
    classes = ctc.encode(example.transcript) if example.transcript else []
    return None if len(classes) > MAX_CTC_TOKENS else classes


def batches(items: Sequence[Item], recipe: Recipe, seed: int | str, epoch: int) -> list[list[Item]]:
    """Buckets of similar length, at most `batch_seconds` with padding and `max_batch_size` examples each.

    Examples without audio are the shortest: they fill batches of their own and share one with the shortest clips.
    """
    draw = random.Random(f"{seed}/{epoch}/order")
    shuffled = list(items)
    draw.shuffle(shuffled)
    chunk = BUCKET_BATCHES * recipe.max_batch_size
    made: list[list[Item]] = []
    for start in range(0, len(shuffled), chunk):
        batch: list[Item] = []
        for item in sorted(shuffled[start : start + chunk], key=lambda item: item.seconds):
            full = len(batch) == recipe.max_batch_size or item.seconds * (len(batch) + 1) > recipe.batch_seconds
            if batch and full:
                made.append(batch)
                batch = []
            batch.append(item)
        made.append(batch)
    draw.shuffle(made)
    return made


class Collator:
    """Items to tensors.

    Args:
        store: encoder frames of clips.
        processor: makes prompts; its `frames_per_group` gives F.
        recipe: the masking of training.
        with_text: whether the LLM's tensors are made.
        endless: whether examples are streamed: then what is made of one is not kept for its next time.
    """

    def __init__(
        self, store: Features, processor: SoundwaveProcessor, recipe: Recipe, with_text: bool, endless: bool = False
    ):
        self.store, self.processor, self.recipe, self.with_text = store, processor, recipe, with_text
        self.endless = endless
        self._tokenized: dict[tuple[str, str | None, bool], tuple[list[int], list[int]]] = {}

    def __call__(self, items: Sequence[Item], augment_seed: str | None = None) -> Batch:
        """Stacks items; with a seed, encoder frames are masked as the recipe says.

        Raises:
            DataError: no item has audio that can be read.
        """
        clips = list(dict.fromkeys(clip for item in items for clip in item.clips))
        found = zip(clips, self.store.frames(clips), strict=True)
        read = {clip: frames for clip, frames in found if frames is not None}
        named = ", ".join(item.name for item in items[:NAMED])
        items = [item for item in items if all(clip in read for clip in item.clips)]
        if not items:
            raise DataError(f"No audio of a batch can be read ({named}); see what was left out above, and correct it.")
        batch = Batch([item.name for item in items])
        frames = [read[clip] for item in items for clip in item.clips]
        if frames:
            self._add_frames(batch, frames, augment_seed)
            batch.ctc = [item.ctc if len(item.clips) == 1 else None for item in items for _ in item.clips]
        if self.with_text:
            self._add_text(batch, items)
        return batch

    def _add_frames(self, batch: Batch, frames: list[np.ndarray], augment_seed: str | None) -> None:
        group = self.processor.frames_per_group
        longest = max(len(f) for f in frames)
        stacked = np.zeros((len(frames), longest, self.store.width), dtype=np.float32)
        mask = np.zeros((len(frames), longest // group), dtype=bool)
        draw = np.random.default_rng(list(augment_seed.encode())) if augment_seed else None
        for i, clip in enumerate(frames):
            stacked[i, : len(clip)] = clip
            mask[i, : len(clip) // group] = True
            if draw is not None:
                mask_frames(stacked[i, : len(clip)], self.recipe, draw)
        batch.encoder_frames, batch.frame_mask = torch.from_numpy(stacked), torch.from_numpy(mask)

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


def clips_of(sources: Sequence[Source]) -> Iterator[tuple[Clip, float]]:
    """Every clip that the sources can ask for, at every speed and take, with its duration in seconds."""
    for source in sources:
        for example in source.examples:
            for audio in example.audios:
                for clip in source.versions(audio):
                    yield clip, (example.duration or 10.0) / clip.speed
