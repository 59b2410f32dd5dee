"""New tokens to a text that grows, in pieces that are whole characters, up to the first of some stop texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from soundwave.inference.results import Chunk, Reply

HALF_CHARACTER = "\ufffd"  # how a tokenizer shows bytes that wait for others


class Detokenizer:
    """Collects the tokens of one answer and gives its text in chunks.

    Args:
        decode: tokens to text, special tokens left out.
        stops: the text ends before the first of these; what may be the beginning of one waits.

    Attributes:
        ids: all tokens.
        text: of all of them, up to the stop.
        stopped: whether one of the stops has come.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()):
        self.decode, self.stops = decode, stops
        self.ids: list[int] = []
        self.stopped = False
        self.text = ""
        self._shown = ""
        self._pending: list[int] = []

    def add(self, token: int) -> Chunk | None:
        """What a token adds to the text; None where nothing can be shown yet."""
        self.ids.append(token)
        self._pending.append(token)
        self.text = self.decode(self.ids)
        found = [place for stop in self.stops if (place := self.text.find(stop, len(self._shown))) >= 0]
        if found:
            self.stopped, self.text = True, self.text[: min(found)]
        elif self.text.endswith(HALF_CHARACTER):
            return None
        sure = self.text if self.stopped else self.text[: len(self.text) - self._begun()]
        if len(sure) <= len(self._shown):
            return None
        chunk = Chunk(sure[len(self._shown) :], self._pending)
        self._shown, self._pending = sure, []
        return chunk

    def last(self, reply: Reply) -> Chunk:
        """What is left, with the whole reply."""
        return Chunk(reply.text[len(self._shown) :], self._pending, reply.finish_reason, reply)

    def _begun(self) -> int:
        """Characters at the end of the text with which a stop begins."""
        longest = max(map(len, self.stops), default=1) - 1
        lengths = range(min(longest, len(self.text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(self.text[-n:]) for stop in self.stops)), 0)
