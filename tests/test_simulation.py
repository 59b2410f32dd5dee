"""Speech from text: a bank's units are real frames under the tokens that were said, and a run learns from them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_data
import tiny_runs
import torch
from safetensors.torch import load_file, save_file

from soundwave.data.manifests import read_manifest
from soundwave.data.units import EDGE, UnitBank, writing_bank
from soundwave.datatools.units import cut_frames
from soundwave.errors import ConfigurationError, DataError
from soundwave.training.checkpoint import checkpoint_at
from soundwave.training.loop import train
from soundwave.training.objective import StageModule
from soundwave.training.prepare import prepare
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.sampler import batches, epoch_items

TEXTS = [
    {"audio": "text:the cat", "prompt": "Who is it?", "transcript": "The Cat?", "text": "A cat."},
    {"audio": "text:a son on the person", "text": "A son, on the person."},
    {"audio": "text:so on", "prompt": "Go on", "text": "So."},
]
# A clip a line, a letter a token; a capital begins a word.
BANK = ["TheCat", "TheSon", "ACat", "CatSat"]


def token(letter: str) -> int:
    return ord(letter) - ord("A")


def tokens(text: str) -> list[int]:
    return [token(letter) for letter in text]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> UnitBank:
    """Unit i of the bank has one or two frames, which all say i."""
    folder, number = tmp_path_factory.mktemp("units") / "bank", 0
    with writing_bank(folder, "an adapter", 3, 0.04, [token(letter) for letter in "TCSA"]) as writer:
        for clip in BANK:
            sizes = [1 + i % 2 for i in range(len(clip))]
            numbers = np.repeat(np.arange(number, number + len(clip)), sizes)
            writer.add(tokens(clip), sizes, np.repeat(numbers[:, None], 3, 1))
            number += len(clip)
    return UnitBank(folder)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished stage I, `run/final`, and a bank of its clips, `bank`."""
    folder = tmp_path_factory.mktemp("stage1")
    final = train(tiny_runs.recipe(folder, max_steps=30))
    shutil.copy(folder / "data" / "manifest.jsonl", folder / "data" / "clips.jsonl")
    made = tiny_data.run(
        "units", folder / "data" / "clips.jsonl", "--model", final, "--out", folder / "bank", "--max-error", 9
    )
    assert made.exit_code == 0, made.output
    return folder


def simulated(stage1: Path, output: Path, stage: str = "instruction", **changes: Any) -> Recipe:
    """A run of a later stage that hears nothing but texts."""
    texts = tiny_runs.manifest_of(stage1 / "data", TEXTS, "texts.jsonl")
    plain = dataclasses.replace(
        tiny_runs.recipe(stage1), stage=stage, start_from=str(stage1 / "run" / "final"), output_dir=str(output),
        model={}, train=[DataSource(str(texts), simulate=str(stage1 / "bank"))], alignment_learning_rate_scale=0.0,
        ctc_vocabulary_size=None, language_model=None, audio_tower=None,
    )
    return dataclasses.replace(plain, **changes)


# The bank


@pytest.mark.parametrize("text", ["TheCat", "CatThe", "Sat", "TaSonCatCatA", "e"])
def test_a_text_is_said_by_units_of_its_tokens_whose_frames_are_whole(bank: UnitBank, text: str) -> None:
    told = "".join(BANK)
    frames = bank.say(tokens(text), "seed")[:, 0].astype(int).tolist()
    units = [unit for i, unit in enumerate(frames) if i == 0 or unit != frames[i - 1]]
    assert "".join(told[unit] for unit in units) == text
    places = [place for clip in BANK for place in range(len(clip))]
    assert all(frames.count(unit) == units.count(unit) * (1 + places[unit] % 2) for unit in units)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("TheCat", ["TheCat"]),  # a whole clip
        ("TheSonSat", ["TheSon", "Sat"]),
        ("TheSat", ["The", "Sat"]),  # TheS is longer, but breaks a word
        ("SonThe", ["Son", "The"]),
        ("Than", ["Th", "a", "n"]),  # no word of the bank
    ],
)
def test_the_longest_run_up_to_the_end_of_a_word_is_taken(bank: UnitBank, text: str, runs: list[str]) -> None:
    chosen = bank.runs(tokens(text), np.random.default_rng(0))
    assert [bank.tokens[first:last].tolist() for first, last in chosen] == [tokens(run) for run in runs]


