"""CTC targets and scores in every language: letters and marks stay, and the measure fits the script."""

from __future__ import annotations

import unicodedata

import pytest
import tiny

from soundwave.text.ctc_tokenizer import CtcTokenizer, build_vocabulary
from soundwave.text.metrics import (
    WordErrors,
    error_measure,
    is_answered,
    normalise,
    normaliser_name,
    word_errors,
)
from soundwave.text.normalizer import language_code, normalise_transcript


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("O'Neil's well-known", "o'neil's well known"),
        ("“Don’t!” she said…", "don't she said"),
        ("the students' 'tis", "the students tis"),
        ("  Yes —\nno.  ", "yes no"),
        ("well known", "well known"),
        ("Café Über naïve schön Äpfel", "café über naïve schön äpfel"),
        ("Cafe\u0301", "café"),  # composed
        ("ﬁne ＡＢＣ ﾊﾞｽ", "fine abc バス"),  # other widths, and a ligature, of the same letters
        ("नमस्ते, दुनिया!", "नमस्ते दुनिया"),
        ("สวัสดีครับ น้ำ", "สวัสดีครับ น้ำ"),
        ("தமிழ் மொழி", "தமிழ் மொழி"),
        ("বাংলা ভাষা।", "বাংলা ভাষা"),
        ("안녕하세요", "안녕하세요"),
        (unicodedata.normalize("NFD", "안녕"), "안녕"),  # syllables, not loose jamo
        ("日本語ですが、バス。", "日本語ですが バス"),
        ("一二三の本", "一二三の本"),  # numbers in words
        ("می‌روم", "می‌روم"),  # the joiner inside is spelling
        ("שָׁלוֹם", unicodedata.normalize("NFC", "שָׁלוֹם")),
        ("İstanbul", "istanbul"),
        ("re\u00adpeat", "repeat"),  # a soft hyphen
        ("hello 😀", "hello"),
        ("", ""),
        (" \n", ""),
        ("...", None),
        ("😀", None),
        ("[noise]", None),
        ("hello [laughter] there", None),
        ("At 5 o'clock", None),
        ("५ दिन", None),
        ("½ an hour", None),
        ("salt & pepper", None),
        ("₹ twenty", None),
        ("<unk> word", None),
    ],
)
def test_a_target_has_the_letters_and_marks_of_its_script_or_is_not_known(text: str, words: str | None) -> None:
    assert normalise_transcript(text) == words
    assert words is None or normalise_transcript(words) == words
    assert words is None or unicodedata.normalize("NFC", words) == words


def test_turkish_has_small_letters_of_its_own() -> None:
    assert normalise_transcript("IŞIK İyi", "tr-TR") == "ışık iyi"
    assert normalise_transcript("IS IT", "en") == "is it"


@pytest.mark.parametrize(
    ("name", "code"), [("en-GB", "en"), ("English", "en"), ("zh_Hans", "zh"), ("cmn", "zh"), ("de", "de"), (None, None)]
)
def test_a_language_is_known_by_any_of_its_names(name: str | None, code: str | None) -> None:
    assert language_code(name) == code


def test_a_restricted_vocabulary_spells_a_letter_without_its_marks_and_whole_ones_everything() -> None:
    tokenizer = tiny.chat_tokenizer()
    ctc = CtcTokenizer(tokenizer, build_vocabulary(tokenizer, ["the cat"], 100))
    assert ctc.decode(ctc.encode("schön naïve")) == "schon naive"
    assert ctc.decode(ctc.encode("नमस्ते")) == ""
    whole = CtcTokenizer(tokenizer)
    assert whole.decode(whole.encode("schön")) == "schön"


@pytest.mark.parametrize(
    ("language", "said", "reply", "errors"),
    [
        (None, "I have twenty one colours", "I have 21 colors", WordErrors(4, 0, 0, 0)),
        ("en", "we can't", "we can not", WordErrors(3, 0, 0, 0)),
        ("de", "Schöne Größe!", "schöne größe", WordErrors(2, 0, 0, 0)),
        ("de", "schön", "schon", WordErrors(1, 1, 0, 0)),
        ("de", "wir can't", "wir can not", WordErrors(3, 1, 0, 0)),  # nothing English is spelt out: can t, can not
        ("hi", "नमस्ते दुनिया", "नमस्ते, दुनिया।", WordErrors(2, 0, 0, 0)),
        ("hi", "कि", "की", WordErrors(1, 1, 0, 0)),  # one mark is another word
        ("ja", "東京に行く。", "東京 へ行く", WordErrors(5, 1, 0, 0)),
        ("zh-CN", "你好吗", "你好", WordErrors(3, 0, 0, 1)),
        ("th", "สวัสดี", "สวัสดี", WordErrors(6, 0, 0, 0)),
    ],
)
def test_the_language_decides_what_is_counted_and_how(
    language: str | None, said: str, reply: str, errors: WordErrors
) -> None:
    assert word_errors([said], [reply], [language]) == errors


def test_several_languages_are_counted_each_in_its_way_and_said() -> None:
    languages = ["en", "ja", "de"]
    assert word_errors(["a cat", "東京", "ja"], ["a cat", "東", "nein"], languages) == WordErrors(5, 1, 0, 1)
    assert error_measure(["en", "de", None]) == "word error rate"
    assert error_measure(["ja", "th"]) == "character error rate"
    assert error_measure(languages) == "word and character error rate"
    assert normaliser_name(["en", None]).endswith("EnglishTextNormalizer")
    assert normaliser_name(["ja"]) == "whisper_normalizer.basic.BasicTextNormalizer(preserve_marks=True)"


def test_an_answer_is_looked_for_as_its_language_writes_it() -> None:
    assert is_answered("答案是东京。", ["东京"], "zh")
    assert not is_answered("Das sind Tannenbäume", ["Baum"], "de")
    assert is_answered("Das ist schön!", ["Schön"], "de")
    assert normalise("Über!", "de") == "über"
