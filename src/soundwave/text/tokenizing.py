"""Text to token ids, from any thread.

A fast tokenizer of transformers keeps in itself whether the names of control tokens are read as text. Two threads that
want it differently would get each other's choice, so that what a person wrote could end a turn, or an error of Rust.
"""

from __future__ import annotations

import threading
from typing import Any

_turn = threading.Lock()  # of all tokenizers: a text takes less than a millisecond


def token_ids(tokenizer: Any, text: str, plain: bool = False, special: bool = False) -> list[int]:
    """The tokens of a text.

    Args:
        tokenizer: of transformers.
        text: what is read.
        plain: whether the name of a control token in it is text as any other.
        special: whether to add what the tokenizer puts around a text, such as a BOS.
    """
    with _turn:
        return tokenizer(text, add_special_tokens=special, split_special_tokens=plain).input_ids
