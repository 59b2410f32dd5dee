"""Written texts as the spoken words that an n-gram is counted on: no marks, digits as words, capitals only in names.

Knows nothing about counts or audio. A word keeps one spelling everywhere: the one that it mostly has inside a sentence.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from soundwave.errors import DataError
from soundwave.files import decode_line, decode_text

FIELDS = ("text", "question", "en", "instruction", "answer", "response", "output")  # of a JSON line, where it has them
MOST_WORDS = 60  # of a sentence; longer ones are tables or lists
_SENTENCE = re.compile(r"(?<=[.!?;:])\s+|\n+")
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_PLAIN = str.maketrans({**dict.fromkeys("’‘ʼ`´′", "'"), "&": " and ", "%": " percent "})
_DIGIT = re.compile(r"\d")
_MONEY = re.compile(r"\$\s?(\d[\d,]*(?:\.\d+)?)(\s(?:million|billion))?")
_NUMBER = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(st|nd|rd|th)?(?![\w])")
_REST = re.compile(r"\S*\d\S*")  # 4x4, B2, 12:30: nobody can tell how it is read


def read_texts(paths: Sequence[Path]) -> Iterator[str]:
    """Every text of the files: lines of `.txt`, known fields of `.jsonl`, either with `.gz` behind it.

    Raises:
        DataError: a file is missing, of another kind, or has a line that is no JSON object.
    """
    for path in paths:
        kind = path.name.removesuffix(".gz")
        if not kind.endswith((".txt", ".jsonl")):
            raise DataError(f"{path} is no text that can be read: give .txt or .jsonl files, plain or with .gz.")
        if not path.is_file():
            raise DataError(f"{path} does not exist; give the files that the n-gram is to be counted on.")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path}:{number}"
                yield from [decode_text(line, where)] if kind.endswith(".txt") else _fields(line, where)


def _fields(line: bytes, where: str) -> list[str]:
    row = decode_line(line, where)
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object: {line[:60]!r}; one object a line is needed.")
    return [row[field] for field in FIELDS if isinstance(row.get(field), str)]


def spoken(text: str) -> str:
    """A text with numbers as they are read and without accents: "$12 in 1905" is "twelve dollars in nineteen oh five".

    What has digits and cannot be read for certain (4x4, 12:30) becomes a line break: no n-gram runs across it.
    """
    text = text.translate(_PLAIN)
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(character for character in decomposed if not unicodedata.combining(character))
    if _DIGIT.search(text):
        text = _MONEY.sub(r"\1\2 dollars", text)
        text = _REST.sub("\n", _NUMBER.sub(_in_words, text))
    return text


def _in_words(match: re.Match[str]) -> str:
    return _number(*match.groups())


@cache
def _number(whole: str, fraction: str | None, ordinal: str | None) -> str:
    from num2words import num2words

    number = int(whole.replace(",", ""))
    if len(whole) > 15:
        return "\n"
    if fraction:
        words = num2words(float(f"{number}{fraction}"))
    elif ordinal:
        words = num2words(number, to="ordinal")
    else:
        words = num2words(number, to="year" if len(whole) == 4 and 1100 <= number < 2100 else "cardinal")
    return " " + words.replace("-", " ").replace(",", "") + " "


def sentences(texts: Iterable[str]) -> list[list[str]]:
    """The sentences of texts as words, each in its usual casing; those of one word, or of more than 60, are left out.

    Example:
        >>> sentences(["The café opened. I saw Tom!", "So Tom came in the evening."])
        [['the', 'cafe', 'opened'], ['I', 'saw', 'Tom'], ['so', 'Tom', 'came', 'in', 'the', 'evening']]
    """
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    kept = []
    for text in texts:
        for sentence in _SENTENCE.split(spoken(text)):
            words = _WORD.findall(sentence)
            if not 2 <= len(words) <= MOST_WORDS:
                continue
            if not sentence.isupper() and not sentence.islower():  # else its casing says nothing
                for word in words[1:]:
                    forms[word.lower()][word] += 1
            kept.append([word.lower() for word in words])
    usual = {word: min(counts, key=lambda form: (-counts[form], form != word, form)) for word, counts in forms.items()}
    usual["i"] = "I"
    return [[usual.get(word, word) for word in words] for words in kept]
