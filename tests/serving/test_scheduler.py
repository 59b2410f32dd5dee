"""Turns: bounded, in order, and shared fairly between clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from running import ScriptedEngine

from soundwave.serving.errors import ApiError
from soundwave.serving.options import ServerOptions
from soundwave.serving.scheduler import FairQueue
from soundwave.serving.service import Service
from soundwave.serving.slots import Slot


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    return run


async def order_of(queue: FairQueue, clients: str) -> str:
    """Who got a turn, in which order, when `clients` came one after the other while one turn was taken."""
    got: list[str] = []

    async def visit(client: str) -> None:
        await queue.enter(client)
        got.append(client)
        await asyncio.sleep(0)
        queue.leave()

    await queue.enter("first")
    tasks = [asyncio.create_task(visit(client)) for client in clients]
    await asyncio.sleep(0.01)
    queue.leave()
    await asyncio.gather(*tasks)
    return "".join(got)


def test_clients_take_turns_and_keep_their_own_order() -> None:
    for came, got in [("aaabbc", "abcaba"), ("aaaab", "abaaa"), ("abcabc", "abcabc"), ("a", "a"), ("", "")]:
        assert asyncio.run(order_of(FairQueue(1, 10), came)) == got


@in_loop
async def test_no_more_run_than_may() -> None:
    queue, most = FairQueue(3, 100), 0

    async def visit(client: str) -> None:
        nonlocal most
        await queue.enter(client)
        most = max(most, queue.running)
        await asyncio.sleep(0.001)
        queue.leave()

    await asyncio.gather(*(visit(str(i % 4)) for i in range(40)))
    assert (most, queue.running, queue.waiting) == (3, 0, 0)


@in_loop
async def test_who_fills_the_queue_makes_room_for_others() -> None:
    queue = FairQueue(1, 3)
    await queue.enter("greedy")
    waiting = [asyncio.create_task(queue.enter("greedy")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError, match="3 requests wait"):
        await queue.enter("greedy")
    other = asyncio.create_task(queue.enter("other"))
    await asyncio.sleep(0)
    with pytest.raises(ApiError):
        await waiting[2]  # the newest went
    assert queue.waiting == 3
    for _ in range(3):
        queue.leave()
        await asyncio.sleep(0)
    await asyncio.gather(waiting[0], waiting[1], other)


@in_loop
async def test_who_leaves_the_queue_is_forgotten_at_any_moment() -> None:
    queue = FairQueue(1, 10)
    await queue.enter("a")
    for moment in range(3):
        waiting = asyncio.create_task(queue.enter("b"))
        await asyncio.sleep(0)
        if moment == 1:
            queue.leave()  # its turn has come, and it has not seen it
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert queue.waiting == 0
        if moment == 1:
            assert queue.running == 0
            await queue.enter("a")
    assert queue.running == 1


@in_loop
async def test_a_closed_queue_sends_everybody_away() -> None:
    queue = FairQueue(1, 10)
    await queue.enter("a")
    waiting = asyncio.create_task(queue.enter("b"))
    await asyncio.sleep(0)
    queue.close(ApiError("over", 503))
    for task in (waiting, queue.enter("c")):
        with pytest.raises(ApiError, match="over"):
            await task
    queue.leave()
    assert (queue.running, queue.waiting) == (0, 0)


# A turn


@in_loop
async def test_a_slot_is_released_once_and_only_when_its_thread_is_back() -> None:
    import threading

    gate, released = threading.Event(), []
    with ThreadPoolExecutor(1) as threads:
        slot = Slot(threads, lambda: released.append(True))
        work = asyncio.create_task(slot.run(gate.wait, 10))
        await asyncio.sleep(0.05)
        slot.stop(ApiError("gone", 499))
        with pytest.raises(ApiError, match="gone"):
            await work
        slot.end()
        await asyncio.sleep(0.05)
        assert released == []
        gate.set()
        while not released:
            await asyncio.sleep(0.01)
        with pytest.raises(ApiError, match="gone"):
            await slot.run(gate.wait)
    assert released == [True]


@in_loop
async def test_a_generator_is_closed_however_its_iteration_ends() -> None:
    closed: list[str] = []

    def numbers(name: str) -> Any:
        try:
            yield from range(3)
        finally:
            closed.append(name)

    released: list[bool] = []
    with ThreadPoolExecutor(1) as threads:
        slot = Slot(threads, lambda: released.append(True))
        assert [item async for item in slot.iterate(lambda: numbers("whole"))] == [0, 1, 2]
        async for _ in slot.iterate(lambda: numbers("left")):
            break
        assert await slot.run(lambda: 5) == 5
        pieces = slot.iterate(lambda: numbers("kept open"))
        assert await anext(pieces) == 0
        slot.end()
        while not released:
            await asyncio.sleep(0.01)
    assert closed == ["whole", "left", "kept open"] or sorted(closed) == ["kept open", "left", "whole"]


@in_loop
async def test_an_error_of_the_work_is_the_callers() -> None:
    def fail() -> None:
        raise KeyError("odd")

    with ThreadPoolExecutor(1) as threads:
        slot = Slot(threads, lambda: None)
        with pytest.raises(KeyError):
            await slot.run(fail)
        assert await slot.run(lambda: 1) == 1
        slot.end()


def test_requests_that_run_at_the_same_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = {1: 6, 2: 3, 3: 2, 4: 1, 9: 1}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    service, given = Service(ScriptedEngine(), ServerOptions()), []  # type: ignore[arg-type]
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    for running in cores:
        service.queue.running = running
        service._share_cores()  # what a thread does before it works
        service._share_cores()  # nothing new
    assert given == [6, 3, 2, 1]
