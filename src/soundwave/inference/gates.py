"""What keeps invented words out of a transcript: no text without speech, none without evidence, and no loops.

Search and LLM find words in any sound. These gates ask those who do not read: the voice detector, and how sure the CTC
path is. A text that the LLM wrote is held against CTC's: where they have little in common, or where the LLM says the
same over and over, CTC's stands.
"""

# F frames, C CTC classes, W windows of the voice detector

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from soundwave.audio.vad import SPEECH_PROBABILITY
from soundwave.inference.results import Source, Speech
from soundwave.inference_config import GateOptions

FEWEST_WINDOWS = 3  # with speech, 0.1 s: shorter sounds are clicks
FULL_DENSITY = 0.25  # of frames with a token, in speech; more is not more sure
LONGEST_PHRASE = 12  # words that are said over and over
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class Gates:
    """Lets texts pass, or not.

    Args:
        options: how much is asked for.
        blank: class of the CTC blank.
    """

    def __init__(self, options: GateOptions, blank: int):
        self.options, self.blank = options, blank

    def passed(self, text: str, speech: Speech, source: Source) -> tuple[str, Source]:
        """The text that may stand for a recording, and where it is from: nothing, CTC's, or the text itself."""
        if not text or not self._is_said(speech):
            return "", source
        if source == "llm" and not self._is_agreed(text, speech.ctc_text):
            return speech.ctc_text, "ctc"
        return text, source

    def _is_said(self, speech: Speech) -> bool:
        if speech.voice is None:
            return True
        voiced = int((speech.voice >= SPEECH_PROBABILITY).sum())
        if self.options.speech and voiced < FEWEST_WINDOWS:
            return False
        return self.options.evidence == 0 or evidence(speech, self.blank) >= self.options.evidence

    def _is_agreed(self, text: str, ctc_text: str) -> bool:
        if loops([text], self.options.repeats) > loops([ctc_text], self.options.repeats):
            return False
        return disagreement(text, ctc_text) <= self.options.disagreement


def evidence(speech: Speech, blank: int) -> float:
    """How much speaks for words in a recording, from 0 to 1, whatever its length and the pauses in it.

    The product of the squared mean probability of speech, where there is speech; the mean posterior of the greedy CTC
    path, where it is not blank; and the root of how many frames it is not blank, of those with speech. Many voices at
    once are speech, but the detector is less sure of it, and CTC finds few tokens in it and those with doubt.
    """
    assert speech.voice is not None
    voiced = speech.voice >= SPEECH_PROBABILITY
    largest, decided = _greedy(speech)
    tokens = decided != blank
    if not voiced.any() or not tokens.any():
        return 0.0
    density = min(1.0, float(tokens.mean() / voiced.mean()) / FULL_DENSITY)
    sure = float(np.exp(largest[tokens]).mean())
    return float(speech.voice[voiced].mean()) ** 2 * sure * density**0.5


def _greedy(speech: Speech) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest class of each frame and its log-probability: (F,), (F,)."""
    if speech.ctc_logprobs is not None:
        values, classes = speech.ctc_logprobs.float().max(-1)
        return values.cpu().numpy(), classes.cpu().numpy()
    assert speech.ctc_likely is not None  # one of both is kept
    return speech.ctc_likely.values[:, 0], speech.ctc_likely.classes[:, 0]


def disagreement(text: str, other: str) -> float:
    """Share of letters that must be changed, put in or taken out to make one text of the other, from 0 to 1.

    Case, spaces and punctuation do not count.

    Example:
        >>> disagreement("The cat sat.", "a cat sat")
        0.3333333333333333
    """
    first, second = ("".join(WORD.findall(one.lower())) for one in (text, other))
    if not first or not second:
        return float(first != second)
    letters = np.array([ord(letter) for letter in second])
    steps = np.arange(len(second) + 1)
    costs = steps
    for row, letter in enumerate(first, 1):  # Levenshtein's table, row by row
        changed = np.append(row, np.minimum(costs[:-1] + (letters != ord(letter)), costs[1:] + 1))
        costs = np.minimum.accumulate(changed - steps) + steps
    return float(costs[-1] / max(len(first), len(second)))


def loops(texts: Iterable[str], repeats: int) -> int:
    """How many phrases are said at least so often in a row, over all segments of a transcript together.

    Example:
        >>> loops(["and then he said", "he said he said he said so"], 4)
        1
    """
    words = [word for text in texts for word in WORD.findall(text.lower())]
    found, at = 0, 0
    while at < len(words):
        length = next((size for size in range(1, LONGEST_PHRASE + 1) if _repeats(words, at, size) >= repeats), 0)
        found += length > 0
        at += length * _repeats(words, at, length) if length else 1
    return found


def _repeats(words: Sequence[str], at: int, size: int) -> int:
    """How often the phrase of so many words stands there in a row."""
    phrase, times = words[at : at + size], 1
    while words[at + times * size : at + (times + 1) * size] == phrase:
        times += 1
    return times if len(phrase) == size else 0
