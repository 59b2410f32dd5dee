"""Keeps a language model from inventing speech: what it writes is held against what the CTC path heard.

A language model can loop, or go on with what nobody said; the CTC path cannot, because it only reads frames. Where the
two differ, the language model's words stand unless the frames speak against them: unless the CTC gives the whole
transcript with them a far lower likelihood than with its own. (Joint scoring of attention and CTC hypotheses is common
in speech recognition, as in ESPnet; here it is done span by span, once, on the finished text.)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
SLACK = 8.0  # nats of CTC likelihood that the language model's words may cost in one place
Likelihoods = Callable[[list[str]], list[float]]  # log-likelihoods of word sequences


@dataclass(frozen=True)
class Reconciled:
    """A transcript after the comparison; `replaced` counts the places where the CTC's words were taken."""

    text: str
    replaced: int
    of: int


@dataclass(frozen=True)
class _Piece:
    """A word as it is written, with what follows it up to the next word."""

    written: str
    after: str

    @property
    def spoken(self) -> str:
        return self.written.lower().replace("’", "'")


def reconcile(text: str, heard: str, likelihoods: Likelihoods, slack: float = SLACK) -> Reconciled:
    """The language model's transcript, with the CTC's words in places where the frames speak against it.

    Args:
        text: what the language model wrote, with capitals and punctuation.
        heard: the CTC path's words.
        likelihoods: scores sequences of spoken words on the recording.
        slack: how far below the CTC's own words the language model's may score in one place.

    >>> reconcile("The dog sat.", "the cat sat", lambda texts: [0.0, -20.0]).text
    'The cat sat.'
    """
    before, pieces = _pieces(text)
    words = heard.split()
    matcher = difflib.SequenceMatcher(None, [piece.spoken for piece in pieces], words, autojunk=False)
    places = [code[1:] for code in matcher.get_opcodes() if code[0] != "equal"]
    scored = [place for place in places if not any(_has_digit(p) for p in pieces[place[0] : place[1]])]
    if not scored:
        return Reconciled(text, 0, len(places))
    candidates = [
        " ".join([*words[:j1], *(piece.spoken for piece in pieces[i1:i2]), *words[j2:]]) for i1, i2, j1, j2 in scored
    ]
    base, *others = likelihoods([heard, *candidates])
    refused = [place for place, value in zip(scored, others, strict=True) if value < base - slack]
    for i1, i2, j1, j2 in reversed(refused):
        _put(pieces, i1, i2, words[j1:j2])
    joined = before + "".join(piece.written + piece.after for piece in pieces)
    return Reconciled(joined.strip(), len(refused), len(places))


def _pieces(text: str) -> tuple[str, list[_Piece]]:
    found = list(WORD.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)] * bool(found)
    before = text[: found[0].start()] if found else text
    return before, [_Piece(match.group(), text[match.end() : end]) for match, end in zip(found, ends, strict=True)]


def _has_digit(piece: _Piece) -> bool:
    return any(character.isnumeric() for character in piece.written)  # how it was spoken is not known


def _put(pieces: list[_Piece], start: int, end: int, words: Sequence[str]) -> None:
    """Puts words in the place of pieces; what followed the place (a comma, the full stop) follows it still."""
    last = pieces[end - 1] if end else _Piece("", " ")  # of the place, or before it where nothing is taken away
    capital = start == 0 and (not pieces or pieces[0].written[:1].isupper())
    made = [_Piece(word.capitalize() if capital and i == 0 else word, " ") for i, word in enumerate(words)]
    if made:
        made[-1] = _Piece(made[-1].written, last.after or " ")
    if start and start == end:
        pieces[start - 1] = _Piece(last.written, " ")
    elif start and end == len(pieces) and not made:
        pieces[start - 1] = _Piece(pieces[start - 1].written, last.after)
    pieces[start:end] = made


def ctc_log_likelihoods(logits: Tensor, targets: Sequence[Sequence[int]], blank: int) -> list[float]:
    """The CTC log-likelihood of each target on one recording, over all alignments.

    Args:
        logits: (F, C) CTC scores of its frames.
        targets: classes of each candidate; one that does not fit the frames gets -inf.
        blank: class of the blank.
    """
    scores = logits.float().log_softmax(-1)[:, None].expand(-1, len(targets), -1).contiguous()  # (F, N, C)
    lengths = torch.tensor([len(target) for target in targets])
    flat = torch.tensor([token for target in targets for token in target], dtype=torch.long)
    frames = torch.full((len(targets),), len(logits))
    loss = F.ctc_loss(scores.cpu(), flat, frames, lengths, blank=blank, reduction="none")
    return (-loss).tolist()
