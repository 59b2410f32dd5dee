"""Spoken questions with answers that the language model itself writes, so that hearing them teaches it nothing new.

Takes manifests with spoken questions (`kind: question`), asks the plain LLM each question in writing, and keeps the
whole sentences of its greedy answer. The result is a manifest for stage III. Resumable: answered questions are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from soundwave.checkpoints.catalog import part_folder
from soundwave.cli.display import count_progress
from soundwave.datatools.answer import PROMPT, answer_manifest, plain_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path, help="manifests with spoken questions")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument("--limit", type=int, default=None, help="at most this many questions")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="an answer is cut to its sentences within these")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--language-model", default="smollm2-135m-instruct", help="catalog part")
    arguments = parser.parse_args()
    answerer = plain_model(part_folder(arguments.language_model), arguments.max_new_tokens)
    with count_progress("answering", quiet=False) as progress:
        answer_manifest(
            arguments.manifests, arguments.out, answerer, prompt=PROMPT, kind="question", only_questions=True,
            limit=arguments.limit, batch_size=arguments.batch_size, progress=progress,
        )


if __name__ == "__main__":
    main()
