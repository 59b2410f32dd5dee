"""Conversations to token ids, with one placeholder per audio and a mask of what the assistant says.

Two formats: `chat_template` (the tokenizer's own) for newly trained models, and `released`, the piecewise prompt with a
BOS before every piece that the public 9B weights were trained on (method: quirk 7 of the released code).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from soundwave.errors import ConfigurationError, shown
from soundwave.text.chat_template import render
from soundwave.text.tokenizing import token_ids

RELEASED_SYSTEM_PROMPT = (
    "You are a helpful language and speech assistant. You are able to understand the speech content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
RELEASED_AUDIO_TOKEN = "<audio_patch>"
PRIVATE_USE = range(0xE000, 0xF900)  # characters that no text means anything by
AUDIO_PART_TYPES = ("audio", "input_audio", "audio_url")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """One message: texts, and None where an audio stands: `(None, "What does the person say?")`."""

    role: str
    parts: tuple[str | None, ...]


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids of a conversation.

    Attributes:
        ids: all tokens, placeholders included.
        is_target: per token, True where the assistant says it (its end-of-turn included).
    """

    ids: list[int]
    is_target: list[bool]


def turns_of(conversation: Iterable[dict[str, Any]]) -> tuple[list[Turn], list[Any]]:
    """Messages to turns, and the audios in the order of their places.

    Args:
        conversation: messages whose `content` is a string, or a list of parts of type `text` or `audio`.

    Raises:
        ConfigurationError: an unknown role or part, or a text that is none.
    """
    turns, audios = [], []
    if not isinstance(conversation, Iterable):
        raise ConfigurationError(f"A conversation is {shown(conversation)}; give a list of messages.")
    for message in conversation:
        if not isinstance(message, dict):
            raise ConfigurationError(f"A message is {shown(message)}; it must be an object with role and content.")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ConfigurationError(f"A message has the role {shown(role)}; allowed are {', '.join(ROLES)}.")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, Sequence):
            raise ConfigurationError(f"A message's content is {shown(content)}; give a text or a list of parts.")
        pieces: list[str | None] = []
        for part in parts:
            if not isinstance(part, dict):
                raise ConfigurationError(f"A content part is {shown(part)}; it must be an object with a type.")
            if part.get("type") == "text":
                joined = pieces.pop() if pieces and pieces[-1] is not None else ""  # neighbours are one text
                pieces.append(f"{joined}{_text_of(part)}")
            elif part.get("type") in AUDIO_PART_TYPES:
                audios.append(part)
                pieces.append(None)
            else:
                raise ConfigurationError(
                    f"A content part has the type {shown(part.get('type'))}; "
                    f"allowed are text, {', '.join(AUDIO_PART_TYPES)}."
                )
        turns.append(Turn(role, tuple(pieces)))
    return turns, audios


def _text_of(part: dict[str, Any]) -> str:
    text = part.get("text", "")
    if not isinstance(text, str):
        raise ConfigurationError(f"The text of a content part is {shown(text)}; give a string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"The text {text[:80]!r} is no valid Unicode: at {error.start} it has half of a surrogate pair; remove it."
        ) from error
    return text


def tokenize_turns(
    tokenizer: Any, turns: Sequence[Turn], prompt_format: str, audio_token: str, reply: bool = True
) -> TokenizedPrompt:
    """Turns to ids. What people write is always read as text: `<|im_end|>` in it ends nothing.

    Args:
        tokenizer: a transformers tokenizer that knows the placeholder as one token.
        turns: from `turns_of`.
        prompt_format: `released` or `chat_template`.
        audio_token: the placeholder.
        reply: end with the header of the assistant's next turn.

    Raises:
        ConfigurationError: the tokenizer's chat template cannot be used.
    """
    make = _released_pieces if prompt_format == "released" else _template_pieces
    ids, is_target = [], []
    for piece, spoken in make(tokenizer, turns, audio_token, reply):
        ids += piece
        is_target += [spoken] * len(piece)
    return TokenizedPrompt(ids, is_target)


