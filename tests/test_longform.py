"""Transcripts of any length: nothing lost or said twice at seams, the same in a stream, a batch, and after a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny
from coded_words import WORDS, coded, cutter, reader, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import encoded

from soundwave.audio import SAMPLE_RATE
from soundwave.audio.cutting import CutOptions
from soundwave.errors import AudioError, SoundwaveWarning
from soundwave.inference.engine import Engine
from soundwave.inference.longform import LongTranscriber, Part, joined, seam_between, spoken_in
from soundwave.inference.options import AudioOptions, TranscribeOptions
from soundwave.inference.results import Transcript, Word
from soundwave.inference.resuming import marks_of, up_to_marks
from soundwave.inference.stretches import Listening

# of each word: its number, its length and the pause after it, in seconds
SPOKEN = st.lists(
    st.tuples(st.integers(0, WORDS - 1), st.floats(0.1, 0.4), st.sampled_from([0.0, 0.0, 0.02, 0.1, 0.5])),
    min_size=1, max_size=200,
)
SMALL = CutOptions(target=3, longest=5, overlap=1.0, longest_pause=1)
LETTERS = "Ġabcdefghijklmnopqrstuvwxyz'"


def different_neighbours(words: Sequence[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """The same, but two equal words are never next to each other: a run would be one word."""
    return [word for i, word in enumerate(words) if i == 0 or word[0] != words[i - 1][0]]


def run_of_words(seconds: float, seed: int, pause: float = 0.0) -> list[tuple[int, float, float]]:
    draw = np.random.default_rng(seed)
    words, total = [], 0.0
    while total < seconds:
        words.append((int(draw.integers(WORDS)), float(draw.uniform(0.1, 0.4)), pause * float(draw.random() < 0.1)))
        total += words[-1][1] + words[-1][2]
    return different_neighbours(words)


def written(long: LongTranscriber, *recordings: Listening) -> list[Transcript]:
    parts: list[list[Part]] = [[] for _ in recordings]
    for part in long.parts(recordings, TranscribeOptions()):
        assert part.error is None, part.error
        parts[part.recording].append(part)
    return [joined(some, "ctc") for some in parts]


@settings(deadline=None, max_examples=30)
@given(SPOKEN, st.sampled_from([8_000, 16_000, 22_050, 48_000]))
def test_every_word_is_written_once_wherever_it_is_cut_and_at_any_sampling_rate(
    words: list[tuple[int, float, float]], rate: int
) -> None:
    words = different_neighbours(words)
    sound = np.concatenate([coded(words, rate), np.zeros(31 * rate, np.float32)])  # a long one, whatever is said
    (transcript,) = written(reader(SMALL), Listening((sound, rate)))
    assert transcript.text == text_of(words)
    assert transcript.ctc_text == transcript.text
    assert transcript.text == " ".join(segment.text for segment in transcript.segments)


@pytest.mark.parametrize("seed", range(4))
def test_words_without_a_pause_are_cut_with_an_overlap_and_keep_their_times(seed: int) -> None:
    words = run_of_words(100.0, seed)
    (transcript,) = written(reader(), Listening((coded(words), SAMPLE_RATE)))
    assert transcript.text == text_of(words)
    begins = np.cumsum([0.0, *(length + pause for _, length, pause in words)])[:-1]
    found = [word.start for segment in transcript.segments for word in segment.words]
    assert np.abs(np.array(found) - begins).max() < 0.04
    assert transcript.duration == pytest.approx(sum(length + pause for _, length, pause in words) + 0.1, abs=0.02)


WORD_TIMES = st.lists(st.tuples(st.floats(0.08, 0.5), st.sampled_from([0.0, 0.05, 0.3])), min_size=3, max_size=12)


@settings(deadline=None)
@given(WORD_TIMES, st.randoms(use_true_random=False))
def test_a_seam_has_each_word_on_one_side_though_its_times_differ(words: list[tuple[float, float]], draw: Any) -> None:
    left, right, at = [], [], 9.4
    for length, pause in words:
        moves = [draw.uniform(-0.02, 0.02) for _ in range(2)]
        left.append(Word("a", at + moves[0], at + length + moves[0]))
        right.append(Word("a", at + moves[1], at + length + moves[1]))
        at += length + pause
    seam = seam_between(left, right, 10.0, 11.0)
    assert 10.0 < seam < 11.0
    sides = [[(word.start + word.end) / 2 < seam for word in some] for some in (left, right)]
    assert sides[0] == sides[1]


def test_a_seam_without_words_is_in_the_middle() -> None:
    assert seam_between([], [], 10.0, 11.0) == pytest.approx(10.5)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Tiny, with letters as CTC classes, and what is loud is speech."""
    ids = sorted(tiny.chat_tokenizer().convert_tokens_to_ids(list(LETTERS)))
    made = tiny.engine(tiny.config(ctc_vocabulary=ids))
    made._long.new_cutter = cutter  # private: what decides about speech has no place in an engine's arguments
    return made


