"""Conversations to token ids, with one placeholder per audio and a mask of what the assistant says.

Two formats: `chat_template` (the tokenizer's own) for newly trained models, and `released`, the piecewise prompt with a
BOS before every piece that the public 9B weights were trained on (method: quirk 7 of the released code).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from soundwave.errors import ConfigurationError

RELEASED_SYSTEM_PROMPT = (
    "You are a helpful language and speech assistant. You are able to understand the speech content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
RELEASED_AUDIO_TOKEN = "<audio_patch>"
AUDIO_PART_TYPES = ("audio", "input_audio", "audio_url")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """One message with its audio written as placeholders: `<|audio|>What does the person say?`."""

    role: str
    text: str


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids of a conversation.

    Attributes:
        ids: all tokens, placeholders included.
        is_target: per token, True where the assistant says it (its end-of-turn included).
    """

    ids: list[int]
    is_target: list[bool]


def turns_of(conversation: Iterable[dict[str, Any]], audio_token: str) -> tuple[list[Turn], list[Any]]:
    """Messages to turns and the audios in the order of their placeholders.

    Args:
        conversation: messages whose `content` is a string, or a list of parts of type `text` or `audio`.
        audio_token: the placeholder to write for each audio part.

    Raises:
        ConfigurationError: an unknown role or part, or the placeholder inside somebody's text.
    """
    turns, audios = [], []
    for message in conversation:
        if not isinstance(message, dict):
            raise ConfigurationError(f"A message is {message!r}; it must be an object with role and content.")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ConfigurationError(f"A message has the role {role!r}; allowed are {', '.join(ROLES)}.")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, Sequence):
            raise ConfigurationError(f"A message's content is {content!r}; give a text or a list of parts.")
        pieces = []
        for part in parts:
            if not isinstance(part, dict):
                raise ConfigurationError(f"A content part is {part!r}; it must be an object with a type.")
            if part.get("type") == "text":
                pieces.append(_clean(str(part.get("text", "")), audio_token))
            elif part.get("type") in AUDIO_PART_TYPES:
                audios.append(part)
                pieces.append(audio_token)
            else:
                raise ConfigurationError(
                    f"A content part has the type {part.get('type')!r}; "
                    f"allowed are text, {', '.join(AUDIO_PART_TYPES)}."
                )
        turns.append(Turn(role, "".join(pieces)))
    return turns, audios


def _clean(text: str, audio_token: str) -> str:
    if audio_token in text:
        raise ConfigurationError(f"The text contains {audio_token!r}, which marks audio; remove it from the text.")
    return text


def tokenize_turns(tokenizer: Any, turns: Sequence[Turn], prompt_format: str, reply: bool = True) -> TokenizedPrompt:
    """Turns to ids.

    Args:
        tokenizer: a transformers tokenizer that knows the placeholder as one token.
        turns: from `turns_of`.
        prompt_format: `released` or `chat_template`.
        reply: end with the header of the assistant's next turn.
    """
    pieces = _released_pieces(tokenizer, turns, reply) if prompt_format == "released" else _template_pieces(
        tokenizer, turns, reply
    )
    ids, is_target = [], []
    for piece, spoken in pieces:
        ids += piece
        is_target += [spoken] * len(piece)
    return TokenizedPrompt(ids, is_target)


def _released_pieces(tokenizer: Any, turns: Sequence[Turn], reply: bool) -> list[tuple[list[int], bool]]:
    def tokens(text: str) -> list[int]:
        return tokenizer(text).input_ids  # adds a BOS to every piece: the released weights expect it

    def special(name: str) -> list[int]:
        return [tokenizer.convert_tokens_to_ids(name)]

    start, end, end_of_turn = special("<|start_header_id|>"), special("<|end_header_id|>"), special("<|eot_id|>")
    if not turns or turns[0].role != "system":
        turns = [Turn("system", RELEASED_SYSTEM_PROMPT), *turns]
    pieces: list[tuple[list[int], bool]] = [([tokenizer.bos_token_id], False)]
    for turn in turns:
        header = start + tokens(turn.role) + end
        audio, text = _leading_audio(turn.text)
        if turn.role == "assistant":
            said = tokenizer(text, add_special_tokens=False).input_ids  # as generated: the one piece without a BOS
        else:
            said = tokens(text) if text or not audio else []
        pieces += [(header + tokens("\n" + audio), False), (said + end_of_turn, turn.role == "assistant")]
    if reply:
        pieces.append((start + tokens("assistant") + end + tokens("\n"), False))
    return pieces


def _leading_audio(text: str) -> tuple[str, str]:
    """The released prompt writes leading placeholders into the newline's piece: ("<audio_patch>", "What …")."""
    audio = ""
    while text.startswith(RELEASED_AUDIO_TOKEN):
        audio, text = audio + RELEASED_AUDIO_TOKEN, text[len(RELEASED_AUDIO_TOKEN) :]
    return audio, text


def _template_pieces(tokenizer: Any, turns: Sequence[Turn], reply: bool) -> list[tuple[list[int], bool]]:
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]

    def render(count: int, generation_prompt: bool) -> str:
        return tokenizer.apply_chat_template(
            messages[:count], tokenize=False, add_generation_prompt=generation_prompt
        )

    pieces: list[tuple[str, bool]] = []
    done = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(i, True), render(i + 1, False)
        if not (before.startswith(done) and after.startswith(before)):
            raise ConfigurationError("The tokenizer's chat template rewrites earlier turns; it cannot be trained on.")
        said = after[len(before) :].rstrip("\n")  # the newline after an end-of-turn is the template's, not the reply's
        pieces += [(before[len(done) :], False), (said, True)]
        done = before + said
    final = render(len(messages), reply)
    pieces.append((final[len(done) :], False))
    return [(tokenizer(text, add_special_tokens=False).input_ids, spoken) for text, spoken in pieces if text]
