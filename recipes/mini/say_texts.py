"""Texts to say with a bank of units: a manifest whose rows have words in the place of a recording.

    python recipes/mini/say_texts.py --texts texts --out said/questions.jsonl --count 20000 --shares question=1

Sentences are chosen for breadth of words, as for `make_speech.py`; the same arguments give the same rows.
"""

import argparse
from itertools import islice
from pathlib import Path

from sentences import KINDS, choose, manifest_texts, read_sentences

from soundwave.data.example import WRITTEN
from soundwave.data.manifests import write_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the .jsonl.gz text files")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    parser.add_argument("--count", type=int, required=True, help="rows, at most")
    parser.add_argument(
        "--shares", default="prose=0.8,question=0.12,command=0.08", help="share of each kind of text (%(default)s)"
    )
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="manifests whose texts must not be said (test sets)"
    )
    parser.add_argument("--max-words", type=int, default=22, help="longest sentence (%(default)s)")
    parser.add_argument("--max-question-words", type=int, default=14, help="longest question (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (%(default)s)")
    arguments = parser.parse_args()
    shares = {kind: float(share or 1) for kind, _, share in (p.partition("=") for p in arguments.shares.split(","))}
    if unknown := set(shares) - set(KINDS):
        parser.error(f"--shares: unknown kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    pool = read_sentences(
        arguments.texts, max_words=arguments.max_words, max_question_words=arguments.max_question_words
    )
    chosen = choose(pool, shares, excluded=manifest_texts(arguments.exclude), seed=arguments.seed)
    count = write_rows(arguments.out, (
        {
            "audio": f"{WRITTEN}{' '.join(one.words)}", "text": one.text, "kind": one.kind, "language": "en",
            "source": one.source,
        }
        for one in islice(chosen, arguments.count)
    ))
    print(f"{count} texts to say in {arguments.out}")


if __name__ == "__main__":
    main()
