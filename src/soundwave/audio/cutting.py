"""A stream of any length cut into stretches of at most 30 s that hold all its speech, at pauses where there are any.

Memory does not grow with the stream, and the stretches do not depend on the pieces in which it is fed. Where one
stretch is cut off, the search for the next begins anew, as if the recording began there; so work that was stopped can
go on from any `SpeechCutter.position` and find what it would have found.

It knows what speech is from a detector (`vad.py`), and nothing of words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from soundwave.audio.mixing import Samples
from soundwave.audio.resampling import SAMPLE_RATE
from soundwave.audio.vad import SPEECH_PROBABILITY, WINDOW, WINDOWS_AT_ONCE, SpeechDetector
from soundwave.errors import ConfigurationError
from soundwave.settings import check_settings, setting

HYSTERESIS = 0.15  # in speech, windows count as speech down to so much below the threshold
IDLE_SECONDS = 10  # after so long without speech the search begins anew, ...
WARM_UP_SECONDS = 1  # ... this much earlier: the detector's first windows are its least sure
SEARCH_SHARE = 1 / 3  # of the longest stretch: how far before its end the quietest moment is looked for
SMOOTHING = 3  # windows whose mean energy is a moment's: 0.1 s; shorter dips are within words


@dataclass(frozen=True)
class CutOptions:
    """How a recording is cut into stretches with speech.

    Raises:
        ConfigurationError: a value out of range, or one that contradicts another.
    """

    threshold: float = setting(
        SPEECH_PROBABILITY, above=0, below=1, help="The probability from which on sound is speech."
    )
    min_speech: float = setting(0.09, least=0, most=1, help="Shorter sounds are no speech, in seconds.")
    min_silence: float = setting(0.3, above=0, most=5, help="The shortest pause that may be cut, in seconds.")
    longest_pause: float = setting(2.0, above=0, most=5, help="A longer pause is always cut, in seconds.")
    pad_before: float = setting(0.25, least=0, most=2, help="What is kept before speech, in seconds.")
    pad_after: float = setting(0.25, least=0, most=2, help="What is kept after speech, in seconds.")
    target: float = setting(
        15.0, least=0, most=30, help="Utterances are joined up to this length, in seconds; 0: each stands alone."
    )
    longest: float = setting(30.0, least=1, most=30, help="No stretch is longer, in seconds.")
    overlap: float = setting(
        1.0, least=0, help="What two stretches share where speech itself had to be cut, in seconds."
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.target > self.longest:
            raise ConfigurationError(f"target is {self.target:g}, but longest is {self.longest:g}; lower the target.")
        if self.overlap > self.longest / 3:
            raise ConfigurationError(
                f"overlap is {self.overlap:g}; of stretches of up to {self.longest:g} s, give a third at most."
            )


LIVE = CutOptions(min_silence=0.5, target=0)  # each utterance as soon as it is over


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a recording that holds speech.

    Attributes:
        first: where it begins, in samples of the recording.
        samples: (T,) float32 at 16 kHz.
        overlap: how many of its samples the stretch before it holds too; 0 unless speech itself had to be cut.
        voice: (W,) how likely somebody speaks, for each 32 ms, as the cutter found it; None: not found for this part.
    """

    first: int
    samples: Samples
    overlap: int = 0
    voice: np.ndarray | None = None

    @property
    def end(self) -> int:
        """Where it ends, in samples of the recording."""
        return self.first + len(self.samples)


class Detector(Protocol):
    """What finds speech in windows of 512 samples: a `SpeechDetector`."""

    def feed(self, samples: Samples) -> np.ndarray: ...
    def reset(self) -> None: ...


