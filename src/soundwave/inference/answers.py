"""From a turn to its answer: tokens as they are made, their text in chunks, and the reply with what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

from soundwave.inference.backends.protocol import Decoder, DecoderInfo
from soundwave.inference.detokenizer import Detokenizer
from soundwave.inference.options import GenerationOptions
from soundwave.inference.results import Chunk, Reply, Timings, Usage
from soundwave.inference.turns import Turn


def answer(
    turn: Turn, decoder: Decoder, options: GenerationOptions, decode: Callable[[list[int]], str], started: float,
    stops: Sequence[str] = (),
) -> Generator[Chunk, None, None]:
    """The answer to a turn in chunks, the whole reply in the last one. Closing it stops the decoder.

    Args:
        turn: what is asked.
        decoder: runs the LLM.
        options: how tokens are chosen.
        decode: tokens to text, special tokens left out.
        started: when the work on the turn began, by `time.perf_counter`.
        stops: texts before the first of which the answer ends.
    """
    first, text = 0.0, Detokenizer(decode, stops)
    tokens = iter(()) if turn.prompt is None else decoder.generate([turn.prompt], options, [turn.draft])
    try:
        for token in tokens:
            first = first or time.perf_counter() - started
            if (chunk := text.add(token.id)) is not None:
                yield chunk
            if text.stopped:
                break
    finally:
        if isinstance(tokens, Generator):
            tokens.close()  # at once, not when the collector comes by
    total = time.perf_counter() - started
    yield text.last(reply_of(turn, text.ids, text.text, decoder.info, first or total, total, text.stopped))


def reply_of(
    turn: Turn, ids: list[int], text: str, info: DecoderInfo, first: float, total: float, stopped: bool = False
) -> Reply:
    """The reply that an answer's tokens and text are.

    Args:
        turn: what was asked.
        ids: all new tokens.
        text: what the answer says.
        info: of the decoder.
        first, total: seconds until the first token, and in all.
        stopped: whether a stop text ended it.
    """
    usage = Usage(turn.duration, 0 if turn.prompt is None else len(turn.prompt), turn.audio_tokens, len(ids))
    ended = stopped or turn.prompt is None or (bool(ids) and ids[-1] in info.eos_ids)
    timings = Timings(turn.loading, turn.encoding, first, total)
    return Reply(text, ids, "stop" if ended else "length", usage, timings, turn.via, turn.transcript)
