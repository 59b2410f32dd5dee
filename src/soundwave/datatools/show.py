"""One example as the model sees it: token by token with the loss mask, and the CTC target piece by piece.

Needs the tokenizer's chat template, so transformers; no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundwave.data.example import AudioSpan
from soundwave.data.manifests import Row, read_rows
from soundwave.data.probe import Facts, facts_of, samples_of, seconds_of_span
from soundwave.data.shards import is_sharded
from soundwave.datatools.spelling import Spelling
from soundwave.errors import AudioError, DataError
from soundwave.text.ctc_tokenizer import ctc_frames_needed
from soundwave.text.prompt import RELEASED_AUDIO_TOKEN, Turn, tokenize_turns, turns_of


@dataclass(frozen=True)
class ShownToken:
    """One token of the prompt: its id, its text, and what it is: `read`, `learnt` (in the loss), or `audio`."""

    id: int
    text: str
    kind: str


@dataclass(frozen=True)
class ShownAudio:
    """One recording of the example: the span, its facts, or why it cannot be read, and aligned frames."""

    span: AudioSpan
    facts: Facts | None
    seconds: float
    frames: int
    problem: str | None = None


@dataclass(frozen=True)
class Shown:
    """All there is to see of one row.

    Attributes:
        where: manifest and line.
        tokens: the whole conversation; training leaves out what follows the last reply.
        audios: its recordings.
        transcript: the CTC target's text; None where it is not known.
        pieces: its CTC pieces, leading blanks kept.
        ctc_frames: frames that CTC needs for them.
        fields: task, language, duration, id and what else the row states.
    """

    where: str
    tokens: list[ShownToken]
    audios: list[ShownAudio]
    transcript: str | None
    pieces: list[str]
    ctc_frames: int
    fields: dict[str, Any]


def row_at(manifest: str | Path, number: int) -> Row:
    """The row at a line of a manifest, from 1; in shards, whose lines begin anew in each, the row of that number.

    Raises:
        DataError: there is no such row, or it is bad.
    """
    last = 0
    for row in read_rows(manifest):
        if row.position == number:
            if row.example is None:
                raise DataError(f"{row.where}: {row.problem}")
            return row
        last = row.position
    if is_sharded(manifest):
        raise DataError(f"{manifest}: there is no row {number}; all its shards have {last} rows.")
    raise DataError(f"{manifest}: there is no row at line {number}; the last is at line {last}.")


def show(row: Row, spelling: Spelling) -> Shown:
    """The row as a model with this spelling reads it in training."""
    from transformers import AutoTokenizer

    from soundwave.configuration import AUDIO_TOKEN  # it loads transformers too

    example = row.example
    assert example is not None
    released = spelling.inference.prompt_format == "released"
    audio_token = RELEASED_AUDIO_TOKEN if released else AUDIO_TOKEN
    tokenizer = AutoTokenizer.from_pretrained(spelling.language_model, trust_remote_code=False)
    tokenizer.add_special_tokens({"additional_special_tokens": [audio_token]})
    turns, audios = turns_of(example.messages)
    system = spelling.inference.audio_system_prompt
    if audios and system is not None and turns[0].role != "system":
        turns.insert(0, Turn("system", (system,)))
    prompt = tokenize_turns(tokenizer, turns, spelling.inference.prompt_format, audio_token, reply=False)
    placeholder = tokenizer.convert_tokens_to_ids(audio_token)
    tokens = [
        ShownToken(token, tokenizer.decode([token]), "audio" if token == placeholder else "learnt" if said else "read")
        for token, said in zip(prompt.ids, prompt.is_target, strict=True)
    ]
    classes = spelling.ctc.encode(example.transcript) if example.transcript and len(example.audios) == 1 else []
    return Shown(
        where=row.where,
        tokens=tokens,
        audios=[_heard(span, spelling) for span in example.audios],
        transcript=example.transcript,
        pieces=[spelling.piece(ctc_class) for ctc_class in classes],
        ctc_frames=ctc_frames_needed(classes),
        fields={name: value for name, value in row.fields.items() if isinstance(value, str | int | float)},
    )


def _heard(span: AudioSpan, spelling: Spelling) -> ShownAudio:
    try:
        facts = facts_of(span.path)
        samples_of(span, max_seconds=None)  # the header of a file that is cut off is whole
    except AudioError as problem:
        return ShownAudio(span, None, 0.0, 0, str(problem))
    seconds = seconds_of_span(span, facts.seconds)
    return ShownAudio(span, facts, seconds, spelling.frames(seconds))
