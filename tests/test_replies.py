"""A reply taken apart: tables that can be checked by hand."""

from __future__ import annotations

import pytest

from soundwave.evaluation.replies import answer_part, is_repetition, label_part, named_label, split_transcription
from soundwave.evaluation.translation import translation_score
from soundwave.text.metrics import is_answered

FRANCE = "What is the capital of France?"
ROME = "Is Rome in Italy or in Spain?"


@pytest.mark.parametrize(
    ("reply", "said", "repeated", "rest"),
    [
        # The paper's form, and ours, with or without a known text.
        (f'You are asking "{FRANCE}" and I can tell you: Paris.', FRANCE, FRANCE, " and I can tell you: Paris."),
        (f'You are asking "{FRANCE}" and I can tell you: Paris.', None, FRANCE, " and I can tell you: Paris."),
        ("You are asking “What is it” and it is tea.", None, "What is it", " and it is tea."),
        ('Your question is "Wort is a cap?" Here is the answer: Paris.', FRANCE, "Wort is a cap?",
         " Here is the answer: Paris."),
        # Any lead, where the quotation is what is said, misheard words among it.
        ('They said "what is a capital of France" So: Paris.', FRANCE, "what is a capital of France", " So: Paris."),
        ('"What is the capital of France?" Paris.', FRANCE, FRANCE, " Paris."),
        # Cut off inside the quotation: there is no answer.
        ('You are asking "What is the cap', FRANCE, "What is the cap", ""),
        # Without marks.
        ("What is the capital of France? Paris.", FRANCE, FRANCE, " paris"),
        ("What is a capital of France? Paris.", FRANCE, "What is a capital of France?", " Paris."),
        # Answers that hold a quotation or a question of their own.
        ('"Hamlet" is by Shakespeare.', "Who wrote Hamlet?", None, '"Hamlet" is by Shakespeare.'),
        ('It is "Paris".', FRANCE, None, 'It is "Paris".'),
        ("Paris. Why do you ask?", FRANCE, None, "Paris. Why do you ask?"),
        ("The capital of France is Paris.", FRANCE, None, "The capital of France is Paris."),
        ("", FRANCE, None, ""),
        ("Paris.", None, None, "Paris."),
    ],
)
def test_what_is_repeated_first_is_told_from_the_answer(
    reply: str, said: str | None, repeated: str | None, rest: str
) -> None:
    assert split_transcription(reply, said) == (repeated, rest)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("It is in Italy.", True),
        (f'You are asking "{ROME}" and I can tell you: it is in Italy.', True),
        (f'You are asking "{ROME}" and I can tell you: it is in Spain.', False),  # only the question says Italy
        (f'You are asking "{ROME}" and I can tell you: {ROME}', False),
        (f'You are asking "{ROME}"', False),
        (f'You are asking "{ROME[:20]}', False),
        (f"{ROME} It is in Italy.", True),
        (f"{ROME} It is in Spain.", False),
        (ROME, False),
        ("is rome in italy, or in spain", False),
    ],
)
def test_an_answer_does_not_count_because_the_question_holds_it(reply: str, right: bool) -> None:
    assert is_answered(answer_part(reply, ROME), ["Italy"]) is right


@pytest.mark.parametrize(
    ("reply", "only"),
    [
        ("what is the capital of France", True),
        (f'You are asking "{FRANCE}"', True),
        (f'You are asking "{FRANCE}" and I can tell you:', True),
        (f'You are asking "{FRANCE}" and I can tell you: {FRANCE}', True),
        ("What is a capital of France?", True),
        (f'You are asking "{FRANCE}" and I can tell you: Paris.', False),
        ("The capital of France is Paris.", False),
        ("I can tell you.", False),  # nothing is repeated
        ("", False),
    ],
)
def test_a_question_that_is_only_said_again_is_told_from_an_answer(reply: str, only: bool) -> None:
    assert is_repetition(reply, FRANCE) is only


@pytest.mark.parametrize(
    ("reply", "repeated"),
    [
        ("Said an alarm for sticks.", True),  # written down with mistakes, not understood
        ("Set an alarm for six.", True),
        ('You are saying "Set an alarm for six." and the intent is alarm.', True),
        ("The intent is alarm.", False),
        ("alarm", False),
        ("This person wants an alarm.", False),
    ],
)
def test_a_command_that_is_written_down_names_no_label(reply: str, repeated: bool) -> None:
    words, rest = label_part(reply, "Set an alarm for six.", ["alarm", "timer"])
    assert (words is not None) is repeated
    assert named_label(rest, ["alarm", "timer"]) == (None if repeated and "intent" not in reply else "alarm")


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("and the intent is alarm.", "alarm"),
        ("The intent is Play Music.", "play music"),
        ("music", "music"),
        ("B. rain", "rain"),
        ("alarms", None),
        ("The intent is alarm or rain.", None),
        ("play music, not music", None),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_a_reply_names_one_label_or_none(reply: str, label: str | None) -> None:
    assert named_label(reply, ["alarm", "music", "play music", "rain"]) == label


def test_replies_are_compared_as_their_language_is_written() -> None:
    asked = "日本の首都はどこですか？"
    assert split_transcription(asked + "東京です。", asked, "ja")[0] is not None
    assert is_answered(answer_part(asked + "東京です。", asked, "ja"), ["東京"], "ja")
    assert is_repetition("日本の首都はどこですか", asked, "ja")
    assert not is_repetition("東京です。", asked, "ja")
    assert named_label("意図は音楽です。", ["音楽", "雨"], "ja") == "音楽"
    assert named_label("Die Absicht ist Grüße.", ["Grüße", "Grube"], "de") == "Grüße"
    assert label_part("Weck mich um sex Uhr.", "Weck mich um sechs Uhr.", ["wecken"], "de")[1] == ""


def test_bleu_takes_any_number_of_references_for_each_sentence() -> None:
    references = [["Ich bin hier und nicht da.", "Ich bin hier, nicht dort."], ["Er kommt heute nach Hause."]]
    right = translation_score(["Ich bin hier, nicht dort.", "Er kommt heute nach Hause."], references)
    assert (round(right.bleu), round(right.chrf)) == (100, 100)
    wrong = translation_score(["Nein.", "Ja."], references)
    assert wrong.bleu < 1
    between = translation_score(["Ich bin hier, nicht dort.", "Er kommt."], references)
    assert wrong.bleu < between.bleu < right.bleu
    assert "nrefs:var" in right.bleu_signature
    assert "tok:13a" in right.bleu_signature
    assert right.chrf_signature.startswith("nrefs:var|case:mixed")


def test_german_is_compared_as_it_is_written() -> None:
    assert translation_score(["das ist gut so."], [["Das ist gut so."]]).bleu < 100
