"""Words of transcripts with times: whoever wrote the text, every word has its place, in order, within the recording."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soundwave.ctc.align import Token
from soundwave.ctc.ngram_training import train_ngram
from soundwave.inference.engine import Engine
from soundwave.inference.results import Segment, Speech, Transcript, Word, segments_of
from soundwave.inference.speech import likely_classes
from soundwave.inference.word_edges import loudness_of, word_edges
from soundwave.inference.word_times import WordTimer
from soundwave.inference_config import InferenceConfig, TimingOptions, TranscribeConfig

PIECES = [" ", *"abcdefghijklmnopqrstuvwxyz'"]
BLANK = len(PIECES)
STEP = 0.04  # seconds a frame
SPIKES = TimingOptions(0.0, 0.0, 0.0, 0.0)


def speech_of(text: str, frames_each: int = 2, seconds: float | None = None) -> Speech:
    """A recording in which every letter, and every space, is surely said for some frames, a blank after each."""
    classes = [one for letter in text for one in [PIECES.index(letter)] * frames_each + [BLANK]]
    probabilities = np.full((len(classes), len(PIECES) + 1), 0.001)
    probabilities[range(len(classes)), classes] = 0.97
    duration = len(classes) * STEP if seconds is None else seconds
    logprobs = torch.tensor(np.log(probabilities), dtype=torch.float32)
    return Speech(torch.zeros(0, 8), [], [], text, [], [], duration, logprobs, STEP)


def spoken(text: str, speech: Speech) -> list[tuple[str, float, float]]:
    return [(word.text, word.start, word.end) for word in WordTimer(PIECES, BLANK, SPIKES).words(text, speech)]


def consistent(transcript: Transcript) -> None:
    """The words are the text, and come one after the other."""
    words = [word for segment in transcript.segments for word in segment.words]
    assert " ".join(word.text for word in words) == transcript.text
    assert " ".join(segment.text for segment in transcript.segments) == transcript.text
    assert all(0 <= word.start <= word.end <= transcript.duration + 1e-3 for word in words)
    assert all(one.end <= other.start for one, other in pairwise(words))
    for segment in transcript.segments:
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
        assert segment.text == " ".join(word.text for word in segment.words)
    assert all(word.confidence is None or 0 <= word.confidence <= 1 for word in words)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("ab1é&'-.", min_size=1, max_size=4), max_size=5), st.integers(1, 3), st.text("ab ", max_size=9))
def test_any_text_gets_times_whatever_is_said(words: list[str], frames: int, said: str) -> None:
    text, speech = " ".join(words), speech_of(said, frames)
    timed = WordTimer(PIECES, BLANK, SPIKES).words(text, speech)
    consistent(Transcript(text, "", speech.duration, segments=segments_of(timed)))


def test_words_outside_the_recording_end_with_it() -> None:
    words = spoken("ab ab", speech_of("ab ab", seconds=0.3))
    assert words[-1][2] == 0.3
    assert words[0][2] <= 0.3


def test_a_number_in_digits_is_said_between_its_neighbours() -> None:
    before, number, after = spoken("abc 42 def", speech_of("abc forty two def"))
    assert number[1] >= before[2]
    assert number[2] <= after[1]
    assert number[2] - number[1] > 0.8, "ten signs of 0.12 s"
    (word,) = WordTimer(PIECES, BLANK, SPIKES).words("42", speech_of("forty two"))
    assert word.confidence is None


def test_a_recording_too_short_for_the_text_is_shared_out_by_letters() -> None:
    assert spoken("a hundred and", speech_of("ab", seconds=1.1)) == [
        ("a", 0.0, 0.1), ("hundred", 0.1, 0.8), ("and", 0.8, 1.1)
    ]


def test_without_log_probabilities_there_are_no_words() -> None:
    assert spoken("ab", replace(speech_of("ab"), ctc_logprobs=None)) == []


def test_the_likeliest_classes_of_each_frame_will_do() -> None:
    speech = speech_of("so it is")
    assert speech.ctc_logprobs is not None
    few = replace(speech, ctc_logprobs=None, ctc_likely=likely_classes(speech.ctc_logprobs, BLANK))
    assert spoken("so it is", few) == spoken("so it is", speech)


def test_many_frames_are_taken_a_few_at_a_time_and_give_the_same() -> None:
    logits = torch.randn(150, 90, generator=torch.Generator().manual_seed(2))
    likely = likely_classes(logits, 7)
    whole = logits.log_softmax(-1)
    values, classes = whole.topk(64)
    torch.testing.assert_close(torch.tensor(likely.values), values)
    assert likely.classes.tolist() == classes.tolist()
    torch.testing.assert_close(torch.tensor(likely.blank), whole[:, 7])


# edges


def spikes(*words: tuple[int, int]) -> list[list[Token]]:
    """Words of one piece of three letters each, at frames `first` to `last`."""
    return [[Token(0, 3, first, last, (0.0,) * (last - first))] for first, last in words]


OFFSETS = TimingOptions(start=0.04, start_each_letter=0.01, end=0.01, end_each_letter=0.02)


def test_offsets_lead_from_the_spikes_to_the_edges() -> None:
    edges = word_edges(spikes((10, 11), (30, 32)), STEP, 2.0, OFFSETS)
    assert np.array(edges) == pytest.approx(np.array([(0.40 - 0.07, 0.44 + 0.07), (1.20 - 0.07, 1.28 + 0.07)]))


def test_words_that_nearly_touch_share_an_edge() -> None:
    (_, first), (second, _) = word_edges(spikes((10, 11), (15, 16)), STEP, 2.0, OFFSETS)
    assert first == second == pytest.approx(0.8 * (0.60 - 0.07) + 0.2 * (0.44 + 0.07))


def test_before_a_pause_a_word_lasts_until_it_is_quiet() -> None:
    loudness = np.full(200, -60.0, np.float32)
    loudness[35:71] = loudness[107:150] = -20.0
    edges = word_edges(spikes((10, 11), (30, 32)), STEP, 2.0, OFFSETS, loudness)
    assert np.array(edges) == pytest.approx(np.array([(0.35, 0.71), (1.07, 1.50)]))


def test_where_it_is_never_quiet_the_offsets_stand() -> None:
    loudness = np.random.default_rng(0).normal(-30, 1, 200).astype(np.float32)
    words = spikes((10, 11), (30, 32))
    assert word_edges(words, STEP, 2.0, OFFSETS, loudness) == word_edges(words, STEP, 2.0, OFFSETS)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(0, 99), st.floats(0.1, 3.0))
def test_edges_are_in_order_within_the_recording(gaps: list[int], seed: int, duration: float) -> None:
    places = np.cumsum(np.array(gaps) + 1).tolist()
    loudness = np.random.default_rng(seed).choice([-70.0, -20.0], int(duration * 100)).astype(np.float32)
    edges = word_edges(spikes(*((place, place + 1) for place in places)), STEP, duration, OFFSETS, loudness)
    flat = [0.0, *(time for edge in edges for time in edge), duration]
    assert flat == sorted(flat)


def test_loudness_is_in_decibels_of_full_scale() -> None:
    samples = np.concatenate([np.ones(160), np.full(160, 0.1), np.zeros(200)]).astype(np.float32)
    assert loudness_of(samples, 16_000) == pytest.approx([0.0, -20.0, -100.0], abs=1e-3)


# every way of making text


LETTERS = "Ġabcdefghijklmnopqrstuvwxyz'"
CLIPS = [(tiny.sound(seconds, seed=seed), 16_000) for seed, seconds in enumerate((1.0, 2.3))]


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A tiny engine with an n-gram, whose CTC classes are letters."""
    folder: Path = tmp_path_factory.mktemp("model")
    sentences = [line.split() for line in ("the cat sat", "the person on the cat", "so the son sat")]
    train_ngram(sentences, order=2, least=1).save(folder / "ngram.npz")
    ids = tiny.chat_tokenizer().convert_tokens_to_ids(list(LETTERS))
    model = tiny.model(tiny.config(ctc_vocabulary=sorted(ids)))
    inference = InferenceConfig(transcribe=TranscribeConfig(llm=True, ngram="ngram.npz"))
    engine = tiny.engine(model=model, inference=inference)
    return Engine(engine.encoder, engine.decoder, engine.processor, engine.inference, "tiny", folder)


