"""The losses by hand, and what each stage trains."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch
from public_sizes import LLAMA_3_1_8B, WHISPER_LARGE_V2

from soundwave.checkpoints.lora import attach_lora
from soundwave.checkpoints.released import released_config
from soundwave.checkpoints.weights import empty_model
from soundwave.errors import ConfigurationError
from soundwave.training.objective import CTC_WEIGHT, ctc_loss, next_token_loss, total_loss
from soundwave.training.optim import learning_rate
from soundwave.training.recipe import Recipe
from soundwave.training.stages import STAGES, is_trained, mark_trained, stage_named

A, BLANK = 0, 1

# Every frame says token or blank with probability 1/2, so a path of F frames has probability 1/2^F.
HALVES = [
    (1, [A], 1 / 2),  # a
    (2, [A], 3 / 4),  # aa, a_, _a
    (3, [A], 6 / 8),  # aaa, aa_, a__, _aa, __a, _a_ (not a_a, not ___)
    (3, [A, A], 1 / 8),  # a_a
    (4, [A, A], 5 / 16),  # a_a_, _a_a, aa_a, a__a, a_aa
    (2, [], 1 / 4),  # __
]


@pytest.mark.parametrize(("frames", "target", "probability"), HALVES)
def test_ctc_is_the_negative_logarithm_of_all_paths_over_the_targets_length(
    frames: int, target: list[int], probability: float
) -> None:
    loss = ctc_loss(torch.zeros(1, frames, 2), torch.tensor([frames]), [target], BLANK)
    assert loss.item() == pytest.approx(-math.log(probability) / max(1, len(target)), abs=1e-5)


def test_a_batchs_ctc_is_the_mean_over_its_clips_at_their_real_lengths() -> None:
    frames, targets, probabilities = zip(*HALVES, strict=True)
    logits = torch.zeros(len(HALVES), 9, 2)
    for row, length in zip(logits, frames, strict=True):
        row[length:] = torch.tensor([-50.0, 50.0])  # beyond the end: a certain blank, which is no silence
    loss = ctc_loss(logits, torch.tensor(frames), list(targets), BLANK)
    each = [-math.log(p) / max(1, len(t)) for p, t in zip(probabilities, targets, strict=True)]
    assert loss.item() == pytest.approx(sum(each) / len(each), abs=1e-5)


def test_a_target_that_does_not_fit_its_frames_counts_as_zero() -> None:
    logits = torch.zeros(2, 2, 2, requires_grad=True)
    loss = ctc_loss(logits, torch.tensor([2, 2]), [[A, A], [A]], BLANK)  # "aa" needs three frames
    assert loss.item() == pytest.approx(-math.log(3 / 4) / 2, abs=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ctc_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 40, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    frames, targets = torch.tensor([40, 30]), [[1, 2, 3], [4]]
    with torch.autocast("cpu", torch.bfloat16):
        loss = ctc_loss(logits, frames, targets, 0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(ctc_loss(logits.float(), frames, targets, 0).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "targets", "loss"),
    [
        ([[0.0, 0.0]], [0], math.log(2)),
        ([[0.0, math.log(3)]], [1], math.log(4 / 3)),
        ([[0.0, 0.0], [0.0, math.log(3)]], [0, 0], (math.log(2) + math.log(4)) / 2),  # a mean over tokens
    ],
)
def test_next_token_loss_is_a_mean_over_all_targets(logits: list[list[float]], targets: list[int], loss: float) -> None:
    assert next_token_loss(torch.tensor(logits), torch.tensor(targets)).item() == pytest.approx(loss)


@pytest.mark.parametrize(
    ("next_token", "ctc", "total"), [(2.0, None, 2.0), (None, 5.0, 5.0), (2.0, 5.0, 3.5)]  # 2 + 0.3 · 5
)
def test_the_whole_loss_is_what_there_is_of_both(next_token: float | None, ctc: float | None, total: float) -> None:
    terms = [None if value is None else torch.tensor(value) for value in (next_token, ctc)]
    assert total_loss(*terms).item() == pytest.approx(total)
    assert CTC_WEIGHT == 0.3


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.5), (1, 1.0), (2, 1.0), (6, 0.5), (10, 0.0), (11, 0.0)],  # two steps of warm-up, then half a cosine
)
def test_the_learning_rate_warms_up_and_falls_as_a_cosine(step: int, rate: float) -> None:
    recipe = Recipe(learning_rate=1.0, warmup_ratio=0.2)
    assert learning_rate(recipe, step, 10) == pytest.approx(rate)


# What each stage trains

HEAD = {"embeddings": {"ctc_scale", "ctc_blank", "ctc_blank_bias"}, "projection": set()}


def trained_parts(stage: str, **switches: Any) -> tuple[set[str], set[str]]:
    """(trained, frozen) parts: names up to the module, LoRA apart."""
    model = tiny.model(tiny.config(**switches))
    attach_lora(model, 4, 8, 0.0, ["q_proj", "k_proj", "v_proj", "o_proj"])
    trained = set(mark_trained(model, STAGES[stage]))
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def part(name: str) -> str:
        kind = "LoRA" if "lora_" in name else name.split(".")[0]
        return kind if kind != "alignment" or "ctc_" not in name else name.split(".")[1]

    names = {name for name, _ in model.named_parameters()}
    return {part(name) for name in trained}, {part(name) for name in names - trained}


@pytest.mark.parametrize("head", HEAD)
@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("alignment", {"alignment"}),
        ("shrinking", {"alignment", "shrinking", "LoRA"}),
        ("instruction", {"shrinking", "LoRA"}),
    ],
)
def test_each_stage_trains_exactly_its_parts(stage: str, parts: set[str], head: str) -> None:
    trained, frozen = trained_parts(stage, ctc_head=head)
    learnt_head = HEAD[head] if "alignment" in parts else set()
    assert trained == parts | learnt_head
    assert not trained & frozen  # a part is trained whole or not at all
    assert {"audio_tower", "language_model"} <= frozen
    assert ("ctc_projection" in frozen) == (head == "projection")  # a frozen copy of the LLM's embeddings


def test_queries_and_keys_that_frame_attention_never_uses_are_not_trained() -> None:
    model = tiny.model(tiny.config(alignment_attention="frame"))
    trained = set(mark_trained(model, STAGES["shrinking"]))
    prefix = "alignment.layers.0.attention."
    attention = {name.removeprefix(prefix) for name in trained if name.startswith(prefix)}
    assert attention == {"v_proj.weight", "v_proj.bias", "out_proj.weight", "out_proj.bias"}
    assert "shrinking.attention.q_proj.weight" in trained  # the look-back does use its own


@pytest.mark.parametrize(("stage", "millions"), [("alignment", 145), ("shrinking", 266), ("instruction", 122)])
def test_at_the_papers_size_each_stage_trains_what_the_paper_says(stage: str, millions: int) -> None:
    model = empty_model(released_config(LLAMA_3_1_8B, WHISPER_LARGE_V2))
    attach_lora(model, 64, 16, 0.05, ["q_proj", "k_proj", "v_proj", "o_proj"])
    count = sum(p.numel() for name, p in model.named_parameters() if is_trained(STAGES[stage], name))
    assert round(count / 1e6) == millions  # the paper: 144M (144.8), 266M, 122M


@pytest.mark.parametrize(
    ("stage", "next_token", "ctc"),
    [("alignment", False, True), ("shrinking", True, True), ("instruction", True, False)],
)
def test_each_stage_has_its_losses(stage: str, next_token: bool, ctc: bool) -> None:
    assert (STAGES[stage].next_token, STAGES[stage].ctc) == (next_token, ctc)


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="stage='two' is not known; choose one of alignment, shrinking,"):
        stage_named("two")
