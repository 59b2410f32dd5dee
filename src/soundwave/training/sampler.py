"""Which examples come when: epochs, buckets of similar length, the mixture of tasks, and each process's share.

Batches form one sequence without end, epoch after epoch; an epoch depends on the seed and its number only, so a
position in the data is (epoch, batch). One optimizer step takes the next `batches_per_step` of them, whichever process
computes which: nothing is dropped where an epoch does not divide, and steps do not depend on the processes.

The dynamic mixture (paper, section 3.3, stage II) goes from all examples alike to all tasks alike:
p_k ∝ (|D_k| / Σ|D_i|)^(1/T), with T = 1 in the first epoch and 5 more in each that follows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Generic, TypeVar

from soundwave.data.example import Example
from soundwave.data.manifests import read_manifest
from soundwave.data.probe import MAX_SECONDS
from soundwave.data.units import UnitBank
from soundwave.errors import DataError
from soundwave.text.ctc_tokenizer import CtcTokenizer
from soundwave.text.normalizer import MAX_CTC_TOKENS
from soundwave.training.augmentation import Effects
from soundwave.training.features import Clip, Features
from soundwave.training.recipe import DataSource, Recipe

BUCKET_BATCHES = 64  # examples are sorted by length within about this many batches
TEMPERATURE_STEP = 5.0  # per epoch (paper)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Said:
    """Speech that is made from text.

    Attributes:
        bank: of the units.
        tokens: what is said, in CTC classes.
        seed: decides which units say it.
    """

    bank: UnitBank
    tokens: tuple[int, ...]
    seed: str


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
        said: instead of clips, the speech that is made for its one audio.
    """

    name: str
    clips: tuple[Clip, ...]
    ctc: list[int] | None
    prompt: str | None
    example: Example
    seconds: float
    kl: bool = True
    said: Said | None = None

    @property
    def sounds(self) -> int:
        """How many audios it has."""
        return len(self.clips) if self.said is None else 1


class Source:
    """A manifest, read once.

    Args:
        source: the recipe's entry.
        ctc: makes CTC classes from transcripts.
        effects: what may happen to its waveforms.
        number: its place in the recipe. Draws depend on it and not on the folder, so a run repeats wherever data lies.
        bank: of `source.simulate`.
    """

    def __init__(
        self, source: DataSource, ctc: CtcTokenizer, effects: Effects | None = None, number: int = 0,
        bank: UnitBank | None = None,
    ):
        self.source, self.tokenizer, self.effects, self.number, self.bank = source, ctc, effects, number, bank
        self.examples = list(read_manifest(source.manifest))
        self.ctc = [ctc_target(example, ctc) for example in self.examples]

    def keep_stored(self, store: Features) -> None:
        """Drops examples whose audio could not be encoded (unreadable, or too long), at any speed.

        Raises:
            DataError: none is left.
        """
        if self.bank is not None:
            return
        kept = [
            i for i, example in enumerate(self.examples)
            if all(store.holds(clip) for clip in self.versions(example))
        ]
        if not kept:
            raise DataError(f"{self.source.manifest}: no example is left; its audio is unreadable or over 30 s long.")
        self._keep(kept)

    def keep_sayable(self) -> int:
        """Drops examples that the bank of `simulate` cannot say, if there is one; gives how many.

        Raises:
            DataError: none is left.
        """
        if self.bank is None:
            return 0
        kept = [i for i, target in enumerate(self.ctc) if target and not self.bank.lacks(target)]
        if not kept:
            raise DataError(
                f"{self.source.manifest}: {self.bank.folder} can say none of its texts. An example needs one audio, "
                'and what is said in it as its `transcript` or as "audio": "text:what is said", without digits; the '
                "bank needs a unit of each of its CTC tokens."
            )
        dropped = len(self.examples) - len(kept)
        self._keep(kept)
        return dropped

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
        self._keep(kept)

    def _keep(self, kept: Sequence[int]) -> None:
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
            self._said(i, draw, f"{seed}/{epoch}/source {self.number}/{number}") if self.bank is not None else
            item_of(self.examples[i], self.ctc[i], self.source, draw, self.effects, f"{seed}/{epoch}/{number}")
            for number, i in enumerate(chosen)
        ]

    def _said(self, number: int, draw: random.Random, seed: str) -> Item:
        """An example as one epoch has it where its speech is made."""
        assert self.bank is not None
        example, tokens = self.examples[number], self.ctc[number] or []
        prompt = draw.choice(self.source.prompts) if self.source.prompts else None
        said = Said(self.bank, tuple(tokens), seed)
        return Item(example.where, (), tokens, prompt, example, self.bank.seconds(tokens), self.source.kl, said)

    def versions(self, example: Example) -> Iterator[Clip]:
        """Every clip that an example's audio can be asked for as: at each speed, in each take that a store holds."""
        takes = ("",) if self.effects is None else self.effects.takes
        for audio, speed, take in product(example.audios, speeds_of(example, self.source), takes):
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
    speed, possible = draw.choice(source.speeds), speeds_of(example, source)
    if speed not in possible:
        speed = min(possible)
    prompt = draw.choice(source.prompts) if source.prompts else None
    if effects is None:
        take = ""
    elif effects.takes:
        take = draw.choice(effects.takes)
    clips = tuple(Clip(a.path, a.start, a.end, speed, effects, take, example.where) for a in example.audios)
    seconds = (example.duration or 10.0 * len(clips)) / speed if clips else 0.0  # max_batch_size alone bounds text
    return Item(example.where, clips, ctc, prompt, example, seconds, source.kl)


def speeds_of(example: Example, source: DataSource) -> list[float]:
    """The speeds of a source at which an example is not too long; all of them where none is short enough."""
    if example.duration is None or len(example.audios) != 1:
        return source.speeds
    return [speed for speed in source.speeds if example.duration / speed <= MAX_SECONDS] or source.speeds


