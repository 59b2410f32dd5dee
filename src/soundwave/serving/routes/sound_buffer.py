"""Sound on its way from whom it comes to what computes, bounded: who brings more than is computed waits."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

import numpy as np

Mark = TypeVar("Mark")
MOST_ITEMS = 1000  # that wait, however short each is


class SoundBuffer(Generic[Mark]):
    """Samples and marks, in the order in which they were put in.

    Args:
        most: samples that wait at most; who puts in more waits.

    Attributes:
        samples: how many wait.
    """

    def __init__(self, most: int):
        self.most, self.samples = most, 0
        self._items: deque[np.ndarray | Mark] = deque()
        self._changed = asyncio.Event()

    async def put(self, item: np.ndarray | Mark) -> None:
        """Adds samples or a mark, as soon as there is room."""
        while self.samples > self.most or len(self._items) > MOST_ITEMS:
            await self._change()
        self._items.append(item)
        self.samples += len(item) if isinstance(item, np.ndarray) else 0
        self._changed.set()

    async def take(self, most: int) -> np.ndarray | Mark:
        """The next mark, or all samples before it, at most so many."""
        while not self._items:
            await self._change()
        taken: list[np.ndarray] = []
        count = 0
        while self._items and count < most and isinstance(samples := self._items[0], np.ndarray):
            part = samples[: most - count]
            taken.append(part)
            count += len(part)
            self._items.popleft()
            if len(part) < len(samples):
                self._items.appendleft(samples[len(part) :])
        self.samples -= count
        self._changed.set()
        if not taken:
            mark = self._items.popleft()
            assert not isinstance(mark, np.ndarray)
            return mark
        return np.concatenate(taken)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
