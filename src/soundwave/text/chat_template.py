"""Renders a tokenizer's chat template: a program that came with a model, in Jinja's sandbox and within bounds.

The sandbox keeps it from files and from Python; the bounds keep it from running for ever. Knows no tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from soundwave.errors import ConfigurationError

MOST_TEMPLATE_CHARACTERS = 200_000  # the longest public ones have about 20,000
MOST_STEPS = 1_000_000  # lines of a compiled template; a conversation of a thousand turns takes about 20,000
MOST_CHARACTERS = 50_000_000  # of a text that it builds


def render(tokenizer: Any, messages: Sequence[tuple[str, str]], reply: bool) -> str:
    """Writes a conversation.

    Args:
        tokenizer: with a chat template.
        messages: role and content of each.
        reply: end with the header of the assistant's next turn.

    Raises:
        ConfigurationError: the template is missing, wrong, or takes too long.
    """
    turns = [{"role": role, "content": content} for role, content in messages]
    try:
        if len(str(tokenizer.chat_template)) > MOST_TEMPLATE_CHARACTERS:
            raise ValueError(f"it has more than {MOST_TEMPLATE_CHARACTERS} characters")
        with _bounded():
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply)
    except Exception as error:  # it raises what it likes
        raise ConfigurationError(
            f"The tokenizer's chat template cannot write this conversation ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); give other roles, or a model with another chat_template."
        ) from error


@contextmanager
def _bounded() -> Iterator[None]:
    """Counts the lines of compiled templates, which Python can trace as its own, and ends one that goes on and on."""
    left, before = MOST_STEPS, sys.gettrace()

    def in_template(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        left -= event == "line"
        if left < 0:
            raise RuntimeError(f"it takes more than {MOST_STEPS} steps")
        if event == "line" and any(_length(value) > MOST_CHARACTERS for value in frame.f_locals.values()):
            raise RuntimeError(f"it builds a text of more than {MOST_CHARACTERS} characters")
        return in_template

    sys.settrace(lambda frame, event, _: in_template if frame.f_code.co_filename == "<template>" else None)
    try:
        yield
    finally:
        sys.settrace(before)


def _length(value: Any) -> int:
    """Of the longest text that a template's variable holds, itself or as a namespace."""
    held = getattr(value, "_Namespace__attrs", None)
    texts = held.values() if isinstance(held, dict) else (value,)
    return max((len(text) for text in texts if isinstance(text, str)), default=0)
