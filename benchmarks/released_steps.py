"""The released inference code's steps, written plainly over a loaded model's weights: what `speed.py` compares with.

Same weights; what differs is how the work is done, as the released code does it:

- a LoRA is part of the language model's weights, as it is in the released ones;
- the encoder always sees 30 s;
- the alignment layer is `nn.TransformerEncoderLayer` without `batch_first` (fed `[1, T, D]` where the weights are
  frame-wise, and `[T, 1, D]` where frames see each other, so that the CTC decisions are real ones);
- CTC logits over the language model's whole vocabulary and a blank, in float32, whatever part of it the model's own
  head uses (the rest gets a bias of minus infinity: the work is done, the decisions stay);
- one clip at a time, its keep mask made by a loop over frames; first frame of each run, one for each run of blanks;
- look-back by `nn.MultiheadAttention` over kept frames; the prompt tokenised piece by piece; transformers' `generate`.

It knows no batches, no windows but 30 s, and keeps nothing between calls. `tests/test_benchmarks.py` holds it to the
engine: on a model of the released format both give the same embeddings and tokens.
"""

# T aligned frames (25 Hz), S kept positions, E encoder width, D LLM width, V LLM vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundwave.audio import SAMPLE_RATE
from soundwave.inference.backends.merged_lora import merged_twin
from soundwave.model.adapters import AlignmentAdapter, Attention
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.processing import SoundwaveProcessor
from soundwave.text.prompt import RELEASED_SYSTEM_PROMPT

WINDOW_SAMPLES = 30 * SAMPLE_RATE


@dataclass(frozen=True)
class Encoded:
    """(S, D) what the language model reads, and the (T,) CTC decisions behind it."""

    embeddings: Tensor
    path: list[int]


