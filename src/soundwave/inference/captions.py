"""Live captions: sound goes in as it comes, what is said comes out as typed events.

While somebody speaks, the latest seconds are encoded anew at every step, and the words in them found by CTC; those that
end a second before the step stand and never change (`ctc/stream.py`). At a pause the whole utterance is written down as
any recording is. All steps lie at fixed places of the sound, so events do not depend on the pieces in which it is fed.

It computes in the caller's thread, and knows nothing of microphones or terminals.
"""

# T samples, F frames, C CTC classes

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from types import TracebackType

import numpy as np

from soundwave.audio import SAMPLE_RATE
from soundwave.audio.arrays import ALLOWED_RATES
from soundwave.audio.cutting import LIVE, SpeechCutter, Stretch
from soundwave.audio.resampling import StreamResampler
from soundwave.ctc.align import Speller, align, emissions_of
from soundwave.ctc.stream import HeardWord, StandingWords, greedy_words
from soundwave.errors import AudioError, SoundwaveError, SoundwaveWarning
from soundwave.inference.options import ListenOptions
from soundwave.inference.results import Segment, Transcript, Word, later
from soundwave.inference.speech import SpeechFrontEnd
from soundwave.inference.transcription import Transcriber

CONTEXT_WORDS = 4  # before what is searched; more than mini's n-gram looks back
FULL_SCALE = 32768.0  # of 16-bit samples


@dataclass(frozen=True)
class Partial:
    """The words of the utterance under way, as far as they are heard.

    Attributes:
        text: the words.
        words: the same with their times, in seconds of the whole recording.
        stable: how many of them, from the first on, stand: they are the same in every later `Partial` of the utterance.
        start, end: of the words, in seconds.
    """

    text: str
    words: tuple[Word, ...]
    stable: int
    start: float
    end: float


@dataclass(frozen=True)
class Final:
    """An utterance that is over, written down as well as the model can; it takes the place of its partials.

    Attributes:
        text: the words; "" where what had been shown turned out to be none.
        transcript: with the times of the whole recording.
        start, end: of the utterance, in seconds.
    """

    text: str
    transcript: Transcript
    start: float
    end: float


Event = Partial | Final


