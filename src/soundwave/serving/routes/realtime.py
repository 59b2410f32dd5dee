"""The WebSocket /v1/realtime: sound goes in as it comes, what is said comes out while it is said.

One task reads messages, another computes; between them lies a buffer of bounded length, and a client that sends faster
than is computed is not read meanwhile. A mistake in a message is told and the session goes on; what ends a session is
told too, and what was heard until then is still written down (`docs/realtime.md` lists the codes).
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket
from fastapi.exceptions import RequestValidationError

from soundwave.errors import SoundwaveError
from soundwave.inference.captions import Event, LiveSession
from soundwave.serving.errors import ApiError, api_error
from soundwave.serving.fields.realtime import Commit, SessionOptions, SessionUpdate, event_id_of, message_of, samples_of
from soundwave.serving.routes.realtime_events import Captions, error_event
from soundwave.serving.routes.sound_buffer import SoundBuffer
from soundwave.serving.routes.transcriptions import spoken_language
from soundwave.serving.service import Service, note, stopping
from soundwave.serving.slots import Slot

SUBPROTOCOL = "realtime"  # OpenAI's clients in browsers ask for it
MOST_WAITING_SECONDS = 30.0  # of sound that is read and not computed yet
FED_SECONDS = 0.5  # of sound at a time: after each, what is new is sent
LEAST_SOUND_SECONDS = 0.5  # that must come in each `live_idle_seconds`
MOST_MISTAKES = 30  # of one client; then it is no client that learns from them

NORMAL, UNSUPPORTED, POLICY, BUG, RESTARTS = 1000, 1003, 1008, 1011, 1012  # codes with which a WebSocket is closed


def router(service: Service) -> APIRouter:
    """The address of live sessions."""
    made = APIRouter(tags=["realtime"])

    @made.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket, model: str | None = None) -> None:
        """Captions of one stream of sound."""
        if model is not None:
            service.check_model(model)
        async with service.live(websocket) as slot:
            offered = websocket.scope.get("subprotocols", [])
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            await _Connection(service, websocket, slot).run()

    return made


class Ending(Exception):
    """Why a session ends: the code with which it is closed, and the error that is told."""

    def __init__(self, code: int, error: ApiError | None = None):
        super().__init__(code)
        self.code, self.error = code, error


class Gone(Exception):
    """The client is not there any more."""


class _Connection:
    """One client's session, from `session.created` to the close."""

    def __init__(self, service: Service, websocket: WebSocket, slot: Slot):
        self.service, self.websocket, self.slot = service, websocket, slot
        self.id = "sess_" + uuid.uuid4().hex[:24]
        self.chosen = SessionOptions.model_validate({})
        self.buffer: SoundBuffer[Commit | Ending] = SoundBuffer(0)
        self.captions = Captions()
        self._begun, self._committed, self._mistakes = False, False, 0

    async def run(self) -> None:
        """Serves the client until one of both ends it."""
        tasks = [asyncio.ensure_future(one) for one in (self._read(), self._compute())]
        try:
            await self._send(self._described("session.created"))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        except Gone:
            self.service.metrics.cancelled.labels("gone").inc()
        except Exception as error:
            told = api_error(error)
            await self._end(Ending(BUG if told.status == 500 else POLICY, told))
            if told.status == 500:
                raise  # for the log
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        """Messages to the buffer, until no more come; raises `Gone` only."""
        options, now = self.service.options, asyncio.get_running_loop().time
        end, idle_end, heard = now() + options.live_seconds, now() + options.live_idle_seconds, 0.0
        try:
            while True:
                text = await self._message(min(end, idle_end) - now(), is_last=end <= idle_end)
                try:
                    heard += await self._take(text)
                except (SoundwaveError, RequestValidationError) as error:
                    await self._tell_mistake(api_error(error), text)
                if heard >= LEAST_SOUND_SECONDS or self._committed:
                    idle_end, heard = now() + options.live_idle_seconds, 0.0
        except Ending as ending:
            self._committed = True
            await self.buffer.put(ending)
        await asyncio.get_running_loop().create_future()  # the end is the other task's

    async def _message(self, seconds: float, is_last: bool) -> str:
        """The next text of the client.

        Raises:
            Ending: time is up, the server stops, or it is no text.
            Gone: the client has left.
        """
        received = asyncio.ensure_future(self.websocket.receive())
        stops = asyncio.ensure_future(self.service.stops.wait())
        try:
            await asyncio.wait({received, stops}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            if received.done():
                message = received.result()
                if message["type"] == "websocket.disconnect":
                    raise Gone
                if message.get("text") is None:
                    told = "A binary message came; send JSON, with samples in base64."
                    raise Ending(UNSUPPORTED, ApiError(told, 415, code="binary_message"))
                return message["text"]
            raise Ending(RESTARTS, stopping()) if stops.done() else Ending(POLICY, self._time_is_up(is_last))
        finally:
            received.cancel()
            stops.cancel()

    def _time_is_up(self, is_last: bool) -> ApiError:
        options = self.service.options
        if is_last:
            told = f"The session was open for {options.live_seconds:g} s, as long as one may; begin another."
            return ApiError(told, 408, code="time_limit")
        told = f"Hardly any sound came for {options.live_idle_seconds:g} s; begin another session when there is some."
        return ApiError(told, 408, code="idle")

    async def _take(self, text: str) -> float:
        """Does what a message asks for; the seconds of sound in it.

        Raises:
            SoundwaveError: it is wrong.
        """
        message = message_of(text)
        if isinstance(message, SessionUpdate):
            await self._update(message)
            return 0.0
        if self._committed:
            raise ApiError("The sound was committed as final; begin another session for more.", param="type",
                           code="already_committed")
        item = message if isinstance(message, Commit) else samples_of(message)
        self._begun, self.buffer.most = True, round(MOST_WAITING_SECONDS * self.chosen.sampling_rate)
        await self.buffer.put(item)
        if isinstance(item, Commit):
            self._committed = item.final
            return 0.0
        return len(item) / self.chosen.sampling_rate

    async def _update(self, message: SessionUpdate) -> None:
        if self._begun:
            raise ApiError("The session has begun; session.update comes before any sound.", param="type",
                           code="session_begun")
        changed = self.chosen.model_copy(update=message.session.model_dump(exclude_unset=True))
        for name in filter(None, (message.model, changed.model)):
            self.service.check_model(name)
        if changed.language:
            spoken_language(self.service.engine, [changed.language], "session.language")
        changed.listening()
        self.chosen = changed
        await self._send(self._described("session.updated"))

    async def _tell_mistake(self, error: ApiError, text: str) -> None:
        """Says what is wrong with a message; the session goes on.

        Raises:
            Ending: it was one too many.
        """
        self._mistakes += 1
        if self._mistakes > MOST_MISTAKES:
            raise Ending(POLICY, ApiError(f"That is mistake {self._mistakes}, one more than may be.", 429,
                                          code="too_many_mistakes"))
        await self._send(error_event(error, event_id_of(text)))

    async def _compute(self) -> None:
        """Sound from the buffer to events, until the end."""
        session: LiveSession | None = None
        while True:
            item = await self.buffer.take(round(FED_SECONDS * self.chosen.sampling_rate))
            rate = self.chosen.sampling_rate  # may be chosen until the first sound is there
            if session is None and not isinstance(item, Ending):
                options = self.chosen.listening()
                session = await self.slot.run(self.service.engine.listen, options, sampling_rate=rate)
            if isinstance(item, np.ndarray):
                assert session is not None
                self._count(len(item) / rate)
                await self._show(await self.slot.run(session.feed, item, self.buffer.samples / rate))
            elif isinstance(item, Commit) and not item.final:
                committed = round(self.captions.seconds, 3)
                await self._send({"type": "input_audio_buffer.committed", "audio_seconds": committed})
            else:
                await self._finish(session, item if isinstance(item, Ending) else Ending(NORMAL))
                return

    async def _finish(self, session: LiveSession | None, ending: Ending) -> None:
        """What is left is written down; then all of it is sent once more, and the session is over."""
        if ending.error is not None:
            await self._send(error_event(ending.error))
        if session is not None:
            await self._show(await self.slot.run(session.finish))
        done = self.captions.done(spoken_language(self.service.engine, [self.chosen.language or ""], "language"))
        if self.service.options.log_text:
            note(self.websocket, transcript=done["text"])
        await self._send(done)
        await self.websocket.close(ending.code)

    async def _end(self, ending: Ending) -> None:
        """Closes what cannot go on."""
        try:
            assert ending.error is not None
            await self._send(error_event(ending.error))
            await self.websocket.close(ending.code)
        except (Gone, RuntimeError):
            pass

    async def _show(self, events: list[Event]) -> None:
        for event in events:
            for told in self.captions.told(event):
                await self._send(told)

    async def _send(self, event: dict[str, Any]) -> None:
        try:
            await self.websocket.send_text(json.dumps(event, ensure_ascii=False))
        except Exception as error:  # uvicorn and Starlette raise several kinds when nobody is there
            raise Gone from error

    def _count(self, seconds: float) -> None:
        self.captions.seconds += seconds
        self.service.metrics.audio_seconds.inc(seconds)
        note(self.websocket, audio_seconds=round(self.captions.seconds, 2))

    def _described(self, kind: str) -> dict[str, Any]:
        chosen = self.chosen.model_dump() | {"model": self.chosen.model or self.service.name}
        return {"type": kind, "session": {"id": self.id, **chosen}}
