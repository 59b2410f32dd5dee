"""New tokens to a text that grows, in pieces that are whole characters."""

from __future__ import annotations

from collections.abc import Callable

from soundwave.inference.results import Chunk, Reply

HALF_CHARACTER = "\ufffd"  # how a tokenizer shows bytes that wait for others


class Detokenizer:
    """Collects the tokens of one answer and gives its text in chunks.

    Args:
        decode: tokens to text, special tokens left out.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self.decode = decode
        self.ids: list[int] = []
        self._shown = ""
        self._pending: list[int] = []

    def add(self, token: int) -> Chunk | None:
        """What a token adds to the text; None where nothing can be shown yet."""
        self.ids.append(token)
        self._pending.append(token)
        text = self.decode(self.ids)
        if text.endswith(HALF_CHARACTER) or text == self._shown:
            return None
        chunk = Chunk(text[len(self._shown) :], self._pending)
        self._shown, self._pending = text, []
        return chunk

    def last(self, reply: Reply) -> Chunk:
        """What is left, with the whole reply."""
        return Chunk(reply.text[len(self._shown) :], self._pending, reply.finish_reason, reply)
