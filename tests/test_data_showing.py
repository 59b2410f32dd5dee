"""`data show` and `data answer`: what is shown is what training reads, and answers are the plain model's own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_data import clip, manifest, rows_of, run
from tiny_runs import recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from soundwave.data.manifests import read_manifest
from soundwave.datatools.answer import PROMPT, answer, answer_manifest, whole_sentences
from soundwave.datatools.shard import shard
from soundwave.datatools.show import row_at, show
from soundwave.datatools.spelling import load_spelling
from soundwave.errors import DataError
from soundwave.model.splice import IGNORED
from soundwave.training.prepare import prepare
from soundwave.training.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("showing")
    tiny.part_folders(folder)
    clip(folder / "a.wav", 1.5, rate=8000)
    return folder


@pytest.fixture(scope="module")
def prepared(folder: Path) -> tuple[Recipe, Any]:
    """A training run over the tiny parts, ready to take its first step."""
    made = recipe(folder / "run", stage="shrinking", ctc_vocabulary_size=100)
    return made, prepare(replace(made, ctc_vocabulary_size=None), torch.device("cpu"), "no", main=False)


# --- show


def test_what_is_shown_is_what_training_learns(prepared: tuple[Recipe, Any]) -> None:
    made, run_ready = prepared
    source = run_ready.train[0]
    spelling = load_spelling(made.language_model)
    for number in (1, 2, 8):
        shown = show(row_at(source.source.manifest, number), spelling)
        batch = run_ready.collator([source.items(0, 0)[number - 1]])
        learnt = [token.kind == "learnt" for token in shown.tokens]
        last = max(i for i, said in enumerate(learnt) if said)
        assert [token.id for token in shown.tokens][: last + 1] == batch.input_ids[0].tolist()
        assert learnt[: last + 1] == (batch.labels[0] != IGNORED).tolist()
        assert shown.audios[0].frames == int(batch.frame_mask.sum())
        assert [token.kind for token in shown.tokens].count("audio") == 1
        assert "".join(shown.pieces) == source.examples[number - 1].transcript


def test_the_row_the_audio_and_the_target_are_told(folder: Path) -> None:
    path = manifest(folder, {"audio": "a.wav", "text": "The cat."}, {"audio": "a.wav", "text": "At 5."}, {"x": 1})
    told = run("show", path, "-m", folder / "tiny-llm")
    assert told.exit_code == 0
    assert f"{path}:1" in told.stdout
    assert "a.wav: 1.50 s, 8000 Hz, 1 channels, WAV; 50 aligned frames" in told.stdout
    assert "the␣cat" in told.stdout
    known = json.loads(run("show", path, "1", "-m", folder / "tiny-llm", "--json").stdout)
    assert [token["text"] for token in known["tokens"] if token["kind"] == "learnt"][-1] == "<|im_end|>"
    assert known["pieces"] == ["the", " cat"]
    without = run("show", path, "2", "-m", folder / "tiny-llm").stdout
    assert "CTC target: none, the transcript is not known or cannot be spelt" in without
    for number, why in ((3, "no known manifest format"), (9, "there is no row at line 9; the last is at line 3")):
        result = run("show", path, number, "-m", folder / "tiny-llm")
        assert result.exit_code == 1
        assert why in result.stderr


@pytest.mark.parametrize("layout", ["shar", "webdataset"])
def test_rows_of_every_shard_are_found_by_their_number_among_all(folder: Path, tmp_path: Path, layout: str) -> None:
    rows = [{"audio": "a.wav", "text": f"The {name}."} for name in ("cat", "man", "son", "girl", "boy")]
    shard(manifest(folder, *rows), tmp_path / "out", layout=layout, shard_size=2)
    for number, row in enumerate(rows, 1):
        found = row_at(tmp_path / "out", number).example
        assert found is not None
        assert found.reply == row["text"]
    result = run("show", tmp_path / "out", 6, "-m", folder / "tiny-llm")
    assert result.exit_code == 1
    assert f"{tmp_path / 'out'}: there is no row 6; all its shards have 5 rows." in result.stderr


def test_a_recording_that_breaks_off_is_told_though_its_header_is_whole(folder: Path) -> None:
    clip(folder / "torn.flac", 2.0)
    (folder / "torn.flac").write_bytes((folder / "torn.flac").read_bytes()[:9000])
    told = run("show", manifest(folder, {"audio": "torn.flac", "text": "The cat."}), "-m", folder / "tiny-llm")
    assert told.exit_code == 0
    assert "is cut off or damaged: its sound breaks off after" in told.stdout


def test_a_model_of_ours_brings_its_own_vocabulary_and_system_turn(folder: Path) -> None:
    model = folder / "ours"
    model.mkdir(exist_ok=True)
    tokenizer = tiny.chat_tokenizer()
    letters = [tokenizer.convert_tokens_to_ids(one) for one in ["Ġ", *"abcdefghijklmnopqrstuvwxyz"]]
    config = {
        "model_type": "soundwave", "language_model_source": str(folder / "tiny-llm"), "ctc_vocabulary": letters,
        "audio_system_prompt": "Listen.",
    }
    (model / "config.json").write_text(json.dumps(config))
    shown = show(row_at(manifest(folder, {"audio": "a.wav", "text": "The cat."}), 1), load_spelling(str(model)))
    assert shown.pieces == [" ", *"the", " ", *"cat"]
    text = "".join(token.text for token in shown.tokens)
    assert "Listen." in text
    assert "Be kind." not in text


# --- answer


def test_answers_are_the_models_own_and_a_stopped_run_goes_on(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"audio": "a.wav", "text": "Who is it?", "kind": "question", "duration": 1.5, "speaker": "7"},
        {"audio": "a.wav", "text": "A cat is on the son, is it not?", "kind": "question"},
        {"audio": "a.wav", "text": "The cat.", "kind": "prose"},
        {"audio": "a.wav", "text": "A man.", "prompt": "Who speaks?"},
    ]
    source, out = manifest(folder, *rows, name="q.jsonl"), tmp_path / "answers" / "out.jsonl"
    asked: list[list[str]] = []

    def answerer(texts: Any) -> list[str]:
        asked.append(list(texts))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [f"It is {text}" for text in texts]

    with pytest.raises(KeyboardInterrupt):
        answer_manifest([source], out, answerer, kind="question", batch_size=1)
    done = answer_manifest([source], out, answerer, kind="question", batch_size=1)
    assert asked == [["Who is it?"], ["A cat is on the son, is it not?"], ["A cat is on the son, is it not?"]]
    assert (done.rows, done.before, done.made) == (2, 1, 1)
    first, second = read_manifest(out)
    assert (first.reply, first.transcript) == ("It is Who is it?", "who is it")
    assert (first.duration, first.task) == (1.5, "question")
    assert Path(first.audios[0].path).resolve() == folder / "a.wav"
    assert first.messages[0]["content"][1]["text"] == PROMPT
    assert second.transcript == "a cat is on the son is it not"
    with pytest.raises(DataError, match="there is nothing to answer"):
        answer_manifest([source], out, answerer, kind="poem")


def test_an_answer_is_the_plain_models_greedy_one_in_a_batch_too(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny-llm", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder / "tiny-llm").eval()
    texts = ["The cat.", "A person on the cat is a son."]
    for text, found in zip(texts, answer(texts, model, tokenizer, 12), strict=True):
        chat = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        alone = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids.input_ids.shape[1] :]
        written = tokenizer.decode(alone, skip_special_tokens=True).strip()
        ended = tokenizer.eos_token_id in alone.tolist()
        assert found == (written if ended else whole_sentences(written))


def test_the_command_writes_a_manifest_that_can_be_checked(folder: Path, tmp_path: Path) -> None:
    source = manifest(folder, {"audio": "a.wav", "text": "The cat?"}, name="one.jsonl")
    result = run("answer", source, tmp_path / "o.jsonl", "-m", folder / "tiny-llm", "--max-new-tokens", 8)
    assert result.exit_code == 0
    made = rows_of(tmp_path / "o.jsonl")
    told = f"{len(made)} answers now, 0 before, {1 - len(made)} without a whole sentence"
    assert told in result.stdout


def test_each_clip_that_says_the_same_has_its_row_and_the_text_is_answered_once(folder: Path, tmp_path: Path) -> None:
    rows = [
        *({"audio": f"{name}.wav", "text": "Who is it?", "speaker": name} for name in "abc"),
        {"audio": "a.wav", "text": "Who is it?", "start": 0.5, "end": 1.0},
        {"audio": "d.wav", "text": "Is it a cat, or who?"},
    ]
    source, out = manifest(tmp_path, *rows, name="q.jsonl"), tmp_path / "answers" / "out.jsonl"
    asked: list[str] = []

    def answerer(texts: Any) -> list[str]:
        asked.extend(texts)
        return [f"It is {text}" for text in texts]

    first = answer_manifest([source], out, answerer, limit=1)
    assert (first.rows, first.before, first.made) == (1, 0, 1)
    again = answer_manifest([source], out, answerer)
    assert (again.rows, again.before, again.made) == (5, 1, 4)
    assert asked == ["Who is it?", "Is it a cat, or who?"]
    assert [(row["audio"], row.get("start"), row.get("speaker")) for row in rows_of(out)] == [
        ("../a.wav", None, "a"), ("../b.wav", None, "b"), ("../c.wav", None, "c"), ("../a.wav", 0.5, None),
        ("../d.wav", None, None),
    ]  # fmt: skip
    assert answer_manifest([source], out, answerer).made == 0


def test_other_settings_and_foreign_files_are_refused(folder: Path, tmp_path: Path) -> None:
    source, out = manifest(tmp_path, {"audio": "a.wav", "text": "The cat?"}, name="one.jsonl"), tmp_path / "o.jsonl"
    command = ["answer", source, out, "-m", folder / "tiny-llm", "--max-new-tokens"]
    assert run(*command, 8).exit_code == 0
    assert run(*command, 8, "--limit", 5).exit_code == 0
    before = out.read_bytes()
    for changed, told in (
        ((9,), "max_new_tokens 8, not 9"), ((8, "--prompt", "Reply."), "prompt 'Please answer.*, not 'Reply.'"),
        ((8, "--questions"), "questions False, not True"),
    ):  # fmt: skip
        refused = run(*command, *changed)
        assert refused.exit_code == 2
        assert re.search(f"o.jsonl holds rows made with {told}; give the same settings to go on", refused.stderr)
    assert out.read_bytes() == before
    foreign = manifest(tmp_path, {"audio": "a.wav", "text": "Hi."}, name="foreign.jsonl")
    command[2] = foreign
    refused = run(*command, 8)
    assert refused.exit_code == 2
    assert "foreign.jsonl exists, and no foreign.jsonl.made-with.json beside it says how it was made" in refused.stderr
    with pytest.raises(DataError, match=r"foreign.jsonl:1: this row is no answer; write to another file"):
        answer_manifest([source], foreign, lambda texts: ["No."] * len(texts))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("In Italy, it is the Euro. It is the official", "In Italy, it is the Euro."),
        ("Ask Dr. Smith", ""),
        ("J. Smith did it! And", "J. Smith did it!"),
        ("no end", ""),
    ],
)
def test_an_answer_that_is_cut_ends_with_a_sentence(text: str, kept: str) -> None:
    assert whole_sentences(text) == kept
