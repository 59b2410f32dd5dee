"""What the adapters know of time: rotary places, and the convolution over neighbouring frames."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from soundwave.errors import ConfigurationError
from soundwave.model.adapters import AlignmentAdapter, Attention, FrameConvolution, ShrinkingAdapter, rotate

WIDTH = tiny.LLM_WIDTH


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turned(pair: tuple[float, float], angle: float) -> list[float]:
    x, y = pair
    return [x * math.cos(angle) - y * math.sin(angle), y * math.cos(angle) + x * math.sin(angle)]


def test_each_pair_of_channels_turns_by_its_own_speed() -> None:
    x = torch.tensor([1.0, 0.5, 2.0, -1.0]).reshape(1, 1, 1, 4)  # the pairs (1, 2) and (0.5, -1)
    fast, slow = turned((1.0, 2.0), 3.0), turned((0.5, -1.0), 3.0 / 100)  # 10,000 ** (-1/2)
    expected = [fast[0], slow[0], fast[1], slow[1]]
    assert rotate(x, torch.tensor([[3.0]])).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_places_are_counted_where_none_are_given() -> None:
    x = random(2, 3, 5, 8)
    assert torch.equal(rotate(x, None), rotate(x, torch.arange(5)[None].expand(2, -1)))


def test_rotary_attention_depends_on_distances_only() -> None:
    attention = Attention(WIDTH, 4, rotary=True)
    tiny.randomise(attention, 1)
    query, memory = random(2, 3, WIDTH), random(2, 7, WIDTH, seed=1)
    places, frames = torch.tensor([[0.5, 2, 6], [1, 1.5, 4]]), torch.arange(7)[None].expand(2, -1)
    one = attention(query, memory, None, places, frames)
    assert torch.allclose(one, attention(query, memory, None, places + 100, frames + 100), atol=1e-4)
    assert not torch.allclose(one, attention(query, memory, None, places + 1, frames), atol=1e-2)


def test_without_places_the_order_of_frames_is_nothing_to_alignment_and_with_them_it_is() -> None:
    frames, order = random(1, 12, tiny.ENCODER_WIDTH), [4, 5, 0, 1, 8, 9, 2, 3, 10, 11, 6, 7]  # groups of two
    for positions, same in (("none", True), ("rotary", False)):
        adapter = AlignmentAdapter(tiny.config(adapter_positions=positions))
        tiny.randomise(adapter, 1)
        back = [2, 0, 4, 1, 5, 3]
        there = adapter.eval()(frames[:, order], None)
        assert torch.allclose(adapter(frames, None)[:, back], there, atol=1e-5) is same


def test_the_convolution_is_a_sum_over_neighbours_inside_the_clip() -> None:
    convolution = FrameConvolution(WIDTH, 3)
    tiny.randomise(convolution, 2)
    x, mask = random(2, 6, WIDTH), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    ours = convolution(x, mask)
    weight, bias = convolution.depthwise.weight, convolution.depthwise.bias
    assert bias is not None
    for clip, length in ((0, 6), (1, 4)):
        normed = convolution.norm(x[clip])
        for t in range(length):
            around = [normed[t + k - 1] if 0 <= t + k - 1 < length else torch.zeros(WIDTH) for k in range(3)]
            mixed = sum(weight[:, 0, k] * around[k] for k in range(3)) + bias
            expected = x[clip, t] + convolution.pointwise(torch.nn.functional.silu(mixed))
            assert torch.allclose(ours[clip, t], expected, atol=1e-5)


@pytest.mark.parametrize("switches", [{"adapter_positions": "rotary"}, {"alignment_convolution": 5}])
def test_a_clip_in_a_batch_is_aligned_as_alone(switches: dict[str, Any]) -> None:
    adapter = AlignmentAdapter(tiny.config(**switches))
    tiny.randomise(adapter, 3)
    frames = random(2, 16, tiny.ENCODER_WIDTH)
    frames[1, 10:] = 1e3  # beyond the second clip's end
    mask = torch.arange(8)[None, :] < torch.tensor([[8], [5]])
    together = adapter.eval()(frames, mask)
    assert torch.allclose(together[1, :5], adapter(frames[1:, :10], None)[0], atol=1e-4)


def test_a_fresh_correction_is_the_aligned_frame_itself() -> None:
    torch.manual_seed(0)
    adapter = ShrinkingAdapter(tiny.config(audio_embedding="posterior"))
    aligned = random(1, 4, WIDTH)
    assert not adapter.attention(aligned, aligned, None).any()


def test_a_convolution_without_a_middle_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="alignment_convolution=4 has no middle; choose an odd width, or 0"):
        tiny.config(alignment_convolution=4)
