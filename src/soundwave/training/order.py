"""The order of the data over a whole run, and each process's share of it.

Batches form one sequence without end, epoch after epoch. One optimizer step takes the next `batches_per_step` of them,
whichever process computes which, so nothing is dropped where an epoch does not divide, and the steps of a run do not
depend on the number of processes. A position in the data is the epoch and the batch that come next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from soundwave.training.dataset import Batch, Item


@dataclass(frozen=True)
class Place:
    """One batch of the sequence: the epoch, its number there, its examples; of a stream, its lane and its new state."""

    epoch: int
    index: int
    items: list[Item]
    lane: tuple[str, dict[str, Any]] | None = None


@dataclass(frozen=True)
class Share:
    """What one process computes while the others compute the batches beside it.

    Attributes:
        place: where its batch is in the data.
        batch: the same as tensors.
        after: epoch and number of the batch that comes after all of theirs.
    """

    place: Place
    batch: Batch
    after: tuple[int, int]


def places(epoch_batches: Callable[[int], list[list[Item]]], epoch: int, index: int) -> Iterator[Place]:
    """All batches from a position on, without end; every epoch must have some."""
    while True:
        made = epoch_batches(epoch)
        for at in range(index, len(made)):
            yield Place(epoch, at, made[at])
        epoch, index = epoch + 1, 0


def shares(
    sequence: Iterator[Place], rank: int, processes: int, collate: Callable[[Place], Batch]
) -> Iterator[Share]:
    """Of every `processes` neighbouring batches this process's; the next one is made while one is computed."""

    def begin() -> tuple[Place, Future[Batch], tuple[int, int]]:
        beside = list(islice(sequence, processes))
        last = beside[-1]
        return beside[rank], worker.submit(collate, beside[rank]), (last.epoch, last.index + 1)

    with ThreadPoolExecutor(1) as worker:
        ahead = begin()
        while True:
            place, batch, after = ahead
            ahead = begin()
            yield Share(place, batch.result(), after)
