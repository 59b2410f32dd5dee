"""What the speech says, spelled for the CTC head, in any language.

A transcript as people write it has capitals, punctuation, digits and symbols; speech has none of them. This file turns
the first into the second, and refuses where the written form does not say how it was spoken. It knows nothing about
tokens.
"""

from __future__ import annotations

import re
import unicodedata

MAX_CTC_TOKENS = 200  # longer targets are left out of the CTC term (paper, data filtering)
UNSPOKEN = "\0"
_APOSTROPHES = "'’‘ʼ`´′"
_JOINERS = "\u200c\u200d"  # parts of the spelling inside words of Persian, Hindi, …
# Written signs that are read aloud as words: "&" may be "and", "$5" is "five dollars". Their spelling would be a guess.
_SPOKEN_SIGNS = frozenset("&%+=@#$€£¥°/\\^~<>|*_§")
_MARK_OF_NOISE = re.compile(r"\[[^\]]*\]|^\s*\([^()]*\)\s*$")  # [noise], or nothing but (laughs): no words
_OTHER_WIDTHS = re.compile("[\uff00-\uffef\ufb00-\ufb06]+")  # full- and half-width forms, Latin ligatures
_TURKIC = ("tr", "az")  # I is the capital of ı there


def normalise_transcript(text: str, language: str | None = None) -> str | None:
    """Lower-case words divided by single spaces: the target of the CTC loss.

    Letters and combining marks of every script stay, composed (NFC); apostrophes stay inside words; every other
    punctuation mark becomes a space.

    Args:
        text: A transcript in any casing. An empty one means that nobody speaks.
        language: "tr" of a Turkish one, whose I and İ have small letters of their own.

    Returns:
        The words, or `None` where the spoken form is not known: digits, signs that are read aloud, marks such as
        [noise], or no letter at all. The CTC term of that example is left out, not faked.

    Example:
        >>> normalise_transcript("O'Neil's well-known café…")
        "o'neil's well known café"
        >>> normalise_transcript("नमस्ते, दुनिया!")
        'नमस्ते दुनिया'
        >>> normalise_transcript("It is 5 %.") is None
        True
    """
    composed = _OTHER_WIDTHS.sub(
        lambda match: unicodedata.normalize("NFKC", match[0]), unicodedata.normalize("NFC", text)
    )
    if _MARK_OF_NOISE.search(composed):
        return None
    if language_code(language) in _TURKIC:
        composed = composed.replace("İ", "i").replace("I", "ı")
    plain = unicodedata.normalize("NFC", composed.lower().replace("i̇", "i")).translate(_SPOKEN)
    if UNSPOKEN in plain:
        return None
    words = [word.strip(f"'{_JOINERS}") for word in plain.replace("''", " ").split()]
    return " ".join(filter(None, words)) or (None if text.strip() else "")


def language_code(language: str | None) -> str | None:
    """The two or three letters of a language, however it is written: "en-GB", "English" and "eng" are "en"."""
    if language is None:
        return None
    code = re.split("[-_]", language.strip().lower())[0]
    return _OTHER_NAMES.get(code, code)


_OTHER_NAMES = {
    "english": "en", "eng": "en", "chinese": "zh", "mandarin": "zh", "zho": "zh", "chi": "zh", "cmn": "zh",
    "cantonese": "yue", "japanese": "ja", "jpn": "ja", "thai": "th", "tha": "th", "lao": "lo", "khmer": "km",
    "khm": "km", "burmese": "my", "myanmar": "my", "mya": "my", "bur": "my", "turkish": "tr", "tur": "tr",
    "azerbaijani": "az", "aze": "az",
}  # fmt: skip


class _Spoken(dict[int, str]):
    """For `str.translate`: what is left of each character, found out when it is first met."""

    def __missing__(self, point: int) -> str:
        character = chr(point)
        kind = unicodedata.category(character)
        if character in _APOSTROPHES:
            left = "'"
        elif character in _SPOKEN_SIGNS or kind[0] == "N" or kind in ("Sc", "Sm"):
            left = UNSPOKEN
        elif kind[0] in "LM" or character in _JOINERS:
            left = character
        else:
            left = "" if kind == "Cf" else " "  # Cf: soft hyphens, marks of direction
        self[point] = left
        return left


_SPOKEN = _Spoken()
