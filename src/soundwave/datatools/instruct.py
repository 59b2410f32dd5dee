"""A labelled manifest to instructions about its clips: one drawn wording and one drawn form of answer for each row.

The paper's data for stage III: at least 50 instructions a task, and answers that are the label alone, a choice among
A to D, or a sentence; for some tasks with the words that are said in front. What a row becomes follows from the seed,
its line and the task alone. Knows nothing about what is in a recording.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soundwave.data.example import AUDIO_PART, Example, text_part
from soundwave.data.extras import extras_of
from soundwave.data.manifests import Progress, Row, read_rows, without_text, write_rows
from soundwave.data.writers import relative, write_messages
from soundwave.datatools.wordings import Wording
from soundwave.errors import ConfigurationError, DataError

LETTERS = "ABCD"
# What is said after the instruction for each form of answer; often nothing before the lines of a choice.
CUES = {
    "direct": (
        "Answer briefly.", "Give the answer alone.", "Just the answer, please.", "Nothing else.", "In a word or two.",
        "Keep it short.", "Do not explain.",
    ),
    "choice": (
        "", "", "", "Choose one of these:", "Pick the right option.", "The options are:", "Which of these is it?",
        "Answer with its letter.", "Select one answer:", "Only one of these is right.",
    ),
    "sentence": (
        "Answer in a sentence.", "Reply with a full sentence.", "Please answer in a whole sentence.",
        "Say it in a sentence.", "Use a complete sentence.", "One sentence, please.",
    ),
    "transcript": (
        "Write down what is said first.", "First repeat what is said.", "Begin with the words that are spoken.",
        "Say what you hear, then answer.", "Start with a transcript.", "Transcribe, then answer.",
    ),
}
TRIES = 20  # draws for a row whose instruction another row of the same clip has
MARK = re.compile(r"\{(word|transcript|answer)\}")
SHOWN_FIELDS = 12  # in a message


@dataclass(frozen=True)
class Labelled:
    """One row with its answer.

    Attributes:
        row, example: as they were read.
        answer: the label as it is said.
        others: wrong answers for a choice; None: those of the whole manifest.
        word: that the instruction asks for; empty where it asks for none.
    """

    row: Row
    example: Example
    answer: str
    others: tuple[str, ...] | None = None
    word: str = ""


@dataclass
class Instructed:
    """What a run did: rows written, rows without a label, and how many answers have each form."""

    rows: int = 0
    without: int = 0
    formats: Counter[str] = field(default_factory=Counter)


def instruct(
    source: str | Path, out: Path, wording: Wording, *, label_field: str | None = None,
    formats: Mapping[str, float] | None = None, takes: int = 1, standard_share: float = 0.0, seed: int = 0,
    progress: Progress | None = None,
) -> Instructed:
    """Writes a manifest of conversations, whole or not at all; the same arguments give the same file.

    Args:
        source: a manifest in any format that is read; rows without the label are passed over.
        out: the manifest to write.
        wording: of the task.
        label_field: the field that holds the answer; None: the wording's own.
        formats: shares of the forms of answer; None: all that the task has, alike.
        takes: rows for each clip, each drawn anew.
        standard_share: of rows whose instruction is the wording's first, the one that evaluations ask.
        seed: fixes what is drawn.
        progress: called after each clip.

    Raises:
        ConfigurationError: a form of answer that the task does not have.
        DataError: no row has the label, a row is bad, or a row can have none of the forms.
    """
    name = label_field or wording.label
    shares = _shares(wording, formats)
    labelled, rows = _labelled(source, name, wording)
    answers = sorted({clip.answer for clip in labelled})
    pool = answers if len(answers) >= len(LETTERS) else sorted({*answers, *wording.options})
    result = Instructed(without=rows - len(labelled))
    conversations: list[dict[str, Any]] = []
    for number, clip in enumerate(labelled, 1):
        asked_before: set[str] = set()
        for take in range(takes):
            for attempt in range(TRIES):
                draw = random.Random(f"{seed}/{wording.task}/{clip.row.position}/{take}/{attempt}")
                form = _form(clip, shares, pool, draw)
                standard = draw.random() < standard_share and not attempt
                cued = form == "choice" or (form != wording.usual and len(shares) > 1)
                asked, reply = _exchange(clip, form, wording, pool, draw, standard=standard, cued=cued)
                if asked not in asked_before:
                    break
            asked_before.add(asked)
            conversations.append(_conversation(clip, wording.task, form, asked, reply, out.parent))
            result.formats[form] += 1
        if progress:
            progress(number, len(labelled))
    result.rows = write_rows(out, conversations)
    return result


def _conversation(clip: Labelled, task: str, form: str, asked: str, reply: str, folder: Path) -> dict[str, Any]:
    """A row of the form `messages`, audio before the instruction; what else is known of the clip goes along."""
    messages = [
        {"role": "user", "content": [AUDIO_PART] * len(clip.example.audios) + [text_part(asked)]},
        {"role": "assistant", "content": [text_part(reply)]},
    ]
    example = replace(clip.example, messages=messages, task=task)
    extras = {**extras_of(clip.row.fields), "answer_format": form}
    return write_messages(example, extras, lambda path: relative(path, folder))


def _shares(wording: Wording, wanted: Mapping[str, float] | None) -> dict[str, float]:
    if wanted is None:
        return dict.fromkeys(wording.formats, 1.0)
    missing = [name for name in wanted if name not in wording.formats]
    if missing:
        raise ConfigurationError(
            f"The task {wording.task} has no answers of the form {missing[0]!r}; name some of those that it has: "
            f"{', '.join(wording.formats)}."
        )
    if not any(share > 0 for share in wanted.values()) or any(share < 0 for share in wanted.values()):
        raise ConfigurationError(f"The shares {dict(wanted)} are not all 0 or more with one above; as in direct=2.")
    return {name: share for name, share in wanted.items() if share > 0}


def _labelled(source: str | Path, name: str, wording: Wording) -> tuple[list[Labelled], int]:
    """The rows with an answer, and how many rows there are in all."""
    labelled = []
    rows = 0
    seen: dict[str, None] = {}
    for row in read_rows(source):
        rows += 1
        seen |= dict.fromkeys(row.fields)
        row, example = _read(row)
        value = _label(row, example, name)
        if value is None:
            continue
        if not example.audios:
            raise DataError(f"{row.where}: no audio, but the task {wording.task} asks about a recording; remove it.")
        labelled.append(_with_answer(row, example, value, name, wording))
    if not labelled:
        there = ", ".join(list(seen)[:SHOWN_FIELDS])
        raise DataError(
            f"{source}: no row has the label {name!r}; the fields are {there}. --label-field names the one that "
            f"tells {wording.about or 'the answer'}."
        )
    return labelled, rows


def _read(row: Row) -> tuple[Row, Example]:
    """The row with its example; a row without a text is none by itself, but a label is enough here."""
    if row.example is not None:
        return row, row.example
    example = without_text(row)
    if example is not None:
        return row, replace(example, id=row.where)
    raise DataError(f"{row.where}: {row.problem}")


def _label(row: Row, example: Example, name: str) -> Any:
    if name == "transcript":  # wherever the format keeps it, as it was written
        return example.spoken
    if name == "text" and row.fields.get("text") is None:  # a format that has no such field keeps the reply elsewhere
        return example.reply or None
    return {**extras_of(row.fields), **row.fields}.get(name)


def _with_answer(row: Row, example: Example, value: Any, name: str, wording: Wording) -> Labelled:
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return _placed_word(row, example, value, name)
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = ", ".join(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(
            f"{row.where}: the label {name!r} is {value!r}; it must be a text, a number, a list of texts, or words "
            'with their times, {"word", "start", "end"}.'
        )
    text = " ".join(str(value).split())
    if not text and name != "transcript":  # an empty transcript says that nobody speaks
        raise DataError(f"{row.where}: the label {name!r} is empty; write it, or take it out of the row.")
    text = (wording.names or {}).get(text, text)
    # A label of a data set may be a name for programs: play_music.
    return Labelled(row, example, text.replace("_", " ") if " " not in text else text)


def _placed_word(row: Row, example: Example, words: list[dict[str, Any]], name: str) -> Labelled:
    """A word that is said once, and when; the times of other words are the wrong answers."""
    try:
        times = [(str(w["word"]), f"{float(w['start']):.2f} to {float(w['end']):.2f} seconds") for w in words]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'{row.where}: {name!r} holds {words[0]!r}; each word is {{"word": text, "start": s, "end": s}}.'
        ) from error
    counts = Counter(word.lower() for word, _ in times)
    once = [number for number, (word, _) in enumerate(times) if counts[word.lower()] == 1]
    if not once:
        raise DataError(f"{row.where}: every word of {name!r} is said more than once; remove the row.")
    chosen = random.Random(f"word/{row.position}").choice(once)
    others = tuple(dict.fromkeys(time for place, (_, time) in enumerate(times) if place != chosen))
    return Labelled(row, example, times[chosen][1], others, times[chosen][0])


def _form(clip: Labelled, shares: Mapping[str, float], pool: Sequence[str], draw: random.Random) -> str:
    """One of the forms that this row can have."""
    wrong = [other for other in (pool if clip.others is None else clip.others) if other != clip.answer]
    answer, spoken = bool(clip.answer), bool(clip.example.spoken)
    can = {"choice": bool(wrong) and answer, "transcript": spoken, "sentence": answer}
    possible = {name: share for name, share in shares.items() if can.get(name, True)}
    if not possible:
        raise DataError(
            f"{clip.row.where}: an answer of the form {' or '.join(shares)} needs what the row has not: a transcript, "
            "or another label to choose from. Allow the form direct too."
        )
    return draw.choices(list(possible), weights=list(possible.values()))[0]


def _exchange(
    clip: Labelled, form: str, wording: Wording, pool: Sequence[str], draw: random.Random, *, standard: bool, cued: bool
) -> tuple[str, str]:
    """What is asked, with the lines of a choice, and the answer."""
    instruction = wording.instructions[0] if standard else draw.choice(wording.instructions)
    asked = _filled(f"{instruction} {draw.choice(CUES[form]) if cued else ''}".rstrip(), word=clip.word)
    if form == "direct":
        return asked, clip.answer
    if form == "choice":
        wrong = [other for other in (pool if clip.others is None else clip.others) if other != clip.answer]
        options = [clip.answer, *draw.sample(wrong, min(len(LETTERS) - 1, len(wrong)))]
        draw.shuffle(options)
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
        return "\n".join([asked, *lines]), lines[options.index(clip.answer)]
    template = draw.choice(wording.sentences if form == "sentence" else wording.transcript_first)
    # A quotation mark ends the transcript, so there is none inside it.
    said = " ".join((clip.example.spoken or "").split()).replace('"', "'")
    return asked, _filled(template, word=clip.word, transcript=said, answer=clip.answer)


def _filled(template: str, **values: str) -> str:
    """The template with its marks replaced, all at once: a value may look like a mark itself."""
    return MARK.sub(lambda mark: values.get(mark[1], mark[0]), template)
