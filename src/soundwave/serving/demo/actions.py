"""What happens on the page: each method is one thing that a visitor does, and gives what the page then shows.

It knows visitors and the engine; what the page looks like is `page`'s.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from soundwave.errors import AudioTooLongError, SoundwaveError
from soundwave.inference.captions import Event, Partial
from soundwave.inference.engine import Engine
from soundwave.inference.longform import Part, joined
from soundwave.inference.options import TranscribeOptions
from soundwave.inference.results import Reply
from soundwave.inference.stretches import Listening
from soundwave.serving.demo.conversation import Asked, answers, shown
from soundwave.serving.demo.microphones import Microphones
from soundwave.serving.demo.options import DemoOptions
from soundwave.serving.demo.player import NOTHING_YET, clock, length, transcript_html
from soundwave.serving.demo.visits import Recording, Visit, Visits, keep

MOST_CHARACTERS = 4000  # of a question
OUR_FAULT = "Something went wrong, and not by your fault. Try again; whoever runs this page finds it in the log."
WAYS = {"audio": "from the recording itself", "transcript": "from the words that were heard"}

log = logging.getLogger("soundwave.demo")


class View(NamedTuple):
    """What the page shows after a step, in the order of the outputs that every event has.

    Attributes:
        status: how far the recording is, or what is wrong with it, as HTML.
        transcript: as HTML.
        chat: the messages.
        said: how far the answer is, or what is wrong with the question, as HTML.
    """

    status: Any = gr.skip()
    transcript: Any = gr.skip()
    chat: Any = gr.skip()
    said: Any = gr.skip()


class Actions:
    """What visitors of one page can do.

    Args:
        engine: answers all of them.
        options: the bounds of what they give.
        folder: where recordings are kept while they are needed; nothing else lies in it.
    """

    def __init__(self, engine: Engine, options: DemoOptions, folder: Path):
        self.engine, self.options, self.folder = engine, options, folder
        self.visits = Visits(60 * options.keep_minutes)
        self.microphones = Microphones(engine, folder, options.max_seconds, options.live_at_once)

    # The microphone: called by the page's own script with one object; the answer is one too.

    def begin(self, given: dict[str, Any]) -> dict[str, Any]:
        """A visitor begins to record: `{rate}` gives `{token}`."""
        return _told(lambda: {"token": self.microphones.begin(int(_number(given, "rate")))})

    def feed(self, given: dict[str, Any]) -> dict[str, Any]:
        """The next piece: `{token, samples}`, 16 bits in base64, gives `{events}`; `{full}` says that it is enough."""

        def fed() -> dict[str, Any]:
            try:
                samples = np.frombuffer(base64.b64decode(_text(given, "samples"), validate=True), "<i2")
            except (binascii.Error, ValueError) as error:
                raise SoundwaveError("the samples are not 16-bit numbers in base64.") from error
            try:
                return {"events": _shown(self.microphones.feed(_text(given, "token"), samples))}
            except AudioTooLongError as error:
                return {"events": [], "full": _sentence(str(error))}

        return _told(fed)

    def end(self, given: dict[str, Any]) -> dict[str, Any]:
        """A recording is over: `{token}` gives the last `{events}`."""
        return _told(lambda: {"events": _shown(self.microphones.end(_text(given, "token")))})

    # What gives a recording

    def recorded(self, event: gr.EventData, request: gr.Request) -> Iterator[View]:
        """The recording that the microphone's script names is written down."""
        try:
            path = self.microphones.fetch(_text(event._data or {}, "token"))
        except SoundwaveError as error:
            yield View(_error(error))
            return
        yield from self._given(path, "Your recording", request)

    def uploaded(self, path: str | None, request: gr.Request) -> Iterator[View]:
        """A file is written down."""
        if path is not None:
            yield from self._given(Path(path), Path(path).name, request)

    def example(self, path: Path, request: gr.Request) -> Iterator[View]:
        """A recording that comes with the page is written down."""
        yield from self._given(path, path.name, request, ours=True)

    def _given(self, path: Path, name: str, request: gr.Request, ours: bool = False) -> Iterator[View]:
        visit = self._visit(request)
        visit.forget()
        visit.stopped.clear()
        yield View(_note(f"Reading {name} …"), NOTHING_YET, [], "")
        try:
            with path.open("rb") as file:  # a name would stand in errors, and it is none that the visitor knows
                visit.recording = keep(file, name, self.folder, self.options.max_seconds)
            yield from self._written_down(visit, visit.recording)
        except AudioTooLongError:
            bound = length(self.options.max_seconds)
            yield View(_error(f"{name} is longer than {bound}, the most that this page takes; cut it."))
        except SoundwaveError as error:
            yield View(_error(_named(error, name)))
        except Exception:
            log.exception("a recording could not be written down")
            yield View(_error(OUR_FAULT))
        finally:
            if not ours:
                path.unlink(missing_ok=True)
            if visit.gone:
                visit.forget()

    def _written_down(self, visit: Visit, recording: Recording) -> Iterator[View]:
        """The words as they are found."""
        began, parts, options = time.monotonic(), list[Part](), TranscribeOptions()
        source = self.engine.source(options)
        for part in self.engine.transcribe_parts([Listening(recording.sound)], options):
            if part.error is not None:
                raise part.error
            if visit.stopped.is_set():
                yield View(_note("Stopped."))
                return
            parts.append(part)
            if not part.whole:
                told = f"Writing down … {clock(part.seconds)} of {clock(recording.seconds)}"
                yield View(_note(told), transcript_html(joined(parts, source), recording, whole=False))
        transcript = joined(parts, source)
        recording.write_downloads(transcript)
        visit.transcript = transcript
        told = f"{recording.seconds:.1f} seconds, written down in {time.monotonic() - began:.1f}."
        if not transcript.text:
            told = "Nobody speaks in this recording, as far as the model hears."
        yield View(_note(told), transcript_html(transcript, recording))

    # The conversation

    def ask(
        self, question: str, via: Any, temperature: float, max_new_tokens: float, request: gr.Request
    ) -> Iterator[View]:
        """A question is answered while the visitor looks on."""
        visit = self._visit(request)
        asked = Asked(question.strip(), via, float(temperature), int(max_new_tokens))
        try:
            if len(question) > MOST_CHARACTERS:
                raise SoundwaveError(f"The question has {len(question)} characters; {MOST_CHARACTERS} are allowed.")
            for reply in answers(self.engine, visit, asked):
                answering = bool(visit.messages and visit.messages[-1]["content"])
                told = "Answering …" if answering else "Thinking …"
                yield View(chat=shown(visit), said=_note(told if reply is None else self._about(reply, asked, visit)))
            if visit.stopped.is_set():
                yield View(chat=shown(visit), said=_note("Stopped."))
        except SoundwaveError as error:
            yield View(chat=shown(visit), said=_error(error))
        except Exception:
            log.exception("a question could not be answered")
            yield View(chat=shown(visit), said=_error(OUR_FAULT))

    def stop(self, request: gr.Request) -> None:
        """What runs for the visitor ends."""
        self._visit(request).stopped.set()

    def clear(self, request: gr.Request) -> View:
        """The conversation is forgotten; the recording stays."""
        visit = self._visit(request)
        visit.stopped.set()
        visit.messages = []
        return View(chat=[], said=_note("The conversation begins anew; the recording stays."))

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.visits.end(str(request.session_hash))

    def _visit(self, request: gr.Request) -> Visit:
        return self.visits.of(str(request.session_hash))

    def _about(self, reply: Reply, asked: Asked, visit: Visit) -> str:
        if not reply.text:
            return "The model has no answer to this."
        way = self.engine.inference.via if asked.via == "auto" else asked.via
        heard = WAYS[way] if visit.recording else "without a recording"
        told = f"Answered in {reply.timings.total:.1f} seconds, {heard}."
        if reply.finish_reason == "length":
            told += " The answer was cut; Settings allow a longer one."
        return told