def chords(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound with a pause every few seconds."""
    sound, draw = tiny.sound(seconds, seed), np.random.default_rng(seed)
    at = 0.0
    while (at := at + float(draw.uniform(2, 9))) < seconds:
        sound[round(at * SAMPLE_RATE) : round((at + 0.4) * SAMPLE_RATE)] = 0
    return sound


LONG = (chords(47.0), SAMPLE_RATE)
SHORT = (tiny.sound(2.0, 5), SAMPLE_RATE)


@pytest.mark.parametrize("llm", [True, False])
def test_up_to_thirty_seconds_nothing_is_cut(engine: Engine, llm: bool) -> None:
    sound = chords(30.0, 3)
    whole = engine._front_end.encode_clips([sound], True)
    assert engine.transcribe((sound, SAMPLE_RATE), llm=llm) == engine._transcriber.transcribe(
        whole, TranscribeOptions(llm)
    )[0]


@pytest.mark.parametrize("llm", [True, False])
def test_a_batch_gives_what_single_calls_give(engine: Engine, llm: bool) -> None:
    sounds = [LONG, SHORT, (chords(33.0, 4), SAMPLE_RATE)]
    together = engine.transcribe_batch(sounds, llm=llm)
    assert together == [engine.transcribe(one, llm=llm) for one in sounds]
    assert [one.duration for one in together] == [47.0, 2.0, 33.0]
    assert all(one.text for one in together)


def test_a_transcript_is_the_join_of_its_stream(engine: Engine) -> None:
    whole = engine.transcribe(LONG, llm=False)
    assert list(engine.transcribe_stream(LONG, llm=False)) == whole.segments
    assert " ".join(segment.text for segment in whole.segments) == whole.text


def test_a_cut_has_the_times_of_the_recording(engine: Engine) -> None:
    cut = engine.transcribe(LONG, llm=False, start=10.0, end=44.5)
    alone = engine.transcribe((LONG[0][10 * SAMPLE_RATE : round(44.5 * SAMPLE_RATE)], SAMPLE_RATE), llm=False)
    assert cut.text == alone.text
    assert [one.start for one in cut.segments] == pytest.approx([one.start + 10 for one in alone.segments], abs=1e-3)


def test_each_channel_is_written_down_as_it_is_alone(engine: Engine) -> None:
    left, right = chords(40.0, 6), chords(40.0, 7)
    both = engine.transcribe((np.stack([left, right]), SAMPLE_RATE), llm=False, channels="each")
    for number, sound in ((1, left), (2, right)):
        alone = engine.transcribe((sound, SAMPLE_RATE), llm=False)
        own = [segment for segment in both.segments if segment.speaker == f"channel {number}"]
        assert [replace(segment, speaker=None) for segment in own] == alone.segments
    assert [one.start for one in both.segments] == sorted(one.start for one in both.segments)
    assert both.text.startswith(("channel 1: ", "channel 2: "))


def test_where_nobody_speaks_nothing_is_written_of_any_length(engine: Engine) -> None:
    assert engine.transcribe((np.zeros(200 * SAMPLE_RATE, np.float32), SAMPLE_RATE)).text == ""


def test_a_recording_that_cannot_be_used_does_not_stop_the_others(engine: Engine) -> None:
    results = engine.transcribe_batch([LONG, b"nothing", SHORT], llm=False, return_errors=True)
    assert [type(one) for one in results] == [Transcript, AudioError, Transcript]
    with pytest.raises(AudioError, match="recording 1: the audio given as bytes is not audio"):
        engine.transcribe_batch([LONG, b"nothing", SHORT], llm=False)


def test_closing_a_stream_ends_its_reader(engine: Engine) -> None:
    before = threading.active_count()
    with closing(engine.transcribe_stream((chords(300.0), SAMPLE_RATE), llm=False)) as segments:
        next(segments)
    time.sleep(0.3)
    assert threading.active_count() <= before


def damaged(seconds: float) -> bytes:
    """A flac in whose middle nothing can be decoded."""
    words = run_of_words(seconds, 2, pause=0.5)
    whole = encoded(coded(words)[None], SAMPLE_RATE, "flac", "flac")
    middle = len(whole) // 2
    return whole[:middle] + b"\xaa" * 2000 + whole[middle + 2000 :]


def test_what_cannot_be_decoded_is_named_with_its_times_and_the_rest_is_written() -> None:
    parts = list(reader().parts([Listening(damaged(90.0), damage="skip")], TranscribeOptions()))
    (lost,) = [part for part in parts if part.lost]
    begin, end = (float(word) for word in lost.warning.split(" from ")[1].split(" s;")[0].split(" to "))
    words = [word for part in parts for segment in part.segments for word in segment.words]
    assert words[0].start < 1
    assert words[-1].end > 85
    assert not [word for word in words if begin + 0.2 < word.start and word.end < end - 0.2]
    (refused,) = [part.error for part in reader().parts([Listening(damaged(90.0))], TranscribeOptions()) if part.error]
    assert "damaged" in str(refused)


def test_the_engine_warns_of_what_it_skips(engine: Engine) -> None:
    with pytest.warns(SoundwaveWarning, match="cannot be decoded from"):
        engine.transcribe(damaged(40.0), llm=False, damage="skip")


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 100), st.booleans())
def test_a_run_that_stopped_after_any_part_goes_on_to_the_same_transcript(seed: int, stereo: bool) -> None:
    sounds = [coded(run_of_words(70.0, seed + i, pause=0.6))[: 60 * SAMPLE_RATE] for i in range(1 + stereo)]
    listening = Listening((np.stack(sounds), SAMPLE_RATE), AudioOptions(channels="each"))
    long = reader(SMALL)
    parts = list(long.parts([listening], TranscribeOptions()))
    whole = joined(parts, "ctc")
    for stop in np.random.default_rng(seed).choice(len(parts), 3):
        kept = [part for i, part in enumerate(parts[:stop]) if part.mark is not None]
        again = list(long.parts([replace(listening, marks=marks_of(kept))], TranscribeOptions()))
        assert joined([*kept, *again], "ctc") == whole


def test_a_file_is_read_in_a_stream_as_its_samples_are(tmp_path: Path, engine: Engine) -> None:
    soundfile.write(tmp_path / "long.wav", LONG[0], SAMPLE_RATE, "FLOAT")
    assert engine.transcribe(tmp_path / "long.wav", llm=False) == engine.transcribe(LONG, llm=False)
    with open(tmp_path / "long.wav", "rb") as file:
        pipe: Any = type("Pipe", (), {"read": lambda self, count: file.read(count)})()
        assert engine.transcribe(pipe, llm=False) == engine.transcribe(LONG, llm=False)


def test_the_speaker_is_said_only_where_channels_are_apart() -> None:
    (transcript,) = written(reader(), Listening(LONG))
    part = Part(0, 1, segments=tuple(transcript.segments[:1]))
    assert [one.speaker for one in spoken_in(part, AudioOptions(channels="each"))] == ["channel 2"][: len(part.segments)]
    assert {one.speaker for one in transcript.segments} <= {None}
