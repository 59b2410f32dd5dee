"""Examples without audio in stages II and III: alone, beside audio, and what they leave of the adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from soundwave.training.loop import train
from soundwave.training.objective import Losses, StageModule
from soundwave.training.prepare import Prepared, prepare
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.sampler import Item

TALK = [
    {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": answer}], "task": "text"}
    for said, answer in (("Hi", "Good day."), ("Who is the person?", "A son."), ("Say so", "So."))
]
UNKNOWN = {"audio": "7.wav", "text": "It costs $5.", "duration": 1.2}  # a reply, but no transcript


@pytest.fixture(scope="module", params=["shrinking", "instruction"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp(request.param)
    return prepare(mixed_recipe(folder, request.param), torch.device("cpu"), "no", main=False)


def mixed_recipe(folder: Path, stage: str, **changes: Any) -> Recipe:
    plain = tiny_runs.recipe(folder)
    rows = [*TALK, *tiny_runs.clips(folder / "data")[:3], UNKNOWN]
    mixed = tiny_runs.manifest_of(folder / "data", rows, "mixed.jsonl")
    model = plain.model | {"alignment_dropout": 0.0}
    return dataclasses.replace(plain, stage=stage, model=model, train=[DataSource(str(mixed))], **changes)


def lines(prepared: Prepared, *numbers: int) -> list[Item]:
    """Examples by their line in the manifest."""
    items = {item.name.rsplit(":", 1)[1]: item for source in prepared.train for item in source.items(1, 0)}
    return [items[str(number)] for number in numbers]


def computed(prepared: Prepared, items: list[Item]) -> tuple[StageModule, Losses, int]:
    """The losses of a batch and its number of target tokens."""
    module = StageModule(prepared.model, prepared.stage, 0.3).train()
    torch.manual_seed(0)
    batch = prepared.collator(items)
    assert batch.labels is not None
    return module, module(batch), int((batch.labels[:, 1:] != -100).sum())


@pytest.mark.parametrize(
    "numbers", [(1, 2, 3), (7,), (1, 4), (4, 5)], ids=["text", "no transcript", "text and audio", "audio"]
)
def test_whatever_a_batch_holds_every_trained_weight_has_a_gradient(
    prepared: Prepared, numbers: tuple[int, ...]
) -> None:
    module, losses, _ = computed(prepared, lines(prepared, *numbers))
    losses.total.backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    module.zero_grad()
    assert not [name for name, gradient in gradients.items() if gradient is None]
    adapters = [g for name, g in gradients.items() if g is not None and "lora_" not in name]
    lora = [g for name, g in gradients.items() if g is not None and "lora_B" in name]
    assert any(g.any() for g in lora)
    assert any(g.any() for g in adapters) == (numbers != (1, 2, 3))  # text says nothing about them


def test_text_before_audio_adds_nothing_to_the_adapters_gradients(prepared: Prepared) -> None:
    gradients = []
    for batches in ([lines(prepared, 4, 5)], [lines(prepared, 1, 2), lines(prepared, 4, 5)]):  # accumulated
        for items in batches:
            module, losses, _ = computed(prepared, items)
            losses.total.backward()
        adapters = {name: p for name, p in module.named_parameters() if p.requires_grad and "lora_" not in name}
        gradients.append({name: p.grad.clone() for name, p in adapters.items() if p.grad is not None})
        assert len({p.grad.data_ptr() for p in adapters.values() if p.grad is not None}) == len(adapters)
        module.zero_grad()
    alone, after = gradients
    assert all(torch.equal(alone[name], after[name]) for name in alone)


def test_text_beside_audio_is_learnt_as_alone(prepared: Prepared) -> None:
    prepared.model.language_model.eval()
    parts = [lines(prepared, 1, 3), lines(prepared, 4, 7)]
    together = computed(prepared, [parts[0][0], parts[1][0], parts[0][1], parts[1][1]])
    apart = [computed(prepared, part) for part in parts]
    assert together[2] == apart[0][2] + apart[1][2]
    total = sum(losses.next_token.item() * tokens for _, losses, tokens in apart if losses.next_token is not None)
    assert together[1].next_token is not None
    assert together[1].next_token.item() == pytest.approx(total / together[2], rel=1e-4)
    assert apart[0][1].ctc is None
    assert apart[0][1].total.item() == apart[0][1].next_token.item()


def test_a_run_can_be_text_only(tmp_path: Path) -> None:
    recipe = mixed_recipe(tmp_path, "instruction", max_steps=3)
    text = tiny_runs.manifest_of(tmp_path / "data", TALK, "text.jsonl")
    recipe.train, recipe.evaluation = [DataSource(str(text))], [DataSource(str(text))]
    final = train(recipe)
    rows = tiny_runs.losses(recipe.output_dir)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert any("eval_data_next_token" in row for row in rows)
    assert (final / "lora").is_dir()
