"""Manifests for comparing targets: the same spoken questions with the LLM's own answers and with a data set's.

Also the dev questions with what the LLM answers to them in writing. What is there is not made again.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from soundwave.checkpoints.catalog import part_folder
from soundwave.datatools.answer import PROMPT, answer_manifest, plain_model, whole_sentences

QUESTIONS = 120  # every example once in 20 steps of 6
OF_DATA_SETS = ("qa-web.jsonl.gz", "qa-trivia.jsonl.gz")  # under $TEXTS
OWN, GIVEN, DEV = "own.jsonl", "given.jsonl", "dev.jsonl"


def make(folder: Path, questions: int = QUESTIONS) -> None:
    """Writes own.jsonl, given.jsonl and dev.jsonl into a folder, from $SPEECH, $TEXTS and $WORK."""
    if all((folder / name).is_file() for name in (OWN, GIVEN, DEV)):
        return
    speech, texts, work = (Path(os.environ[name]) for name in ("SPEECH", "TEXTS", "WORK"))
    folder.mkdir(parents=True, exist_ok=True)
    given = given_answers(texts)
    spoken = [
        row | {"audio": str(work / "synth" / "piper" / row["audio"])}
        for row in rows_of(work / "synth" / "piper" / "manifest.jsonl")
        if row.get("kind") == "question" and plain(row["text"]) in given
    ][:questions]
    known = {row["transcript"]: row["text"] for row in rows_of(work / "answers" / "questions.jsonl")}
    asked = [row for row in spoken if row["text"] not in known]
    if asked:
        write(folder / "asked.jsonl", asked)
        answered = folder / "answered.jsonl"
        answer_manifest([folder / "asked.jsonl"], answered, plain_model(part_folder("smollm2-135m-instruct")))
        known |= {row["transcript"]: row["text"] for row in rows_of(answered)}
    both = [row for row in spoken if row["text"] in known]
    write(folder / OWN, [example(row, known[row["text"]]) for row in both])
    write(folder / GIVEN, [example(row, given[plain(row["text"])]) for row in both])
    dev = rows_of(speech / "dev-questions" / "manifest.jsonl")
    write(folder / DEV, [
        example(row, whole_sentences(row["text_llm_reply"]) or row["text_llm_reply"])
        | {"audio": str(speech / "dev-questions" / row["audio"])} for row in dev
    ])  # fmt: skip


def given_answers(texts: Path) -> dict[str, str]:
    """The data sets' answers, each made a sentence, by the question's words."""
    found = {}
    for name in OF_DATA_SETS:
        with gzip.open(texts / name, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                answer = (row.get("answers") or [row.get("answer")])[0]
                found[plain(row["question"])] = answer.rstrip(".") + "."
    return found


def plain(text: str) -> str:
    """A question's words."""
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


def example(row: dict[str, Any], reply: str) -> dict[str, Any]:
    """A spoken question and its answer in the short form of manifests."""
    return {
        "audio": row["audio"], "prompt": PROMPT, "text": reply, "transcript": row["text"], "duration": row["duration"],
        "task": "question",
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a manifest; none where there is no such file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A manifest that appears whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    draft.replace(path)
