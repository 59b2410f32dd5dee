"""Other words for those that were misheard, where recording and language speak for them together.

A search that writes from left to right drops a word before it knows what follows. Here the whole text stands, and
known words (`word_tree.py`), one or two, are tried in the place of one of its words or of two. CTC says how well the
recording bears a text out, the plain LLM how likely a person would write it; the text gives way to one that both
together find better.
"""

# F frames, C CTC classes, V LLM vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soundwave.inference.ctc_prefix import NEVER, Prefixes, Rest, beginnings, log_likelihoods, rests
from soundwave.inference.joint import WORD, spoken
from soundwave.inference.lexicon import Lexicon
from soundwave.inference.typed import Typed, TypedReader
from soundwave.inference.word_tree import WordTree
from soundwave.text.ctc_tokenizer import CtcTokenizer

MARGIN = 12  # frames around the words that are replaced
WORSE = 16.0  # nats that CTC may lose on a beginning of another word
PER_PLACE, PAIRS_PER_PLACE = 16, 8  # words, and pairs of words, of a place that the LLM has a first look at
TRIED = 16  # texts of which it reads what differs, each time
AHEAD = 6  # tokens that it reads after that
ROUNDS = 6
LATER_TOKENS = 2.0  # nats of each token of a word after its first one, until they are read


@dataclass(frozen=True)
class _Edit:
    start: int
    end: int
    words: str

    def applied(self, text: str) -> str:
        return text[: self.start] + self.words + text[self.end :]

    def apart(self, other: _Edit) -> bool:
        return self.end <= other.start or other.end <= self.start


class Rewording:
    """Tries other words in texts.

    Args:
        lexicon: the words.
        ctc: makes CTC classes from them.
        reader: the plain LLM.
        blank: class of the blank.
        weight: of the plain LLM's log-probability beside CTC's.
    """

    def __init__(self, lexicon: Lexicon, ctc: CtcTokenizer, reader: TypedReader, blank: int, weight: float):
        self.lexicon, self.ctc, self.reader, self.blank, self.weight = lexicon, ctc, reader, blank, weight
        words = lexicon.by_rank()
        self.tree = WordTree(words, ctc.encode_words(words))

    def reworded(self, text: str, logits: Tensor) -> str:
        """The text, or one with other words that is better by CTC and LLM together.

        Args:
            text: as it was found.
            logits: (F, C) CTC scores of the recording.
        """
        scores = logits.detach().cpu().double().log_softmax(-1)
        seen, read, (heard,) = {text}, self.reader.read(text), self._heard([text], logits)
        for _ in range(ROUNDS):
            edits = {edit.applied(text): edit for edit in self._edits(text, scores, read)}
            tried = [other for other in edits if other not in seen][:TRIED]
            if not tried:
                break
            seen.update(tried)
            written = self.reader.gains(read, tried, AHEAD)
            gains = [
                new - heard + self.weight * gain
                for new, gain in zip(self._heard(tried, logits), written, strict=True)
            ]
            better = [other for gain, other in sorted(zip(gains, tried, strict=True))[::-1] if gain > 0]
            if not better:
                break
            # what was guessed word by word must hold for the whole text
            for other in dict.fromkeys([_together(text, [edits[one] for one in better]), better[0]]):
                whole, (new,) = self.reader.read(other), self._heard([other], logits)
                if new - heard + self.weight * (whole.likelihood - read.likelihood) > 0:
                    text, read, heard = other, whole, new
                    seen.add(text)
                    break
            else:
                break
        return text

    def _heard(self, texts: list[str], logits: Tensor) -> list[float]:
        """CTC's log-likelihoods of the words of texts."""
        spelt = [self.ctc.encode_words([spoken(word) for word in WORD.findall(one)]) for one in texts]
        return log_likelihoods(logits, [[one for word in words for one in word] for words in spelt], self.blank)

    def _edits(self, text: str, scores: Tensor, read: Typed) -> list[_Edit]:
        """What could be written instead, the most promising first: by CTC, and by the LLM up to the next token."""
        places = list(WORD.finditer(text))
        words = self.ctc.encode_words([spoken(place.group()) for place in places])
        before, after = beginnings(scores, words, self.blank), rests(scores, words, self.blank)
        whole = before[-1].whole().item()
        found: list[tuple[float, _Edit]] = []
        for first in range(len(places)):
            # what CTC cannot spell, such as digits, stays
            ends = [end for end in (first + 1, first + 2) if end <= len(places) and all(words[first:end])]
            if not ends:
                continue
            begin, stop = _frames(before[first], after[first], before[ends[-1]], after[ends[-1]])
            others = self.tree.words_between(
                scores[begin:stop], before[first].within(begin, stop, self.blank),
                [after[end].within(begin, stop) for end in ends],
                [next((word[0] for word in words[end:] if word), -1) for end in ends], self.blank, WORSE,
            )
            for end, candidates in zip(ends, others, strict=True):
                start, last = places[first].start(), places[end - 1].end()
                at, replaced = read.between(start, last)
                for heard, some in _likeliest(candidates):
                    new = self._written(some, begins=_begins(text, start))
                    if new.lower() == text[start:last].lower():
                        continue
                    token, *later = self.reader.tokens(" " * text[:start].endswith(" ") + new)
                    gained = read.scores[at, token].item() - LATER_TOKENS * len(later) - replaced
                    found.append((heard - whole + self.weight * gained, _Edit(start, last, new)))
        return [edit for _, edit in sorted(found, key=lambda one: -one[0])]

    def _written(self, words: Sequence[str], begins: bool) -> str:
        return " ".join(self.lexicon.written(word, begins and not i) for i, word in enumerate(words))


def _likeliest(candidates: Sequence[tuple[float, tuple[str, ...]]]) -> list[tuple[float, tuple[str, ...]]]:
    """The most likely words of a place, and pairs of words."""
    found = sorted(candidates, reverse=True)
    single, pairs = ([one for one in found if len(one[1]) == count] for count in (1, 2))
    return single[:PER_PLACE] + pairs[:PAIRS_PER_PLACE]


def _begins(text: str, place: int) -> bool:
    """Whether a sentence begins there."""
    return not place or text[:place].rstrip()[-1:] in set(".?!")


def _frames(before: Prefixes, from_here: Rest, through: Prefixes, after: Rest) -> tuple[int, int]:
    """The frames in which the words between two places in a text are most likely said, and some around them.

    Args:
        before, from_here: the text up to the first place, and from it on.
        through, after: the text up to the second place, and from it on.
    """
    said = torch.logaddexp(before.token[0], before.blank[0])
    nothing = said.new_full((1,), 0.0 if before.last < 0 else NEVER)
    start = int((torch.cat([nothing, said]) + from_here.token).argmax())  # the first emission of what follows
    stop = int((through.token[0] + after.any()[1:]).argmax()) + 1  # after the last emission of what comes before
    return max(0, start - MARGIN), min(len(said), stop + MARGIN)


def _together(text: str, edits: Sequence[_Edit]) -> str:
    """The text with all those edits, the best first, that do not touch each other."""
    chosen: list[_Edit] = []
    for edit in edits:
        if all(edit.apart(other) for other in chosen):
            chosen.append(edit)
    for edit in sorted(chosen, key=lambda one: -one.start):
        text = edit.applied(text)
    return text
