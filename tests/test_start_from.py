"""Training goes on from any model: a trained folder, a whole one, the released format, a name of the catalog."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_runs
import torch

from soundwave import doctor
from soundwave.checkpoints import catalog
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.evaluation.provenance import weights_of
from soundwave.export.huggingface import export
from soundwave.inference.engine import Engine
from soundwave.inference_config import InferenceConfig
from soundwave.training import build
from soundwave.training.loop import train
from soundwave.training.recipe import Recipe

QUESTION = [tiny.user("What does the person say?", tiny.sound(1.3, 4))]


def logits(folder: Path) -> torch.Tensor:
    model, processor, _ = load_checkpoint(folder, "cpu", torch.float32)
    with torch.no_grad():
        return model(**processor.apply_chat_template(QUESTION)).logits


def tuned(tmp_path: Path, start: str, **changes: Any) -> Recipe:
    """A short instruction stage over a whole model; the features are made by the model's own encoder."""
    recipe = tiny_runs.recipe(tmp_path)
    plain = {"stage": "instruction", "max_steps": 2, "ctc_vocabulary_size": None, "model": {}, "features": None}
    named = {"audio_tower": None, "language_model": None, "start_from": start, "output_dir": str(tmp_path / "tuned")}
    return dataclasses.replace(recipe, **{**plain, **named, **changes})


@pytest.mark.parametrize("ours", [False, True], ids=["released format", "our format"])
def test_a_whole_model_is_tuned_and_answers(ours: bool, tmp_path: Path) -> None:
    start = tiny.released_folder(tmp_path / "released")
    if ours:
        start = export(str(start), tmp_path / "whole")
    before = logits(start)
    still = train(tuned(tmp_path, str(start), learning_rate=1e-9))
    torch.testing.assert_close(logits(still), before, rtol=1e-3, atol=1e-3)
    final = train(tuned(tmp_path, str(start), learning_rate=1e-2, output_dir=str(tmp_path / "learnt")))
    assert sorted(path.name for path in final.iterdir()) == [
        "adapters.safetensors", "config.json", "inference.json", "lora",
    ]
    assert not torch.allclose(logits(final), before, atol=1e-2)
    model, processor, _ = load_checkpoint(final, "cpu", torch.float32)
    assert model.config.language_model_source == str(start.resolve())
    assert processor.inference.prompt_format == "released"
    pad = load_checkpoint(start, "cpu", torch.float32)[0].language_model.generation_config.pad_token_id
    assert model.language_model.generation_config.pad_token_id == pad


def test_the_adapters_of_a_whole_model_can_be_tuned_alone_and_the_result_exported(tmp_path: Path) -> None:
    start = tiny.released_folder(tmp_path / "released")
    lora = dataclasses.replace(tiny_runs.recipe(tmp_path).lora, r=0)
    final = train(tuned(tmp_path, str(start), stage="shrinking", lora=lora, learning_rate=1e-2))
    assert not (final / "lora").exists()
    weights = [load_checkpoint(one, "cpu", torch.float32)[0].alignment.project.weight for one in (start, final)]
    assert not torch.allclose(*weights, atol=1e-3)
    out = export(str(final), tmp_path / "whole")
    shutil.rmtree(start)  # the exported folder holds everything
    assert logits(out).isfinite().all()


def test_a_name_of_the_catalog_is_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny_runs.recipe(tmp_path, max_steps=2)
    folder = train(first)
    monkeypatch.setattr(catalog, "_shipped_folder", lambda name: folder)
    recipe = tuned(tmp_path, "mini", features=first.features)
    final = train(recipe)
    sources = load_checkpoint(final, "cpu", torch.float32)[0].config
    assert sources.language_model_source == first.language_model


@pytest.mark.parametrize("whole", [False, True], ids=["trained", "whole"])
def test_stage_one_leaves_the_lora_of_a_model_as_it_is(whole: bool, tmp_path: Path) -> None:
    first = tiny_runs.recipe(tmp_path, max_steps=2)
    two = dataclasses.replace(
        first, stage="shrinking", start_from=str(train(first)), output_dir=str(tmp_path / "two"),
        audio_tower=None, language_model=None, ctc_vocabulary_size=None, model={},
    )
    start = train(two)
    if whole:
        start = export(str(start), tmp_path / "whole", "float32")
    again = dataclasses.replace(
        two, stage="alignment", start_from=str(start), output_dir=str(tmp_path / "again"), features=None
    )
    before, after = (load_checkpoint(folder, "cpu", torch.float32)[0] for folder in (start, train(again)))
    assert after.has_lora
    assert not torch.equal(after.alignment.project.weight, before.alignment.project.weight)
    kept = dict(after.language_model.named_parameters())
    assert kept.keys() == dict(before.language_model.named_parameters()).keys()
    assert all(torch.equal(value, kept[name]) for name, value in before.language_model.named_parameters())


@pytest.mark.parametrize("stage", ["alignment", "instruction"])
def test_a_tuned_mini_finds_words_by_the_same_search(stage: str, tmp_path: Path) -> None:
    first = tiny_runs.recipe(tmp_path, max_steps=1)
    start = train(first)
    (start / "ngram.npz").write_bytes(b"counted")
    InferenceConfig.of({"transcribe": {"ngram": "ngram.npz"}}).write(start)
    final = train(tuned(tmp_path, str(start), stage=stage, features=first.features))
    assert InferenceConfig.read(final).transcribe.ngram == "ngram.npz"
    assert (final / "ngram.npz").read_bytes() == b"counted"


def test_a_hub_id_is_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = tiny.released_folder(tmp_path / "released")
    monkeypatch.setattr(catalog, "_hub_folder", lambda name, **_: released)
    final = train(tuned(tmp_path, "org/model"))
    model, processor, inference = load_checkpoint(final, "cpu", torch.float32)
    assert model.config.language_model_source == "org/model"
    engine = Engine(model.speech_encoder, None, processor, inference, folder=final)
    assert "model/model.safetensors" in weights_of(engine)  # a score names what it stands on


def test_the_doctor_knows_a_part_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_folder_without_network", lambda name: None)
    assert doctor._part("org/model").value == "not downloaded yet"
    monkeypatch.setattr(doctor, "_folder_without_network", lambda name: tiny.released_folder(tmp_path / "released"))
    assert doctor._part("org/model").mark == "ok"


def test_what_is_no_model_to_train_further_is_told(tmp_path: Path) -> None:
    tiny.part_folders(tmp_path)
    with pytest.raises(CheckpointError, match="tiny-llm holds a model of type 'llama', not a Soundwave model to train"):
        build.start_config(tmp_path / "tiny-llm", "x")
    with pytest.raises(ConfigurationError, match=r"no config\.json there; train the stage before first"):
        build.start_folder(Recipe(start_from=str(tmp_path)))
