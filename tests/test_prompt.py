"""Conversations to ids: where audio stands, what is learnt, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from soundwave.configuration import AUDIO_TOKEN
from soundwave.errors import ConfigurationError
from soundwave.text.prompt import RELEASED_AUDIO_TOKEN, Turn, tokenize_turns, turns_of

AUDIO = {"type": "audio", "path": "a.wav"}
OPENAI = {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}
LINK = {"type": "audio_url", "audio_url": {"url": "u"}}
TEXT = {"type": "text", "text": "Hi"}


@pytest.fixture(scope="module")
def chat() -> Any:
    tokenizer = tiny.chat_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [AUDIO_TOKEN]})
    return tokenizer


@pytest.fixture(scope="module")
def released() -> Any:
    return tiny.released_tokenizer()


# Messages to turns


@pytest.mark.parametrize(
    ("content", "text", "audios"),
    [
        ("Hi", "Hi", []),
        ("", "", []),
        ([], "", []),
        ([TEXT], "Hi", []),
        ([AUDIO, TEXT], "<A>Hi", [AUDIO]),
        ([TEXT, AUDIO], "Hi<A>", [AUDIO]),
        ([AUDIO, TEXT, AUDIO, AUDIO], "<A>Hi<A><A>", [AUDIO] * 3),
        ([OPENAI], "<A>", [OPENAI]),
        ([LINK, TEXT], "<A>Hi", [LINK]),
    ],
)
def test_a_placeholder_stands_where_the_audio_was(content: Any, text: str, audios: list[Any]) -> None:
    assert turns_of([{"role": "user", "content": content}], "<A>") == ([Turn("user", text)], audios)


def test_audios_are_in_the_order_of_their_placeholders() -> None:
    conversation = [
        {"role": "user", "content": [{"type": "audio", "path": "1"}, TEXT, {"type": "audio", "path": "2"}]},
        {"role": "assistant", "content": "So?"},
        {"role": "user", "content": [{"type": "audio", "path": "3"}]},
    ]
    turns, audios = turns_of(conversation, "<A>")
    assert [turn.text for turn in turns] == ["<A>Hi<A>", "So?", "<A>"]
    assert [audio["path"] for audio in audios] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "robot", "content": "Hi"}, "role 'robot'; allowed are system, user, assistant"),
        ({"content": "Hi"}, "role None; allowed are"),
        ({"role": "user"}, "content is None; give a text or a list of parts"),
        ({"role": "user", "content": 7}, "content is 7; give a text or a list of parts"),
        ({"role": "user", "content": ["Hi"]}, "A content part is 'Hi'; it must be an object with a type"),
        ({"role": "user", "content": [{"type": "image"}]}, "type 'image'; allowed are text, audio, input_audio,"),
        ({"role": "user", "content": [{"text": "Hi"}]}, "the type None; allowed are text"),
        ("Hi", "A message is 'Hi'; it must be an object with role and content"),
        ({"role": "user", "content": "a <A> b"}, "The text contains '<A>', which marks audio; remove it"),
        ({"role": "user", "content": [AUDIO, {"type": "text", "text": "<A>"}]}, "The text contains '<A>'"),
        ({"role": "assistant", "content": "<A>"}, "The text contains '<A>'"),
    ],
)
def test_a_message_that_is_not_allowed_is_refused(message: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        turns_of([message], "<A>")


# The tokenizer's own chat template

CONVERSATION = [
    Turn("user", f"{AUDIO_TOKEN}What?"), Turn("assistant", "The cat."),
    Turn("user", "And?"), Turn("assistant", "the son"),
]


def test_the_chat_templates_ids_are_the_tokenizers_own(chat: Any) -> None:
    for count in (1, 3):
        messages = [{"role": turn.role, "content": turn.text} for turn in CONVERSATION[:count]]
        whole = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenize_turns(chat, CONVERSATION[:count], "chat_template").ids
        assert chat.decode(ids) == whole
    asked = f"<|im_start|>user\n{AUDIO_TOKEN}What?<|im_end|>\n<|im_start|>assistant\n"
    written = chat(f"<|im_start|>system\nBe kind.<|im_end|>\n{asked}").input_ids
    assert tokenize_turns(chat, CONVERSATION[:1], "chat_template").ids == written


def targets(tokenizer: Any, turns: list[Turn], prompt_format: str) -> list[str]:
    """The stretches of tokens that are learnt, as text."""
    tokens = tokenize_turns(tokenizer, turns, prompt_format, reply=False)
    stretches: list[list[int]] = []
    for i, (token, said) in enumerate(zip(tokens.ids, tokens.is_target, strict=True)):
        if said and (i == 0 or not tokens.is_target[i - 1]):
            stretches.append([])
        if said:
            stretches[-1].append(token)
    return [tokenizer.decode(stretch) for stretch in stretches]


@pytest.mark.parametrize(
    ("turns", "learnt"),
    [
        (CONVERSATION, ["The cat.<|im_end|>", "the son<|im_end|>"]),  # no header, no newline of the template
        (CONVERSATION[:2], ["The cat.<|im_end|>"]),
        (CONVERSATION[:1], []),
        ([Turn("system", "Be brief."), Turn("user", "?"), Turn("assistant", "")], ["<|im_end|>"]),
        ([Turn("user", "?"), Turn("assistant", "two\nlines\n")], ["two\nlines\n<|im_end|>"]),
    ],
)
def test_only_what_the_assistant_says_and_its_end_are_learnt(chat: Any, turns: list[Turn], learnt: list[str]) -> None:
    assert targets(chat, turns, "chat_template") == learnt


def test_released_replies_are_learnt_without_header_or_bos(released: Any) -> None:
    turns = [Turn("user", f"{RELEASED_AUDIO_TOKEN}What?"), Turn("assistant", "The cat.")]
    assert targets(released, turns, "released") == ["The cat.<|eot_id|>"]


@pytest.mark.parametrize("prompt_format", ["chat_template", "released"])
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_asked_is_what_training_saw_before_the_reply(
    chat: Any, released: Any, prompt_format: str, count: int
) -> None:
    tokenizer = chat if prompt_format == "chat_template" else released
    placeholder = AUDIO_TOKEN if prompt_format == "chat_template" else RELEASED_AUDIO_TOKEN
    turns = [Turn(turn.role, turn.text.replace(AUDIO_TOKEN, placeholder)) for turn in CONVERSATION]
    asked = tokenize_turns(tokenizer, turns[:count], prompt_format)
    trained = tokenize_turns(tokenizer, turns[: count + 1], prompt_format, reply=False)
    assert trained.ids[: len(asked.ids)] == asked.ids
    assert trained.is_target[len(asked.ids)]


def test_a_template_that_rewrites_history_cannot_be_trained_on() -> None:
    tokenizer = tiny.chat_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}:{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ConfigurationError, match="chat template rewrites earlier turns; it cannot be trained on"):
        tokenize_turns(tokenizer, CONVERSATION, "chat_template")


# The released prompt


def test_the_released_prompt_is_made_piece_by_piece(released: Any) -> None:
    def named(name: str) -> int:
        return released.convert_tokens_to_ids(name)

    def piece(text: str) -> list[int]:
        return [named("<|begin_of_text|>"), *released(text, add_special_tokens=False).input_ids]

    start, end, eot = named("<|start_header_id|>"), named("<|end_header_id|>"), named("<|eot_id|>")
    newline = piece("\n")
    by_hand = [
        named("<|begin_of_text|>"),
        start, *piece("system"), end, *newline, *piece("Be brief."), eot,
        start, *piece("user"), end, *newline, named("<audio_patch>"), *piece("the cat"), eot,
        start, *piece("assistant"), end, *newline,
    ]  # fmt: skip
    turns = [Turn("system", "Be brief."), Turn("user", "<audio_patch>the cat")]
    assert tokenize_turns(released, turns, "released").ids == by_hand


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<audio_patch>Hi", ["\n<audio_patch>", "Hi"]),  # audio belongs to the newline's piece
        ("<audio_patch><audio_patch>Hi", ["\n<audio_patch><audio_patch>", "Hi"]),
        ("<audio_patch>", ["\n<audio_patch>"]),  # no empty piece after it
        ("Hi", ["\n", "Hi"]),
        ("", ["\n", ""]),
    ],
)
def test_released_pieces_of_one_turn(released: Any, text: str, pieces: list[str]) -> None:
    ids = tokenize_turns(released, [Turn("system", "s"), Turn("user", text)], "released", reply=False).ids
    expected = [token for piece in pieces for token in released(piece).input_ids]
    assert ids[-len(expected) - 1 : -1] == expected