def _shown(events: list[Event]) -> list[dict[str, Any]]:
    """Captions for the page's script."""
    told: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, Partial):
            texts = [word.text for word in event.words]
            told.append({"standing": " ".join(texts[: event.stable]), "changing": " ".join(texts[event.stable :])})
        else:
            told.append({"final": True, "text": event.text})
    return told


def _told(action: Any) -> dict[str, Any]:
    """What an action gives; what it refuses, and what is our fault, as `{error}`."""
    try:
        return action()
    except SoundwaveError as error:
        return {"error": _sentence(str(error))}
    except Exception:
        log.exception("the microphone failed")
        return {"error": OUR_FAULT}


def _number(given: Any, name: str) -> float:
    value = given.get(name) if isinstance(given, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise SoundwaveError(f"{name} is missing, or no number that it can be.")
    return value


def _text(given: Any, name: str) -> str:
    value = given.get(name) if isinstance(given, dict) else None
    if not isinstance(value, str):
        raise SoundwaveError(f"{name} is missing, or no text.")
    return value


def _sentence(text: str) -> str:
    """A message as a sentence of its own."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _named(error: SoundwaveError, name: str) -> str:
    """An error about a recording, with the name that its visitor knows."""
    return _sentence(str(error)).replace("The audio stream", name)


def _note(text: str) -> str:
    return f'<p class="sw-note">{escape(text)}</p>'


def _error(problem: SoundwaveError | str) -> str:
    """An error, or a sentence about one."""
    told = problem if isinstance(problem, str) else _sentence(str(problem))
    return f'<p class="sw-error" role="alert"><strong>This did not work.</strong> {escape(told)}</p>'
