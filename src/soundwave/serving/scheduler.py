"""Who runs next: a queue of bounded length that is fair between clients.

It knows neither requests nor what they compute. All of it runs in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from soundwave.serving.errors import ApiError, busy

SECONDS_TO_COME_AGAIN = 2


class FairQueue:
    """Turns for those who want to run: a client's own in their order, and clients one after the other.

    Where the queue is full, the newest of the client who has most waiting makes room for one who has less: so nobody
    can fill it for all.

    Args:
        most_running: who may run at the same time.
        most_waiting: who may wait.

    Attributes:
        running: how many do.
    """

    def __init__(self, most_running: int, most_waiting: int):
        self.most_running, self.most_waiting, self.running = most_running, most_waiting, 0
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._closed: ApiError | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._lines.values()))

    async def enter(self, client: str) -> None:
        """Waits for a turn; `leave` gives it back. Cancelling it leaves the queue.

        Raises:
            ApiError: the queue is full, or closed.
        """
        if self._closed is not None:
            raise self._closed
        if self.running < self.most_running and not self._lines:
            self.running += 1
            return
        self._make_room(client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # the turn came in the same moment
            raise
        finally:
            self._forget(client, turn)

    def leave(self) -> None:
        """Gives a turn back, to whoever is next."""
        self.running -= 1
        self._start()

    def close(self, reason: ApiError) -> None:
        """Sends away who waits and who comes; who runs may end."""
        self._closed = reason
        for line in self._lines.values():
            for turn in line:
                if not turn.done():
                    turn.set_exception(reason)
        self._lines.clear()

    def _start(self) -> None:
        while self.running < self.most_running and self._lines:
            client, line = self._lines.popitem(last=False)
            turn = line.popleft()
            if line:
                self._lines[client] = line  # behind all others
            if not turn.done():
                turn.set_result(None)
                self.running += 1

    def _make_room(self, client: str) -> None:
        if self.waiting < self.most_waiting:
            return
        longest = max(self._lines.values(), key=len, default=deque())
        if len(longest) <= len(self._lines.get(client, ())) + 1:
            raise _full(self.most_waiting)
        newest = longest.pop()
        if not newest.done():
            newest.set_exception(_full(self.most_waiting))

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        line = self._lines.get(client)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[client]


def _full(most: int) -> ApiError:
    return busy(
        f"{most} requests wait already, as many as may; come again in {SECONDS_TO_COME_AGAIN} s.",
        SECONDS_TO_COME_AGAIN, code="queue_full",
    )
