"""Training runs from their first check to their last step, on tiny parts and made audio."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jiwer
import pytest
import soundfile
import tiny
import tiny_runs
import torch
from accelerate.state import AcceleratorState
from tiny_runs import weights

from soundwave.checkpoints.native import load_native
from soundwave.errors import ConfigurationError, TrainingError
from soundwave.model.shrink import collapse
from soundwave.training import loop, objective
from soundwave.training.checkpoint import list_checkpoints
from soundwave.training.loop import train
from soundwave.training.prepare import prepare
from soundwave.training.recipe import DataSource, Recipe

CPU = torch.device("cpu")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_runs.recipe(tmp_path)


def largest_change(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], prefix: str = "") -> float:
    assert set(one) == set(other)
    changes = {name: (one[name] - other[name]).abs() for name in one if name.startswith(prefix)}
    return max(float(change.max()) for change in changes.values() if change.numel())


def interrupt(recipe: Recipe, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a recipe until it writes the figures of that step."""
    report = loop.report

    def interrupted(run: Any, speed: float) -> None:
        if run.position.step == step:
            raise KeyboardInterrupt
        report(run, speed)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe)


def break_batch(monkeypatch: pytest.MonkeyPatch, number: int, broken: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Spoils the loss of one batch; the two that are checked before the first step count too."""
    calls = []

    def total_loss(*terms: Any) -> torch.Tensor:
        calls.append(None)
        loss = whole(*terms)
        return broken(loss) if len(calls) == number else loss

    whole = objective.total_loss
    monkeypatch.setattr(objective, "total_loss", total_loss)


# Interrupted and resumed


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_has_the_losses_of_a_straight_one(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int
) -> None:
    recipe = dataclasses.replace(recipe, gradient_accumulation_steps=accumulation, save_steps=3)
    straight = train(recipe)
    resumed = dataclasses.replace(recipe, output_dir=str(tmp_path / "resumed"))
    interrupt(resumed, 5, monkeypatch)
    assert [path.name for path in list_checkpoints(tmp_path / "resumed" / "checkpoints")] == ["step-000003"]
    final = train(resumed)
    one, other = (tiny_runs.losses(run.output_dir) for run in (recipe, resumed))
    assert [row["step"] for row in other] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(one, other, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
        assert ours["learning_rate"] == theirs["learning_rate"]
    assert largest_change(weights(straight), weights(final)) < 1e-6


def test_a_finished_run_has_nothing_left_to_do(recipe: Recipe) -> None:
    before = weights(train(recipe))
    rows = tiny_runs.losses(recipe.output_dir)
    assert largest_change(weights(train(recipe)), before) == 0
    assert tiny_runs.losses(recipe.output_dir) == rows
    with pytest.raises(TrainingError, match=r"already holds a run \(at step-000006\); change output_dir, or resume it"):
        train(recipe, resume=False)


def test_a_half_written_checkpoint_is_ignored(recipe: Recipe, tmp_path: Path) -> None:
    train(dataclasses.replace(recipe, save_steps=3))
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / ".step-000009.tmp").mkdir()
    (checkpoints / "step-000009").mkdir()
    (checkpoints / "step-000009" / "position.json").write_text('{"step": 9, "epoch": 0, "batch": 0}')
    assert [path.name for path in list_checkpoints(checkpoints)] == ["step-000003", "step-000006"]
    train(recipe)  # goes on from step 6, of 6


def test_a_damaged_checkpoint_is_named(recipe: Recipe, tmp_path: Path) -> None:
    train(dataclasses.replace(recipe, save_steps=3))
    newest = tmp_path / "run" / "checkpoints" / "step-000006"
    content = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match=r"step-000006 is damaged .*; delete it, and the same command goes on from"):
        train(recipe)


def test_only_the_newest_two_checkpoints_are_kept(recipe: Recipe, tmp_path: Path) -> None:
    train(dataclasses.replace(recipe, save_steps=2))
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000004", "step-000006"]


def test_a_run_of_another_shape_is_not_resumed(recipe: Recipe) -> None:
    train(recipe)
    other = dataclasses.replace(recipe, model=recipe.model | {"alignment_layers": 2})
    with pytest.raises(TrainingError, match=r"a run of another recipe; .*model\.alignment_layers from null to 2"):
        train(other)
    (Path(recipe.output_dir) / "recipe.yaml").unlink()
    with pytest.raises(TrainingError, match=r"by a run with other trained parameters \(alignment.layers.1.* only\)"):
        train(other)


def test_a_full_disk_leaves_the_earlier_checkpoints(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(recipe, save_steps=3)
    interrupt(recipe, 5, monkeypatch)
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, allowed[1]))  # no file may grow beyond that
    try:
        with pytest.raises(TrainingError, match=r"checkpoint .*step-000006 could not be written \(.*\); free some"):
            train(recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-000003"]
    train(recipe)
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [1, 2, 3, 4, 5, 6]


# Losses that are no numbers


@pytest.mark.parametrize(
    ("what", "broken"),
    [
        ("loss", lambda loss: loss * float("nan")),
        ("gradient", lambda loss: loss + (loss * 0).sqrt()),  # finite, but its slope is not
    ],
)
def test_a_loss_or_gradient_that_is_no_number_names_its_batch(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, what: str, broken: Any
) -> None:
    break_batch(monkeypatch, 2 + 3, broken)
    message = rf"The {what} at step 2 is nan; the batch holds .*manifest.jsonl:\d+.*lower learning_rate, or set on_nan"
    with pytest.raises(TrainingError, match=message):
        train(recipe)


@pytest.mark.parametrize("broken", [lambda loss: loss * float("nan"), lambda loss: loss + (loss * 0).sqrt()])
def test_such_a_batch_can_be_skipped(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: Any
) -> None:
    break_batch(monkeypatch, 2 + 3, broken)
    final = train(dataclasses.replace(recipe, on_nan="skip"))
    assert "skipped: The " in capsys.readouterr().err
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [1, 2, 3, 4, 5, 6]
    assert all(torch.isfinite(value).all() for value in weights(final).values())


def test_a_first_batch_that_cannot_be_learnt_stops_the_run_before_it_starts(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_batch(monkeypatch, 1, lambda loss: loss * float("nan"))
    with pytest.raises(TrainingError, match=r"The loss of the first batch is nan; it holds .*manifest.jsonl"):
        train(recipe)
    assert not Path(recipe.output_dir).exists()


# The three stages


def test_stage_one_never_has_the_llm_in_memory(recipe: Recipe) -> None:
    prepared = prepare(recipe, CPU, "no", main=False)
    in_memory = {name for name, p in prepared.model.named_parameters() if not p.is_meta}
    adapters = {name for name in in_memory if name.startswith(("alignment.", "shrinking."))}
    assert in_memory - adapters == {"language_model.model.embed_tokens.weight"}
    module = objective.StageModule(prepared.model, prepared.stage, 0.3)
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"alignment"}
    assert set(prepared.trained) == {name for name in adapters if name.startswith("alignment.")}


def test_a_projection_head_starts_as_the_llms_embeddings_and_stays(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, model=recipe.model | {"ctc_head": "projection"})
    prepared = prepare(recipe, CPU, "no", main=False)
    head = prepared.model.alignment.ctc_projection
    rows = prepared.model.get_input_embeddings().weight[prepared.model.config.ctc_vocabulary]
    assert torch.equal(head.weight[:-1], rows)
    started = head.weight.detach().clone()
    assert torch.equal(weights(train(recipe))["alignment.ctc_projection.weight"], started)


@pytest.fixture(scope="module")
def three_stages(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Recipe, Path]]:
    """Stage I, then II and III over all kinds of examples."""
    folder = tmp_path_factory.mktemp("stages")
    first = tiny_runs.recipe(folder, output_dir=str(folder / "one"))
    mixed = tiny_runs.manifest_of(folder / "data", [
        *tiny_runs.clips(folder / "data")[:5],
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}]},
        {"messages": [{"role": "user", "content": "<audio><audio>Which?"}, {"role": "assistant", "content": "None."}],
         "audios": ["5.wav", "6.wav"], "duration": 2.1},
        {"audio": "7.wav", "text": "It costs $5.", "duration": 1.2},  # a reply, but no transcript
    ], "mixed.jsonl")
    data = {"train": [DataSource(str(mixed))], "evaluation": [DataSource(str(mixed))], "eval_steps": 3, "save_steps": 3}
    second = dataclasses.replace(
        first, stage="shrinking", start_from=str(folder / "one" / "final"), output_dir=str(folder / "two"),
        merge_words=True, **data,
    )
    third = dataclasses.replace(
        second, stage="instruction", start_from=str(folder / "two" / "final"), output_dir=str(folder / "three")
    )
    return [(stage, train(stage)) for stage in (first, second, third)]


def test_a_new_models_ctc_spells_with_few_tokens_which_stage_two_joins(tmp_path: Path) -> None:
    plain = Recipe(stage="alignment", output_dir=str(tmp_path))
    assert (plain.ctc_vocabulary_size, plain.merge_words) == (250, None)
    first = tiny_runs.recipe(tmp_path, output_dir=str(tmp_path / "one"), max_steps=1)
    second = dataclasses.replace(first, stage="shrinking", start_from=str(tmp_path / "one" / "final"))

    def merges(recipe: Recipe) -> int:
        return prepare(recipe, torch.device("cpu"), "no", main=False).model.config.ctc_merges

    assert merges(first) == 0
    train(first)
    assert merges(second) > 0
    assert merges(dataclasses.replace(second, merge_words=False)) == 0
    whole = dataclasses.replace(first, ctc_vocabulary_size=None, output_dir=str(tmp_path / "whole"))
    train(whole)
    assert merges(dataclasses.replace(second, start_from=str(tmp_path / "whole" / "final"))) == 0


def test_each_stage_goes_on_from_the_one_before_and_changes_only_its_parts(three_stages: Any) -> None:
    one, two, three = (weights(final) for _, final in three_stages)
    adapters = {name: value for name, value in two.items() if "lora_" not in name and name != "shrinking.merges"}
    del one["shrinking.merges"]
    assert largest_change(one, adapters, "alignment.") > 0
    assert largest_change(one, adapters, "shrinking.") > 0
    assert largest_change(two, three, "alignment.") == 0
    assert largest_change(two, three, "shrinking.") > 0
    assert largest_change(two, three, "base_model.") > 0
    assert any(float(value.abs().max()) > 0 for name, value in two.items() if "lora_B" in name)


def test_the_last_stages_folder_answers(three_stages: Any) -> None:
    for recipe, final in three_stages:
        model, processor = load_native(final, "cpu", torch.float32)
        assert model.has_lora == (recipe.stage != "alignment")
        batch = processor.apply_chat_template([tiny.user("What does the person say?", tiny.sound(0.7))])
        assert model.generate(**batch, max_new_tokens=3, do_sample=False).shape[0] == 1


def test_the_figures_are_those_of_the_stage(three_stages: Any) -> None:
    kinds = [
        {"ctc": any("ctc" in row for row in rows), "next_token": any("next_token" in row for row in rows)}
        for rows in (tiny_runs.losses(recipe.output_dir) for recipe, _ in three_stages)
    ]
    assert kinds == [
        {"ctc": True, "next_token": False}, {"ctc": True, "next_token": True}, {"ctc": False, "next_token": True}
    ]


def test_evaluation_during_training_scores_what_the_saved_model_hears(three_stages: Any) -> None:
    recipe, final = three_stages[1]
    model, processor = load_native(final, "cpu", torch.float32)
    config, said, heard = model.config, [], []
    for line in Path(recipe.evaluation[0].manifest).read_text().splitlines():
        row = json.loads(line)
        if row.get("transcript"):
            samples, _ = soundfile.read(Path(recipe.evaluation[0].manifest).parent / row["audio"], dtype="float32")
            path = model.encode_speech(**processor.features([samples])).ctc_logits[0].argmax(-1).tolist()
            classes = collapse(path, config.blank_class)
            heard.append(processor.tokenizer.decode([config.ctc_vocabulary[c] for c in classes]).strip())
            said.append(row["transcript"])
    rows = tiny_runs.losses(recipe.output_dir)
    rates = [value for row in rows for name, value in row.items() if name.endswith("_wer")]
    assert len(rates) == 2  # at steps 3 and 6
    assert rates[-1] == pytest.approx(jiwer.wer(said, heard), abs=0.1)  # stored features are float16


def test_a_later_stage_over_other_parts_is_refused(three_stages: Any, tmp_path: Path) -> None:
    recipe, _ = three_stages[1]
    tiny.part_folders(tmp_path)
    other = dataclasses.replace(recipe, output_dir=str(tmp_path / "run"), language_model=str(tmp_path / "tiny-llm"))
    with pytest.raises(ConfigurationError, match=r"language_model=.*, but .*final was trained over .*; name the same"):
        train(other)


def test_a_switch_that_a_later_stage_changes_is_checked_too(three_stages: Any, tmp_path: Path) -> None:
    recipe = dataclasses.replace(three_stages[1][0], model={"run_pooling": "last"}, output_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigurationError, match="run_pooling is 'last'"):
        train(recipe)


def test_the_alignment_adapter_can_learn_more_slowly_or_not_at_all(three_stages: Any, tmp_path: Path) -> None:
    (_, one), (recipe, two) = three_stages[:2]
    at_rest = dataclasses.replace(recipe, alignment_learning_rate_scale=0.0, output_dir=str(tmp_path / "run"))
    assert not any(name.startswith("alignment.") for name in prepare(at_rest, CPU, "no", main=False).trained)
    still = train(at_rest)
    before = {name: value for name, value in weights(one).items() if name.startswith("alignment.")}
    after = {name: value for name, value in weights(still).items() if name.startswith("alignment.")}
    assert largest_change(before, after) == 0
    assert largest_change(weights(two), weights(still), "shrinking.") > 0


def test_a_run_that_would_train_nothing_is_refused(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, alignment_learning_rate_scale=0.0)
    with pytest.raises(ConfigurationError, match="has nothing to train: a learning rate scale of 0"):
        train(recipe)


def test_a_later_stage_can_begin_to_join_what_ctc_spells(three_stages: Any) -> None:
    counts = [json.loads((final / "config.json").read_text())["ctc_merges"] for _, final in three_stages]
    assert counts[0] == 0
    assert counts[1] == counts[2] > 0
    tables = [weights(final)["shrinking.merges"] for _, final in three_stages]
    assert [len(table) for table in tables] == counts
    assert torch.equal(tables[1], tables[2])
    assert tables[1].any()


# What a step computes


def test_accumulated_batches_are_one_larger_batch(recipe: Recipe, tmp_path: Path) -> None:
    plain = dataclasses.replace(
        recipe, max_steps=1, time_masks=0, batch_seconds=99.0, model=recipe.model | {"alignment_dropout": 0.0}
    )
    whole = train(dataclasses.replace(plain, max_batch_size=8))
    halves = train(dataclasses.replace(
        plain, max_batch_size=4, gradient_accumulation_steps=2, output_dir=str(tmp_path / "halves")
    ))
    assert tiny_runs.losses(plain.output_dir)[0]["loss"] == pytest.approx(
        tiny_runs.losses(str(tmp_path / "halves"))[0]["loss"], rel=1e-5
    )
    one, other = weights(whole), weights(halves)
    differing = torch.cat([((one[name] - other[name]).abs() > 1e-5).flatten() for name in one])
    assert differing.float().mean() < 0.01  # AdamW's first step is a sign: gradients of zero fall to either side


def test_training_learns(recipe: Recipe) -> None:
    train(dataclasses.replace(recipe, max_steps=25, time_masks=0))
    rows = tiny_runs.losses(recipe.output_dir)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_bfloat16_runs_through(three_stages: Any, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        three_stages[1][0], mixed_precision="bf16", output_dir=str(tmp_path / "run"), max_steps=2,
        features=str(tmp_path / "features"),
    )
    AcceleratorState._reset_state()  # one process has one precision
    try:
        assert all(torch.isfinite(value).all() for value in weights(train(recipe)).values())
    finally:
        AcceleratorState._reset_state()


def test_checkpoints_and_models_have_the_modes_that_the_umask_gives(recipe: Recipe) -> None:
    before = os.umask(0o027)
    try:
        final = train(dataclasses.replace(recipe, max_steps=1))
    finally:
        os.umask(before)
    files = [file for file in final.parent.rglob("*.safetensors") if "tensorboard" not in file.parts]
    assert {file.name for file in files} >= {"model.safetensors", "optimizer.safetensors", "adapters.safetensors"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}
