"""The figures of mini's card and of the README are those of docs/results, and these are of the shipped weights."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODEL, RESULTS = ROOT / "models" / "soundwave-mini", ROOT / "docs" / "results"
FILES = sorted(RESULTS.glob("mini-*.json"))
AFTER_STAGE_1 = "20.3"  # measured in training: docs/results/mini-curves/stage1.jsonl


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"mini-{name}.json").read_text(encoding="utf-8"))


def percent(name: str) -> str:
    return f"{100 * result(name)['score']:.1f} %"


def right(name: str, what: str = "right") -> str:
    found = result(name)
    return f"{found['counts'][what]} of {found['clips']}"


ROWS = {
    "**`transcribe`, word error rate**": lambda: f"**{percent('dev-librispeech-transcribe')}**",
    "without the language model (`transcribe --no-llm`)": lambda: percent("dev-librispeech-no-llm"),
    "the greedy CTC path, after the first stage I / as it is": lambda: (
        f"{AFTER_STAGE_1} / {percent('dev-librispeech-ctc')}"
    ),
    "`transcribe` on accents and children": lambda: percent("dev-nonnative-transcribe"),
    "the same without the language model": lambda: percent("dev-nonnative-no-llm"),
    "`transcribe` on real microphones": lambda: percent("dev-common-voice-transcribe"),
    "spoken questions answered rightly": lambda: right("dev-questions-questions"),
    "… their words, word error rate": lambda: (
        f"{100 * result('dev-questions-questions')['also']['word_error_rate_of_transcript']:.1f} %"
    ),
    "… from the audio itself (`--via audio`)": lambda: right("dev-questions-audio"),
    "… only repeated instead of answered": lambda: right("dev-questions-questions", "only_repeated"),
    "typed questions answered as the plain language model does": lambda: right(
        "dev-questions-typed-questions", "same_as_plain_model"
    ),
    "the intent of a spoken command, one of 24 (`--via audio`)": lambda: percent("commands"),
    "… by way of the transcript": lambda: percent("commands-transcript"),
    "the sound of a recording, one of ten (`--via audio`)": lambda: percent("sounds"),
    "English to German, short sentences (`--via audio`)": lambda: percent("translation").replace("%", "BLEU"),
    "nothing written where nobody speaks": lambda: right("no-speech", "empty"),
}


def test_each_row_of_the_card_is_a_file() -> None:
    card = (MODEL / "README.md").read_text(encoding="utf-8").split("## What it can do, measured")[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines()[2:]]
    assert {name: figure for name, _, figure in rows} == {name: figure() for name, figure in ROWS.items()}


def test_the_figure_after_stage_one_is_the_last_of_its_curve() -> None:
    curve = [json.loads(line) for line in (RESULTS / "mini-curves" / "stage1.jsonl").read_text().splitlines()]
    rates = [row["eval_dev-librispeech_ctc_wer"] for row in curve if "eval_dev-librispeech_ctc_wer" in row]
    assert f"{100 * rates[-1]:.1f}" == AFTER_STAGE_1


def test_the_readme_says_the_same() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(r"read English with ([\d.]+ %) of its words wrong", readme)
    assert found
    assert found[1] == percent("dev-librispeech-transcribe")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_score_is_of_the_shipped_weights_and_of_committed_code_and_each_reply_lies_beside_it(file: Path) -> None:
    score = json.loads(file.read_text(encoding="utf-8"))
    for name in ("adapters.safetensors", "lora/adapter_model.safetensors"):
        assert score["model"]["weights"][name] == hashlib.sha256((MODEL / name).read_bytes()).hexdigest()
    assert re.fullmatch(r"[0-9a-f]{40}", score["commit"])
    replies = file.with_name(f"{file.name}.predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["line"] for line in replies}) == score["clips"]
