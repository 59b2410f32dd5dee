"""Spoken questions with answers that the language model itself writes, so that hearing them teaches it nothing new.

Takes manifests with spoken questions (`kind: question`), asks the plain LLM each question in writing, and keeps the
whole sentences of its greedy answer. The result is a manifest for stage III. Resumable: answered questions are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

import torch
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer

from soundwave.checkpoints.catalog import part_folder

PROMPT = "Please answer the question that the person asks."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path, help="manifests with spoken questions")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument("--limit", type=int, default=None, help="at most this many questions")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="an answer is cut to its sentences within these")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--language-model", default="smollm2-135m-instruct", help="catalog part")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)

    rows = spoken_questions(arguments.manifests)[: arguments.limit]
    done = {row["transcript"] for row in read_rows(arguments.out)} if arguments.out.is_file() else set()
    waiting = sorted((row for row in rows if row["text"] not in done), key=lambda row: len(row["text"]))
    folder = part_folder(arguments.language_model)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    starts = range(0, len(waiting), arguments.batch_size)
    with arguments.out.open("a") as out:
        for start in track(starts, description="answering"):
            batch = waiting[start : start + arguments.batch_size]
            answers = answer([row["text"] for row in batch], model, tokenizer, arguments.max_new_tokens)
            for row, text in zip(batch, answers, strict=True):
                if text:
                    out.write(json.dumps(answered(row, text, arguments.out.parent)) + "\n")
            out.flush()


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def spoken_questions(manifests: list[Path]) -> list[dict]:
    """Rows whose text is a question, with the audio's absolute path."""
    rows = []
    for manifest in manifests:
        for row in read_rows(manifest):
            if row.get("kind") == "question" and row["text"].strip().endswith("?"):
                rows.append({**row, "audio": str((manifest.parent / row["audio"]).resolve())})
    return rows


def answered(row: dict, text: str, folder: Path) -> dict:
    audio = os.path.relpath(row["audio"], folder.resolve())
    return {
        "audio": audio, "prompt": PROMPT, "text": text, "transcript": row["text"], "duration": row["duration"],
        "task": "question", "language": "en", "speaker": row.get("speaker"),
    }


@torch.no_grad()
def answer(questions: list[str], model: AutoModelForCausalLM, tokenizer: AutoTokenizer, new_tokens: int) -> list[str]:
    """The plain LLM's greedy answers, cut to whole sentences; empty where not even one was finished."""
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
        for q in questions
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    texts = []
    for row in output[:, inputs["input_ids"].shape[1] :]:
        finished = tokenizer.eos_token_id in row.tolist()
        text = tokenizer.decode(row, skip_special_tokens=True).strip()
        texts.append(text if finished else whole_sentences(text))
    return texts


def whole_sentences(text: str) -> str:
    """The text up to its last full stop that ends a sentence.

    >>> whole_sentences("In Italy, it is the Euro. It is the official")
    'In Italy, it is the Euro.'
    """
    ends = [match.end() for match in re.finditer(r"(?<!\b[A-Z])(?<!\bDr)(?<!\bMr)(?<!\bSt)[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""


if __name__ == "__main__":
    main()
