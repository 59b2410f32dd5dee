"""The speech encoder: log-mel to what any LLM and any CTC decoder reads (paper section 3, Figure 2, without the LLM).

Whisper encoder → alignment adapter with CTC head → shrinking adapter. Of the LLM it needs at most the table of token
embeddings. Knows no text, no files, and keeps nothing of a request.
"""

# N audios, M mel bins, T mel frames (100 Hz), E encoder width, F aligned frames (25 Hz), K kept runs, S positions
# C CTC classes, V LLM vocabulary, D LLM width

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

import torch
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from soundwave.configuration import SoundwaveConfig
from soundwave.model.adapters import AlignmentAdapter, ShrinkingAdapter
from soundwave.model.shrink import Runs
from soundwave.model.whisper import encode_window, is_own, make_tower


def alignment_mark(tensors: Iterable[tuple[str, Tensor]], config: SoundwaveConfig) -> str:
    """A short text that changes with what aligned frames are made by, and with what their CTC classes mean.

    That is the alignment adapter, and what the encoder has learned. A CTC head that is a copy of the LLM's embeddings
    is no part of it: it is never trained, and kept in any precision.

    Args:
        tensors: a model's, by full name, in float32 or what they are stored in; others of it do not matter.
        config: the model's.
    """
    digest = hashlib.sha256(repr(config.ctc_vocabulary).encode())
    for name, tensor in sorted(tensors, key=itemgetter(0)):
        if (name.startswith("alignment.") and "ctc_projection" not in name) or is_own(config, name):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class TimedToken:
    """An LLM token that is said, and when.

    Attributes:
        id: the LLM's token id.
        start, end: in seconds from the beginning of the audio.
        parts: the CTC tokens that it was joined from; itself alone where none were.
    """

    id: int
    start: float
    end: float
    parts: tuple[int, ...]


