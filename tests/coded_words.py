"""Recordings whose words are levels of a constant signal, and an engine part that reads them: cuts with known truth.

Word k is a run of samples at a level of its own; a pause is silence. What reads them finds a word in each run, also
where only a part of it is in the stretch, as a real recogniser does with half a word, and a little earlier or later.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np

from soundwave.audio import SAMPLE_RATE
from soundwave.audio.cutting import CutOptions, SpeechCutter
from soundwave.audio.vad import WINDOW
from soundwave.inference.longform import LongTranscriber
from soundwave.inference.options import TranscribeOptions
from soundwave.inference.results import Segment, Transcript, Word

WORDS = 40
LOWEST, STEP = 0.1, 0.02  # the level of word 0, and of each further one
SHORTEST_RUN = 0.04  # s; what is left of a shorter one is no word
JITTER = 0.03  # s, of each word's times: other in each stretch


def coded(words: Sequence[tuple[int, float, float]], rate: int = SAMPLE_RATE) -> np.ndarray:
    """(samples,) of words, each with its number, its length and the pause after it in seconds."""
    parts = []
    for number, length, pause in words:
        parts += [np.full(round(length * rate), LOWEST + STEP * number), np.zeros(round(pause * rate))]
    return np.concatenate([*parts, np.zeros(rate // 10)]).astype(np.float32)


def text_of(words: Sequence[tuple[int, float, float]]) -> str:
    return " ".join(f"w{number}" for number, _, _ in words)


class Loudness:
    """Speech is where it is loud."""

    def reset(self) -> None:
        pass

    def feed(self, samples: np.ndarray) -> np.ndarray:
        return (np.abs(samples.reshape(-1, WINDOW)).max(axis=1) > 0.05).astype(np.float32)


def cutter(position: int, reached: int, options: CutOptions | None = None) -> SpeechCutter:
    return SpeechCutter(options, position, reached, Loudness())


def reader(options: CutOptions | None = None) -> LongTranscriber:
    """What writes coded recordings down."""
    front_end: Any = SimpleNamespace(
        encoder=SimpleNamespace(device=SimpleNamespace(type="cpu")), encode_clips=_speeches,
        text=lambda ids: " ".join(f"w{number}" for number in ids),
    )
    transcriber: Any = SimpleNamespace(has_words=False, transcribe=_transcribe)
    return LongTranscriber(front_end, transcriber, functools.partial(cutter, options=options))


def _speeches(clips: Sequence[np.ndarray], keep_logprobs: bool, voices: Sequence[Any]) -> list[Any]:
    speeches = []
    for clip in clips:
        runs = list(_runs(clip))
        times = [(start / SAMPLE_RATE, end / SAMPLE_RATE) for _, start, end in runs]
        numbers = [number for number, _, _ in runs]
        speeches.append(SimpleNamespace(
            clip=clip, token_times=times, ctc_token_ids=numbers, duration=len(clip) / SAMPLE_RATE,
            ctc_text=" ".join(f"w{number}" for number in numbers),
        ))
    return speeches


def _runs(clip: np.ndarray) -> Any:
    numbers = np.where(clip > LOWEST / 2, np.round((clip - LOWEST) / STEP), -1).astype(int)
    position = 0
    for number, run in groupby(numbers.tolist()):
        length = len(list(run))
        if number >= 0 and length >= SHORTEST_RUN * SAMPLE_RATE:
            yield number, position, position + length
        position += length


def _transcribe(speeches: Sequence[Any], options: TranscribeOptions) -> list[Transcript]:
    transcripts = []
    for speech in speeches:
        draw = np.random.default_rng(len(speech.clip))
        words = []
        for number, (start, end) in zip(speech.ctc_token_ids, speech.token_times, strict=True):
            moved = draw.uniform(-JITTER, JITTER)
            words.append(Word(f"w{number}", start + moved, end + moved))
        text = " ".join(word.text for word in words)
        segments = [Segment(text, words[0].start, words[-1].end, tuple(words))] if words else []
        transcripts.append(Transcript(text, speech.ctc_text, speech.duration, None, segments, "ctc"))
    return transcripts
