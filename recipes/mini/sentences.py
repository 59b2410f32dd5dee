"""Sentences worth reading aloud: taken from text files, kept where they are plain English, chosen for breadth of words.

Knows nothing about voices or audio. The errors of a small speech model are words that its training text lacked, so the
choice prefers, again and again, the sentence whose words have been rarest so far.
"""

import gzip
import heapq
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from soundwave.text.normalizer import normalise_transcript

# File name -> (kind of text, the field that holds it).
SOURCES = {
    "prose-common-voice.jsonl.gz": ("prose", "text"),  # Common Voice sentences, CC0
    "prose-books.jsonl.gz": ("prose", "text"),  # LibriTTS train-clean-100 texts, CC BY 4.0
    "prose-lj.jsonl.gz": ("prose", "text"),  # LJ Speech texts, public domain
    "prose-mixed.jsonl.gz": ("prose", "text"),  # broad-vocabulary prompts, Apache-2.0
    "prose-harvard.jsonl.gz": ("prose", "text"),  # Harvard sentences
    "qa-trivia.jsonl.gz": ("question", "question"),  # Open Trivia questions, CC BY-SA 4.0
    "qa-web.jsonl.gz": ("question", "question"),  # WebQuestions, CC BY 4.0
    "commands-clinc150.jsonl.gz": ("command", "text"),  # CLINC150, CC BY 3.0
    "commands-snips.jsonl.gz": ("command", "text"),  # Snips, CC0
    "commands-banking77.jsonl.gz": ("command", "text"),  # Banking77, CC BY 4.0
}
KINDS = ("prose", "question", "command")
PLAIN = re.compile(r"[A-Za-z][A-Za-z ,.;:'!?-]*")
UNREADABLE = re.compile(
    r"\b(?:[A-Z]{2,}\w*|[A-Z]\.|\w*[a-z][A-Z]\w*|St\.|etc\b|vs\b|[B-HJ-Zb-hj-z]\b(?<!'[a-z]))|\.\.|''"
)
_ASKING = "what who whose whom where when why how which"
_ASKING_SHORT = "what's who's where's when's how's"
_VERBS = (
    "is are was were am do does did can could would will should shall may has have had "
    "isn't aren't doesn't don't didn't can't won't"
)
ASKING = frozenset(_ASKING.split())
QUESTION_STARTS = frozenset([*ASKING, *_ASKING_SHORT.split(), *_VERBS.split()])


@dataclass(frozen=True)
class Sentence:
    """One line of text to be spoken: `words` is its normalised spelling, `source` the file it came from."""

    text: str
    words: tuple[str, ...]
    kind: str
    source: str


def tidy(text: str, kind: str) -> str:
    """The same words as a written sentence: straight quotes, a capital first, a stop at the end."""
    text = text.translate(str.maketrans({"’": "'", "‘": "'", "“": "", "”": "", '"': "", "–": "-"}))
    text = re.sub(r"\s*(?:--+|—|;)\s*", ", ", text)
    text = re.sub(r"\s+", " ", text).strip(" ,;:-'")
    text = re.sub(r"\bi(?=\b(?!-))", "I", text)
    text = re.sub(r" +([,.!?])", r"\1", text)
    if text and text[-1] not in ".!?":
        asks = kind != "prose" and text.split(" ")[0].lower() in QUESTION_STARTS
        text = text.rstrip(",;:- ") + ("?" if asks or kind == "question" else ".")
    return text[:1].upper() + text[1:]


def read_sentences(folder: Path, *, max_words: int = 22, max_question_words: int = 14) -> Iterator[Sentence]:
    """Every readable sentence of the known text files in `folder`: 2 to `max_words` words of plain English letters.

    Lines with digits, signs, initials or abbreviations in capitals are left out: a voice says something else than what
    is written.
    """
    for name, (kind, field) in SOURCES.items():
        path = folder / name
        if not path.exists():
            continue
        longest = max_question_words if kind == "question" else max_words
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = tidy(json.loads(line)[field], kind)
                if not PLAIN.fullmatch(text) or UNREADABLE.search(text):
                    continue
                words = tuple((normalise_transcript(text) or "").split())
                if 2 <= len(words) <= longest and (len(words) > 2 or len(text) > 12):
                    yield Sentence(text, words, kind, name)


def manifest_texts(paths: Iterable[Path]) -> Iterator[tuple[str, ...]]:
    """The normalised words of every text in these manifests; lines without a text are passed over."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            words = normalise_transcript(json.loads(line).get("text") or "")
            if words:
                yield tuple(words.split())


def choose(
    sentences: Iterable[Sentence],
    shares: dict[str, float],
    *,
    excluded: Iterable[tuple[str, ...]] = (),
    already: Iterable[tuple[str, ...]] = (),
    seed: int = 0,
) -> Iterator[Sentence]:
    """Sentences in the order in which to record them; stop when there are enough.

    Args:
        sentences: The pool.
        shares: Kind -> share of the clips, in sum 1.
        excluded: Word sequences that must not be chosen.
        already: Word sequences that have been recorded: not chosen either, and their words count as seen.
        seed: Fixes the order.
    """
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    unwanted = set(excluded)
    for words in already:
        unwanted.add(words)
        seen.update(words)
    pool = {sentence.words: sentence for sentence in sentences if sentence.words not in unwanted}
    frequency = Counter(word for words in pool for word in set(words))
    # A word met once in the whole pool is often a misspelling or foreign: worth less than one that other texts use.
    worth = {word: min(1.0, math.log2(1 + count) / 3) for word, count in frequency.items()}
    taste = {words: rng.uniform(0.4, 1.0) for words in pool}  # Keeps ordinary sentences in the mixture.

    def score(words: tuple[str, ...]) -> float:
        return taste[words] * sum(worth[word] / (1 + seen[word]) for word in words) / (len(words) + 2)

    heaps = {kind: [(-score(words), words) for words, s in pool.items() if s.kind == kind] for kind in shares}
    for heap in heaps.values():
        heapq.heapify(heap)
    while any(heaps.values()):
        kind = rng.choices(list(shares), weights=list(shares.values()))[0]
        heap = heaps[kind]
        while heap:
            _, words = heapq.heappop(heap)
            # Scores only fall as words are seen, so an entry that still beats the next one is the best of all.
            now = -score(words)
            if heap and now > heap[0][0]:
                heapq.heappush(heap, (now, words))
                continue
            seen.update(words)
            yield pool[words]
            break
