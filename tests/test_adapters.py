"""The adapters against torch's own layers and plain loops, for every switch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundwave.model.adapters import AlignmentAdapter, Attention, ShrinkingAdapter
from soundwave.model.shrink import find_runs

WIDTH, HEADS = tiny.LLM_WIDTH, 4
LENGTHS = [9, 4, 6]
CLASSES = 6  # five tokens and the blank, which is the last


def packed(attention: Attention) -> dict[str, Tensor]:
    """Our weights as torch's MultiheadAttention names them."""
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    return {
        "in_proj_weight": torch.cat([part.weight for part in parts]),
        "in_proj_bias": torch.cat([part.bias for part in parts]),
        "out_proj.weight": attention.out_proj.weight, "out_proj.bias": attention.out_proj.bias,
    }


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def valid_of(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


# Alignment


def alignment(**switches: Any) -> AlignmentAdapter:
    adapter = AlignmentAdapter(tiny.config(**switches))
    tiny.randomise(adapter, 1)
    return adapter.eval()


def torch_alignment(adapter: AlignmentAdapter, frames: Tensor, group: int, temporal: bool) -> Tensor:
    """One clip (group · T, E) through torch's own Transformer layers."""
    x = adapter.project(torch.stack([torch.cat(list(frames[i : i + group])) for i in range(0, len(frames), group)]))
    for layer in adapter.layers:
        reference = nn.TransformerEncoderLayer(WIDTH, HEADS, 40, norm_first=True, batch_first=temporal).eval()
        ours = {"self_attn": layer.attention, "linear1": layer.ffn_in, "linear2": layer.ffn_out,
                "norm1": layer.attention_norm, "norm2": layer.ffn_norm}
        state = {f"self_attn.{name}": value for name, value in packed(layer.attention).items()}
        for name, module in list(ours.items())[1:]:
            state |= {f"{name}.{kind}": value for kind, value in module.state_dict().items()}
        reference.load_state_dict(state)
        x = reference(x[None])[0]  # not batch_first: a sequence of length one, each frame a clip of its own
    return adapter.norm(x)


@pytest.mark.parametrize("attention", ["frame", "temporal"])
@pytest.mark.parametrize(("layers", "group"), [(1, 2), (3, 1), (0, 4)])
def test_aligned_frames_are_those_of_torchs_transformer_layer(attention: str, layers: int, group: int) -> None:
    adapter = alignment(alignment_attention=attention, alignment_layers=layers, frames_per_group=group)
    frames = random(len(LENGTHS), max(LENGTHS) * group, tiny.ENCODER_WIDTH)
    frames[~valid_of(LENGTHS).repeat_interleave(group, dim=1)] = 1e4  # garbage in the padding
    aligned = adapter(frames, valid_of(LENGTHS))
    for clip, length, ours in zip(frames, LENGTHS, aligned, strict=True):
        expected = torch_alignment(adapter, clip[: length * group], group, attention == "temporal")
        assert torch.allclose(ours[:length], expected, atol=1e-5)


def test_a_projection_head_is_one_matrix() -> None:
    adapter = alignment(ctc_head="projection", ctc_vocabulary=[3, 1, 4])
    assert adapter.ctc_projection is not None
    aligned = random(2, 5, WIDTH)
    assert adapter.ctc_logits(aligned).shape == (2, 5, 4)
    assert torch.allclose(adapter.ctc_logits(aligned), aligned @ adapter.ctc_projection.weight.T, atol=1e-6)


def test_an_embeddings_head_is_a_scaled_cosine_and_a_learned_blank() -> None:
    adapter = alignment(ctc_head="embeddings")
    frame, table = random(WIDTH), random(5, WIDTH, seed=1)
    scores = adapter.ctc_logits(frame, table)
    scale = adapter.ctc_scale.exp().item()
    for token in range(5):
        cosine = F.cosine_similarity(frame, table[token], 0).item()
        assert scores[token].item() == pytest.approx(scale * cosine, abs=1e-4)
    blank = scale * F.cosine_similarity(frame, adapter.ctc_blank, 0) + adapter.ctc_blank_bias
    assert scores[5].item() == pytest.approx(blank.item(), abs=1e-4)


def test_scores_of_some_classes_are_those_of_all() -> None:
    adapter = alignment(ctc_head="embeddings")
    aligned, table = random(7, WIDTH), random(5, WIDTH, seed=1)
    some = adapter.ctc_logits(aligned, table[[4, 2]])
    assert torch.allclose(some, adapter.ctc_logits(aligned, table)[:, [4, 2, 5]], atol=1e-6)


def test_a_fresh_blank_starts_unlike_any_token_and_certain_enough() -> None:
    torch.manual_seed(0)
    adapter = AlignmentAdapter(tiny.config())
    assert adapter.ctc_scale.exp().item() == pytest.approx(20)
    assert adapter.ctc_blank.norm().item() == pytest.approx(1, abs=0.5)
    assert adapter.ctc_blank_bias.item() == 0


# Shrinking


def shrinking(**switches: Any) -> ShrinkingAdapter:
    adapter = ShrinkingAdapter(tiny.config(ctc_vocabulary=list(range(CLASSES - 1)), **switches))
    tiny.randomise(adapter, 2)
    return adapter.eval()


def slow_groups(path: list[int], blanks: str) -> list[list[int]]:
    """The frames of every position."""
    runs = [[t for t, _ in run] for _, run in itertools.groupby(enumerate(path), key=lambda pair: pair[1])]
    if blanks == "one_per_run":
        return runs
    blank = CLASSES - 1
    tokens = [run for run in runs if path[run[0]] != blank]
    silent = [t for t in range(len(path)) if path[t] == blank]
    return [*tokens, silent] if silent and blanks == "pool" else tokens


def slow_shrinking(adapter: ShrinkingAdapter, aligned: Tensor, logits: Tensor, table: Tensor) -> Tensor:
    """One clip, run by run."""
    config = adapter.config

    def stands_for(frames: list[int], values: Tensor) -> Tensor:
        if config.run_pooling == "mean":
            return values[frames].mean(0)
        certainty = [float(logits[t].log_softmax(-1).max()) for t in frames]
        return values[frames[0] if config.run_pooling == "first" else frames[certainty.index(max(certainty))]]

    groups = slow_groups(logits.argmax(-1).tolist(), config.blank_handling)
    if not groups:
        return aligned.new_zeros(0, WIDTH)
    kept = torch.stack([stands_for(frames, aligned) for frames in groups])
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    attention.load_state_dict(packed(adapter.attention))
    memory = kept if config.look_back_over == "kept" else aligned
    out = adapter.norm(kept + attention(kept[None], memory[None], memory[None])[0][0])
    if config.audio_embedding == "posterior":
        for i, frames in enumerate(groups):
            if logits[frames[0]].argmax() == CLASSES - 1:
                out[i] += adapter.blank_embedding
            else:  # the mixture of what it may be if it is no blank
                chances = stands_for(frames, logits.softmax(-1))[:-1]
                out[i] += chances / chances.sum() @ table
    return out


@pytest.mark.parametrize("pooling", ["first", "peak", "mean"])
@pytest.mark.parametrize("blanks", ["one_per_run", "drop", "pool"])
@pytest.mark.parametrize("memory", ["kept", "all_valid"])
@pytest.mark.parametrize("embedding", ["look_back", "posterior"])
def test_a_ragged_batch_shrinks_as_each_clip_does_run_by_run(
    pooling: str, blanks: str, memory: str, embedding: str
) -> None:
    adapter = shrinking(run_pooling=pooling, blank_handling=blanks, look_back_over=memory, audio_embedding=embedding)
    lengths = [12, 5, 9]
    aligned = random(3, 12, WIDTH)
    logits = random(3, 12, CLASSES, seed=1).repeat_interleave(2, dim=1)[:, :12] + 0.3 * random(3, 12, CLASSES, seed=2)
    logits[2, :, -1] = 50.0  # the third clip is blank throughout
    valid = valid_of(lengths)
    aligned[~valid], logits[~valid] = 1e4, -1e4
    table = random(CLASSES - 1, WIDTH, seed=3)
    with torch.no_grad():
        shrunk = adapter(aligned, logits, valid, table=table)
        embeddings, runs = shrunk.embeddings, shrunk.positions
        for i, length in enumerate(lengths):
            expected = slow_shrinking(adapter, aligned[i, :length], logits[i, :length], table)
            assert runs.mask[i].sum() == len(expected)
            assert torch.allclose(embeddings[i][runs.mask[i]], expected, atol=1e-5)
            assert not embeddings[i][~runs.mask[i]].any()


def test_clips_without_any_token_may_have_no_position_at_all() -> None:
    adapter = shrinking(blank_handling="drop")
    logits = torch.zeros(2, 4, CLASSES)
    logits[..., -1] = 1.0
    shrunk = adapter(random(2, 4, WIDTH), logits, torch.ones(2, 4, dtype=torch.bool), table=random(5, WIDTH))
    assert shrunk.embeddings.shape == (2, 0, WIDTH)
    assert shrunk.runs.mask.shape == shrunk.positions.mask.shape == (2, 0)


def test_decisions_carry_no_gradient_but_embeddings_do() -> None:
    adapter = shrinking()
    aligned, logits = random(1, 6, WIDTH).requires_grad_(), random(1, 6, CLASSES, seed=1).requires_grad_()
    shrunk = adapter(aligned, logits, torch.ones(1, 6, dtype=torch.bool), table=random(5, WIDTH))
    runs = shrunk.runs
    shrunk.embeddings.sum().backward()
    assert aligned.grad is not None
    assert logits.grad is not None  # through the posterior
    direct = find_runs(logits.argmax(-1), torch.ones(1, 6, dtype=torch.bool), CLASSES - 1, "pool")
    assert torch.equal(direct.mask, runs.mask)