def test_a_unit_with_the_same_neighbour_before_it_is_preferred(bank: UnitBank) -> None:
    drawn = [bank.runs(tokens("ACat"), np.random.default_rng(seed)) for seed in range(20)]
    assert {len(runs) for runs in drawn} == {1}
    text = tokens("CatCat")  # the second Cat ends the text, and follows no t: three clips have one
    ends = {bank.runs(text, np.random.default_rng(seed))[1][0] for seed in range(40)}
    assert {bank.tokens[end + 3] for end in ends} == {EDGE}
    assert len(ends) == 2  # TheCat and ACat; in CatSat it is followed by another word


def test_the_same_seed_says_the_same_and_others_say_otherwise(bank: UnitBank) -> None:
    said = [bank.say(tokens("CatSonTheA"), seed).tobytes() for seed in ("1", "1", *"23456789")]
    assert said[0] == said[1]
    assert len(set(said)) > 1


def test_what_the_bank_lacks_and_how_long_a_text_is(bank: UnitBank) -> None:
    assert bank.lacks(tokens("Thez")) == [token("z")]
    assert bank.seconds(tokens("ee")) == pytest.approx(2 * 0.04)  # e is third in its clips: one frame


def test_a_folder_that_is_no_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no bank of units.*soundwave data units"):
        UnitBank(tmp_path)


def test_a_bank_whose_files_do_not_fit_is_refused(bank: UnitBank, tmp_path: Path) -> None:
    copy = shutil.copytree(bank.folder, tmp_path / "bank")
    table = np.load(copy / "units.npy")
    table[2, 1] += 1
    np.save(copy / "units.npy", table)
    with pytest.raises(DataError, match=r"units\.npy does not fit frames\.f16"):
        UnitBank(copy)


def test_blanks_between_tokens_are_shared_by_them() -> None:
    path, blank = [2, 2, 0, 2, 2, 2, 2, 1, 1, 2, 0], 2
    logprobs = np.log(np.full((len(path), 3), 0.01) + 0.97 * np.eye(3)[path])
    assert cut_frames([0, 1, 0], logprobs, blank) == [5, 5, 1]
    assert cut_frames([0, 0], logprobs[2:3], blank) is None


# From recordings to a bank


def test_a_bank_holds_what_the_model_made_of_the_clips(stage1: Path) -> None:
    made, about = UnitBank(stage1 / "bank"), json.loads((stage1 / "bank" / "bank.json").read_text())
    assert about["clips"] == 8
    assert about["units"] == (made.tokens != EDGE).sum()
    assert (made.tokens == EDGE).sum() == 9


# Training


def test_an_example_is_said_with_the_units_of_its_words(stage1: Path, tmp_path: Path) -> None:
    prepared = prepare(simulated(stage1, tmp_path), torch.device("cpu"), "no", main=False)
    items = prepared.train[0].items(1, 0)
    assert [item.ctc for item in items] == [prepared.train[0].tokenizer.encode(text) for text in (
        "the cat", "a son on the person", "so on"
    )]
    batch = prepared.collator(items)
    assert batch.encoder_frames is None
    assert batch.aligned_frames is not None
    assert batch.frame_mask is not None
    for item, frames, mask in zip(items, batch.aligned_frames, batch.frame_mask, strict=True):
        assert item.said is not None
        said = item.said.bank.say(item.said.tokens, item.said.seed)
        torch.testing.assert_close(frames[mask], torch.from_numpy(said).float())
    other = prepared.train[0].items(1, 1)
    assert [item.said.seed for item in items if item.said] != [item.said.seed for item in other if item.said]


def test_the_alignment_adapter_gets_no_gradient_from_what_it_once_made(stage1: Path, tmp_path: Path) -> None:
    prepared = prepare(simulated(stage1, tmp_path, "shrinking"), torch.device("cpu"), "no", main=False)
    module = StageModule(prepared.model, prepared.stage, 0.3).train()
    losses = module(prepared.collator(prepared.train[0].items(1, 0)))
    assert losses.ctc is None
    losses.total.backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    assert not [name for name, grad in gradients.items() if grad is None]
    moved = {name for name, grad in gradients.items() if grad is not None and grad.any()}
    assert any("shrinking" in name for name in moved)
    assert any("lora_B" in name for name in moved)
    assert not any("alignment" in name for name in moved)


