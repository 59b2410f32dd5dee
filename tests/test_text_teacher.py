"""KL to the text LLM: its numbers by hand, who the teacher is, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import tiny
import tiny_runs
import torch

from soundwave.checkpoints.native import load_native
from soundwave.data.example import AUDIO_PART, AudioSpan, Example, text_part
from soundwave.errors import ConfigurationError
from soundwave.training.collate import Batch, said_in, with_words
from soundwave.training.loop import train
from soundwave.training.objective import StageModule, kl_to_teacher, matched_loss, next_token_loss
from soundwave.training.prepare import Prepared, prepare
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.recipe_io import read_recipe

LOG3 = math.log(3.0)
HALF, QUARTER = [0.0, 0.0], [0.0, LOG3]  # logits of (1/2, 1/2) and of (1/4, 3/4)


# The pure functions


@pytest.mark.parametrize(
    ("student", "teacher", "kl"),
    [
        (HALF, HALF, 0.0),
        (QUARTER, [5.0, 5.0 + LOG3], 0.0),  # a constant on all logits is no difference
        (QUARTER, HALF, 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),  # sum of p log(p / q), p the teacher's
        (HALF, QUARTER, 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)),
    ],
)
def test_kl_by_hand(student: list[float], teacher: list[float], kl: float) -> None:
    assert kl_to_teacher(torch.tensor([student]), torch.tensor([teacher])).item() == pytest.approx(kl, abs=1e-6)


def test_a_temperature_softens_both_and_its_square_keeps_the_size() -> None:
    soft = kl_to_teacher(torch.tensor([[0.0, 2 * LOG3]]), torch.tensor([HALF]), temperature=2.0)
    assert soft.item() == pytest.approx(4 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3)), abs=1e-6)


def test_the_gradient_reaches_the_student_only_and_is_zero_where_they_agree() -> None:
    student = torch.tensor([QUARTER, QUARTER], requires_grad=True)
    teacher = torch.tensor([HALF, QUARTER], requires_grad=True)
    kl_to_teacher(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    torch.testing.assert_close(student.grad[0], torch.tensor([-0.25, 0.25]))  # the student's less the teacher's
    torch.testing.assert_close(student.grad[1], torch.zeros(2))


@pytest.mark.parametrize(("weight", "loss"), [(0.0, (LOG3 + math.log(2)) / 2), (1.0, (0.7 + math.log(2)) / 2)])
def test_where_there_is_no_teacher_cross_entropy_stays(weight: float, loss: float) -> None:
    third = torch.tensor([[0.0, math.log(2)], HALF])  # says 1/3 and 1/2 of the targets
    mixed = matched_loss(third, torch.tensor([0, 1]), torch.tensor([True, False]), torch.tensor([0.7]), weight)
    assert mixed.item() == pytest.approx(loss, abs=1e-6)


def test_a_share_of_half_is_half_of_each() -> None:
    logits, targets = torch.tensor([QUARTER, HALF]), torch.tensor([0, 1])
    kl = torch.tensor([0.2, 0.4])
    mixed = matched_loss(logits, targets, torch.tensor([True, True]), kl, 0.5)
    assert mixed.item() == pytest.approx(0.5 * next_token_loss(logits, targets).item() + 0.5 * 0.3, abs=1e-6)


# What the teacher reads


def test_the_words_stand_where_the_audio_stood() -> None:
    messages = [
        {"role": "user", "content": [AUDIO_PART, text_part("Answer.")]},
        {"role": "assistant", "content": [text_part("Blue.")]},
    ]
    changed = with_words(messages, "What colour is it?")
    assert changed[0]["content"] == [text_part("What colour is it?\n"), text_part("Answer.")]
    assert changed[1] == messages[1]
    assert messages[0]["content"][0] == AUDIO_PART
    alone = with_words([{"role": "user", "content": [AUDIO_PART]}], "Hi.")
    assert alone[0]["content"] == [text_part("Hi.")]


@pytest.mark.parametrize(
    ("audios", "spoken", "transcript", "words"),
    [
        (1, "What, now?", "what now", "What, now?"),
        (1, None, "what now", "what now"),
        (1, None, None, None),
        (1, "", "", None),  # nobody speaks: nothing could be typed
        (0, None, None, None),
        (2, "One. Two.", "one two", None),  # whose words are which is not known
    ],
)
def test_the_words_are_those_of_one_recording(
    audios: int, spoken: str | None, transcript: str | None, words: str | None
) -> None:
    spans = tuple(AudioSpan(f"{i}.wav") for i in range(audios))
    assert said_in(Example([], spans, transcript, spoken=spoken)) == words


# A stage with a teacher


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Stage II over a finished stage I; clip 2 has no transcript."""
    folder = tmp_path_factory.mktemp("teacher")
    one = tiny_runs.recipe(folder, max_steps=2)
    train(one)
    rows = tiny_runs.clips(folder / "data")
    rows[2] = {"audio": "2.wav", "duration": rows[2]["duration"], "messages": [
        {"role": "user", "content": "<audio>What is that?"}, {"role": "assistant", "content": "A cat."}]}
    rows[2]["audios"] = [rows[2].pop("audio")]
    tiny_runs.manifest_of(folder / "data", rows, "mixed.jsonl")
    return dataclasses.replace(
        one, stage="shrinking", start_from=f"{one.output_dir}/final", output_dir=str(folder / "two"), max_steps=3,
        train=[DataSource(manifest=str(folder / "data" / "mixed.jsonl"))], kl_weight=0.5, kl_temperature=2.0,
        batch_seconds=30.0, max_batch_size=8,
    )


