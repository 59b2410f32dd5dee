"""Mini's stages from text alone: what is said, who learns from what, and how like speech it is measured to be."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_data

from soundwave.data.example import AudioSpan, Example
from soundwave.data.manifests import read_manifest
from soundwave.data.units import UnitBank, writing_bank
from soundwave.datatools.answer import answer_manifest
from soundwave.model.speech_encoder import alignment_mark
from soundwave.text.ctc_tokenizer import CtcTokenizer

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "mini"
if not RECIPE.is_dir():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)
sys.path[:0] = [str(RECIPE), str(ROOT / "benchmarks")]

import simulated_speech  # noqa: E402
import text_or_speech  # noqa: E402


def test_texts_to_say_are_the_words_of_readable_sentences_without_those_of_a_test_set(tmp_path: Path) -> None:
    questions = ["who was first?", "Where is Jim's cat", "What is 5 + 5?", "Which one is held out?"]
    with gzip.open(tmp_path / "qa-trivia.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"question": question}) + "\n" for question in questions)
    held_out = tiny_data.manifest(tmp_path, {"text": "Which one is held out?"}, name="dev.jsonl")
    command = [sys.executable, RECIPE / "say_texts.py", "--texts", tmp_path, "--out", tmp_path / "said.jsonl"]
    subprocess.run([*command, "--count", "9", "--shares", "question=1", "--exclude", held_out], check=True)
    rows = sorted(tiny_data.rows_of(tmp_path / "said.jsonl"), key=lambda row: row["text"])
    assert [(row["audio"], row["text"], row["kind"]) for row in rows] == [
        ("text:where is jim's cat", "Where is Jim's cat?", "question"),
        ("text:who was first", "Who was first?", "question"),
    ]
    assert [example.transcript for example in read_manifest(tmp_path / "said.jsonl")]


def test_the_language_model_may_read_the_prompt_too(tmp_path: Path) -> None:
    texts = tiny_data.manifest(tmp_path, {"audio": "text:so it is", "text": "So it is."})
    asked: list[str] = []

    def answerer(given: list[str]) -> list[str]:
        asked.extend(given)
        return ["Yes."] * len(given)

    answer_manifest([texts], tmp_path / "out.jsonl", answerer, prompt="What is it?", read_prompt=True)
    assert asked == ["So it is.\n\nWhat is it?"]
    (row,) = tiny_data.rows_of(tmp_path / "out.jsonl")
    assert (row["audio"], row["prompt"], row["text"]) == ("text:so it is", "What is it?", "Yes.")


@pytest.mark.parametrize("stage", [2, 3])
def test_the_arms_differ_in_their_data_alone(stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("SPEECH", "WORK"):
        monkeypatch.setenv(place, str(tmp_path))
    recipes = {arm: text_or_speech.arm_of(stage, arm) for arm in text_or_speech.ARMS}
    written = [{**vars(recipe), "train": None} for recipe in recipes.values()]
    assert written[0] == written[1] == written[2]
    speech, text, both = (recipes[arm].train for arm in ("speech", "text", "both"))
    assert speech
    assert text
    assert not any(source.simulate for source in speech)
    assert all(source.simulate for source in text)
    assert sorted(map(str, [*speech, *text])) == sorted(map(str, both))


def test_a_bank_that_says_its_own_clips_is_as_good_as_they_are(tmp_path: Path) -> None:
    engine = tiny.engine(model=tiny.model(tiny.config(ctc_vocabulary=list(range(3, 259))), seed=5))
    encoder = engine.encoder
    ctc = CtcTokenizer(engine.processor.tokenizer, encoder.config.ctc_vocabulary)
    texts = ["the cat", "a son"]
    draw = np.random.default_rng(0)
    real = {text: draw.standard_normal((40, tiny.LLM_WIDTH)).astype(np.float16) for text in texts}
    mark = alignment_mark(encoder.state_dict().items(), encoder.config)
    with writing_bank(tmp_path / "bank", mark, tiny.LLM_WIDTH, 0.04, []) as bank:
        for text, frames in real.items():
            tokens = ctc.encode(text)
            bank.add(tokens, [40 - len(tokens) + 1] + [1] * (len(tokens) - 1), frames)
    examples = [Example([], (AudioSpan(text),), transcript=text) for text in texts]
    simulated_speech.MAX_ERROR = 9.0
    result = simulated_speech.compared(
        examples, UnitBank(tmp_path / "bank"), encoder, ctc, lambda one: real[one.transcript or ""], seeds=1
    )
    assert (result["clips"], result["words"]) == (2, 4)
    assert result["speech"]["real"] == result["speech"]["simulated, seed 1"]
    assert result["speech"]["real"]["frames_per_word"] == 20