class ReleasedSteps:
    """The steps over one model's weights.

    Args:
        model: loaded, on the CPU or a GPU.
        processor: the model's.
    """

    def __init__(self, model: SoundwaveForConditionalGeneration, processor: SoundwaveProcessor):
        self.model, self.processor, config = model, processor, model.config
        self.language_model = merged_twin(model.language_model) or model.language_model
        alignment, width = model.alignment, config.text_config.hidden_size
        self.temporal = config.alignment_attention == "temporal"
        self.project, self.out_norm = alignment.project, alignment.norm
        self.layers = [_torch_layer(layer, width) for layer in alignment.layers]
        self.head, self.blank = _full_head(model, alignment)
        self.look_back = _torch_attention(model.shrinking.attention, width)
        self.look_back_norm = model.shrinking.norm

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> Encoded:
        """(samples,) at 16 kHz, at most 30 s, to audio embeddings."""
        padded = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
        padded[: len(samples)] = samples
        features = self.processor.feature_extractor(padded, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        tower = self.model.audio_tower
        frames = tower(features.input_features.to(tower.device, tower.dtype)).last_hidden_state  # (1, 1500, E)
        x = self.project(frames.reshape(1, frames.shape[1] // 2, 2 * frames.shape[2]))  # (1, T, D)
        for layer in self.layers:
            x = layer(x.transpose(0, 1)).transpose(0, 1) if self.temporal else layer(x)
        aligned = self.out_norm(x)
        path = self._logits(aligned)[0].argmax(-1).tolist()
        keep = []
        for frame, decision in enumerate(path):
            keep.append(frame == 0 or decision != path[frame - 1])
        mask = torch.tensor([keep], device=aligned.device)
        kept = aligned[mask][None]  # (1, S, D)
        looked, _ = self.look_back(kept, aligned, aligned, key_padding_mask=~mask)
        return Encoded(self.look_back_norm(kept + looked)[0], path)

    @torch.no_grad()
    def ask(self, samples: np.ndarray, prompt: str, max_new_tokens: int) -> list[int]:
        """The greedy answer's tokens."""
        audio = self.encode(samples).embeddings
        ids = self.prompt_ids(prompt)
        at = ids.index(self.model.config.audio_token_id)
        table = self.model.language_model.get_input_embeddings()
        before, after = (torch.tensor(part, device=audio.device) for part in (ids[:at], ids[at + 1 :]))
        embeddings = torch.cat([table(before), audio.to(table.weight.dtype), table(after)])[None]
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=audio.device)
        answer = self.language_model.generate(
            inputs_embeds=embeddings, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens
        )
        return answer[0].tolist()

    def prompt_ids(self, prompt: str) -> list[int]:
        """One placeholder and the prompt, tokenised piece by piece."""
        tokenizer = self.processor.tokenizer

        def tok(text: str) -> list[int]:
            return tokenizer(text).input_ids

        if self.processor.inference.prompt_format != "released":
            message = {"role": "user", "content": self.processor.audio_token + prompt}
            text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
            before, after = text.split(self.processor.audio_token)
            return [*tok(before), self.model.config.audio_token_id, *tok(after)]
        bos, start, end, over = tokenizer.convert_tokens_to_ids(
            ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        )
        system = [start, *tok("system"), end, *tok("\n"), *tok(RELEASED_SYSTEM_PROMPT), over]
        user = [start, *tok("user"), end, *tok("\n" + self.processor.audio_token), *tok(prompt), over]
        return [bos, *system, *user, start, *tok("assistant"), end, *tok("\n")]

    def _logits(self, aligned: Tensor) -> Tensor:
        x = aligned.float()
        if self.model.config.ctc_head == "embeddings":
            x = F.normalize(x, dim=-1)
        return self.head(x)


def _torch_layer(layer: Any, width: int) -> nn.Module:  # of an AlignmentLayer
    attention = _torch_attention(layer.attention, width)
    made = nn.TransformerEncoderLayer(width, layer.attention.heads, layer.ffn_in.out_features, norm_first=True)
    made.self_attn.load_state_dict(attention.state_dict())
    pairs = (
        (made.norm1, layer.attention_norm), (made.norm2, layer.ffn_norm), (made.linear1, layer.ffn_in),
        (made.linear2, layer.ffn_out),
    )
    for own, given in pairs:
        own.load_state_dict(given.state_dict())
    weight = layer.ffn_in.weight
    return made.to(weight.device, weight.dtype).eval()


def _torch_attention(attention: Attention, width: int) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(width, attention.heads, batch_first=True)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    made.load_state_dict({
        "in_proj_weight": torch.cat([projection.weight for projection in projections]),
        "in_proj_bias": torch.cat([projection.bias for projection in projections]),
        "out_proj.weight": attention.out_proj.weight, "out_proj.bias": attention.out_proj.bias,
    })
    weight = attention.out_proj.weight
    return made.to(weight.device, weight.dtype).eval()


def _full_head(model: SoundwaveForConditionalGeneration, alignment: AlignmentAdapter) -> tuple[nn.Linear, int]:
    """The CTC head over all V tokens and the blank, float32, and the blank's class."""
    config = model.config
    table: Tensor = model.language_model.get_input_embeddings().weight
    if alignment.ctc_projection is not None and config.ctc_vocabulary is None:
        rows, bias = alignment.ctc_projection.weight.float(), None
    else:
        blank_row, blank_bias, tokens = table.new_zeros(1, table.shape[1]), table.new_zeros(1), table
        if alignment.ctc_projection is None:
            scale = alignment.ctc_scale.exp()
            tokens = F.normalize(table.float(), dim=-1) * scale
            blank_row = F.normalize(alignment.ctc_blank.float(), dim=0)[None] * scale
            blank_bias = alignment.ctc_blank_bias.float()[None]
        rows = torch.cat([tokens.float(), blank_row.float()])
        allowed = torch.full((len(table),), -torch.inf, device=rows.device)
        allowed[list(range(len(table))) if config.ctc_vocabulary is None else config.ctc_vocabulary] = 0.0
        bias = torch.cat([allowed, blank_bias.float()])
    head = nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None, device=rows.device)
    with torch.no_grad():
        head.weight.copy_(rows)
        if bias is not None:
            head.bias.copy_(bias)
    return head.requires_grad_(False), config.blank_class if bias is None else len(table)
