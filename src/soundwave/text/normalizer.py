"""What the speech says, spelled for the CTC head.

A transcript as people write it has capitals, punctuation, digits and symbols; speech has none of them. This file turns
the first into the second, and refuses where the written form does not say how it was spoken. It knows nothing about
tokens.
"""

import re
import unicodedata

MAX_CTC_TOKENS = 200  # longer targets are left out of the CTC term (paper, data filtering)
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´′", "'"))
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
# Written signs that are read aloud as words: "&" may be "and", "$5" is "five dollars". Their spelling would be a guess.
_SPOKEN_SIGNS = frozenset("&%+=@#$€£¥°/\\^~<>|*_§")


def normalise_transcript(text: str) -> str | None:
    """Lower-case words divided by single spaces: the target of the CTC loss.

    Apostrophes stay inside words, accents are taken off, every other punctuation mark becomes a space.

    Args:
        text: A transcript in any casing. An empty one means that nobody speaks.

    Returns:
        The words, or `None` where the text has digits or signs that are read aloud: their spoken form is unknown, so
        the CTC term of that example is left out, not faked.

    Example:
        >>> normalise_transcript("O'Neil's well-known café…")
        "o'neil's well known cafe"
        >>> normalise_transcript("It is 5 %.") is None
        True
    """
    decomposed = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES))
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    if any(character.isnumeric() or character in _SPOKEN_SIGNS for character in plain):
        return None
    return " ".join(_WORD.findall(plain.lower()))