@pytest.mark.parametrize("stage", ["shrinking", "instruction"])
def test_a_run_on_texts_alone_learns_them(stage: str, stage1: Path, tmp_path: Path) -> None:
    recipe = simulated(stage1, tmp_path / "run", stage, max_steps=25, learning_rate=1e-2)
    recipe.evaluation = list(recipe.train)
    before = load_file(stage1 / "run" / "final" / "adapters.safetensors")
    after = tiny_runs.weights(train(recipe))
    rows = tiny_runs.losses(recipe.output_dir)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] / 2
    assert "eval_data_ctc_wer" in rows[-1]
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("alignment."))


def test_recordings_and_texts_are_mixed_in_batches_of_their_own(stage1: Path, tmp_path: Path) -> None:
    recipe = simulated(stage1, tmp_path / "run", max_steps=8, save_steps=4)
    clips = str(stage1 / "data" / "clips.jsonl")
    recipe.train += [DataSource(clips, repeat=0.5), DataSource(clips, simulate=str(stage1 / "bank"), repeat=0.5)]
    prepared = prepare(recipe, torch.device("cpu"), "no", main=False)
    items = epoch_items(prepared.train, recipe, 0)
    assert sum(item.said is not None for item in items) == 7
    for batch in batches(items, recipe, 1, 0):
        assert len({item.said is None for item in batch}) == 1
        assert all(item.sounds == 1 for item in batch)
    straight, losses = tiny_runs.weights(train(recipe)), tiny_runs.losses(recipe.output_dir)
    shutil.rmtree(tmp_path / "run" / "final")
    shutil.rmtree(checkpoint_at(tmp_path / "run" / "checkpoints", 8))
    resumed = tiny_runs.weights(train(recipe))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert [row["loss"] for row in losses] == [row["loss"] for row in tiny_runs.losses(recipe.output_dir)]


