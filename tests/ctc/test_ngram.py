"""N-grams: probabilities that sum to one, the same from every file, and counted as the books say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from soundwave.ctc.ngram import SPECIAL, Ngram
from soundwave.ctc.ngram_training import train_ngram
from soundwave.errors import CheckpointError, ConfigurationError

SENTENCES = [sentence.split() for sentence in ("the cat sat", "the cat ran", "a dog sat", "the dog ran off", "Tom ran")]
ARPA = """\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-1.2\t</s>
-0.6\ta\t-0.3
-0.7\tb\t-0.2

\\2-grams:
-0.2\t<s> a\t-0.1
-0.4\ta b\t-0.15
-0.3\tb </s>

\\3-grams:
-0.05\t<s> a b

\\end\\
"""


@pytest.fixture
def by_hand(tmp_path: Path) -> Ngram:
    file = tmp_path / "hand.arpa"
    file.write_text(ARPA)
    return Ngram.load(file)


@pytest.mark.parametrize(
    ("sentence", "log10"),
    [
        ("a b", -0.2 - 0.05 + (-0.15 - 0.3)),  # the 3-gram <s> a b; then a b backs off to b </s>
        ("b", (-0.5 - 0.7) - 0.3),
        ("a a", -0.2 + (-0.1 - 0.3 - 0.6) + (-0.3 - 1.2)),
        ("what", (-0.5 - 1.0) - 1.2),
        ("", -0.5 - 1.2),
    ],
)
def test_a_missing_ngram_backs_off_as_arpa_says(sentence: str, log10: float, by_hand: Ngram) -> None:
    assert by_hand.score_sentence(sentence.split()) == pytest.approx(log10 * math.log(10), abs=1e-5)


def test_many_pairs_at_once_score_as_one_by_one(by_hand: Ngram) -> None:
    states = np.arange(sum(by_hand.counts[:2]) + 1).repeat(len(by_hand.words))
    words = np.tile(np.arange(len(by_hand.words)), len(states) // len(by_hand.words))
    logprobs, following = by_hand.score(states, words)
    for i in range(len(states)):
        one, state = by_hand.score(states[i : i + 1], words[i : i + 1])
        assert (one[0], state[0]) == (logprobs[i], following[i])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("prune", [0.0, 0.01])
def test_probabilities_sum_to_one_after_every_context(order: int, prune: float) -> None:
    ngram = train_ngram(SENTENCES, order, prune, least=1)
    everything = np.arange(len(ngram.words))
    for state in range(1 + sum(ngram.counts[:-1])):
        logprobs, _ = ngram.score(np.full(len(everything), state), everything)
        assert np.exp(logprobs).sum() == pytest.approx(1.0, abs=1e-4)


def test_bigrams_are_discounted_and_interpolated_with_the_words_that_follow_most_contexts() -> None:
    """By hand, with a discount of its own for counts of 1 and of 2."""
    ngram = train_ngram([["x", "y"], ["x", "y"], ["x", "z"], ["w", "z"]], order=2, least=1)
    # bigrams seen once: x z, w z, <s> w, twice: x y, y </s>, z </s>, three times: <s> x
    share = 3 / (3 + 2 * 3)
    once, twice = 1 - 2 * share * 3 / 3, 2 - 3 * share * 1 / 3
    # words by the number of words before them: x 1, w 1, y 1, z 2, </s> 2
    seen_once, seen_twice = 3, 2
    share = seen_once / (seen_once + 2 * seen_twice)
    low_once, low_twice = 1 - 2 * share * seen_twice / seen_once, 1.9  # 2 - 0 is limited to 1.9
    uniform = 1 / (len(ngram.words) - 1)
    freed = (seen_once * low_once + seen_twice * low_twice) / 7
    lower = (2 - low_twice) / 7 + freed * uniform  # of z
    expected = (1 - once) / 3 + (once + twice) / 3 * lower
    x, z = ngram.ids(["x", "z"])
    logprob, _ = ngram.score(np.array([1 + x]), np.array([z]))
    assert math.exp(logprob[0]) == pytest.approx(expected, rel=1e-5)


def test_pruning_leaves_out_what_changes_least_and_keeps_every_context() -> None:
    whole, pruned = (train_ngram(SENTENCES * 3, 3, prune, least=1) for prune in (0.0, 0.02))
    assert sum(pruned.counts) < sum(whole.counts)
    assert pruned.counts[0] == whole.counts[0]
    kept = {tuple(words) for words, _, _ in pruned.ngrams(2)}
    assert all(tuple(words[:2]) in kept for words, _, _ in pruned.ngrams(3))


def test_rare_words_are_unknown_and_names_keep_their_capitals() -> None:
    ngram = train_ngram([["Tom", "ran"], ["Tom", "sat"]], order=2, least=2)
    assert ngram.words == (*SPECIAL, "Tom")
    assert ngram.ids(["Tom", "ran", "tom"]).tolist() == [3, 0, 0]


@pytest.mark.parametrize("name", ["model.arpa", "model.arpa.gz", "model.npz"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_file_holds_the_same_model(name: str, order: int, tmp_path: Path) -> None:
    ngram = train_ngram(SENTENCES, order, least=1)
    ngram.save(tmp_path / name)
    again = Ngram.load(tmp_path / name)
    assert (again.words, again.counts) == (ngram.words, ngram.counts)
    for sentence in [["the", "cat", "sat"], ["Tom", "ran", "off"], ["dog", "what"], []]:
        assert again.score_sentence(sentence) == pytest.approx(ngram.score_sentence(sentence), abs=1e-4)


def test_the_order_of_an_arpa_file_does_not_matter(by_hand: Ngram, tmp_path: Path) -> None:
    lines = ARPA.split("\n")
    section = lines.index("\\2-grams:")
    lines[section + 1 : section + 4] = lines[section + 3 : section : -1]
    (tmp_path / "turned.arpa").write_text("\n".join(lines))
    turned = Ngram.load(tmp_path / "turned.arpa")
    assert turned.score_sentence(["a", "b"]) == by_hand.score_sentence(["a", "b"])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.arpa", "", "1-grams"),
        ("word.arpa", ARPA.replace("a b\t-0.15", "a c\t-0.15"), "'c'"),
        ("context.arpa", ARPA.replace("-0.2\t<s> a\t-0.1\n", ""), "<s> a"),
        ("number.arpa", ARPA.replace("-0.7", "much"), "much"),
        ("text.npz", "not an archive", "text.npz"),
    ],
)
def test_a_broken_file_is_refused_with_what_is_wrong(name: str, content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=told):
        Ngram.load(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere.npz"):
        Ngram.load(tmp_path / "nowhere.npz")


def test_a_file_with_pickled_objects_is_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", format=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="pickle"):
        Ngram.load(tmp_path / "bad.npz")


@pytest.mark.parametrize(("option", "value"), [("order", 0), ("order", 9), ("prune", -1.0), ("least", 0)])
def test_training_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option}.*{value}"):
        train_ngram(SENTENCES, **{option: value})


def test_perplexity_is_that_of_the_known_words(by_hand: Ngram) -> None:
    sentences = [["a", "b"], ["what"]]
    known = -by_hand.score_sentence(["a", "b"]) + 1.2 * math.log(10)  # </s> after an unknown word
    perplexity, unknown = by_hand.perplexity(sentences)
    assert perplexity == pytest.approx(math.exp(known / 4), rel=1e-4)
    assert unknown == pytest.approx(1 / 5)
