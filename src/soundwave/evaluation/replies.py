"""A reply taken apart: what it repeats of the speech before it answers, the answer itself, and the label it names.

Models trained as in the paper may answer with the transcription first: You are asking "What color is the sky" and I can
tell you … What is repeated there must not count as an answer. Pure functions of strings.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from soundwave.text.metrics import has_no_spaces, normalise

# A few words, and a quotation that may be cut off by the bound on a reply's length.
QUOTED = re.compile(r'\s*([^"“”]{0,60})["“]([^"“”]*)(?:["”](.*))?$', re.DOTALL)
ASKED_AGAIN = re.compile(r"\s*([^?？]+[?？])(.*)$", re.DOTALL)
LEADS = ("you ", "your ", "the person ", "the speaker ", "i hear ")  # of our own templates, and the paper's
ALIKE = 0.7  # share of words in common, from which a text repeats another one
MOSTLY = 0.5  # the same for a reply that should be a label: it has no reason to use the command's words
# What stands between the repeated words and the answer.
_JOINING = "and i can tell you my the answer is here in that it result this means"
JOINING = frozenset(_JOINING.split())


def split_transcription(reply: str, said: str | None = None, language: str | None = None) -> tuple[str | None, str]:
    """What a reply repeats of the speech, and what comes after it.

    Args:
        reply: of a model that was asked about a clip.
        said: what is said there; None where it is not known.
        language: of both, which decides how they are compared; None: English.

    Returns:
        The repeated words, None where the reply begins with its answer; and the rest.

    Example:
        >>> split_transcription('You are asking "What is it?" and I can tell you: a cat.')
        ('What is it?', ' and I can tell you: a cat.')
        >>> split_transcription('"Hamlet" is by Shakespeare.', "Who wrote Hamlet?")
        (None, '"Hamlet" is by Shakespeare.')
    """
    quoted = QUOTED.match(reply)
    if quoted:
        lead, words, rest = quoted[1].lower(), quoted[2], quoted[3] or ""
        if lead.startswith(LEADS) or (said is not None and _likeness(words, said, language) >= ALIKE):
            return words, rest
    question, plain = normalise(said or "", language), normalise(reply, language)
    if said is not None and question:
        if plain == question or plain.startswith(question + _space(language)):
            return said, plain.removeprefix(question)
        again = ASKED_AGAIN.match(reply)
        if again and _likeness(again[1], said, language) >= ALIKE:
            return again[1].strip(), again[2]
    return None, reply


def answer_part(reply: str, said: str | None = None, language: str | None = None) -> str:
    """A reply without what it repeats of the speech: at its beginning and, where it begins so, at its end too.

    Example:
        >>> answer_part('You are asking "Is Rome in Italy?" and I can tell you: Is Rome in Italy?', "Is Rome in Italy?")
        'and i can tell you'
    """
    repeated, rest = split_transcription(reply, said, language)
    question, plain = normalise(said or "", language), normalise(rest, language)
    if repeated is not None and question and (plain == question or plain.endswith(_space(language) + question)):
        return plain.removesuffix(question).strip()
    return rest


def is_repetition(reply: str, said: str, language: str | None = None) -> bool:
    """Whether a reply only says again what is said, with or without words about that: it answers nothing."""
    rest = answer_part(reply, said, language)
    return rest != reply and JOINING.issuperset(normalise(rest, language).split())


def label_part(
    reply: str, said: str | None, labels: Iterable[str], language: str | None = None
) -> tuple[str | None, str]:
    """What a reply about a clip's label repeats of the speech, and the rest, in which the label is looked for.

    A command often holds the word of its own label. So a reply that mostly has the command's words is one that wrote
    the command down, unless it is a label and nothing else.

    Example:
        >>> label_part("Said an alarm for sticks.", "Set an alarm for six.", ["alarm"])
        ('Said an alarm for sticks.', '')
    """
    repeated, rest = split_transcription(reply, said, language)
    alone = normalise(reply, language) in {normalise(label, language) for label in labels}
    if repeated is None and said and not alone and _likeness(reply, said, language) >= MOSTLY:
        return reply, ""
    return repeated, rest


def named_label(reply: str, labels: Iterable[str], language: str | None = None) -> str | None:
    """The one label that a reply names, as whole words; None where it names none, or several.

    A label inside a longer one that is named there does not count.

    Example:
        >>> named_label("The intent is play music.", ["music", "play music"])
        'play music'
    """
    space = _space(language)
    padded = f"{space}{normalise(reply, language)}{space}"
    named = {}
    for label in sorted(labels, key=len, reverse=True):
        words = f"{space}{normalise(label, language)}{space}"
        if words.strip() and words in padded:
            named[words] = label
            padded = padded.replace(words, " | ")
    return next(iter(named.values())) if len(named) == 1 else None


def _space(language: str | None) -> str:
    """What stands between two words."""
    return "" if has_no_spaces(language) else " "


def _likeness(text: str, other: str, language: str | None) -> float:
    """0 to 1: words in common, in their order; characters, where words are not written apart."""
    texts = [normalise(one, language) for one in (text, other)]
    first, second = ([*one.replace(" ", "")] if has_no_spaces(language) else one.split() for one in texts)
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
