"""Training data that no disk holds: endless batches out of shards, in bounded memory, from a position that can be kept.

Batch i of every optimizer step comes from lane i. A lane has its own share of the shards, reads them one after the
other, and makes batches of similar length out of `stream_buffer_size` examples at a time. Which process computes a lane
changes nothing, so several processes have the batches of one. A lane's position is where its buffer began and how many
batches of it are done: a resumed run reads that buffer again and goes on.
"""



from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from soundwave.data.example import Example
from soundwave.data.manifests import read_manifest
from soundwave.data.probe import MAX_SECONDS
from soundwave.data.readers import parse_row
from soundwave.data.shards import Shard, find_shards, is_sharded, read_shard
from soundwave.errors import ConfigurationError, DataError, TrainingError
from soundwave.text.ctc_tokenizer import CtcTokenizer
from soundwave.training.augmentation import Effects
from soundwave.training.checkpoint import Position
from soundwave.training.collate import Batch
from soundwave.training.distributed import gathered
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.reporting import Skipped
from soundwave.training.sampler import Item, Place, Share, batches, ctc_target, item_of, shares, task_probabilities


@dataclass
class LaneState:
    """Where a lane stands.

    Attributes:
        chunk: number of the buffer that its next batch comes from.
        batch: batches of it that are done.
        drawn: examples drawn before it.
        places: of each source before it: pass, shard of the lane's share, and example that come next.
    """

    chunk: int = 0
    batch: int = 0
    drawn: int = 0
    places: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """What a lane reads of a shard in a pass: from `offset` on every `stride`-th of its examples."""

    shard: int
    offset: int
    stride: int