class SpeechCutter:
    """Cuts one recording.

    Args:
        options: how.
        first: the sample from which on it is fed: 0, or the `position` of another cutter that was stopped.
        reached: where that one's last stretch ended (its `reached`).
        detector: what finds speech; None: a `SpeechDetector`.
    """

    def __init__(
        self, options: CutOptions | None = None, first: int = 0, reached: int = 0, detector: Detector | None = None
    ):
        self.options = options or CutOptions()
        self.reached = reached
        self._detector = detector or SpeechDetector()
        self._sound = _Sound(first)
        self._scan = self._scan_from(first)
        # A recording that fits into one stretch stays whole; so nothing is cut before it is known not to.
        self._held = first == 0 and self.options.target > 0

    @property
    def position(self) -> int:
        """From here on nothing is decided: a cutter that begins here finds the same stretches that this one will."""
        return self._scan.first

    @property
    def speaking(self) -> bool:
        """Whether somebody spoke just now: no pause of `min_silence` has passed."""
        scan = self._scan
        return scan.spoken and scan.now - scan.spoken_end < samples_in(self.options.min_silence)

    @property
    def pending(self) -> tuple[int, Samples]:
        """Where the stretch under way begins, and all that was fed from there on; no samples where none is."""
        scan = self._scan
        first = scan.begin if scan.spoken else self._sound.end
        return first, self._sound.part(first, self._sound.end).copy()

    def feed(self, samples: Samples) -> list[Stretch]:
        """Takes the next samples in, (T,) float32 at 16 kHz, and gives the stretches that they complete."""
        self._sound.add(samples)
        if self._held and self._sound.end <= samples_in(self.options.longest):
            return []
        self._held = False
        stretches = list(self._stretches(final=False))
        self._sound.drop_before(self.position)
        return stretches

    def finish(self) -> list[Stretch]:
        """The last stretches; the recording is over."""
        stretches = list(self._stretches(final=True))
        if self._held and stretches:
            stretches = [Stretch(0, self._sound.part(0, self._sound.end).copy())]
        self._scan = self._scan_from(self._sound.end)
        self._sound.drop_before(self._sound.end)
        return stretches

    def _scan_from(self, position: int) -> _Scan:
        self._detector.reset()
        return _Scan(self.options, position)

    def _stretches(self, final: bool) -> Iterator[Stretch]:
        """Looks through what was fed and is not decided yet; `final`: nothing will follow."""
        while (cut := self._next_cut(final)) is not None:
            if cut.end > max(cut.begin, self.reached):  # else there is no speech, or the last stretch has it all
                overlap = max(0, self.reached - cut.begin)
                self.reached = cut.end
                samples = self._sound.part(cut.begin, cut.end).copy()
                yield Stretch(cut.begin, samples, overlap, self._scan.voice(cut.begin, cut.end))
            self._scan = self._scan_from(cut.then)

    def _next_cut(self, final: bool) -> _Cut | None:
        scan, end = self._scan, self._sound.end
        while (count := min((end - scan.now) // WINDOW, WINDOWS_AT_ONCE)) > 0:
            block = self._sound.part(scan.now, scan.now + count * WINDOW)
            if (cut := self._looked_at(block, block.size)) is not None:
                return cut
        rest = end - scan.now
        if final and rest > 0:
            block = np.zeros(WINDOW, np.float32)
            block[:rest] = self._sound.part(scan.now, end)
            if (cut := self._looked_at(block, rest)) is not None:
                return cut
        return scan.last_cut() if final else None

    def _looked_at(self, block: Samples, size: int) -> _Cut | None:
        """The first cut in whole windows, of which `size` samples are the recording's."""
        energies = np.square(block.reshape(-1, WINDOW)).mean(axis=1)
        for i, (probability, energy) in enumerate(zip(self._detector.feed(block), energies, strict=True)):
            cut = self._scan.step(float(probability), float(energy), min(WINDOW, size - i * WINDOW))
            if cut is not None:
                return cut
        return None


def samples_in(seconds: float) -> int:
    """How many samples a time has."""
    return round(seconds * SAMPLE_RATE)


class _Cut(NamedTuple):
    """Where a stretch begins and ends, and where the search then begins anew; an empty stretch is none."""

    begin: int
    end: int
    then: int


class _Scan:
    """What was found from one sample on. It follows from the sound behind that sample, and from nothing before it.

    Attributes:
        first: that sample.
        now: the end of the last window.
        begin: where the stretch under way begins.
        spoken_end: the end of its last window with speech.
    """

    def __init__(self, options: CutOptions, first: int):
        self.options, self.first, self.now = options, first, first
        self.begin = self.spoken_end = first
        self._onset: int | None = None  # of the first speech
        self._speech = False  # whether the last window was speech
        self._pauses: list[tuple[int, int]] = []
        self._energies: list[float] = []
        self._probabilities: list[float] = []

    def voice(self, begin: int, end: int) -> np.ndarray:
        """The probabilities of the windows that lie at least half between two samples."""
        first, last = (round((at - self.first) / WINDOW) for at in (begin, end))
        return np.array(self._probabilities[first:last], np.float32)

    @property
    def spoken(self) -> bool:
        """Whether a stretch is under way."""
        return self._onset is not None and self.spoken_end - self._onset >= samples_in(self.options.min_speech)

    def step(self, probability: float, energy: float, size: int = WINDOW) -> _Cut | None:
        """Takes the next window in: the probability of speech in it, its energy, and how many samples it has."""
        options, start = self.options, self.now
        self.now += size
        self._energies.append(energy)
        self._probabilities.append(probability)
        self._speech = probability >= options.threshold - HYSTERESIS * self._speech
        if self._speech:
            if self._onset is None:
                self._onset, self.begin = start, max(self.first, start - samples_in(options.pad_before))
            elif start - self.spoken_end >= samples_in(options.min_silence):
                self._pauses.append((self.spoken_end, start))
            self.spoken_end = self.now
        return self._cut()

    def last_cut(self) -> _Cut | None:
        """The stretch under way, where the recording ends."""
        if not self.spoken:
            return None
        return _Cut(self.begin, min(self.now, self.spoken_end + samples_in(self.options.pad_after)), self.now)

    def _cut(self) -> _Cut | None:
        options, silence = self.options, self.now - self.spoken_end
        if self._onset is None:
            idle = self.now - self.first >= samples_in(IDLE_SECONDS)
            return _Cut(0, 0, self.now - samples_in(WARM_UP_SECONDS)) if idle else None
        length, paused = self.now - self.begin, silence >= samples_in(options.min_silence)
        if not self.spoken:
            if paused:  # it was no speech
                self._onset = None
            return None
        if silence >= samples_in(options.longest_pause):
            return self._at_pause(self.spoken_end, self.now)
        if length > samples_in(options.target) and (paused or self._pauses):
            return self._at_pause(*self._best_pause([*self._pauses, *[(self.spoken_end, self.now)] * paused]))
        return self._in_speech() if length >= samples_in(options.longest) else None

    def _best_pause(self, pauses: list[tuple[int, int]]) -> tuple[int, int]:
        """The longest in the second half of the target length; where there is none, the last one."""
        late = [pause for pause in pauses if pause[0] - self.begin >= samples_in(self.options.target) / 2]
        return max(late or pauses[-1:], key=lambda pause: pause[1] - pause[0])

    def _at_pause(self, begin: int, end: int) -> _Cut:
        """The stretch up to a pause: what is kept after speech, but no more than half of the pause."""
        cut = begin + min(samples_in(self.options.pad_after), (end - begin) // 2)
        cut = min(cut, self.begin + samples_in(self.options.longest))
        return _Cut(self.begin, cut, cut)

    def _in_speech(self) -> _Cut:
        """The stretch up to the quietest moment near its limit, and a part beyond, which the next one has too."""
        overlap, limit = samples_in(self.options.overlap), self.begin + samples_in(self.options.longest)
        behind = (limit - overlap // 2 - self.first) // WINDOW  # windows that may be the quietest
        before = behind - max(1, round(SEARCH_SHARE * (limit - self.begin) / WINDOW))
        smooth = np.convolve(self._energies, np.ones(SMOOTHING), "same")
        quietest = before + int(np.argmin(smooth[before:behind]))
        middle = self.first + quietest * WINDOW + WINDOW // 2
        return _Cut(self.begin, min(middle + overlap - overlap // 2, limit), middle - overlap // 2)


class _Sound:
    """The samples of a recording from a position on; what is no longer needed is dropped."""

    def __init__(self, first: int):
        self._first = self.end = first
        self._samples = np.zeros(0, np.float32)  # the first `end - first` of them are filled

    def add(self, samples: Samples) -> None:
        size = self.end - self._first
        if size + len(samples) > len(self._samples):  # doubled, so that small pieces are not copied again and again
            grown = np.zeros(max(size + len(samples), 2 * size), np.float32)
            grown[:size] = self._samples[:size]
            self._samples = grown
        self._samples[size : size + len(samples)] = samples
        self.end += len(samples)

    def part(self, begin: int, end: int) -> Samples:
        """A view of the samples between two positions."""
        return self._samples[begin - self._first : end - self._first]

    def drop_before(self, position: int) -> None:
        if position > self._first:
            self._samples = self.part(position, self.end).copy()
            self._first = position
