"""The Whisper encoder over windows of any length, against transformers' own forward."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from soundwave.model.whisper import encode_window

LENGTHS = [100, 24, 62, 2]  # mel frames of 10 ms


@pytest.fixture(scope="module")
def tower() -> WhisperEncoder:
    made = WhisperEncoder(tiny.whisper_config())
    tiny.randomise(made, 3)
    return made.eval().requires_grad_(False)


def mels(*lengths: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(80, length, generator=draw) for length in lengths]


def transformers_alone(tower: WhisperEncoder, mel: torch.Tensor) -> torch.Tensor:
    """One clip through transformers' forward, in an encoder that is made for exactly its length."""
    frames = mel.shape[1] // 2
    fitting = WhisperEncoder(tiny.whisper_config(max_source_positions=frames))
    state = tower.state_dict() | {"embed_positions.weight": tower.embed_positions.weight[:frames]}
    fitting.load_state_dict(state)
    return fitting.eval()(mel[None]).last_hidden_state[0].detach()


def batch_of(clips: list[torch.Tensor], padding: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.full((len(clips), 80, max(clip.shape[1] for clip in clips)), padding)
    mask = torch.zeros(len(clips), features.shape[2], dtype=torch.bool)
    for i, clip in enumerate(clips):
        features[i, :, : clip.shape[1]] = clip
        mask[i, : clip.shape[1]] = True
    return features, mask


def test_a_padded_window_is_transformers_own_forward(tower: WhisperEncoder) -> None:
    mel = torch.stack(mels(3000, 3000))
    theirs = tower(mel).last_hidden_state
    assert torch.allclose(encode_window(tower, mel, None), theirs, atol=2e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_short_window_is_an_encoder_made_for_that_length(tower: WhisperEncoder, length: int) -> None:
    (mel,) = mels(length)
    frames = encode_window(tower, mel[None], None)[0]
    assert frames.shape == (length // 2, tiny.ENCODER_WIDTH)
    assert torch.allclose(frames, transformers_alone(tower, mel), atol=2e-5)


@pytest.mark.parametrize("padding", [0.0, 1e4, float("nan")])
def test_ragged_clips_give_what_each_gives_alone_whatever_stands_in_the_padding(
    tower: WhisperEncoder, padding: float
) -> None:
    clips = mels(*LENGTHS)
    frames = encode_window(tower, *batch_of(clips, padding))
    for i, clip in enumerate(clips):
        assert torch.allclose(frames[i, : clip.shape[1] // 2], transformers_alone(tower, clip), atol=2e-5)


def test_half_precision_is_clamped_before_it_overflows(tower: WhisperEncoder) -> None:
    half = copy.deepcopy(tower).half()
    half.layers[0].fc2.bias.data.fill_(65504.0)
    (mel,) = mels(20)
    assert torch.isfinite(encode_window(half, mel[None].half(), None)).all()