@dataclass(frozen=True)
class SpeechOutput:
    """What the speech encoder makes of N audios.

    Attributes:
        embeddings: (N, S, D) what the LLM reads, zero where `positions.mask` is False.
        runs: the K kept runs of CTC decisions, in aligned frames.
        positions: what the embeddings stand for: the runs, or several joined into one longer token.
        run_token_ids: (N, K) the LLM token of each run; -1 for blank and padding.
        token_ids: (N, S) the LLM token of each position; -1 for blank and padding.
        sizes: (N, S) how many runs, in order, each position is made of; 0 for padding.
        ctc_logits: (N, F, C).
        valid: (N, F) True for frames of the clip's window.
        aligned: (N, F, D) what the alignment adapter gives.
        seconds_per_frame: length of an aligned frame.
    """

    embeddings: Tensor
    runs: Runs
    positions: Runs
    run_token_ids: Tensor
    token_ids: Tensor
    sizes: Tensor
    ctc_logits: Tensor
    valid: Tensor
    aligned: Tensor
    seconds_per_frame: float

    def kept(self) -> list[Tensor]:
        """Per audio its (S_i, D) embeddings, without padding."""
        return [row[mask] for row, mask in zip(self.embeddings, self.positions.mask, strict=True)]

    def ctc_logprobs(self) -> list[Tensor]:
        """Per audio the (F_i, C) natural log-probabilities of its own frames, in float32."""
        return [
            row[valid].float().log_softmax(-1) for row, valid in zip(self.ctc_logits, self.valid, strict=True)
        ]

    def ctc_tokens(self, joined: bool = False) -> list[list[TimedToken]]:
        """Per audio the tokens that CTC reads in it, without blanks.

        Args:
            joined: those that the LLM reads, which stand for several of CTC's where runs were joined.
        """
        runs, ids = (self.positions, self.token_ids) if joined else (self.runs, self.run_token_ids)
        sizes = self.sizes if joined else runs.mask.long()
        columns = (ids, runs.start, runs.end, sizes, self.run_token_ids)
        return [self._timed(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def _timed(
        self, ids: list[int], starts: list[int], ends: list[int], sizes: list[int], parts: list[int]
    ) -> list[TimedToken]:
        step, bounds = self.seconds_per_frame, [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        return [
            TimedToken(token, start * step, end * step, tuple(parts[first:last]))
            for token, start, end, (first, last) in zip(ids, starts, ends, pairwise(bounds), strict=True) if token >= 0
        ]


class SpeechEncoder(nn.Module):
    """Whisper encoder and both adapters, with the LLM's table of token embeddings where the configuration needs it.

    Args:
        config: the model's.
        parts: `audio_tower`, `alignment`, `shrinking` and `token_table` of a whole model, to share; None: new ones.
    """

    audio_tower: WhisperEncoder
    alignment: AlignmentAdapter
    shrinking: ShrinkingAdapter
    token_table: nn.Embedding | None

    def __init__(self, config: SoundwaveConfig, parts: dict[str, nn.Module | None] | None = None):
        super().__init__()
        self.config = config
        if parts is None:
            parts = {
                "audio_tower": make_tower(config), "alignment": AlignmentAdapter(config),
                "shrinking": ShrinkingAdapter(config), "token_table": None,
            }
            if config.needs_token_table:
                parts["token_table"] = nn.Embedding(config.text_config.vocab_size, config.text_config.hidden_size)
        for name, part in parts.items():
            self.add_module(name, part)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.alignment.project.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """As what the adapters compute."""
        return self.alignment.project.weight.dtype

    def ctc_token_embeddings(self) -> Tensor | None:
        """(classes without blank, D) the LLM's embeddings of the CTC classes; None where none are needed."""
        if self.token_table is None:
            return None
        weight = self.token_table.weight.detach()
        return weight if self.config.ctc_vocabulary is None else weight[self.config.ctc_vocabulary]

    def forward(
        self, input_features: Tensor | None = None, feature_attention_mask: Tensor | None = None,
        encoder_frames: Tensor | None = None, frame_mask: Tensor | None = None, aligned_frames: Tensor | None = None,
    ) -> SpeechOutput:
        """Log-mel, stored encoder frames, or given aligned frames, to audio embeddings.

        Args:
            input_features: (N, M, T) log-mel from the processor.
            feature_attention_mask: (N, T) True inside each clip's window; None: all of it.
            encoder_frames: (N, 2 F, E) instead of features: what `audio_tower` gave earlier.
            frame_mask: (N, F) with `encoder_frames` or `aligned_frames`: True for aligned frames that exist.
            aligned_frames: (N, F, D) instead of both: what `alignment` gave earlier. It gets no gradient from them.
        """
        config = self.config
        if aligned_frames is not None:
            aligned = aligned_frames.to(self.dtype)
        else:
            if encoder_frames is None:
                assert input_features is not None
                encoder_frames, frame_mask = self._frames(input_features, feature_attention_mask)
            aligned = self.alignment(encoder_frames.to(self.dtype), frame_mask)
        valid = frame_mask
        if valid is None:
            valid = torch.ones(aligned.shape[:2], dtype=torch.bool, device=aligned.device)
        logits = self.alignment.ctc_logits(aligned, self.ctc_token_embeddings())
        if aligned_frames is not None:
            logits = logits.detach()
        vocabulary = None
        if config.ctc_vocabulary is not None:
            vocabulary = torch.tensor(config.ctc_vocabulary, device=aligned.device)
        table = None if self.token_table is None else self.token_table.weight.detach()
        shrunk = self.shrinking(aligned, logits, valid, vocabulary, table)
        return SpeechOutput(
            shrunk.embeddings, shrunk.runs, shrunk.positions, shrunk.run_token_ids, shrunk.token_ids, shrunk.sizes,
            logits, valid, aligned, config.seconds_per_frame,
        )

    @torch.no_grad()
    def ctc_logits(self, input_features: Tensor, feature_attention_mask: Tensor | None = None) -> Tensor:
        """(N, F, C) of log-mel (N, M, T), without anything that an LLM would read: all that captions need."""
        frames, mask = self._frames(input_features, feature_attention_mask)
        aligned = self.alignment(frames.to(self.dtype), mask)
        return self.alignment.ctc_logits(aligned, self.ctc_token_embeddings())

    @torch.no_grad()
    def _frames(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Encoder frames (N, 2 F, E), and which aligned frames exist (N, F); None: all."""
        if mask is not None and bool(mask.all()):
            mask = None  # the unmasked attention is faster and gives the same
        frames = encode_window(self.audio_tower, features.to(self.audio_tower.dtype), mask)
        group = 2 * self.config.frames_per_group
        count = frames.shape[1] // self.config.frames_per_group
        return frames, None if mask is None else mask[:, ::group][:, :count]