def render_turns(tokenizer: Any, turns: Sequence[Turn], audio_token: str, reply: bool = True) -> str:
    """The chat template's text.

    Raises:
        ConfigurationError: the template cannot be used, or a text holds what a text form cannot tell from control
            tokens.
    """
    for part in (part for turn in turns for part in turn.parts if part):
        if (name := next((name for name in control_tokens(tokenizer) if name in part), None)) is not None:
            raise ConfigurationError(
                f"A text holds {name!r}, which would be a control token in a prompt's text form; use tokenize=True, "
                "which reads it as text, or remove it."
            )
    return render(tokenizer, [(turn.role, _written(turn, audio_token)) for turn in turns], reply)


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The texts of the tokens that mean more than their text: ends of turns, placeholders, reserved ones."""
    return _control_tokens(tokenizer, len(tokenizer))


@functools.lru_cache(maxsize=4)  # 256 of Llama's, asked for with every prompt
def _control_tokens(tokenizer: Any, size: int) -> tuple[str, ...]:
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True))


def _written(turn: Turn, audio_token: str, guard: str = "", control: Sequence[str] = ()) -> str:
    """A turn as one text, with a mark inside what reads like a control token but is none."""
    pieces = []
    for part in turn.parts:
        piece = audio_token if part is None else part
        for name in control if part is not None and guard else ():
            piece = piece.replace(name, name[0] + guard + name[1:])
        pieces.append(piece)
    return "".join(pieces)


def _released_pieces(
    tokenizer: Any, turns: Sequence[Turn], audio_token: str, reply: bool
) -> list[tuple[list[int], bool]]:
    def tokens(text: str, bos: bool = True) -> list[int]:  # a BOS before every piece: the released weights expect it
        return token_ids(tokenizer, text, plain=True, special=bos)

    def special(name: str) -> list[int]:
        return [tokenizer.convert_tokens_to_ids(name)]

    start, end, end_of_turn = special("<|start_header_id|>"), special("<|end_header_id|>"), special("<|eot_id|>")
    if not turns or turns[0].role != "system":
        turns = [Turn("system", (RELEASED_SYSTEM_PROMPT,)), *turns]
    pieces: list[tuple[list[int], bool]] = [([tokenizer.bos_token_id], False)]
    for turn in turns:
        parts = list(itertools.dropwhile(lambda part: part is None, turn.parts))
        leading = len(turn.parts) - len(parts)  # the released prompt writes these into the newline's piece
        header = start + tokens(turn.role) + end + tokens("\n") + leading * special(audio_token)
        said = [] if leading and not any(part != "" for part in parts) else tokens("", turn.role != "assistant")
        for part in parts:  # what the assistant says, as generated, is the one piece without a BOS
            said += special(audio_token) if part is None else tokens(part, bos=False)
        pieces += [(header, False), (said + end_of_turn, turn.role == "assistant")]
    if reply:
        pieces.append((start + tokens("assistant") + end + tokens("\n"), False))
    return pieces


def _template_pieces(
    tokenizer: Any, turns: Sequence[Turn], audio_token: str, reply: bool
) -> list[tuple[list[int], bool]]:
    control = control_tokens(tokenizer)
    written = "".join(part for turn in turns for part in turn.parts if part)
    guard = ""
    if any(name in written for name in control):
        guard = next(mark for mark in map(chr, PRIVATE_USE) if mark not in written)
    messages = [(turn.role, _written(turn, audio_token, guard, control)) for turn in turns]
    pieces: list[tuple[str, bool]] = []
    done = ""
    for i, (role, _) in enumerate(messages):
        if role != "assistant":
            continue
        before, after = render(tokenizer, messages[:i], True), render(tokenizer, messages[: i + 1], False)
        if not (before.startswith(done) and after.startswith(before)):
            raise ConfigurationError("The tokenizer's chat template rewrites earlier turns; it cannot be trained on.")
        said = after[len(before) :].rstrip("\n")  # the newline after an end-of-turn is the template's, not the reply's
        pieces += [(before[len(done) :], False), (said, True)]
        done = before + said
    final = render(tokenizer, messages, reply)
    pieces.append((final[len(done) :], False))
    return [(_template_ids(tokenizer, text, guard, control), spoken) for text, spoken in pieces if text]


def _template_ids(tokenizer: Any, text: str, guard: str, control: Sequence[str]) -> list[int]:
    """A rendered text's ids: its control tokens, and between them text, in which marked ones are text too."""
    if not guard or guard not in text:
        return token_ids(tokenizer, text)
    ids: list[int] = []
    for piece in re.split(f"({'|'.join(map(re.escape, control))})", text):
        if piece in control:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        elif piece:
            ids += token_ids(tokenizer, piece.replace(guard, ""), plain=True)
    return ids