def ctc_target(example: Example, ctc: CtcTokenizer) -> list[int] | None:
    if example.transcript is None or len(example.audios) != 1:
        return None
    classes = ctc.encode(example.transcript) if example.transcript else []
    return None if len(classes) > MAX_CTC_TOKENS else classes


def batches(items: Sequence[Item], recipe: Recipe, seed: int | str, epoch: int) -> list[list[Item]]:
    """Buckets of similar length, at most `batch_seconds` with padding and `max_batch_size` examples each.

    Examples without audio are the shortest: they fill batches of their own and share one with the shortest clips. Those
    whose speech is made have batches of their own.
    """
    draw = random.Random(f"{seed}/{epoch}/order")
    shuffled = list(items)
    draw.shuffle(shuffled)
    chunk = BUCKET_BATCHES * recipe.max_batch_size
    made: list[list[Item]] = []
    kinds = [item for item in shuffled if item.said is None], [item for item in shuffled if item.said is not None]
    for bucket in (kind[start : start + chunk] for kind in kinds for start in range(0, len(kind), chunk)):
        batch: list[Item] = []
        for item in sorted(bucket, key=lambda item: item.seconds):
            full = len(batch) == recipe.max_batch_size or item.seconds * (len(batch) + 1) > recipe.batch_seconds
            if batch and full:
                made.append(batch)
                batch = []
            batch.append(item)
        made.append(batch)
    draw.shuffle(made)
    return made


def clips_of(sources: Sequence[Source]) -> Iterator[tuple[Clip, float]]:
    """Every clip that the sources can ask for, at every speed and take, with its duration in seconds."""
    for source in sources:
        for example in source.examples if source.bank is None else ():
            for clip in source.versions(example):
                yield clip, (example.duration or 10.0) / clip.speed


# The mixture


def task_probabilities(
    sizes: Mapping[str, float], epoch: int, temperature_step: float = TEMPERATURE_STEP
) -> dict[str, float]:
    """The share of each task in an epoch.

    Args:
        sizes: |D_k|, examples per task.
        epoch: the first is 0.
        temperature_step: how much T grows per epoch.

    Returns:
        p_k; they add up to 1.

    Example:
        >>> task_probabilities({"asr": 300, "translation": 100}, epoch=0)
        {'asr': 0.75, 'translation': 0.25}
    """
    temperature = 1.0 + temperature_step * epoch
    total = sum(sizes.values())
    weights = {task: (size / total) ** (1.0 / temperature) for task, size in sizes.items()}
    return {task: weight / sum(weights.values()) for task, weight in weights.items()}


def source_counts(sizes: Sequence[int], tasks: Sequence[str], epoch: int, temperature_step: float) -> list[int]:
    """How many examples each source gives in an epoch that is as long as all of them together.

    A task's share is divided among its sources by their sizes. Shares are rounded by largest remainder, not drawn: the
    counts are what a draw would give on average, and in the first epoch every example comes exactly as often as listed.

    Args:
        sizes: examples per source.
        tasks: the task of each source.
        epoch, temperature_step: as in `task_probabilities`.
    """
    by_task: Counter[str] = Counter()
    for task, size in zip(tasks, sizes, strict=True):
        by_task[task] += size
    probabilities = task_probabilities(by_task, epoch, temperature_step)
    total = sum(sizes)
    shares = [
        total * probabilities[task] * size / max(1, by_task[task]) for task, size in zip(tasks, sizes, strict=True)
    ]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def epoch_items(sources: Sequence[Source], recipe: Recipe, epoch: int) -> list[Item]:
    """The examples of one epoch, mixed as the recipe says; the same for the same seed and epoch."""
    sizes = [source.size() for source in sources]
    counts = sizes
    if recipe.mixture == "dynamic":
        tasks = [source.source.task for source in sources]
        counts = source_counts(sizes, tasks, epoch, recipe.mixture_temperature_step)
    pairs = zip(sources, counts, strict=True)
    return [item for source, count in pairs for item in source.items(recipe.seed, epoch, count)]


# The order over a whole run, and a process's share of it


@dataclass(frozen=True)
class Place:
    """One batch of the sequence: the epoch, its number there, its examples; of a stream, its lane and its new state."""

    epoch: int
    index: int
    items: list[Item]
    lane: tuple[str, dict[str, Any]] | None = None


@dataclass(frozen=True)
class Share(Generic[Made]):
    """What one process computes while the others compute the batches beside it.

    Attributes:
        place: where its batch is in the data.
        batch: what `collate` made of it.
        after: epoch and number of the batch that comes after all of theirs.
    """

    place: Place
    batch: Made
    after: tuple[int, int]


def places(epoch_batches: Callable[[int], list[list[Item]]], epoch: int, index: int) -> Iterator[Place]:
    """All batches from a position on, without end; every epoch must have some."""
    while True:
        made = epoch_batches(epoch)
        for at in range(index, len(made)):
            yield Place(epoch, at, made[at])
        epoch, index = epoch + 1, 0


def shares(
    sequence: Iterator[Place], rank: int, processes: int, collate: Callable[[Place], Made]
) -> Iterator[Share[Made]]:
    """Of every `processes` neighbouring batches this process's; the next one is made while one is computed."""

    def begin() -> tuple[Place, Future[Made], tuple[int, int]]:
        beside = list(islice(sequence, processes))
        last = beside[-1]
        return beside[rank], worker.submit(collate, beside[rank]), (last.epoch, last.index + 1)

    with ThreadPoolExecutor(1) as worker:
        ahead = begin()
        while True:
            place, batch, after = ahead
            ahead = begin()
            yield Share(place, batch.result(), after)
