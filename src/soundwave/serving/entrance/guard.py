"""What stands before every address: keys, origins, sizes and slow bodies; a line in the log for each request.

It reads heads and counts bytes; what a body says, the routes know.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundwave.serving.entrance.keys import sent_key
from soundwave.serving.errors import ApiError, api_error, busy, response_of
from soundwave.serving.logs import LOGGER
from soundwave.serving.service import Service, facts, stopping

OPEN_TO_ALL = ("/health", "/ready")  # whoever runs the process asks these without a key
BYTES_A_SECOND = 16_000  # of a body, at least, beyond `upload_seconds`
OWN_NAMES = ("localhost", "127.0.0.1", "::1")
DISCARDED_SECONDS = 5.0  # a body that is refused is still read for so long: else the client would not see the answer

log = logging.getLogger(LOGGER)


class Guard:
    """An ASGI application around another.

    Args:
        app: what it guards.
        service: whose options and counters it uses.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service
        self._open, self._held = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        visit = _Visit(self, request, receive, send)
        facts(request)["id"] = visit.id
        self._count(1, 0)
        try:
            try:
                self._check(request)
                await self.app(scope, visit.receive, visit.send)
            except Exception as error:
                await visit.fail(error)
        finally:
            self._count(-1, -visit.held)
            visit.end()

    def _check(self, request: HTTPConnection) -> None:
        """Refuses what needs no look at the body."""
        options, path, headers = self.service.options, request.url.path, request.headers
        self._check_origin(headers)
        if path in OPEN_TO_ALL:
            return
        if self.service.keys:
            client = self.service.keys.client_of(sent_key(headers))
            if client is None:
                raise ApiError("The API key is missing or wrong; send it as `Authorization: Bearer KEY`.", 401,
                               code="invalid_api_key")
            facts(request)["client"] = client
        if self.service.draining and path.startswith("/v1/") and request.scope.get("method") != "GET":
            raise stopping()
        if self._open > options.max_open:
            raise busy(f"{options.max_open} requests are open, as many as may be; come again in 2 s.", 2)
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and len(length) < 19 and int(length) > options.max_upload_bytes:
            raise self.too_large()

    def _check_origin(self, headers: Headers) -> None:
        """Refuses web pages that were not allowed: a browser asks this computer in their name too."""
        options, origin = self.service.options, headers.get("origin")
        if origin is not None and not {origin, "*"} & set(options.allowed_origins):
            raise ApiError(
                f"The web page {origin[:100]!r} may not call this server; --allowed-origins allows pages.", 403,
                code="origin_not_allowed",
            )
        name = headers.get("host", "").rsplit(":", 1)[0].strip("[]").lower() if headers.get("host") else ""
        if options.is_loopback and not self.service.keys and name not in (*OWN_NAMES, options.host, ""):
            raise ApiError(
                f"The host {name[:100]!r} is not this computer's own name; use localhost, or API keys.", 403,
                code="host_not_allowed",
            )

    def too_large(self) -> ApiError:
        """What is told about a body over the limit."""
        most = self.service.options.max_upload_mb
        return ApiError(f"The body is larger than {most} MB, the most that is taken; send less.", 413,
                        code="body_too_large")

    def hold(self, size: int) -> None:
        """Counts bytes that are kept until their request is answered.

        Raises:
            ApiError: all bodies together are too large.
        """
        self._count(0, size)
        if self._held > self.service.options.max_held_mb * 2**20:
            raise busy("Too much is being received at the moment; come again in 5 s.", 5)

    def _count(self, opened: int, held: int) -> None:
        self._open += opened
        self._held += held
        self.service.metrics.open.set(self._open)


class _Visit:
    """One request: the bytes that came, the status that went, and its time."""

    def __init__(self, guard: Guard, request: HTTPConnection, receive: Receive, send: Send):
        self.guard, self.request = guard, request
        self.id = "req-" + uuid.uuid4().hex[:20]
        self.held, self.status = 0, 0
        self._receive, self._send = receive, send
        self._began = time.perf_counter()
        self._whole = request.scope["type"] == "websocket"

    async def receive(self) -> Message:
        """The next message; a body's only as far as it is not too large and not too slow."""
        if self._whole:
            return await self._receive()
        options = self.guard.service.options
        allowed = options.upload_seconds + self.held / BYTES_A_SECOND - (time.perf_counter() - self._began)
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, allowed))
        except asyncio.TimeoutError as error:
            raise ApiError("The body came too slowly; send it at once.", 408, code="slow_upload",
                           headers={"Connection": "close"}) from error
        self._whole = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self.held += size
        self.guard.hold(size)
        if self.held > options.max_upload_bytes:
            raise self.guard.too_large()
        return message

    async def send(self, message: Message) -> None:
        """Passes on what is answered, with the request's id."""
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self.id.encode())]}
        elif message["type"] == "websocket.accept":
            self.status = 101
        await self._send(message)

    async def fail(self, error: Exception) -> None:
        """Answers in the place of a request that failed, where nothing was answered yet."""
        told = api_error(error)
        if told.status == 500:
            log.error("bug", exc_info=error, extra={"facts": {"id": self.id, "path": self._path()}})
        if self.status:
            self.status = told.status
            return
        if self.request.scope["type"] == "websocket":
            await self._refuse_websocket(told)
            return
        if not self._whole:
            await self._discard()
        await response_of(told)(self.request.scope, self._receive, self.send)

    async def _refuse_websocket(self, told: ApiError) -> None:
        if "websocket.http.response" in self.request.scope.get("extensions", {}):
            response = response_of(told)
            headers = list(response.raw_headers)
            await self.send({"type": "websocket.http.response.start", "status": told.status, "headers": headers})
            await self._send({"type": "websocket.http.response.body", "body": response.body})
        else:
            await self._send({"type": "websocket.close", "code": 1008, "reason": told.message[:120]})

    async def _discard(self) -> None:
        """Reads on for a while: a client that still sends reads no answer."""
        if self.request.headers.get("expect"):
            return
        end = time.perf_counter() + DISCARDED_SECONDS
        while (left := end - time.perf_counter()) > 0:
            try:
                message = await asyncio.wait_for(self._receive(), left)
            except asyncio.TimeoutError:
                return
            if not message.get("more_body", False):
                return

    def end(self) -> None:
        """Counts the request, and writes its line."""
        seconds, metrics = time.perf_counter() - self._began, self.guard.service.metrics
        route = self.request.scope.get("route")
        path = getattr(route, "path", "other")  # a path that nobody wrote would be a new counter each time
        metrics.requests.labels(path, str(self.status)).inc()
        metrics.seconds.labels(path).observe(seconds)
        line: dict[str, Any] = {
            "method": self.request.scope.get("method", "WEBSOCKET"), "path": self._path(),
            "status": self.status, "seconds": round(seconds, 3), "bytes": self.held, **facts(self.request),
        }
        log.info("request", extra={"facts": line})

    def _path(self) -> str:
        return self.request.url.path[:200]
