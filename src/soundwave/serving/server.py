"""The process that listens: connections with a bounded patience, and a stop that lets what runs come to its end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from soundwave.errors import ConfigurationError
from soundwave.serving.errors import ApiError, error_body
from soundwave.serving.options import ServerOptions
from soundwave.serving.service import Service

HEAD_SECONDS = 10.0  # until the head of a request is whole; its body is the guard's
CONNECTIONS = 2  # for each request that may be open: clients keep some for later
LARGEST_MESSAGE = 2**20  # bytes of a WebSocket's message: 16 s of sound in base64
LAST_SECONDS = 5  # for answers that say that there is no more time


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, that also ends connections on which no head of a request comes to its end."""

    def __init__(self, most_connections: int, **given: Any):
        super().__init__(**given)
        self._most = most_connections
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts a new connection; one too many is closed."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.close()
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Passes on bytes; the time for a head runs while no request is under way."""
        super().data_received(data)
        if self.transport.get_protocol() is not self or (self.cycle and not self.cycle.response_complete):
            self._stop_waiting()
        elif self._timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are no HTTP, in the shape of all errors."""
        body = json.dumps(error_body(ApiError(f"This is no HTTP request that can be read: {msg}"))).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """uvicorn's server, whose first signal refuses what is new and lets what runs end; the second one ends it at once.

    Args:
        app: from `create_app`.
        options: how many may come, and how long to wait at the end.
        on_listening: called once it may be asked.
    """

    def __init__(self, app: FastAPI, options: ServerOptions, on_listening: Callable[[], Any] = lambda: None):
        config = uvicorn.Config(
            app, http=partial(PatientProtocol, CONNECTIONS * options.max_open),  # type: ignore[arg-type]
            ws_max_size=LARGEST_MESSAGE, access_log=False,
            log_config=None, server_header=False, lifespan="on", timeout_graceful_shutdown=LAST_SECONDS,
        )
        super().__init__(config)
        self.options, self.on_listening = options, on_listening
        self.service: Service = app.state.service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until it is told to stop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        if not self.should_exit:
            self.on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        if self.service.draining or self._loop is None:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Refuses what is new; ends when nothing runs any more, or the time for it is up."""
        self.service.drain()
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        await self.service.drained(self.options.graceful_seconds)
        self.should_exit = True


def bound_socket(options: ServerOptions) -> socket.socket:
    """A socket at the options' address, at which nobody is heard yet.

    Raises:
        ConfigurationError: nobody may listen there, or somebody does already.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(kind, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"nobody can listen at host {options.host!r}, port {options.port} ({error}); choose others, or stop what "
            "listens there."
        ) from error
    return made


def address_of(listener: socket.socket) -> str:
    """Where a browser would find it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
