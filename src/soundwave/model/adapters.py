"""The two adapters that Soundwave trains between a Whisper encoder and an LLM (paper sections 3.1 and 3.2).

They hold weights and nothing else: no request state, no text, no loss. All masks are True where a frame exists.
"""

# B clips, T frames (25 Hz), K kept runs, S positions, E encoder width, D LLM width, C CTC classes

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundwave.configuration import SoundwaveConfig
from soundwave.model.shrink import Merges, Runs, find_runs, merge_runs, pool_runs


class Attention(nn.Module):
    """Multi-head attention of queries over a masked memory."""

    def __init__(self, width: int, heads: int, rotary: bool = False):
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None, query_places: Tensor | None = None,
        memory_places: Tensor | None = None,
    ) -> Tensor:
        """(B, S, D) queries over a (B, T, D) memory of which `memory_mask` (B, T) exists; None: all of it.

        The places, (B, S) and (B, T) in frames, matter to `rotary` attention; None: 0, 1, 2…
        """
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, length, D / heads)
            for project, x in ((self.q_proj, query), (self.k_proj, memory), (self.v_proj, memory))
        )
        if self.rotary:
            q, k = rotate(q, query_places), rotate(k, memory_places)
        mask = None if memory_mask is None else memory_mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def self_only(self, x: Tensor) -> Tensor:
        """Attention over an axis of length one: each frame's own value, whatever its query and key."""
        return self.out_proj(self.v_proj(x))


ROTARY_BASE = 10_000.0  # as in RoFormer: the slowest pair turns once in about 63,000 frames


