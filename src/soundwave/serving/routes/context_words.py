"""What a transcription's prompt says to expect: names and terms, which become hot words.

Whisper's prompt is text that its decoder goes on from; here no decoder reads it. What such prompts are given for is how
names are spelt, and that is taken from them: the terms of a list, or what is written with a capital within a sentence.
"""

from __future__ import annotations

import re

LONGEST_TERM = 4  # words; a list of longer ones is running text
BETWEEN_TERMS = re.compile(r"[,;\n]")
SENTENCE_END = re.compile(r"[.!?]\s+")
SPELT = re.compile(r"[A-Za-z](?:[A-Za-z'’-]*[A-Za-z])?")  # digits are not: a model hears their words


def expected_in(prompt: str) -> tuple[str, ...]:
    """The names and terms of a prompt, each once, in their order.

    Example:
        >>> expected_in("kubernetes, etcd, Zoe Saldana")
        ('kubernetes', 'etcd', 'Zoe Saldana')
        >>> expected_in("We talk about Soundwave. Today Zoe Saldana is here.")
        ('Soundwave', 'Zoe Saldana')
    """
    terms = [term.strip(" \t\r.!?\"'") for term in BETWEEN_TERMS.split(prompt)]
    terms = [term for term in terms if term]
    sentences = [one for one in SENTENCE_END.split(prompt) if one.strip()]
    if len(sentences) == 1 and len(terms) > 1 and all(len(term.split()) <= LONGEST_TERM for term in terms):
        found = [term for term in terms if all(SPELT.fullmatch(word) for word in term.split())]
    else:
        found = [name for sentence in sentences for name in _names(sentence.split())]
    return tuple(dict.fromkeys(found))


def _names(words: list[str]) -> list[str]:
    """Words of a sentence that are written with a capital, but for the first; those that follow each other together."""
    names: list[list[str]] = []
    joins = False
    for number, word in enumerate(words):
        plain = word.strip(".,;:!?()\"'")
        capital = re.search(r"[A-Z]", plain[1:] if number == 0 and len(words) > 1 else plain) is not None
        spelt = len(plain) > 1 and SPELT.fullmatch(plain) is not None and not plain.startswith(("I'", "I’"))
        is_name = capital and spelt
        if is_name and joins:
            names[-1].append(plain)
        elif is_name:
            names.append([plain])
        joins = is_name and word.endswith(plain)
    return [" ".join(name) for name in names]