class LiveSession:
    """Captions of one stream of sound; `Engine.listen` makes one.

    Args:
        front_end: encodes sound.
        transcriber: finds words.
        options: how.
        sampling_rate: of what is fed, in Hz.
        cutter: finds the utterances; None: a `SpeechCutter` that ends them at pauses.

    Attributes:
        skipped: steps that were left out because the caller was behind.

    Raises:
        AudioError: a sampling rate that no speech has.
        ConfigurationError: an option that this model cannot keep.
    """

    def __init__(
        self, front_end: SpeechFrontEnd, transcriber: Transcriber, options: ListenOptions,
        sampling_rate: int = SAMPLE_RATE, cutter: SpeechCutter | None = None,
    ):
        lowest, highest = ALLOWED_RATES
        if not lowest <= sampling_rate <= highest:
            raise AudioError(f"the sampling rate is {sampling_rate} Hz; allowed are {lowest} to {highest} Hz")
        self.options, self.skipped = options, 0
        self._front_end, self._transcriber = front_end, transcriber
        self._cutter = cutter or SpeechCutter(LIVE)
        self._resampler = None if sampling_rate == SAMPLE_RATE else StreamResampler(sampling_rate)
        self._reader = WindowReader(front_end, transcriber, options)
        self._step = self._reader.frame * max(1, round(options.step * SAMPLE_RATE / self._reader.frame))
        self._waiting = np.zeros(0, np.float32)  # the beginning of the next step
        self._latest, self._now = np.zeros(0, np.float32), 0  # the window, and where it ends, in samples
        self._utterance: _Utterance | None = None
        self._reached = 0.0  # the end of the last word that is final, in seconds
        self._open = True
        # Options are checked, and what is slow the first time is done, before anybody speaks.
        transcriber.transcribe([], options)
        self._reader.warm_up()

    def feed(self, samples: np.ndarray, behind: float = 0.0) -> list[Event]:
        """Takes the next samples in.

        Args:
            samples: (T,) of any length; floats in -1 ... 1, or 16-bit integers.
            behind: seconds of sound that came since and wait for their turn; where they are more than a step, words
                under way are not looked for, so that a slow machine catches up. No sound is ever left out.

        Returns:
            What is new, in its order; nothing while nobody speaks.

        Raises:
            AudioError: samples of a wrong shape or kind.
            SoundwaveError: the session is over.
        """
        self._check_open()
        self._waiting = np.concatenate([self._waiting, self._at_16_khz(_checked(samples))])
        events: list[Event] = []
        count = len(self._waiting) // self._step * self._step
        steps, self._waiting = self._waiting[:count], self._waiting[count:]
        for first in range(0, count, self._step):
            events += self._advance(steps[first : first + self._step], behind)
        return events

    def finish(self) -> list[Event]:
        """What is left: the utterance under way becomes final. Nothing can be fed afterwards."""
        self._check_open()
        rest = self._waiting
        if self._resampler is not None:
            rest = np.concatenate([rest, self._resampler.finish()])
        stretches = [*self._cutter.feed(rest), *self._cutter.finish()]
        self.close()
        return [event for stretch in stretches for event in self._final(stretch)]

    def close(self) -> None:
        """Forgets what was fed; without `finish`, what is under way is lost."""
        self._open, self._waiting = False, np.zeros(0, np.float32)

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._open:
            raise SoundwaveError("this session is over; begin another with engine.listen().")

    def _at_16_khz(self, samples: np.ndarray) -> np.ndarray:
        return samples if self._resampler is None else self._resampler.feed(samples)

    def _advance(self, step: np.ndarray, behind: float) -> list[Event]:
        """One step of sound."""
        self._now += len(step)
        self._latest = np.concatenate([self._latest, step])[-self._reader.window * self._reader.frame :]
        events: list[Event] = [event for stretch in self._cutter.feed(step) for event in self._final(stretch)]
        if not self._cutter.speaking:
            return events
        if behind * SAMPLE_RATE > self._step:
            self._skip()
            return events
        first, _ = self._cutter.pending
        if self._utterance is None or self._utterance.first != first:
            self._utterance = _Utterance(first, self._begin(first))
        return events + self._utterance.heard(self._reader, self._latest, self._now // self._reader.frame)

    def _begin(self, first: int) -> StandingWords:
        reader = self._reader
        reached = int(self._reached * SAMPLE_RATE)  # what two utterances share is said once
        return StandingWords(-(-max(first, reached) // reader.frame), reader.frames(self.options.stands_after))

    def _skip(self) -> None:
        if not self.skipped:
            warnings.warn(
                "this machine is too slow for captions at every step, so some come later; a longer --step needs less.",
                SoundwaveWarning, stacklevel=4,
            )
        self.skipped += 1

    def _final(self, stretch: Stretch) -> list[Event]:
        """The utterance written down, if anything is said in it, or if words of it were shown."""
        shown = self._utterance is not None and self._utterance.shown
        self._utterance = None
        speeches = self._front_end.encode_clips([stretch.samples], self._transcriber.has_words)
        (transcript,) = self._transcriber.transcribe(speeches, self.options)
        start, end = stretch.first / SAMPLE_RATE, stretch.end / SAMPLE_RATE
        transcript = later(transcript, start)
        if stretch.overlap:
            transcript = _without(transcript, self._reached)
        if not transcript.text and not shown:
            return []
        self._reached = transcript.segments[-1].end if transcript.segments else self._reached
        return [Final(transcript.text, transcript, round(start, 3), round(end, 3))]


class _Utterance:
    """The utterance under way.

    Attributes:
        first: where it begins, in samples of the recording.
        shown: whether any word of it was.
    """

    def __init__(self, first: int, standing: StandingWords):
        self.first, self.standing, self.shown = first, standing, False
        self._last: tuple[tuple[str, ...], int] = ((), 0)

    def heard(self, reader: WindowReader, samples: np.ndarray, now: int) -> list[Event]:
        """What the latest (T,) samples, up to the frame `now`, have that was not shown yet."""
        standing = self.standing
        changing = standing.hear(reader.read(samples, now, standing), now)
        words = [*standing.words, *changing]
        told = tuple(word.text for word in words), len(standing.words)
        if told == self._last or not (words or self.shown):
            return []
        self._last, self.shown = told, True
        timed = tuple(reader.timed(word) for word in words)
        start, end = (timed[0].start, timed[-1].end) if timed else (reader.seconds(now),) * 2
        return [Partial(" ".join(told[0]), timed, told[1], start, end)]


class WindowReader:
    """Finds the words in the latest seconds of an utterance, by CTC alone.

    Args:
        front_end: encodes sound.
        transcriber: its search for words is used, where the model has one.
        options: the length of the window, and hot words.

    Attributes:
        frame: samples of a CTC frame; all frames lie on one grid that begins with the recording.
    """

    def __init__(self, front_end: SpeechFrontEnd, transcriber: Transcriber, options: ListenOptions):
        self._front_end, self._transcriber, self._options = front_end, transcriber, options
        self._blank = transcriber.config.blank_class
        self.frame = round(transcriber.config.seconds_per_frame * SAMPLE_RATE)
        self.window = self.frames(options.window)

    def warm_up(self) -> None:
        """Encodes a window of silence."""
        self._front_end.ctc_logprobs(np.zeros(self.window * self.frame, np.float32))

    def frames(self, seconds: float) -> int:
        """How many frames a time has."""
        return max(1, round(seconds * SAMPLE_RATE / self.frame))

    def seconds(self, frame: int) -> float:
        """Where a frame begins, in seconds of the recording."""
        return round(frame * self.frame / SAMPLE_RATE, 3)

    def timed(self, word: HeardWord) -> Word:
        """A word with its times in seconds."""
        return Word(word.text, self.seconds(word.first), self.seconds(word.last))

    def read(self, samples: np.ndarray, now: int, standing: StandingWords) -> list[HeardWord]:
        """The words from the frontier on.

        Args:
            samples: (T,) the latest sound, from a frame's beginning on; what lies before the frontier is context.
            now: the frame at which it ends.
            standing: the words before.
        """
        begin = now - len(samples) // self.frame
        frontier = max(begin, standing.frontier)
        logprobs = self._front_end.ctc_logprobs(samples)[frontier - begin :]
        words = self._words(logprobs, [word.text for word in standing.words[-CONTEXT_WORDS:]])
        return [HeardWord(text, frontier + start, min(frontier + end, now)) for text, start, end in words]

    def _words(self, logprobs: np.ndarray, after: Sequence[str]) -> list[tuple[str, int, int]]:
        """The words in (F, C) log-probabilities and their frames."""
        if not self._transcriber.has_words:
            words = greedy_words(logprobs, self._begins, self._blank)
            return [
                (text, word[0][1], word[-1][1] + 1) for word in words
                if (text := self._transcriber.ctc.decode([token for token, _ in word]))
            ]
        found = self._transcriber.search.go_on(logprobs, after, self._options.hotwords)
        lattice = self._speller.lattice(found)
        aligned = align(emissions_of(logprobs, lattice), logprobs[:, self._blank].astype(np.float64), lattice)
        if aligned is None:  # a word that can be aligned only as it is spelt by more pieces
            bounds = np.linspace(0, len(logprobs), len(found) + 1).astype(int).tolist()
            return [(text, *span) for text, span in zip(found, pairwise(bounds), strict=True)]
        return [(text, pieces[0].first, pieces[-1].last) for text, pieces in zip(found, aligned, strict=True)]

    @cached_property
    def _begins(self) -> np.ndarray:
        """(C,) the classes that begin a word."""
        begins = np.zeros(self._blank + 1, bool)
        pieces = self._transcriber.ctc.pieces[: self._blank]
        begins[: len(pieces)] = [piece.startswith(" ") for piece in pieces]
        return begins

    @cached_property
    def _speller(self) -> Speller:
        return Speller(self._transcriber.search.lexicon.pieces)


def _checked(samples: np.ndarray) -> np.ndarray:
    """Samples as (T,) float32 in -1 ... 1.

    Raises:
        AudioError: they are of another shape or kind.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise AudioError(f"samples of shape {samples.shape} were fed; give (samples,) of one channel")
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / FULL_SCALE
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"samples of type {samples.dtype} were fed; give float32 in -1 ... 1, or int16")
    if not np.isfinite(samples).all():
        raise AudioError("samples were fed that are NaN or infinite; leave them out")
    return samples.astype(np.float32, copy=False)


def _without(transcript: Transcript, reached: float) -> Transcript:
    """A transcript without the words whose middle lies before a time: the stretch before has said them."""
    segments: list[Segment] = []
    for one in transcript.segments:
        words = tuple(word for word in one.words if (word.start + word.end) / 2 >= reached)
        if not one.words:
            segments.append(one)
        elif words:
            segments.append(replace(one, text=" ".join(word.text for word in words), start=words[0].start, words=words))
    return replace(transcript, text=" ".join(one.text for one in segments), segments=segments)