@pytest.mark.parametrize("options", [{"llm": True}, {"llm": False}, {"hotwords": ["Zog the son"]}])
def test_a_text_of_the_search_has_words_with_times(searching: Engine, options: dict[str, Any]) -> None:
    for transcript in searching.transcribe_batch(CLIPS, **options):
        assert transcript.text
        consistent(transcript)


@pytest.mark.parametrize("llm", [True, False])
def test_a_text_without_a_search_has_words_with_times(llm: bool) -> None:
    for transcript in tiny.engine().transcribe_batch(CLIPS, llm=llm):
        assert transcript.text
        consistent(transcript)


def test_where_nothing_is_said_there_are_no_segments(searching: Engine) -> None:
    timer = WordTimer(PIECES, BLANK, SPIKES)
    assert timer.words("", replace(speech_of("ab"), loudness=np.zeros(24, np.float32))) == []
    assert segments_of([]) == []


# segments


def words_at(*timed: tuple[str, float, float]) -> list[Word]:
    return [Word(*one) for one in timed]


def texts(words: list[Word]) -> list[str]:
    return [segment.text for segment in segments_of(words)]


def test_a_pause_parts_segments() -> None:
    words = words_at(("so", 0.0, 0.3), ("it", 0.8, 1.0), ("is", 1.6, 2.0))
    assert segments_of(words) == [
        Segment("so it", 0.0, 1.0, tuple(words[:2])), Segment("is", 1.6, 2.0, tuple(words[2:]))
    ]


def test_a_sentence_ends_a_segment_and_an_abbreviation_does_not() -> None:
    said = ["Is", "it", "Mr.", "Bell?", "“Yes.”", "It", "is", "approx.", "two", "p.m.", "now"]
    words = words_at(*((word, i * 0.3, i * 0.3 + 0.2) for i, word in enumerate(said)))
    assert texts(words) == ["Is it Mr. Bell?", "“Yes.”", "It is approx. two p.m. now"]


def test_a_long_segment_is_parted_at_its_longest_pause_if_it_has_one() -> None:
    words = words_at(*((f"w{i}", i * 1.0, i + 0.95) for i in range(20)))
    assert len(segments_of(words)) == 1, "nowhere to breathe"
    words[8] = Word("w8", 8.3, 8.95)
    assert [segment.words[0].text for segment in segments_of(words)] == ["w0", "w8"]
