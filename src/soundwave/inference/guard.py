"""Keeps a language model from inventing speech: its transcript is held against what the CTC path heard.

A language model can loop, or go on with what nobody said; the CTC path cannot, because it only reads frames. Where the
two share too few words, the CTC's words are the transcript.
"""

from __future__ import annotations

import difflib
import re

LEAST_AGREEMENT = 0.7  # of the words, in order; on dev-librispeech 0.7 to 0.85 differ by under 0.6 points


def agreement(transcript: str, heard: str) -> float:
    """The share of words that two texts have in common, in order: 1 for equal words, 0 for none.

    >>> agreement("The cat sat.", "the cat sat")
    1.0
    """
    said, read = (re.findall(r"[a-z']+", text.lower()) for text in (transcript, heard))
    return difflib.SequenceMatcher(None, said, read, autojunk=False).ratio()


def is_trusted(transcript: str, heard: str) -> bool:
    """Whether the language model's transcript agrees well enough with the CTC path's words."""
    return agreement(transcript, heard) >= LEAST_AGREEMENT
