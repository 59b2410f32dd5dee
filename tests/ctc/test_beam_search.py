"""The beam search finds the best texts, alone and in a batch, and says why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ctc_reference import enumerate_texts

from soundwave.ctc.beam_search import BeamSearchDecoder, Hypothesis, greedy
from soundwave.ctc.lexicon import Lexicon
from soundwave.ctc.ngram import Ngram
from soundwave.ctc.ngram_training import train_ngram
from soundwave.errors import ConfigurationError
from soundwave.inference_config import BeamSearchOptions

PIECES = [" a", "b", " ", "a", ""]
BLANK = 4
WORDS = ["a", "ab", "Ba", "aba", "b"]
SENTENCES = [["a", "ab"], ["Ba", "a"], ["a", "b", "a"], ["ab", "ab"], ["a", "Ba"], ["aba"], ["aba", "b"]]
EVERYTHING = BeamSearchOptions(
    beams=10_000, beam_width=1000, class_width=1000, open_width=1000, sure_blank=1, unknown_word=None
)


@pytest.fixture(scope="module")
def ngram() -> Ngram:
    return train_ngram(SENTENCES, order=3, least=1)


def random_logprobs(frames: int, classes: int, seed: int, sharpness: float = 2.0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, classes)) * sharpness
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def spoken(text: str, pieces: list[str], confidence: float = 0.9) -> np.ndarray:
    """Frames that say single pieces, each followed by blank."""
    classes: list[int] = []
    while text:
        piece = max((piece for piece in pieces if piece and text.startswith(piece)), key=len)
        classes += [pieces.index(piece), len(pieces) - 1]
        text = text[len(piece) :]
    posteriors = np.full((len(classes), len(pieces)), (1 - confidence) / (len(pieces) - 1))
    posteriors[np.arange(len(classes)), classes] = confidence
    return np.log(posteriors)


def assert_same(hypotheses: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [hypothesis.text for hypothesis in hypotheses] == [hypothesis.text for hypothesis in expected]
    for own, other in zip(hypotheses, expected, strict=True):
        assert own.words == other.words
        assert own.acoustic == pytest.approx(other.acoustic, abs=1e-9)
        assert own.language == pytest.approx(other.language, abs=1e-5)
        assert own.score == pytest.approx(other.score, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unknown_word", [None, 1.5])
@pytest.mark.parametrize("hotwords", [[], ["Abb", "a ba", "a ba a"]])
@pytest.mark.parametrize("with_ngram", [True, False])
def test_the_texts_and_scores_are_those_of_all_paths_written_out(
    seed: int, unknown_word: float | None, hotwords: list[str], with_ngram: bool, ngram: Ngram
) -> None:
    logprobs = random_logprobs(6, len(PIECES), seed)
    options = dataclasses.replace(EVERYTHING, unknown_word=unknown_word)
    model = ngram if with_ngram else None
    decoder = BeamSearchDecoder(Lexicon(WORDS, PIECES), model, BLANK, options)
    expected = enumerate_texts(logprobs, WORDS, PIECES, model, options, hotwords)
    assert len(expected) > 20
    [hypotheses] = decoder.decode([logprobs], nbest=1000, hotwords=hotwords)
    assert_same(hypotheses, expected)


def test_pruning_keeps_the_best_text_of_clear_speech(ngram: Ngram) -> None:
    decoder = BeamSearchDecoder(Lexicon(WORDS, PIECES), ngram, BLANK, BeamSearchOptions(beams=4))
    [[best]] = decoder.decode([spoken(" a aba ab", PIECES)])
    assert best.words == ("a", "aba", "ab")


def test_a_recording_has_the_same_result_alone_and_in_a_batch(ngram: Ngram) -> None:
    decoder = BeamSearchDecoder(Lexicon(WORDS, PIECES), ngram, BLANK, BeamSearchOptions(beams=8))
    recordings = [random_logprobs(frames, len(PIECES), frames) for frames in (30, 7, 0, 55)]
    batch = decoder.decode(recordings, nbest=5, hotwords=["abba"])
    assert batch == [decoder.decode([recording], nbest=5, hotwords=["abba"])[0] for recording in recordings]


@pytest.mark.parametrize("frames", [0, 1, 200])
def test_where_nothing_is_said_the_text_is_empty(frames: int, ngram: Ngram) -> None:
    decoder = BeamSearchDecoder(Lexicon(WORDS, PIECES), ngram, BLANK)
    logprobs = np.full((frames, len(PIECES)), -20.0)
    logprobs[:, BLANK] = 0.0
    [[best]] = decoder.decode([logprobs])
    assert (best.text, best.words, best.acoustic) == ("", (), 0.0)


def test_surely_blank_frames_change_nothing_but_the_time(ngram: Ngram) -> None:
    logprobs = spoken(" a aba", PIECES)
    pause = np.log(np.full((5, len(PIECES)), 1e-6))
    pause[:, BLANK] = np.log(1 - 4e-6)
    logprobs = np.concatenate([pause, logprobs[:4], pause, logprobs[4:]])
    fast, slow = (
        BeamSearchDecoder(Lexicon(WORDS, PIECES), ngram, BLANK, BeamSearchOptions(sure_blank=sure)).decode([logprobs])
        for sure in (0.999, 1.0)
    )
    assert fast[0][0].text == slow[0][0].text == "a aba"
    assert fast[0][0].score == pytest.approx(slow[0][0].score, abs=1e-3)


LETTERS = [*(f" {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), *"abcdefghijklmnopqrstuvwxyz'", ""]


def letters_decoder(words: list[str], **options: float | None) -> BeamSearchDecoder:
    return BeamSearchDecoder(Lexicon(words, LETTERS), None, len(LETTERS) - 1, BeamSearchOptions(**options))


def test_names_have_their_capitals() -> None:
    decoder = letters_decoder(["bill", "Paris", "I"])
    assert decoder.decode([spoken(" i bill paris", LETTERS)])[0][0].text == "I bill Paris"


def test_a_word_of_no_list_stays_at_its_cost_and_never_without_letters() -> None:
    logprobs = spoken(" the zorgon", LETTERS, confidence=0.98)
    assert letters_decoder(["the", "organ"]).decode([logprobs])[0][0].text == "the zorgon"
    assert letters_decoder(["the", "organ"], unknown_word=None).decode([logprobs])[0][0].text != "the zorgon"
    digits = [*LETTERS[:-1], " 4", "2", ""]
    decoder = BeamSearchDecoder(Lexicon(["the"], digits), None, len(digits) - 1)
    assert decoder.decode([spoken(" the 42", digits)])[0][0].text == "the"


def test_hot_words_are_heard_where_they_are_likely_and_need_no_list() -> None:
    logprobs = np.logaddexp(spoken(" kubernetis", LETTERS), spoken(" kubernetes", LETTERS)) - np.log(2)
    decoder = letters_decoder(["burnt", "is"], unknown_word=None)
    [[plain]] = decoder.decode([logprobs])
    [[hot]] = decoder.decode([logprobs], hotwords=["Kubernetes"])
    assert plain.text != "Kubernetes"
    assert hot.text == "Kubernetes"
    assert decoder.decode([logprobs])[0][0] == plain  # they hold for one call only
    assert decoder.decode([spoken(" burnt is", LETTERS)], hotwords=["Kubernetes"])[0][0].text == "burnt is"


def test_a_phrase_is_worth_its_bonus_only_as_a_whole() -> None:
    decoder = letters_decoder(["new", "york", "day"], hotword_bonus=5.0)

    def score(text: str, hotwords: list[str]) -> float:
        return decoder.decode([spoken(text, LETTERS, 0.99)], hotwords=hotwords)[0][0].score

    assert score(" new york", ["New York"]) == pytest.approx(score(" new york", []) + 10)
    assert score(" new day", ["New York"]) == pytest.approx(score(" new day", []))


@pytest.mark.parametrize("hotword", ["42", "名前"])
def test_a_hot_word_that_cannot_be_spelt_is_refused(hotword: str) -> None:
    with pytest.raises(ConfigurationError, match=hotword):
        letters_decoder(["a"]).decode([], hotwords=[hotword])


@pytest.mark.parametrize(
    ("option", "value"), [("beams", 0), ("language_weight", -1.0), ("unknown_word", -2.0), ("sure_blank", 1.5)]
)
def test_an_option_out_of_range_is_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option}.*{value}"):
        BeamSearchOptions(**{option: value})


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="nbest"):
        letters_decoder(["a"]).decode([], nbest=0)
    with pytest.raises(ConfigurationError, match=r"\(3,\)"):
        letters_decoder(["a"]).decode([np.zeros(3)])


def test_greedy_takes_the_likeliest_class_of_each_frame() -> None:
    logprobs = np.log(np.eye(4)[[3, 1, 1, 3, 1, 2, 2, 3]] + 0.01)
    assert greedy(logprobs, blank=3) == [1, 1, 2]
    assert greedy(np.zeros((0, 4)), blank=3) == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("after", [[], ["ab"], ["a", "b"], ["aba", "a", "Ba"], ["no", "words"]])
def test_a_search_within_a_sentence_finds_the_best_of_all_texts_that_may_go_on(
    ngram: Ngram, seed: int, after: list[str]
) -> None:
    decoder = BeamSearchDecoder(Lexicon(WORDS, PIECES), ngram, BLANK, EVERYTHING)
    logprobs = random_logprobs(4, 5, seed)
    [all_texts] = decoder.decode([logprobs], nbest=10_000)

    def score(hypothesis: Hypothesis) -> float:
        state, language = np.array([ngram.start]), 0.0
        for place, word in enumerate(ngram.ids([*after, *hypothesis.words])):
            logprob, state = ngram.score(state, np.array([word]))
            language += float(logprob[0]) * (place >= len(after))
        options = decoder.options
        bonus = options.word_bonus * len(hypothesis.words)
        return hypothesis.acoustic + options.language_weight * language + bonus

    best = max(all_texts, key=score)
    assert decoder.go_on(logprobs, after) == best.words


def test_hot_words_of_the_last_search_are_not_spelt_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = BeamSearchDecoder(Lexicon(WORDS, PIECES), None, BLANK)
    made = []
    spell = decoder._with_hotwords  # what takes a sixth of a second for mini
    monkeypatch.setattr(decoder, "_with_hotwords", lambda phrases: made.append(phrases) or spell(phrases))
    for phrases in (["abb"], ["abb"], ["ba"], []):
        decoder.go_on(random_logprobs(3, 5, 0), [], phrases)
    assert made == [("abb",), ("ba",)]
