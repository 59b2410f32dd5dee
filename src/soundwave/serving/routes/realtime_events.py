"""What the realtime WebSocket sends: a live session's events, and errors, as messages."""

from __future__ import annotations

from typing import Any

from soundwave.inference.captions import Event, Final, Partial
from soundwave.inference.results import Transcript
from soundwave.serving.errors import ApiError, error_body
from soundwave.serving.routes.transcriptions import usage_of, verbose_json


class Captions:
    """What was said in a session, as messages to a client.

    Attributes:
        seconds: of sound so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._finals: list[Transcript] = []
        self._number, self._standing, self._any = 0, 0, False  # of the utterance; its words that were sent

    def told(self, event: Event) -> list[dict[str, Any]]:
        """The messages of an event of the live session.

        The deltas of a session, put together, are words that stand; a `transcription.segment` takes the place of those
        of its utterance.
        """
        words = [word.text for word in event.words] if isinstance(event, Partial) else event.text.split()
        stable = event.stable if isinstance(event, Partial) else len(words)
        new = words[self._standing : stable]
        delta = (" " if new and self._any else "") + " ".join(new)
        self._any = self._any or bool(new)
        self._standing = max(self._standing, stable)
        common = {"utterance": self._number, "text": event.text, "start": event.start, "end": event.end}
        messages = []
        if new or isinstance(event, Partial):
            messages.append({"type": "transcription.delta", "delta": delta, "stable": stable, **common})
        if isinstance(event, Final):
            said = verbose_json(event.transcript, None, ("word",))["words"]
            messages.append({"type": "transcription.segment", **common, "words": said})
            self._finals.append(event.transcript)
            self._number, self._standing = self._number + 1, 0
        return messages

    def done(self, language: str | None) -> dict[str, Any]:
        """All that was said."""
        finals = [one for one in self._finals if one.text]
        text, ctc_text = (" ".join(getattr(one, name) for one in finals) for name in ("text", "ctc_text"))
        segments = [segment for one in finals for segment in one.segments]
        source = finals[0].source if finals else "ctc"
        whole = Transcript(text, ctc_text, round(self.seconds, 3), None, segments, source)
        return {
            "type": "transcription.done", **verbose_json(whole, language, ("segment", "word")),
            "usage": usage_of(self.seconds),
        }


def error_event(error: ApiError, event_id: str | None = None) -> dict[str, Any]:
    """An error as a message."""
    return {"type": "error", "error": {**error_body(error)["error"], "event_id": event_id}}
