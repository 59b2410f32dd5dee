"""Label smoothing and intermediate CTC: by hand, in training only, beside figures that stay comparable."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import tiny
import tiny_runs
import torch
from torch import Tensor

from soundwave.checkpoints.lora import attach_lora
from soundwave.errors import ConfigurationError
from soundwave.training.collate import Batch
from soundwave.training.loop import train
from soundwave.training.objective import Losses, StageModule, ctc_loss, kl_from_uniform
from soundwave.training.recipe_io import read_recipe
from soundwave.training.stages import ALIGNMENT, SHRINKING, Stage, mark_trained

CLIPS, FRAMES = 3, 12
LENGTHS, TARGETS = [12, 9, 10], [[5, 6], None, [7]]  # nobody knows what is said in the second clip


@pytest.mark.parametrize(
    ("logits", "kl"),
    [
        ([[2.0, 2.0, 2.0]], 0.0),
        ([[0.0, math.log(3)]], math.log(4 / 3) / 2),  # 1/2 ln (1/2 : 1/4) + 1/2 ln (1/2 : 3/4)
        ([[0.0, 0.0], [0.0, math.log(3)]], math.log(4 / 3) / 4),  # a mean over positions
    ],
)
def test_smoothing_is_how_far_the_uniform_distribution_is_from_what_is_expected(
    logits: list[list[float]], kl: float
) -> None:
    assert kl_from_uniform(torch.tensor(logits)).item() == pytest.approx(kl, abs=1e-7)


def batch() -> Batch:
    draw = torch.Generator().manual_seed(3)
    ids = torch.ones(CLIPS, 9, dtype=torch.long)
    ids[:, 2] = tiny.config().audio_token_id
    labels = ids.masked_fill(torch.arange(9) < 5, -100)
    frames = torch.randn(CLIPS, 2 * FRAMES, tiny.ENCODER_WIDTH, generator=draw)
    mask = torch.arange(FRAMES) < torch.tensor(LENGTHS)[:, None]
    return Batch(["x"] * CLIPS, frames, mask, list(TARGETS), ids, torch.ones_like(ids), labels)


def module_of(stage: Stage, **weights: float) -> StageModule:
    model = tiny.model(tiny.config(alignment_layers=3, alignment_attention="temporal"))
    attach_lora(model, 4, 8, 0.0, ["q_proj"])
    mark_trained(model, stage)
    return StageModule(model, stage, 0.3, **weights).train()


def layer_scores(module: StageModule, given: Batch) -> list[Tensor]:
    """(N, F, C) what the CTC head makes of each alignment layer, one after the other."""
    alignment, x, scores = module.alignment, given.encoder_frames, []
    assert x is not None
    table = module.ctc_embeddings
    if module.rest is not None:
        table = module.rest.speech_encoder.ctc_token_embeddings()
    x = alignment.project(x.reshape(CLIPS, FRAMES, -1))
    for layer in alignment.layers:
        x = layer(x, given.frame_mask)
        scores.append(alignment.ctc_logits(alignment.norm(x), table))
    return scores


@pytest.mark.parametrize("stage", [ALIGNMENT, SHRINKING], ids=lambda stage: stage.name)
@pytest.mark.parametrize(("smoothing", "weight"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.4), (0.1, 0.4)])
def test_what_is_learned_is_the_weighted_mean_that_the_options_say(
    stage: Stage, smoothing: float, weight: float
) -> None:
    module = module_of(stage, ctc_label_smoothing=smoothing, intermediate_ctc_weight=weight)
    losses, scores = module(batch()), layer_scores(module, batch())
    known, lengths = [0, 2], torch.tensor([12, 10])
    each = [ctc_loss(one[known], lengths, [[5, 6], [7]], module.blank) for one in scores]
    wanted = (1 - weight) * each[2] + weight * (each[0] + each[1]) / 2
    frames = torch.cat([scores[2][0], scores[2][2][:10]])  # of clips whose words are known, without padding
    wanted = (1 - smoothing) * wanted + smoothing * kl_from_uniform(frames)
    if stage is SHRINKING:
        wanted = losses.next_token + 0.3 * wanted
    torch.testing.assert_close(losses.total, wanted)
    torch.testing.assert_close(losses.ctc, each[2])  # what is reported does not depend on them


def computed(module: StageModule, given: Batch) -> Losses:
    with torch.no_grad():
        return module.eval()(given)


@pytest.mark.parametrize("stage", [ALIGNMENT, SHRINKING], ids=lambda stage: stage.name)
def test_held_out_losses_are_as_without(stage: Stage) -> None:
    plain = computed(module_of(stage), batch())
    other = computed(module_of(stage, ctc_label_smoothing=0.1, intermediate_ctc_weight=0.4), batch())
    assert torch.equal(plain.total, other.total)
    assert torch.equal(plain.ctc, other.ctc)


def test_they_add_no_weights_and_leave_no_hooks() -> None:
    plain, module = module_of(ALIGNMENT), module_of(ALIGNMENT, intermediate_ctc_weight=0.4)
    module(batch())
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert not any(layer._forward_hooks for layer in module.alignment.layers)  # the only way to see them


@pytest.mark.parametrize("stage", [ALIGNMENT, SHRINKING], ids=lambda stage: stage.name)
def test_a_batch_without_known_words_has_nothing_to_regularise(stage: Stage) -> None:
    module = module_of(stage, ctc_label_smoothing=0.1, intermediate_ctc_weight=0.4)
    given = batch()
    given.ctc = [None] * CLIPS
    losses = module(given)
    assert losses.total.item() == pytest.approx(0.0 if losses.next_token is None else losses.next_token.item())
    losses.total.backward()


def test_a_text_only_batch_needs_no_alignment() -> None:
    module = module_of(SHRINKING, ctc_label_smoothing=0.1, intermediate_ctc_weight=0.4)
    given = batch()
    ids = given.input_ids.masked_fill(given.input_ids == tiny.config().audio_token_id, 1)
    text = Batch(given.names, None, None, [], ids, given.attention_mask, given.labels)
    losses = module(text)
    torch.testing.assert_close(losses.total, losses.next_token)


def test_a_run_learns_with_both_and_reports_the_plain_ctc(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(
        tmp_path, max_steps=25, time_masks=0, ctc_label_smoothing=0.02, intermediate_ctc_weight=0.3
    )
    train(dataclasses.replace(recipe, model=recipe.model | {"alignment_layers": 2}))
    rows = tiny_runs.losses(recipe.output_dir)
    assert rows[-1]["ctc"] < 0.5 * rows[0]["ctc"]
    assert all(row["loss"] != row["ctc"] for row in rows)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["stage=instruction", "ctc_label_smoothing=0.1"],
         "ctc_label_smoothing is 0.1 in the stage instruction, which has no CTC loss; set it to 0"),
        (["stage=instruction", "intermediate_ctc_weight=0.3"],
         "intermediate_ctc_weight is 0.3 in the stage instruction, which has no CTC loss; set it to 0"),
        (["ctc_label_smoothing=1"], "ctc_label_smoothing is 1.0; give .* below 1"),
        (["intermediate_ctc_weight=-0.1"], "intermediate_ctc_weight is -0.1; give .* at least 0"),
        (["ema_decay=1"], "ema_decay is 1.0; give .* below 1"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, overrides: list[str], told: str) -> None:
    (tmp_path / "recipe.yaml").write_text("train: [{manifest: a.jsonl}]\n")
    with pytest.raises(ConfigurationError, match=told):
        read_recipe(tmp_path / "recipe.yaml", overrides)


def test_one_layer_has_none_before_it(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, intermediate_ctc_weight=0.3)
    with pytest.raises(ConfigurationError, match=r"intermediate_ctc_weight is 0.3, but alignment_layers is 1, so"):
        train(recipe)
    assert recipe.features is not None
    assert not Path(recipe.features).exists()  # told before anything is encoded
