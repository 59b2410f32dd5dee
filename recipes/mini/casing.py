"""Capitals and punctuation for a transcript that has none.

They come from a recogniser's text where it heard the same words, and from the habits of written English elsewhere.
The words themselves are never changed. Knows nothing about audio.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sentences import ASKING, QUESTION_STARTS

from soundwave.text.normalizer import normalise_transcript

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
VERBS = QUESTION_STARTS - ASKING
_SUBJECTS = "i you he she it we they this that these those the a an my your his her our their there anyone anybody"
SUBJECTS = frozenset(_SUBJECTS.split())
SENTENCE_END = (".", "?", "!")


class Truecase:
    """How a word is mostly written inside a sentence, counted over `texts`; a word never met there is lower case."""

    def __init__(self, texts: Iterable[str]) -> None:
        forms: dict[str, Counter[str]] = {}
        for text in texts:
            for match in list(WORD.finditer(text))[1:]:
                if text[: match.start()].rstrip(" \"'")[-1:] not in SENTENCE_END:
                    forms.setdefault(match.group().lower(), Counter())[match.group()] += 1
        self._form = {word: counts.most_common(1)[0][0] for word, counts in forms.items()}

    def __call__(self, word: str) -> str:
        word = word.lower()
        if word.split("'")[0] == "i":
            return "I" + word[1:]
        return self._form.get(word, word)


@dataclass
class _Heard:
    """One word of the recogniser's text: its spelling, what follows up to the next word, if a sentence starts here."""

    surface: str
    glue: str
    starts: bool


def words_of(transcript: str) -> list[str]:
    """Lower-case words of a transcript without casing; punctuation is dropped."""
    return (normalise_transcript(transcript) or "").split()


def needs_casing(text: str) -> bool:
    """True for text all in one case and without punctuation inside."""
    letters = [character for character in text if character.isalpha()]
    one_case = all(c.isupper() for c in letters) or all(c.islower() for c in letters)
    return bool(letters) and one_case and not any(mark in text for mark in ".,;:?!")


def looks_like_question(words: list[str]) -> bool:
    """By its first words alone: "do you…", "where is…", "what else is there…"; unsure cases are not questions."""
    if words[:1] == ["does"]:
        return True
    starts = range(1, 4) if words[:1] and words[0] in ASKING else range(1)
    pairs = [words[start : start + 2] for start in starts]
    return any(len(pair) == 2 and pair[0] in VERBS and pair[1] in SUBJECTS for pair in pairs)


def _heard(text: str) -> list[_Heard]:
    text = text.replace('"', "").replace("’", "'").replace("“", "").replace("”", "")
    found = list(WORD.finditer(text))
    heard = []
    for index, match in enumerate(found):
        following = found[index + 1].start() if index + 1 < len(found) else len(text)
        before = text[: match.start()].rstrip(" '")[-1:]
        heard.append(_Heard(match.group(), text[match.end() : following], before in ("", *SENTENCE_END)))
    return heard


def with_casing(reference: str, recognised: str, truecase: Truecase) -> tuple[str, float]:
    """The reference's words with capitals and punctuation.

    Args:
        reference: The words that were said, in any casing, without punctuation.
        recognised: A recogniser's text of the same clip; may be wrong or empty.
        truecase: Decides where the recogniser heard something else.

    Returns:
        The written sentence, and the share of the reference's words that the recogniser heard too (0 to 1).
    """
    words, heard = words_of(reference), _heard(recognised)
    matcher = difflib.SequenceMatcher(None, words, [one.surface.lower() for one in heard], autojunk=False)
    partner = {block.a + k: block.b + k for block in matcher.get_matching_blocks() for k in range(block.size)}
    if len(partner) < len(words) / 2:
        partner = {}  # The recogniser heard something else: its commas mean nothing here.
    pieces, starts = [], True
    for index, word in enumerate(words):
        one = heard[partner[index]] if index in partner else None
        surface = truecase(word) if one is None or one.starts or one.surface.isupper() else one.surface
        pieces.append(surface[:1].upper() + surface[1:] if starts else surface)
        last = index + 1 == len(words)
        glue = _glue(one, last or partner.get(index + 1) == partner.get(index, -2) + 1)
        starts = glue.strip()[-1:] in SENTENCE_END and glue.strip() != ""
        pieces.append(glue)
    text = "".join(pieces).rstrip(" ,;:-")
    if words and text[-1] not in SENTENCE_END:
        text += "?" if looks_like_question(words) else "."
    return text, len(partner) / max(1, len(words))


def _glue(one: _Heard | None, neighbour_heard: bool) -> str:
    """What stands between a word and the next: a space, with the recogniser's mark where it heard the word."""
    if one is None:
        return " "
    if neighbour_heard and one.glue in ("-", " - "):
        return one.glue
    mark = next((character for character in one.glue if character in ",.?!;:"), "")
    return mark + " " if neighbour_heard or mark in ("", ",") else " "