def rotate(x: Tensor, places: Tensor | None) -> Tensor:
    """Turns pairs of channels (B, heads, L, H) by the place of each position, (B, L) or 0, 1, 2… (RoFormer).

    The product of a turned query and a turned key depends on the distance of their places only.
    """
    length, half = x.shape[-2], x.shape[-1] // 2
    if places is None:
        places = torch.arange(length, device=x.device)[None]
    speeds = ROTARY_BASE ** (-torch.arange(half, device=x.device) / half)
    angles = places[:, None, :, None].float() * speeds  # (B, 1, L, H / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class FrameConvolution(nn.Module):
    """A depthwise convolution over neighbouring frames, as in a Conformer's, with a residual connection."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.pointwise = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, D) -> (B, T, D)
        normed = self.norm(x)
        if mask is not None:
            normed = normed * mask[:, :, None]  # beyond a clip's end are zeros, as at the edge of a batch
        mixed = self.depthwise(normed.transpose(1, 2)).transpose(1, 2)
        return x + self.pointwise(F.silu(mixed))


class AlignmentLayer(nn.Module):
    """A pre-norm Transformer layer; `frame` attention is a quirk that the released weights depend on."""

    def __init__(self, config: SoundwaveConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.temporal = config.alignment_attention == "temporal"
        self.convolution: FrameConvolution | None = None
        if config.alignment_convolution:
            self.convolution = FrameConvolution(width, config.alignment_convolution)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.alignment_heads, config.adapter_positions == "rotary")
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, config.alignment_ffn_dim)
        self.ffn_out = nn.Linear(config.alignment_ffn_dim, width)
        self.dropout = nn.Dropout(config.alignment_dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, D) -> (B, T, D)
        if self.convolution is not None:
            x = self.convolution(x, mask)
        normed = self.attention_norm(x)
        mixed = self.attention(normed, normed, mask) if self.temporal else self.attention.self_only(normed)
        x = x + self.dropout(mixed)
        inner = self.dropout(F.relu(self.ffn_in(self.ffn_norm(x))))
        return x + self.dropout(self.ffn_out(inner))


class AlignmentAdapter(nn.Module):
    """Encoder frames to aligned frames in the LLM's embedding space, with the CTC head that trains them there."""

    def __init__(self, config: SoundwaveConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.frames_per_group = config.frames_per_group
        self.frame_mean: Tensor
        self.frame_whitener: Tensor
        self.whitens = config.alignment_whitening
        if self.whitens:  # measured when training begins (training/whitening.py)
            self.register_buffer("frame_mean", torch.zeros(config.audio_config.d_model))
            self.register_buffer("frame_whitener", torch.eye(config.audio_config.d_model))
        self.project = nn.Linear(config.audio_config.d_model * config.frames_per_group, width)
        self.layers = nn.ModuleList(AlignmentLayer(config) for _ in range(config.alignment_layers))
        self.norm = nn.LayerNorm(width)
        self.ctc_projection: nn.Linear | None = None
        if config.ctc_head == "projection":
            self.ctc_projection = nn.Linear(width, config.ctc_classes, bias=False)
        else:
            self.ctc_scale = nn.Parameter(torch.tensor(math.log(INITIAL_CTC_SCALE)))
            self.ctc_blank = nn.Parameter(torch.randn(width) / math.sqrt(width))
            self.ctc_blank_bias = nn.Parameter(torch.zeros(()))

    def forward(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """Encoder frames (B, frames_per_group · T, E) to aligned frames (B, T, D); `mask` (B, T)."""
        batch, length, width = frames.shape
        if self.whitens:
            frames = (frames - self.frame_mean) @ self.frame_whitener
        x = self.project(frames.reshape(batch, length // self.frames_per_group, width * self.frames_per_group))
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)

    def ctc_logits(self, aligned: Tensor, token_embeddings: Tensor | None = None) -> Tensor:
        """CTC scores (…, C) of aligned frames (…, D).

        Args:
            aligned: frames from `forward`.
            token_embeddings: (tokens, D) LLM embeddings of the classes in order, blank excluded; not needed with a
                projection head. A subset of the classes gives the scores of that subset, then the blank.
        """
        if self.ctc_projection is not None:
            return self.ctc_projection(aligned)
        assert token_embeddings is not None
        direction = F.normalize(aligned, dim=-1)
        tokens = direction @ F.normalize(token_embeddings.to(direction.dtype), dim=-1).T
        blank = direction @ F.normalize(self.ctc_blank, dim=0).to(direction.dtype)
        scale = self.ctc_scale.exp()
        return torch.cat([tokens * scale, (blank * scale + self.ctc_blank_bias)[..., None]], dim=-1)


INITIAL_LOOK_BACK_SCALE = 0.05  # beside LLM embeddings, whose elements are about 0.1: a correction at first
INITIAL_CTC_SCALE = 20.0  # cosine 1 against 0 is then a logit of 20: certain, yet not saturated


@dataclass(frozen=True)
class Shrunk:
    """What the shrinking adapter gives.

    Attributes:
        embeddings: (B, S, D) for the LLM, zero where no position exists.
        runs: the kept runs of CTC decisions.
        positions: what the embeddings stand for: the runs, or several of them joined.
        run_token_ids: (B, K) the LLM token of each kept run; -1 for blank and padding.
        token_ids: (B, S) the LLM token of each position; -1 for blank and padding.
        sizes: (B, S) how many runs each position is made of; 0 for padding.
    """

    embeddings: Tensor
    runs: Runs
    positions: Runs
    run_token_ids: Tensor
    token_ids: Tensor
    sizes: Tensor


class ShrinkingAdapter(nn.Module):
    """Keeps one position per run of CTC decisions and lets it look back at the frames (paper section 3.2, Eq. 1)."""

    def __init__(self, config: SoundwaveConfig):
        super().__init__()
        self.config = config
        width = config.text_config.hidden_size
        self.attention = Attention(width, config.look_back_heads, config.adapter_positions == "rotary")
        self.norm = nn.LayerNorm(width)
        if config.audio_embedding == "posterior":
            self.blank_embedding = nn.Parameter(torch.zeros(width))
            nn.init.constant_(self.norm.weight, INITIAL_LOOK_BACK_SCALE)
            # The correction begins as the aligned frame itself, which CTC has turned towards what else was heard.
            nn.init.zeros_(self.attention.out_proj.weight)
            nn.init.zeros_(self.attention.out_proj.bias)
        self.merges: Tensor
        self.register_buffer("merges", torch.zeros(config.ctc_merges, 3, dtype=torch.int32))  # left, right, merged
        self._merges: Merges | None = None  # the same as a dictionary, made when it is first needed

    def forward(
        self, aligned: Tensor, logits: Tensor, valid: Tensor, vocabulary: Tensor | None = None,
        table: Tensor | None = None,
    ) -> Shrunk:
        """Aligned frames to audio embeddings.

        Args:
            aligned: (B, T, D).
            logits: (B, T, C) CTC scores.
            valid: (B, T).
            vocabulary: (tokens,) the LLM token of each CTC class; None: class and token are the same number.
            table: (V, D) the LLM's embeddings, for `posterior`.
        """
        config = self.config
        best, path = logits.detach().max(-1)
        score = best - logits.detach().logsumexp(-1) if config.run_pooling == "peak" else best
        runs = find_runs(path, valid, config.blank_class, config.blank_handling)
        run_tokens = self._tokens_of(runs, vocabulary)
        positions, tokens, sizes = self._joined(runs, run_tokens)
        kept = pool_runs(aligned, score, positions, config.run_pooling)
        if kept.shape[1] == 0:
            return Shrunk(kept, runs, positions, run_tokens, tokens, sizes)
        middles = (positions.start + positions.end - 1) / 2  # (B, S) in frames
        if config.look_back_over == "kept":
            memory, memory_mask, places = kept, positions.mask, middles
        else:
            memory, memory_mask, places = aligned, valid, None
        nothing_kept = ~memory_mask.any(1, keepdim=True)  # a clip without any position: avoid a softmax over nothing
        looked = self.attention(kept, memory, memory_mask | nothing_kept, middles, places)
        embeddings = self.norm(kept + looked)
        if config.audio_embedding == "posterior":
            assert table is not None
            expected = self._expected_embedding(logits, score, positions, table, vocabulary)
            typed = table[tokens.clamp(min=0)]  # a joined token is certain only as a whole: no mixture of its pieces
            expected = torch.where((sizes > 1)[:, :, None], typed, expected)
            is_blank = (tokens < 0)[:, :, None]
            embeddings = embeddings + torch.where(is_blank, self.blank_embedding.to(expected.dtype), expected)
        return Shrunk(embeddings * positions.mask[:, :, None], runs, positions, run_tokens, tokens, sizes)

    def _tokens_of(self, runs: Runs, vocabulary: Tensor | None) -> Tensor:
        """(B, K) the LLM token of each run, -1 for blank and padding."""
        blank = runs.classes == self.config.blank_class
        classes = runs.classes.masked_fill(blank, 0)
        return (classes if vocabulary is None else vocabulary[classes]).masked_fill(blank | ~runs.mask, -1)

    def _joined(self, runs: Runs, tokens: Tensor) -> tuple[Runs, Tensor, Tensor]:
        """Runs, joined where the LLM's BPE would, with the LLM token and the number of runs of each."""
        if not self.config.ctc_merges:
            return runs, tokens, runs.mask.long()
        if self._merges is None:
            table = self.merges.tolist()
            self._merges = {(left, right): (rank, merged) for rank, (left, right, merged) in enumerate(table)}
        return merge_runs(runs, tokens, self._merges)

    def _expected_embedding(
        self, logits: Tensor, score: Tensor, positions: Runs, table: Tensor, vocabulary: Tensor | None
    ) -> Tensor:
        """The mixture of LLM embeddings that the CTC expects at each position (as in LegoSLM): (B, S, D).

        Blank's share is taken out, so that a position's norm is that of a typed token.
        """
        posterior = pool_runs(logits.float().softmax(-1), score, positions, self.config.run_pooling)
        tokens = posterior.clone()
        tokens[..., self.config.blank_class] = 0.0
        embeddings = table if vocabulary is None else table[vocabulary]
        tokens = tokens[..., : len(embeddings)]
        tokens = tokens / tokens.sum(-1, keepdim=True).clamp(min=1e-6)
        return tokens.to(table.dtype) @ embeddings
