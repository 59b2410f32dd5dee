"""One engine for many requests: who may come in, who runs when, and what is counted.

It knows no field of any request; what a request computes, its route says.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fastapi import Request
from starlette.requests import HTTPConnection

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.errors import SoundwaveError
from soundwave.serving.entrance.keys import Keys, check_exposure
from soundwave.serving.errors import ApiError, api_error, busy
from soundwave.serving.metrics import Metrics
from soundwave.serving.options import ServerOptions
from soundwave.serving.scheduler import FairQueue
from soundwave.serving.slots import Slot

if TYPE_CHECKING:
    from soundwave.inference.engine import Engine

FACTS = "soundwave.facts"  # of a request, in its ASGI scope: what the log says of it


class Service:
    """An engine, and all that its requests share.

    Args:
        engine: or what has its shape.
        options: the bounds.
        keys: who may come in; none: everybody.

    Attributes:
        name: what the model is called by; `names`: all that it may be called by.
        started: when, in seconds since 1970.
        ready: whether the model has computed once.
        draining: whether the server is about to stop; `stops`: the same, to be waited for.

    Raises:
        ConfigurationError: the server would be open to others without keys.
    """

    def __init__(self, engine: Engine, options: ServerOptions, keys: Keys | None = None):
        self.engine, self.options, self.keys = engine, options, keys or Keys()
        check_exposure(options, self.keys)
        self.name = os.path.basename(os.path.normpath(engine.name))  # a folder's place is nobody's business
        self.names = (self.name, *options.served_as)
        self.started, self.ready, self.draining, self._live = int(time.time()), False, False, 0
        self.stops = asyncio.Event()
        self.queue = FairQueue(options.max_running, options.max_queue)
        self.metrics = Metrics(lambda: self.queue.waiting, lambda: self.queue.running)
        self._slots: set[Slot] = set()
        self._cores, self._shares = torch.get_num_threads(), threading.local()
        self._threads = ThreadPoolExecutor(options.max_running + options.max_live, "soundwave")

    @asynccontextmanager
    async def admit(self, request: HTTPConnection) -> AsyncIterator[Slot]:
        """A turn to compute, after those who were there before; held until the context is left.

        A client that goes away, and time that is up, stop the slot.

        Raises:
            ApiError: the queue is full, the server is stopping, or the client has gone.
        """
        loop, began, options = asyncio.get_running_loop(), time.perf_counter(), self.options
        turn = loop.create_task(self.queue.enter(self.client_of(request)))
        gone = loop.create_task(_disconnected(request))
        try:
            await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                self.metrics.cancelled.labels("gone").inc()
                raise _client_has_gone()
            turn.result()
        except BaseException:
            gone.cancel()
            if not turn.cancel() and not turn.cancelled() and turn.exception() is None:
                self.queue.leave()
            raise
        self.metrics.queued.observe(time.perf_counter() - began)
        note(request, queue_seconds=round(time.perf_counter() - began, 3))
        slot = self._slot(self.queue.leave)
        gone.add_done_callback(lambda task: None if task.cancelled() else self._stop(slot, "gone", _client_has_gone()))
        timer = loop.call_later(options.request_seconds, self._stop, slot, "time", _time_is_up(options.request_seconds))
        try:
            yield slot
        finally:
            timer.cancel()
            gone.cancel()
            slot.end()

    @asynccontextmanager
    async def live(self, request: HTTPConnection) -> AsyncIterator[Slot]:
        """A slot for a session that lasts as long as somebody speaks: outside the queue, bounded in number.

        Raises:
            ApiError: there are as many sessions as may be, or the server is stopping.
        """
        if self.draining:
            raise stopping()
        if self._live >= self.options.max_live:
            raise busy(f"There are {self._live} live sessions, as many as may be; come again later.", 10,
                       code="too_many_sessions")
        self._set_live(1)
        slot = self._slot(lambda: self._set_live(-1))
        try:
            yield slot
        finally:
            slot.end()

    async def recording(
        self, request: HTTPConnection, slot: Slot, data: bytes, param: str
    ) -> tuple[np.ndarray, int]:
        """The samples of a recording that a client sent, bounded while it is decoded, as the engine takes them.

        Args:
            request: whose it is.
            slot: where it is decoded.
            data: a file of any format that FFmpeg reads.
            param: the field that brought it.

        Raises:
            ApiError: it cannot be used, or is too long.
        """
        warned: list[str] = []
        limit = self.options.max_audio_seconds
        try:
            samples = await slot.run(load_audio, data, max_seconds=limit, on_warning=warned.append)
        except SoundwaveError as error:
            raise api_error(error, param) from error
        seconds = len(samples) / SAMPLE_RATE
        if warned:
            note(request, recording_warnings=len(warned))
        self.metrics.audio_seconds.inc(seconds)
        note(request, audio_seconds=round(facts(request).get("audio_seconds", 0.0) + seconds, 2))
        return samples, SAMPLE_RATE

    def check_model(self, name: str) -> None:
        """Refuses a model that is not served.

        Raises:
            ApiError: it is another one.
        """
        if name not in self.names:
            raise ApiError(
                f"The model {name[:100]!r} is not here; this server has {', '.join(map(repr, self.names))}.", 404,
                param="model", code="model_not_found",
            )

    def client_of(self, request: HTTPConnection) -> str:
        """Between whom turns are shared: the API key, or the address."""
        known = facts(request).get("client")
        return known or (request.client.host if request.client else "unknown")

    def drain(self) -> None:
        """Refuses what is new and sends away what waits; what runs may end."""
        self.draining = True
        self.stops.set()
        self.queue.close(stopping())

    async def drained(self, seconds: float) -> None:
        """Waits until nothing runs any more; what runs longer than this is stopped."""
        end = time.monotonic() + seconds
        while self._slots and time.monotonic() < end:
            await asyncio.sleep(0.05)
        for slot in list(self._slots):
            self._stop(slot, "stopping", stopping())

    async def warm(self) -> None:
        """Computes once, so that the first request need not wait for what is made when it is first needed."""
        noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
        loop = asyncio.get_running_loop()
        with suppress(SoundwaveError):
            await loop.run_in_executor(self._threads, self.engine.transcribe, (noise, SAMPLE_RATE))
        self.ready = True

    def close(self) -> None:
        """Takes no more work; what runs in threads is left to end alone."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _slot(self, released: Callable[[], None]) -> Slot:
        def forget() -> None:
            self._slots.discard(slot)
            released()

        slot = Slot(self._threads, forget, self._share_cores)
        self._slots.add(slot)
        return slot

    def _share_cores(self) -> None:
        """Gives a thread its share of the cores: one request alone has all, several have one or more each.

        On two cores that answers 1.6 times as many tokens as two requests after the other
        (docs/results/concurrency.json).
        """
        share = max(1, self._cores // max(1, self.queue.running))
        if getattr(self._shares, "cores", None) != share:  # PyTorch keeps it for each thread
            torch.set_num_threads(share)
            self._shares.cores = share

    def _stop(self, slot: Slot, why: str, reason: ApiError) -> None:
        if slot.stopped is None:
            self.metrics.cancelled.labels(why).inc()
            slot.stop(reason)

    def _set_live(self, change: int) -> None:
        self._live += change
        self.metrics.live.set(self._live)


def facts(request: HTTPConnection) -> dict[str, Any]:
    """What is known of a request, for its line in the log."""
    return request.scope.setdefault(FACTS, {})


def note(request: HTTPConnection, **known: Any) -> None:
    """Adds to what the log says of a request; never what was said or written."""
    facts(request).update(known)


def stopping() -> ApiError:
    """What is told to those who come while the server stops."""
    return busy("The server is stopping; come again when it is back.", 5, 503, "stopping")


def _client_has_gone() -> ApiError:
    return ApiError("The client has gone.", 499, code="client_gone")


def _time_is_up(seconds: float) -> ApiError:
    return ApiError(
        f"The request ran for {math.ceil(seconds)} s, as long as one may; send less.", 408, code="time_limit"
    )


async def _disconnected(request: HTTPConnection) -> None:
    """Ends when the client has gone; of a WebSocket, only its own reader knows."""
    if not isinstance(request, Request):
        await asyncio.get_running_loop().create_future()
        return
    while (await request.receive())["type"] != "http.disconnect":
        pass
