"""A turn to compute: blocking work runs in threads, and stops at once where nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from soundwave.serving.errors import ApiError

T = TypeVar("T")
END = object()


class Slot:
    """What a request computes with, one thing after the other.

    Nothing that it awaits outlives a stop: whoever waits is told at once, and what runs in a thread is left to end
    alone; a generator is closed as soon as its thread has come back from it. Only then `released` is called.

    Args:
        threads: where the work is done.
        released: called once, when the slot has ended and no thread works for it any more.
        prepare: called in a thread before each piece of work.
    """

    def __init__(
        self, threads: ThreadPoolExecutor, released: Callable[[], None], prepare: Callable[[], None] = lambda: None
    ):
        self._loop = asyncio.get_running_loop()
        self._threads, self._released, self._prepare = threads, released, prepare
        self._stopped: asyncio.Future[ApiError] = self._loop.create_future()
        self._working: asyncio.Future[Any] | None = None
        self._open: list[Generator[Any, None, None]] = []
        self._ended = False

    @property
    def stopped(self) -> ApiError | None:
        """Why it was stopped: the client has gone, or its time is up; None: it was not."""
        return self._stopped.result() if self._stopped.done() else None

    def stop(self, reason: ApiError) -> None:
        """Ends whatever is awaited from this slot with an error."""
        if not self._stopped.done():
            self._stopped.set_result(reason)

    async def run(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """The result of a blocking function, which runs in a thread.

        Raises:
            ApiError: the slot was stopped.
        """
        while self._working is not None:  # a generator that is closed before it was at its end
            await self._until(self._working)
        if self.stopped is not None:
            raise self.stopped
        work = self._submit(partial(function, *args, **named))
        await self._until(work)
        return work.result()

    async def iterate(self, make: Callable[[], Generator[T, None, None]]) -> AsyncGenerator[T, None]:
        """The items of a blocking generator, each made in a thread when it is asked for.

        The generator is closed when the iteration ends in any way, at the latest with the slot.
        """
        items = await self.run(make)
        self._open.append(items)
        try:
            while (item := await self.run(next, items, END)) is not END:
                yield item
        finally:
            self._close(items)

    def end(self) -> None:
        """Gives the slot back, as soon as no thread works for it any more."""
        self._ended = True
        for items in list(self._open):
            self._close(items)
        self._release()

    async def _until(self, future: asyncio.Future[Any]) -> None:
        either: set[asyncio.Future[Any]] = {future, self._stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise self._stopped.result()

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        def prepared() -> T:
            self._prepare()
            return work()

        future = self._loop.run_in_executor(self._threads, prepared)
        self._working = future
        future.add_done_callback(self._worked)
        return future

    def _worked(self, future: asyncio.Future[Any]) -> None:
        self._working = None
        if not future.cancelled():
            future.exception()  # seen: nobody may be left to whom it matters
        self._release()

    def _close(self, items: Generator[Any, None, None]) -> None:
        """Closes a generator in a thread, after the step that it may be in."""
        if items not in self._open:
            return
        if getattr(items, "gi_frame", items) is None:  # it has come to its end
            self._open.remove(items)
            return
        if self._working is not None:
            self._working.add_done_callback(lambda _: self._close(items))
            return
        self._open.remove(items)
        self._submit(items.close)

    def _release(self) -> None:
        if self._ended and self._working is None and not self._open:
            self._ended = False
            self._released()
