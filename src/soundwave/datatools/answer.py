"""Targets that the language model writes itself from the text, so that hearing the text teaches it nothing new.

The plain model is asked in writing what a clip asks aloud; the whole sentences of its greedy answer are what the speech
model learns to say (method: later work, DeSTA2.5). Answers are kept as they are made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundwave.data.extras import extras_of
from soundwave.data.manifests import Progress, Row, read_rows
from soundwave.data.writers import relative
from soundwave.errors import DataError
from soundwave.files import JsonLines

PROMPT = "Please answer the question that the person asks."
SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\bDr)(?<!\bMr)(?<!\bSt)[.!?](?=\s|$)")
Answerer = Callable[[Sequence[str]], list[str]]  # texts to answers, in order; empty where there is none


@dataclass
class Answered:
    """What a run did: rows to answer, those of earlier runs, those that got an answer now, and those that got none."""

    rows: int = 0
    before: int = 0
    made: int = 0
    without: int = 0


def answer_manifest(
    manifests: Iterable[str | Path], out: Path, answerer: Answerer, *, prompt: str = PROMPT, kind: str | None = None,
    only_questions: bool = False, read_prompt: bool = False, limit: int | None = None, batch_size: int = 32,
    progress: Progress | None = None,
) -> Answered:
    """Writes a manifest whose replies are the model's own answers to what the clips say.

    Args:
        manifests: rows with one recording and a transcript; others are passed over.
        out: the manifest to write, in the short form; a run that was stopped goes on where it was. Rows of other
            runs, with the same `answerer` and `prompt`, stay in it.
        answerer: the plain model.
        prompt: what the speech model is asked about the clip.
        kind: only rows whose field `kind` is this.
        only_questions: only texts that end with a question mark.
        read_prompt: the plain model reads the prompt too, after the words, as `ask` by way of the transcript puts it.
        limit: at most so many rows.
        batch_size: texts that are answered at once; neighbours in length, so that little is padding.

    Raises:
        DataError: no row is left, or the file holds what is no answer.
    """
    rows = [
        row for manifest in manifests for row in read_rows(manifest) if _is_wanted(row, kind, only_questions)
    ][:limit]
    if not rows:
        raise DataError(
            "No row has one recording, a transcript and what the options ask for; there is nothing to answer."
        )
    with JsonLines(out) as answered:
        known = _answers_in(answered.earlier, out)
        done = {_place(fields) for fields in answered.earlier}
        wanted = {_place(fields): fields for fields in (_fields(row, prompt, out.parent) for row in rows)}
        waiting: dict[str, list[dict[str, Any]]] = {}
        for place, fields in wanted.items():
            if place not in done:
                waiting.setdefault(fields["transcript"], []).append(fields)
        result = Answered(rows=len(wanted), before=sum(place in done for place in wanted))
        asked = (lambda texts: answerer([f"{text}\n\n{prompt}" for text in texts])) if read_prompt else answerer
        for texts, replies in _replies(waiting, known, asked, batch_size):
            for text, reply in zip(texts, replies, strict=True):
                for fields in waiting[text]:
                    if reply:
                        answered.add({**fields, "text": reply})
                result.made += len(waiting[text]) if reply else 0
                result.without += 0 if reply else len(waiting[text])
            if progress:
                progress(result.before + result.made + result.without, result.rows)
    return result


def _answers_in(rows: Sequence[dict[str, Any]], out: Path) -> dict[str, str]:
    """The answer to each text, from the rows of earlier runs."""
    for number, row in enumerate(rows, 1):
        if not all(isinstance(row.get(name), str) for name in ("audio", "text", "prompt", "transcript")):
            raise DataError(f"{out}:{number}: this row is no answer; write to another file, or remove this one.")
    return {row["transcript"]: row["text"] for row in rows}


def _place(fields: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one clip from another: the same words may be said in many."""
    return tuple(fields.get(name) for name in ("audio", "start", "end", "transcript"))


def _replies(
    texts: Iterable[str], known: dict[str, str], answerer: Answerer, batch_size: int
) -> Iterator[tuple[Sequence[str], list[str]]]:
    """Texts and their answers, batch by batch: first those with an answer, then the others, each asked once."""
    ranked = sorted(texts, key=len)
    before = [text for text in ranked if text in known]
    yield before, [known[text] for text in before]
    asked = [text for text in ranked if text not in known]
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        yield batch, answerer(batch)


def _is_wanted(row: Row, kind: str | None, only_questions: bool) -> bool:
    example = row.example
    if example is None or len(example.audios) != 1 or not (example.spoken or "").strip():
        return False
    asks = not only_questions or _text(row).endswith("?")
    return asks and (kind is None or row.fields.get("kind") == kind)


def _text(row: Row) -> str:
    assert row.example is not None
    return (row.example.spoken or "").strip()


def _fields(row: Row, prompt: str, folder: Path) -> dict[str, Any]:
    """The row to write, still without its answer."""
    example = row.example
    assert example is not None
    (span,) = example.audios
    fields = {
        "audio": relative(span.path, folder), "start": span.start, "end": span.end, "prompt": prompt, "text": "",
        "transcript": _text(row), "duration": example.duration, "task": "question", "language": example.language,
        "speaker": extras_of(row.fields).get("speaker"),
    }
    return {name: value for name, value in fields.items() if value is not None}


def plain_model(folder: Path, new_tokens: int = 48) -> Answerer:
    """A causal language model as an answerer: greedy, in its own chat template, cut to whole sentences.

    Args:
        folder: of a model of transformers with its tokenizer.
        new_tokens: an answer is cut to the sentences that end within these.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from soundwave.model.linear import use_onednn

    logging.disable_progress_bar()  # ours is shown already
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
    use_onednn(model)
    return lambda texts: answer(texts, model, tokenizer, new_tokens)


def answer(texts: Sequence[str], model: Any, tokenizer: Any, new_tokens: int) -> list[str]:
    """The plain model's greedy answers, cut to whole sentences; empty where not even one was finished."""
    import torch

    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in texts
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    answers = []
    for row in output[:, inputs["input_ids"].shape[1] :]:
        finished = tokenizer.eos_token_id in row.tolist()
        text = tokenizer.decode(row, skip_special_tokens=True).strip()
        answers.append(text if finished else whole_sentences(text))
    return answers


def whole_sentences(text: str) -> str:
    """The text up to its last full stop that ends a sentence.

    Example:
        >>> whole_sentences("In Italy, it is the Euro. It is the official")
        'In Italy, it is the Euro.'
    """
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""