def prepared_with_lora(recipe: Recipe) -> tuple[Prepared, Batch]:
    prepared = prepare(recipe, torch.device("cpu"), "no", main=False)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in prepared.model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=draw))
    items = prepared.train[0].items(1, 0)
    return prepared, prepared.collator(sorted(items, key=lambda item: item.seconds))


def module_of(prepared: Prepared, kl_weight: float, temperature: float = 2.0) -> StageModule:
    return StageModule(prepared.model, prepared.stage, 0.3, kl_weight, temperature)


def test_the_teacher_is_the_llm_without_lora_over_the_typed_words(recipe: Recipe) -> None:
    prepared, batch = prepared_with_lora(recipe)
    assert batch.typed_rows is not None
    assert batch.typed_rows.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert prepared.model.config.audio_token_id not in batch.typed_ids
    teacher = module_of(prepared, 0.5)._text_llm(batch)
    plain, processor = load_native(Path(recipe.start_from or ""), "cpu", torch.float32)  # stage I's: it has no LoRA
    typed = [tiny.user("the cat\nWhat does the person say?"), tiny.assistant("The cat.")]
    expected = processor.tokenize(typed, reply=False)
    logits = plain(torch.tensor([expected.ids])).logits[0]
    replied = [i - 1 for i, said in enumerate(expected.is_target) if said]
    assert teacher is not None
    torch.testing.assert_close(teacher[: len(replied)], logits[replied], atol=1e-4, rtol=1e-4)


def test_only_the_student_learns_and_lora_stays_trained(recipe: Recipe) -> None:
    prepared, batch = prepared_with_lora(recipe)
    module = module_of(prepared, 1.0).train()
    before = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        losses = module(batch)
    losses.total.backward()
    assert {name: parameter.requires_grad for name, parameter in module.named_parameters()} == before
    assert prepared.model.language_model.training
    moved = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any("lora_A" in name for name in moved)
    assert any("shrinking" in name for name in moved)
    assert moved <= {name for name, trained in before.items() if trained}


def test_the_total_is_the_mixture_and_unmatched_rows_keep_cross_entropy(recipe: Recipe) -> None:
    prepared, batch = prepared_with_lora(recipe)
    off, half, all_kl = (module_of(prepared, weight).eval()(batch) for weight in (0.0, 0.5, 1.0))
    assert off.kl is None
    assert half.next_token.item() == off.next_token.item() == all_kl.next_token.item()
    assert half.total.item() == pytest.approx((off.total.item() + all_kl.total.item()) / 2, rel=1e-5)
    output = prepared.model(
        batch.input_ids, batch.attention_mask, encoder_frames=batch.encoder_frames, frame_mask=batch.frame_mask,
        labels=batch.labels,
    )
    unmatched = output.rows == 2
    alone = torch.nn.functional.cross_entropy(output.logits[unmatched], output.targets[unmatched], reduction="sum")
    count = len(output.targets)
    expected = (alone + all_kl.kl * (count - int(unmatched.sum()))) / count + 0.3 * all_kl.ctc
    assert all_kl.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_that_reads_the_words_agrees_with_its_teacher(recipe: Recipe) -> None:
    prepared, batch = prepared_with_lora(recipe)
    batch.encoder_frames = batch.frame_mask = None  # what the student reads now is what the teacher reads
    batch.input_ids, batch.attention_mask, batch.labels = batch.typed_ids, batch.typed_mask, batch.typed_labels
    batch.typed_rows = torch.arange(len(batch.typed_ids))
    assert module_of(prepared, 1.0).eval()(batch).kl.item() > 1e-3  # LoRA is on for the student
    with torch.no_grad():
        for name, parameter in prepared.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert module_of(prepared, 1.0).eval()(batch).kl.item() == pytest.approx(0.0, abs=1e-6)


def test_without_any_transcript_there_is_no_teacher(recipe: Recipe) -> None:
    prepared, _ = prepared_with_lora(recipe)
    items = [item for item in prepared.train[0].items(1, 0) if item.ctc is None]
    batch = prepared.collator(items)
    assert batch.typed_ids is None
    losses = module_of(prepared, 1.0).eval()(batch)
    assert losses.kl is None
    assert losses.total.item() == losses.next_token.item()


def test_a_source_may_be_left_out(recipe: Recipe) -> None:
    sources = [dataclasses.replace(recipe.train[0], kl=False)]
    _, batch = prepared_with_lora(dataclasses.replace(recipe, train=sources))
    assert batch.typed_ids is None


def test_a_run_with_a_teacher_tells_its_kl(recipe: Recipe) -> None:
    evaluated = dataclasses.replace(recipe, evaluation=recipe.train)
    train(evaluated)
    rows = tiny_runs.losses(recipe.output_dir)
    assert all(row["kl"] > 0 for row in rows if "loss" in row)
    assert rows[-1]["eval_data_kl"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["stage=shrinking", "kl_weight=1.5"], r"kl_weight is 1.5; give .* at most 1"),
        (["kl_weight=0.5"], r"kl_weight is 0.5 in the stage alignment, which does not run the LLM; set it to 0"),
        (["kl_temperature=0"], r"kl_temperature is 0.0; give .* above 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("stage: alignment\n")
    with pytest.raises(ConfigurationError, match=message):
        read_recipe(path, options)
