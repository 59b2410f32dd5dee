"""Cutting at pauses: nothing that is said is lost, nothing is over 30 s, and the pieces it is fed in change nothing."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.audio.cutting import LIVE, CutOptions, SpeechCutter, Stretch
from soundwave.audio.vad import WINDOW, SpeechDetector, speech_probabilities
from soundwave.errors import ConfigurationError

QUESTION = Path(__file__).parents[1] / "examples" / "question.wav"
SMALL = CutOptions(target=2, longest=3, overlap=0.4, longest_pause=1)
# what the next piece of a made recording is (loudness 0: a pause), and for how many windows
PIECES = st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.9]), st.integers(1, 80)), min_size=1, max_size=12)


class Loudness:
    """A detector of one's own: it is speech where it is loud, and a little where it was loud just before."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.last = 0.0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        found = []
        for window in samples.reshape(-1, WINDOW):
            level = float(np.abs(window).max())
            self.last = max(level, 0.4 * self.last)
            found.append(self.last)
        return np.array(found)


def sound(pieces: list[tuple[float, int]], seed: int = 0) -> np.ndarray:
    """Noise of given loudness, piece by piece, and some samples more than whole windows."""
    rng = np.random.default_rng(seed)
    parts = [level * np.sign(rng.standard_normal(count * WINDOW)) * rng.uniform(0.9, 1) for level, count in pieces]
    return np.concatenate([*parts, np.zeros(int(rng.integers(0, WINDOW)))]).astype(np.float32)


Mark = tuple[int, int, int]  # after a piece: the cutter's position, what it reached, and how many stretches there were


def fed(cutter: SpeechCutter, samples: np.ndarray, sizes: list[int]) -> tuple[list[Stretch], list[Mark]]:
    """All stretches, and a mark after each piece."""
    stretches: list[Stretch] = []
    marks, at, turn = [], 0, 0
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        stretches += cutter.feed(samples[at : at + size])
        at, turn = at + size, turn + 1
        marks.append((cutter.position, cutter.reached, len(stretches)))
    return stretches + cutter.finish(), marks


def shape(stretches: list[Stretch]) -> list[tuple[int, int, int]]:
    return [(one.first, one.end, one.overlap) for one in stretches]


def cut(samples: np.ndarray, options: CutOptions | None = None) -> list[Stretch]:
    return fed(SpeechCutter(options), samples, [30 * SAMPLE_RATE])[0]


@settings(max_examples=60, deadline=None)
@given(PIECES, st.lists(st.integers(1, 40_000), min_size=1, max_size=5), st.sampled_from([0, 2]))
def test_any_pieces_of_the_same_samples_give_the_same_stretches(
    pieces: list[tuple[float, int]], sizes: list[int], target: float
) -> None:
    options = CutOptions(target=target, longest=3, overlap=0.4, longest_pause=1)
    samples = sound(pieces)
    whole, _ = fed(SpeechCutter(options, detector=Loudness()), samples, [len(samples)])
    parts, _ = fed(SpeechCutter(options, detector=Loudness()), samples, sizes)
    assert shape(parts) == shape(whole)
    for one in parts:
        assert (one.samples == samples[one.first : one.end]).all()