# What is refused


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("alignment", {}, "simulate is .* the stage alignment learns from recordings only"),
        ("shrinking", {"alignment_learning_rate_scale": 0.1}, "set alignment_learning_rate_scale to 0"),
    ],
)
def test_a_stage_that_changes_the_adapter_is_refused(
    stage: str, changes: dict[str, Any], words: str, stage1: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        train(simulated(stage1, tmp_path, stage, **changes))


def test_speeds_of_what_has_none_are_refused(stage1: Path, tmp_path: Path) -> None:
    recipe = simulated(stage1, tmp_path)
    recipe.train[0].speeds = [0.9, 1.1]
    with pytest.raises(ConfigurationError, match="leave speeds out"):
        train(recipe)


def test_a_bank_of_another_alignment_adapter_is_refused(stage1: Path, tmp_path: Path) -> None:
    other = shutil.copytree(stage1 / "run" / "final", tmp_path / "other")
    weights = load_file(other / "adapters.safetensors")
    weights["alignment.project.bias"] = weights["alignment.project.bias"] + 1e-3
    save_file(weights, other / "adapters.safetensors")
    recipe = simulated(stage1, tmp_path / "run", start_from=str(other))
    with pytest.raises(DataError, match=r"made with another alignment adapter.*soundwave data units"):
        train(recipe)


def test_what_the_encoder_has_learned_is_part_of_what_a_bank_knows(stage1: Path, tmp_path: Path) -> None:
    further = {"start_from": str(stage1 / "run" / "final"), "audio_tower": None, "language_model": None}
    learned = train(dataclasses.replace(
        tiny_runs.recipe(stage1, max_steps=2), output_dir=str(tmp_path / "learned"), features=None,
        ctc_vocabulary_size=None, model={"encoder_upper_layers": 1, "encoder_training": "full"}, **further,
    ))
    clips = stage1 / "data" / "clips.jsonl"
    made = tiny_data.run("units", clips, "--model", learned, "--out", tmp_path / "bank", "--max-error", 9)
    assert made.exit_code == 0, made.output
    recipe = simulated(stage1, tmp_path / "run", "shrinking", start_from=str(learned), features=None, max_steps=1)
    recipe.train[0].simulate = str(tmp_path / "bank")
    with pytest.raises(ConfigurationError, match="set encoder_learning_rate_scale to 0"):
        train(recipe)
    at_rest = dataclasses.replace(recipe, encoder_learning_rate_scale=0.0)
    before, after = load_file(learned / "adapters.safetensors"), tiny_runs.weights(train(at_rest))
    own = [name for name in before if name.startswith(("audio_tower.", "alignment."))]
    assert any(name.startswith("audio_tower.") for name in own)
    assert all(torch.equal(before[name], after[name]) for name in own)

    name = next(name for name in own if name.endswith("fc1.bias"))
    save_file(before | {name: before[name] + 1e-3}, learned / "adapters.safetensors")
    with pytest.raises(DataError, match=r"made with another alignment adapter"):
        train(dataclasses.replace(at_rest, output_dir=str(tmp_path / "other")))


def test_texts_without_a_bank_are_refused_with_what_to_set(stage1: Path, tmp_path: Path) -> None:
    recipe = simulated(stage1, tmp_path)
    recipe.train[0].simulate = None
    with pytest.raises(DataError, match=r"a text to say \('text:the cat'\).*`simulate`"):
        train(recipe)


def test_texts_that_cannot_be_said_are_left_out_and_none_is_too_few(
    stage1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unsayable = [{"audio": "text:5 %", "text": "No."}, {"audio": "text:zebra", "text": "No."}]
    recipe = simulated(stage1, tmp_path)
    recipe.train[0].manifest = str(tiny_runs.manifest_of(stage1 / "data", [*TEXTS, *unsayable], "some.jsonl"))
    prepare(recipe, torch.device("cpu"), "no", main=True)
    assert "left out 2 texts that" in capsys.readouterr().err
    recipe.train[0].manifest = str(tiny_runs.manifest_of(stage1 / "data", unsayable, "none.jsonl"))
    with pytest.raises(DataError, match="can say none of its texts"):
        prepare(recipe, torch.device("cpu"), "no", main=False)


# Rows without a recording


def test_a_text_to_say_has_its_own_words_and_the_transcript_may_be_written_otherwise(tmp_path: Path) -> None:
    rows = [{"audio": "text:in nineteen oh five", "transcript": "In 1905.", "text": "In 1905."}]
    (example,) = read_manifest(tiny_data.manifest(tmp_path, *rows))
    assert example.transcript == "in nineteen oh five"
    assert example.spoken == "In 1905."


def test_data_tools_take_texts_to_say_as_they_are(tmp_path: Path) -> None:
    texts = tiny_data.manifest(tmp_path, {"audio": "text:where is the cat", "text": "Here.", "label": "cat"})
    made = tiny_data.run("instruct", texts, tmp_path / "sub" / "out.jsonl", "--task", "sound")
    assert made.exit_code == 0, made.output
    (row,) = tiny_data.rows_of(tmp_path / "sub" / "out.jsonl")
    assert row["audios"] == ["text:where is the cat"]
    checked = tiny_data.run("check", texts)
    assert checked.exit_code == 0, checked.output
    filtered = tiny_data.run("filter", texts, tmp_path / "kept.jsonl")
    assert filtered.exit_code == 0, filtered.output
    assert tiny_data.rows_of(tmp_path / "kept.jsonl")[0]["audio"] == "text:where is the cat"


def test_dropped_channels_let_the_adapter_hear_worse(stage1: Path, tmp_path: Path) -> None:
    for name, share in (("same", 0), ("worse", 0.5)):
        made = tiny_data.run(
            "units", stage1 / "data" / "clips.jsonl", "--model", stage1 / "run" / "final", "--out", tmp_path / name,
            "--max-error", 9, "--feature-dropout", share,
        )
        assert made.exit_code == 0, made.output
    folders = stage1 / "bank", tmp_path / "same", tmp_path / "worse"
    frames = [(folder / "frames.f16").read_bytes() for folder in folders]
    assert frames[0] == frames[1]
    assert len(frames[0]) == len(frames[2])
    assert frames[0] != frames[2]
