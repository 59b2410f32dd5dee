"""Live captions: the same events however sound is fed, words that stand, and nothing where nobody speaks."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transcription import LETTERS, SENTENCES, engine_with

from soundwave.audio import SAMPLE_RATE
from soundwave.audio.cutting import LIVE, CutOptions, SpeechCutter
from soundwave.audio.vad import WINDOW
from soundwave.ctc.ngram_training import train_ngram
from soundwave.errors import AudioError, ConfigurationError, SoundwaveError, SoundwaveWarning
from soundwave.inference.captions import Event, Final, LiveSession, Partial
from soundwave.inference.engine import Engine
from soundwave.inference.options import ListenOptions

QUIET = np.zeros(round(0.9 * SAMPLE_RATE), np.float32)
SPOKEN = np.concatenate([QUIET, tiny.sound(3.3, 1), QUIET, tiny.sound(1.1, 2), QUIET[:9999]])
OPTIONS = ListenOptions(step=0.24, window=2.0, stands_after=0.6)


class LoudnessDetector:
    """Takes whatever is loud for speech: tiny models hear words in chords."""

    def feed(self, samples: np.ndarray) -> np.ndarray:
        return (np.abs(samples.reshape(-1, WINDOW)).max(1) > 0.01).astype(np.float32)

    def reset(self) -> None:
        pass


def listening(engine: Engine, options: ListenOptions = OPTIONS, cut: CutOptions = LIVE, **more: Any) -> LiveSession:
    cutter = SpeechCutter(cut, detector=LoudnessDetector())
    return LiveSession(engine._front_end, engine._transcriber, options, cutter=cutter, **more)


def events_of(session: LiveSession, samples: np.ndarray, sizes: list[int] | int = 4000, **more: Any) -> list[Event]:
    events: list[Event] = []
    first, turn = 0, 0
    while first < len(samples):
        size = sizes if isinstance(sizes, int) else sizes[turn % len(sizes)]
        events += session.feed(samples[first : first + size], **more)
        first, turn = first + size, turn + 1
    return events + session.finish()


@pytest.fixture(scope="module")
def engine() -> Engine:
    letters = tiny.chat_tokenizer().convert_tokens_to_ids(list(LETTERS))
    return tiny.engine(tiny.config(ctc_vocabulary=sorted(letters)), llm=False)


@pytest.fixture(scope="module")
def usual(engine: Engine) -> list[Event]:
    return events_of(listening(engine), SPOKEN)


def test_each_utterance_has_partials_and_then_its_final(usual: list[Event]) -> None:
    kinds = "".join("f" if isinstance(event, Final) else "p" for event in usual)
    first, second, rest = kinds.split("f")
    assert (rest, len(first) > 5, len(second) > 1) == ("", True, True)
    assert all(event.text for event in usual)


@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.integers(320, 80_000), min_size=1, max_size=8))  # 20 ms to 5 s
def test_events_do_not_depend_on_how_sound_is_fed(engine: Engine, usual: list[Event], sizes: list[int]) -> None:
    assert events_of(listening(engine), SPOKEN, sizes) == usual


def test_words_that_stand_are_the_same_in_every_later_partial(usual: list[Event]) -> None:
    stood: tuple[Any, ...] = ()
    most = 0
    for event in usual:
        if isinstance(event, Final):
            stood = ()
            continue
        assert event.words[: len(stood)] == stood
        assert event.text == " ".join(word.text for word in event.words)
        stood = event.words[: event.stable]
        most = max(most, len(stood))
    assert most > 3


def test_words_stand_about_as_soon_as_they_are_told_to(usual: list[Event]) -> None:
    latest = OPTIONS.step + 2 * OPTIONS.stands_after
    for before, event in pairwise(usual):
        if isinstance(event, Partial) and isinstance(before, Partial):
            changing = event.words[event.stable :]
            assert all(word.end > event.end - latest for word in changing)


def test_a_final_is_what_the_utterance_gives_as_a_recording(engine: Engine, usual: list[Event]) -> None:
    finals = [event for event in usual if isinstance(event, Final)]
    cutter = SpeechCutter(LIVE, detector=LoudnessDetector())
    stretches = [*cutter.feed(SPOKEN), *cutter.finish()]
    speeches = [engine.encode((stretch.samples, SAMPLE_RATE)) for stretch in stretches]
    transcripts = engine._transcriber.transcribe(speeches, OPTIONS)
    for final, stretch, transcript in zip(finals, stretches, transcripts, strict=True):
        assert (final.text, final.start) == (transcript.text, round(stretch.first / SAMPLE_RATE, 3))
        later = [segment.start for segment in final.transcript.segments]
        shift = stretch.first / SAMPLE_RATE
        assert later == pytest.approx([segment.start + shift for segment in transcript.segments], abs=2e-3)


@pytest.mark.parametrize("nothing", [np.zeros(80_000, np.float32), np.zeros(0, np.float32)])
def test_where_nobody_speaks_nothing_comes(engine: Engine, nothing: np.ndarray) -> None:
    assert events_of(listening(engine), nothing) == []
    assert engine.listen().feed(nothing) == []  # with the speech detector itself


def test_the_window_bounds_what_is_encoded_however_long_somebody_speaks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    session = listening(engine)
    encode = engine._front_end.ctc_logprobs
    monkeypatch.setattr(
        engine._front_end, "ctc_logprobs", lambda samples: lengths.append(len(samples)) or encode(samples)
    )
    events_of(session, tiny.sound(9.0))
    assert max(lengths) == OPTIONS.window * SAMPLE_RATE
    assert len(lengths) == pytest.approx(9.0 / OPTIONS.step, abs=3)


def test_speech_without_pauses_is_final_bit_by_bit_and_no_word_comes_twice(engine: Engine) -> None:
    cut = replace(LIVE, longest=3.0, overlap=0.6)
    events = events_of(listening(engine, cut=cut), tiny.sound(10.0, 5))
    finals = [event for event in events if isinstance(event, Final)]
    words = [word for final in finals for segment in final.transcript.segments for word in segment.words]
    assert len(finals) >= 3
    middles = [(word.start + word.end) / 2 for word in words]
    assert middles == sorted(middles)


def test_who_is_behind_gets_fewer_partials_and_the_same_finals(engine: Engine, usual: list[Event]) -> None:
    session = listening(engine)
    with pytest.warns(SoundwaveWarning, match="too slow") as told:
        events = events_of(session, SPOKEN, behind=0.5)
    assert len(told) == 1
    assert session.skipped > 5
    assert events == [event for event in usual if isinstance(event, Final)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert events_of(listening(engine), SPOKEN, behind=OPTIONS.step) == usual  # a step: as always


def test_16_bit_samples_are_the_same_sound(engine: Engine) -> None:
    integers = (SPOKEN * 32767).astype(np.int16)
    floats = integers.astype(np.float64) / 32768
    assert events_of(listening(engine), integers) == events_of(listening(engine), floats)


def test_other_sampling_rates_are_heard_too_however_they_are_fed(engine: Engine) -> None:
    rate = 44_100
    places = np.arange(int(len(SPOKEN) * rate / SAMPLE_RATE)) * SAMPLE_RATE / rate
    faster = np.interp(places, np.arange(len(SPOKEN)), SPOKEN).astype(np.float32)
    events = events_of(listening(engine, sampling_rate=rate), faster, [1, 999, 60_000])
    assert events == events_of(listening(engine, sampling_rate=rate), faster, len(faster))
    assert sum(isinstance(event, Final) for event in events) == 2


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (np.zeros((2, 9), np.float32), "(2, 9)"), (np.zeros(9, np.int32), "int32"), (np.full(9, np.nan), "NaN"),
        (["a"], "<U1"),
    ],
)
def test_what_is_no_sound_is_refused(engine: Engine, samples: Any, told: str) -> None:
    with pytest.raises(AudioError) as error:
        listening(engine).feed(samples)
    assert told in str(error.value)


def test_mistakes_are_told_before_anybody_speaks(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="hotwords"):
        engine.listen(ListenOptions(hotwords=("Soundwave",)))  # there is no search for words
    with pytest.raises(ConfigurationError, match="llm"):
        engine.listen(ListenOptions(llm=True))
    with pytest.raises(AudioError, match="100 Hz"):
        engine.listen(sampling_rate=100)
    with pytest.raises(ConfigurationError, match="stands_after"):
        ListenOptions(window=2, stands_after=1.5)


def test_a_session_that_is_over_takes_nothing_in(engine: Engine) -> None:
    with listening(engine) as session:
        session.feed(SPOKEN[:100])
    for call in (session.finish, lambda: session.feed(SPOKEN[:100])):
        with pytest.raises(SoundwaveError, match="over"):
            call()


def test_with_an_n_gram_the_words_are_its_own(tmp_path: Path) -> None:
    train_ngram(SENTENCES, order=2, least=1).save(tmp_path / "ngram.npz")
    engine = engine_with(tmp_path, llm=False)
    events = events_of(listening(engine, ListenOptions(llm=False, step=0.48, window=2.0, stands_after=0.2)), SPOKEN)
    partials = [event for event in events if isinstance(event, Partial)]
    known = {word for sentence in SENTENCES for word in sentence}
    assert {word.text for event in partials for word in event.words} <= known
    assert max(event.stable for event in partials) >= 1
    for event in partials:
        assert all(word.start < word.end for word in event.words)
        assert all(word.end <= after.start for word, after in pairwise(event.words))