@settings(max_examples=40, deadline=None)
@given(PIECES, st.integers(2_000, 30_000))
def test_a_cutter_that_begins_at_a_position_of_another_goes_on_as_that_one_does(
    pieces: list[tuple[float, int]], size: int
) -> None:
    samples = sound(pieces)
    stretches, marks = fed(SpeechCutter(SMALL, detector=Loudness()), samples, [size])
    for position, reached, count in {mark for mark in marks if mark[0] > 0}:
        again = SpeechCutter(SMALL, position, reached, Loudness())
        assert shape(fed(again, samples[position:], [size // 2])[0]) == shape(stretches[count:])


@settings(max_examples=60, deadline=None)
@given(PIECES, st.sampled_from([0, 2]))
def test_the_stretches_hold_all_speech_in_order_and_none_is_too_long(
    pieces: list[tuple[float, int]], target: float
) -> None:
    options = CutOptions(target=target, longest=3, overlap=0.4, longest_pause=1, min_speech=0)
    samples = sound(pieces)
    stretches, _ = fed(SpeechCutter(options, detector=Loudness()), samples, [20_000])
    held = np.zeros(len(samples), bool)
    for one in stretches:
        held[one.first : one.end] = True
        assert len(one.samples) <= 3 * SAMPLE_RATE
    assert held[np.abs(samples) > 0.5].all()
    for one, other in pairwise(stretches):
        assert one.first < other.first
        assert one.end < other.end
        assert other.overlap == max(0, one.end - other.first)


def test_a_stretch_brings_the_probabilities_of_its_windows() -> None:
    pieces = [(0.0, 40), (0.9, 50), (0.0, 90), (0.9, 70), (0.0, 90)]
    for options in (SMALL, CutOptions()):
        for one in fed(SpeechCutter(options, detector=Loudness()), np.tile(sound(pieces), 4), [5_000])[0]:
            assert one.voice is not None
            assert len(one.voice) == pytest.approx(len(one.samples) / WINDOW, abs=1)
            loud = np.abs(one.samples) > 0.5
            assert WINDOW * (one.voice >= 0.5).sum() == pytest.approx(loud.sum(), abs=2 * WINDOW)


def test_speech_without_a_pause_is_cut_where_it_is_quietest_and_both_sides_have_that_second() -> None:
    samples = sound([(0.9, 820), (0.6, 8), (0.9, 600)])
    first, second = fed(SpeechCutter(detector=Loudness()), samples, [16_000])[0]
    quiet = 824 * WINDOW
    assert first.end - quiet == pytest.approx(SAMPLE_RATE / 2, abs=4 * WINDOW)
    assert quiet - second.first == pytest.approx(SAMPLE_RATE / 2, abs=4 * WINDOW)
    assert second.overlap == first.end - second.first == SAMPLE_RATE


def test_utterances_are_joined_up_to_the_target_and_cut_in_the_longest_late_pause() -> None:
    # 31 windows a second
    utterances = [(0.9, 125), (0.0, 15), (0.9, 250), (0.0, 25), (0.9, 125), (0.0, 12), (0.9, 450)]
    first, second = fed(SpeechCutter(CutOptions(target=20), detector=Loudness()), sound(utterances), [16_000])[0]
    assert 390 * WINDOW < first.end <= second.first < 415 * WINDOW
    assert second.overlap == 0


@pytest.mark.parametrize("level", [0.0, 0.3, 0.9])
def test_an_hour_of_silence_or_of_noise_is_not_kept(level: float) -> None:
    cutter = SpeechCutter(detector=Loudness())
    block = sound([(level, 2000)])[: 60 * SAMPLE_RATE]
    for _ in range(60):
        cutter.feed(block)
        assert cutter._sound._samples.nbytes <= 120 * SAMPLE_RATE * 4  # no public name says how much it holds


def test_a_recording_of_up_to_30_seconds_with_speech_stays_whole() -> None:
    samples = np.concatenate([sound([(0.0, 300)]), sound([(0.9, 30)]), sound([(0.0, 500)])])
    assert shape(fed(SpeechCutter(detector=Loudness()), samples, [999])[0]) == [(0, len(samples), 0)]
    assert fed(SpeechCutter(detector=Loudness()), samples[: 290 * WINDOW], [999])[0] == []


def test_live_each_utterance_ends_at_its_pause_and_is_pending_until_then() -> None:
    cutter = SpeechCutter(LIVE, detector=Loudness())
    assert cutter.feed(sound([(0.0, 40), (0.9, 30)])) == []
    assert cutter.speaking
    first, samples = cutter.pending
    assert first == 40 * WINDOW - SAMPLE_RATE // 4
    assert len(samples) >= 30 * WINDOW + SAMPLE_RATE // 4
    (stretch,) = cutter.feed(sound([(0.0, 20)]))
    assert stretch.first == first
    assert not cutter.speaking
    assert cutter.pending[1].size == 0
    assert cutter.finish() == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threshold": 0}, "threshold is 0"), ({"longest": 31}, "longest is 31"),
        ({"target": 20, "longest": 10}, "target is 20"), ({"overlap": 4, "longest": 10, "target": 5}, "overlap is 4"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        CutOptions(**options)


def test_the_detectors_probabilities_do_not_depend_on_the_pieces() -> None:
    samples = load_audio(QUESTION)
    detector = SpeechDetector()
    parts = [detector.feed(samples[at : at + 777]) for at in range(0, len(samples), 777)]
    assert (np.concatenate(parts) == speech_probabilities(samples)[: len(samples) // WINDOW]).all()
    detector.reset()
    assert (detector.feed(samples) == np.concatenate(parts)).all()


def test_the_detector_hears_a_person_and_no_silence_noise_or_tone() -> None:
    speech, rng = load_audio(QUESTION), np.random.default_rng(0)
    assert cut(speech)
    time = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    for other in (np.zeros_like(time), 0.1 * rng.standard_normal(len(time)), 0.3 * np.sin(2 * np.pi * 440 * time)):
        assert cut(other.astype(np.float32)) == []


def test_utterances_among_minutes_of_silence_are_found_again_from_every_position() -> None:
    speech = load_audio(QUESTION)
    gaps = [np.zeros(int(seconds * SAMPLE_RATE), np.float32) for seconds in (21.3, 0.7, 33.1)]
    samples = np.concatenate([part for gap in gaps for part in (gap, speech)])
    stretches, marks = fed(SpeechCutter(), samples, [16_000])
    assert len(stretches) >= 2
    for position, reached, count in {mark for mark in marks if mark[0] > 0}:
        again = SpeechCutter(None, position, reached)
        assert shape(fed(again, samples[position:], [50_000])[0]) == shape(stretches[count:])


def test_the_package_of_the_network_is_not_imported() -> None:
    code = (
        "import sys, numpy; from soundwave.audio.vad import speech_probabilities as find; find(numpy.zeros(512)); "
        "print('silero_vad' in sys.modules, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["False", "False"]