@dataclass
class StreamSource:
    """A recipe's entry: its shards, or, where it is a plain manifest, its examples as one shard in memory.

    Attributes:
        source: the entry.
        shards: empty for a plain manifest.
        examples: of a plain manifest.
        size: examples of a pass; of shards, as many in each as in the first one that can be read.
        number: its place in the recipe; the order depends on it and not on the folder.
    """

    source: DataSource
    shards: list[Shard]
    examples: list[Example]
    size: int
    number: int = 0

    @classmethod
    def of(cls, source: DataSource, number: int = 0, allow_commands: bool = False) -> StreamSource:
        """Looks for the shards and counts the examples of one; reads a plain manifest whole.

        Raises:
            DataError: there are no shards, none of them can be read, or the manifest is bad.
        """
        if not is_sharded(source.manifest):
            examples = list(read_manifest(source.manifest))
            return cls(source, [], examples, len(examples), number)
        shards = find_shards(source.manifest, allow_commands=allow_commands)
        problem = ""
        for shard in shards:
            try:
                in_one = sum(1 for _ in read_shard(shard, sounds=False))
                return cls(source, shards, [], len(shards) * max(1, in_one), number)
            except DataError as error:
                problem = str(error)
        raise DataError(f"{source.manifest}: none of its {len(shards)} shards can be read; the last: {problem}")

    @property
    def weight(self) -> float:
        """Its examples of one epoch, as the recipe's `repeat` asks for them."""
        return self.size * self.source.repeat

    def parts(self, seed: int, epoch: int, lane: int, lanes: int) -> list[Part]:
        """A lane's share of one pass: shards of its own, or where there are fewer than lanes every so many examples."""
        order = list(range(max(1, len(self.shards))))
        random.Random(f"{seed}/{epoch}/source {self.number}/shards").shuffle(order)
        if len(order) >= lanes:
            return [Part(shard, 0, 1) for shard in order[lane::lanes]]
        sharing = len(range(lane % len(order), lanes, len(order)))
        return [Part(order[lane % len(order)], lane // len(order), sharing)]

    def named(self, part: Part) -> str:
        """The shard, or manifest, that a part is of."""
        return self.shards[part.shard].name if self.shards else self.source.manifest

    def read(self, part: Part, seed: int, epoch: int, first: int) -> Iterator[tuple[int, Example | DataError]]:
        """Number and example of a part, from an example on; a row that is no example as its error.

        Raises:
            DataError: the shard is missing or breaks off.
        """
        if not self.shards:
            order = list(range(len(self.examples)))
            random.Random(f"{seed}/{epoch}/source {self.number}/examples").shuffle(order)
            taken = (n for n in range(first, len(order)) if n % part.stride == part.offset)
            yield from ((n, self.examples[order[n]]) for n in taken)
            return
        shard = self.shards[part.shard]
        for number, row in read_shard(shard, first):
            if number % part.stride == part.offset:
                where = f"{shard.name}:{number + 1}"
                try:
                    yield number, parse_row(row, Path(shard.name).parent, where)
                except DataError as error:
                    yield number, error


class Stream:
    """All sources of a run as lanes of batches.

    Args:
        recipe: sources, seed, mixture and sizes.
        ctc: makes CTC classes from transcripts.
        effects: what may happen to waveforms.
        with_text: whether the stage learns from examples without a CTC target.
        skipped: takes what cannot be used.

    Raises:
        ConfigurationError: the recipe has options that a stream cannot have.
        DataError: a source cannot be read at all.
    """

    def __init__(
        self, recipe: Recipe, ctc: CtcTokenizer, effects: Effects | None, with_text: bool, skipped: Skipped
    ):
        check_streamed(recipe)
        self.recipe, self.ctc, self.effects, self.with_text = recipe, ctc, effects, with_text
        self.skipped = skipped
        self.sources = [
            StreamSource.of(source, number, recipe.allow_commands) for number, source in enumerate(recipe.train)
        ]
        self.lanes = 1

    def described(self) -> str:
        """How much there is, for a person."""
        shards, size = sum(len(source.shards) for source in self.sources), sum(one.size for one in self.sources)
        return f"a stream of {shards} shards with about {size} examples"

    def catalogue(self) -> list[dict[str, Any]]:
        """The shards and sizes that a position refers to, for a checkpoint."""
        return [
            {"manifest": one.source.manifest, "shards": [asdict(shard) for shard in one.shards], "size": one.size}
            for one in self.sources
        ]

    def use(self, catalogue: Sequence[dict[str, Any]]) -> None:
        """Takes shards and sizes from another process or a checkpoint: what came or went since is not seen.

        Raises:
            TrainingError: it is of other sources.
        """
        before, now = [one["manifest"] for one in catalogue], [one.source.manifest for one in self.sources]
        if before != now:
            raise TrainingError(
                f"The run was begun with the streams {', '.join(before)}, but the recipe now names {', '.join(now)}; "
                "name the same, or change output_dir."
            )
        for source, entry in zip(self.sources, catalogue, strict=True):
            source.shards = [Shard(**shard) for shard in entry["shards"]]
            source.size = entry["size"]

    def batches(self, lane: int, state: LaneState | None = None) -> Iterator[tuple[list[Item], LaneState]]:
        """A lane's batches without end, and where it stands after each; the next buffer is read meanwhile."""
        state = state or LaneState()
        reader = _Lane(self, lane, state)
        with ThreadPoolExecutor(1) as worker:
            ahead = worker.submit(reader.chunk)
            while True:
                items, following = ahead.result()
                ahead = worker.submit(reader.chunk)
                made = batches(items, self.recipe, f"{self.recipe.seed}/{lane}", state.chunk)
                for number in range(state.batch, len(made)):
                    last = number + 1 == len(made)
                    yield made[number], following if last else _at_batch(state, number + 1)
                state = following

    def first_batches(self, lane: int) -> list[list[Item]]:
        """The batches of a lane's first buffer."""
        items, _ = _Lane(self, lane, LaneState()).chunk()
        return batches(items, self.recipe, f"{self.recipe.seed}/{lane}", 0)

    def shares(
        self, lanes: dict[str, Any], first: int, rank: int, processes: int, collate: Callable[[Place], Batch]
    ) -> Iterator[Share[Batch]]:
        """This process's batches from a position on.

        Args:
            lanes: the state of each lane that has begun, by number.
            first: batches of all lanes that are done.
            rank, processes: this process, of how many.
            collate: makes tensors.
        """
        own = range(rank, self.lanes, processes)
        states = {lane: LaneState(**lanes[str(lane)]) for lane in own if str(lane) in lanes}
        made = {lane: self.batches(lane, states.get(lane)) for lane in own}

        def sequence() -> Iterator[Place]:
            index = first + rank
            while True:
                for lane in own:
                    items, after = next(made[lane])
                    yield Place(0, index, items, (str(lane), asdict(after)))
                    index += processes

        for share in shares(sequence(), 0, 1, collate):
            yield Share(share.place, share.batch, (0, share.place.index - rank + processes))

    def tell(self, name: str, problem: str) -> None:
        """Names a shard or row that cannot be used, once.

        Raises:
            TrainingError: the recipe says to stop.
        """
        if self.recipe.on_bad_shard == "stop":
            raise TrainingError(f"{problem} (set on_bad_shard=skip to leave it out and go on)")
        self.skipped.name(name, problem)


def check_streamed(recipe: Recipe) -> None:
    """Holds the recipe against what streams can do.

    Raises:
        ConfigurationError: it stores features, or does not say how long it trains.
    """
    named = next(source.manifest for source in recipe.train if is_sharded(source.manifest))
    if recipe.features is not None:
        raise ConfigurationError(
            f"features is {recipe.features}, but {named} is streamed and its features are not stored; "
            "set features: null, which computes them on the fly."
        )
    if any(source.simulate is not None for source in [*recipe.train, *recipe.evaluation]):
        raise ConfigurationError(f"{named} is streamed, and simulate is not for streams; leave one of them out.")
    if recipe.max_steps is None:
        raise ConfigurationError(f"{named} is streamed and has no end; set max_steps.")


def _at_batch(state: LaneState, batch: int) -> LaneState:
    return LaneState(state.chunk, batch, state.drawn, state.places)


class _Lane:
    """Reads one lane's share of all sources, a buffer at a time."""

    def __init__(self, stream: Stream, number: int, state: LaneState):
        self.stream, self.number = stream, number
        self.next_chunk, self.drawn = state.chunk, state.drawn
        self.places = [list(place) for place in state.places] or [[0, 0, 0] for _ in stream.sources]
        self.readers = [self._read(i, *place) for i, place in enumerate(self.places)]

    def chunk(self) -> tuple[list[Item], LaneState]:
        """The items of the next buffer, and the lane's state after it."""
        stream, recipe = self.stream, self.stream.recipe
        draw = random.Random(f"{recipe.seed}/{self.number}/{self.next_chunk}/stream")
        items: list[Item] = []
        # An item is dropped where it is too long at any speed, so a buffer counts draws: that many are always found.
        for number in range(recipe.stream_buffer_size):
            (chosen,) = draw.choices(range(len(stream.sources)), self._weights())
            example, self.places[chosen] = next(self.readers[chosen])
            self.drawn += 1
            source, take = stream.sources[chosen].source, f"{recipe.seed}/{self.number}/{self.next_chunk}/{number}"
            item = item_of(example, ctc_target(example, stream.ctc), source, draw, stream.effects, take)
            if item.seconds <= MAX_SECONDS:
                items.append(item)
        self.next_chunk += 1
        return items, LaneState(self.next_chunk, 0, self.drawn, [list(place) for place in self.places])

    def _weights(self) -> list[float]:
        """How likely each source is to give the next example."""
        stream, recipe = self.stream, self.stream.recipe
        weights = [source.weight for source in stream.sources]
        if recipe.mixture != "dynamic":
            return weights
        by_task: dict[str, float] = defaultdict(float)
        for source in stream.sources:
            by_task[source.source.task] += source.weight
        epoch = int(self.drawn * stream.lanes / sum(weights))
        shares_of = task_probabilities(by_task, epoch, recipe.mixture_temperature_step)
        return [shares_of[one.source.task] * one.weight / by_task[one.source.task] for one in stream.sources]

    def _read(self, chosen: int, epoch: int, at: int, first: int) -> Iterator[tuple[Example, list[int]]]:
        """A source's usable examples without end, each with the place after it.

        Raises:
            DataError: a whole pass has none.
        """
        stream, source = self.stream, self.stream.sources[chosen]
        while True:
            found, problem = at > 0 or first > 0, ""
            parts = source.parts(stream.recipe.seed, epoch, self.number, stream.lanes)
            for number in range(at, len(parts)):
                named = source.named(parts[number])
                try:
                    for row, example in source.read(parts[number], stream.recipe.seed, epoch, first):
                        if isinstance(example, DataError):
                            problem = str(example)
                            stream.tell(f"{named}:{row}", problem)
                        elif self._usable(example):
                            found = True
                            yield example, [epoch, number, row + 1]
                except DataError as error:
                    problem = str(error)
                    stream.tell(named, problem)
                first = 0
            if not found:
                told = f"; the last problem: {problem}" if problem else ""
                raise DataError(
                    f"{source.source.manifest}: among about {source.size} examples for {stream.lanes} batches a step "
                    f"there is none that batch {self.number} can learn from{told}. Look at the data, or lower "
                    "batches_per_step."
                )
            epoch, at = epoch + 1, 0

    def _usable(self, example: Example) -> bool:
        """Whether the stage can learn from it: not too long, and in stage I with words to align."""
        short = (example.duration or 0.0) <= MAX_SECONDS
        return short and (self.stream.with_text or ctc_target(example, self.stream.ctc) is not None)


def some_transcripts(source: DataSource, most: int, allow_commands: bool) -> Iterator[str]:
    """Transcripts of a source, of shards the first `most` examples' only."""
    found = read_manifest(source.manifest, sounds=False, allow_commands=allow_commands)
    found = islice(found, most) if is_sharded(source.manifest) else found
    return (example.transcript for example in found if example.transcript)


def begin(stream: Stream, position: Position, accelerator: Accelerator) -> None:
    """Makes every process read the same shards in the same order, from a checkpoint's position or from the start.

    Raises:
        TrainingError: the checkpoint's lanes are not as many as the recipe's batches a step, or of other sources.
    """
    if position.lanes and len(position.lanes) != stream.lanes:
        raise TrainingError(
            f"The checkpoint's data is shared among {len(position.lanes)} batches a step, but now a step has "
            f"{stream.lanes}; set batches_per_step={len(position.lanes)}, or change output_dir."
        )
    # Shards may have come or gone since, or while the processes looked: one listing holds for all of them, to the end.
    position.sources = position.sources or gathered(accelerator, stream.catalogue())[: len(stream.sources)]
    stream.use(position.sources)


def tell_lanes(position: Position, accelerator: Accelerator) -> None:
    """Lets every process know where the lanes of all of them stand, before one writes it down."""
    if not position.sources:
        return
    rank, processes = accelerator.process_index, accelerator.num_processes
    own = [(lane, state) for lane, state in position.lanes.items() if int(lane) % processes == rank]
    lanes = dict(gathered(accelerator, own))
    position.lanes = {lane: lanes[lane] for lane in sorted(lanes, key=int)}
