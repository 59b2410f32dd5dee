"""Where a reply begins to quote the recording: You are asking "…

A model that is trained as in the paper answers with the transcription first. What stands between the quotation marks is
then what was said, so it is searched as a transcript is, and the language model goes on after it. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable

OPENING = re.compile(r'[^"“”]{1,60}["“]')  # a few words, and a quotation begins
CLOSING = '"'
FIRST_TOKENS = 24  # of a reply: a quotation that begins later is none of the recording as a whole


def opens(text: str) -> bool:
    """Whether a reply, as far as it is made, ends where its first quotation begins.

    Example:
        >>> opens('You are asking "'), opens('You are asking'), opens('"Hamlet" is by')
        (True, False, False)
    """
    return OPENING.fullmatch(text) is not None


def tokens_before(ids: list[int], text_of: Callable[[list[int]], str]) -> int | None:
    """How many tokens of a reply lie before the words that it quotes first; None where it quotes nothing."""
    for count in range(1, min(len(ids), FIRST_TOKENS) + 1):
        text = text_of(ids[:count])
        if opens(text):
            return count
        if '"' in text or "“" in text:
            return None  # the mark and what follows it are one token: a quotation that was not learnt
    return None
