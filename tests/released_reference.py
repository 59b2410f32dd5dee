"""The released code's steps, written again slowly: one clip, one prompt, always 30 s, everything computed anew.

Written from a description of those steps, with torch's own modules and the released names; it shares no code with
`soundwave`. `test_released.py` checks it against the released code's own outputs where these are at hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

SYSTEM_TEXT = (
    "You are a helpful language and speech assistant. You are able to understand the speech content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
LLAMA_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "rms_norm_eps", "max_position_embeddings",
)


class ReleasedSteps:
    """A checkpoint of the released format, run as the released code runs it."""

    def __init__(self, folder: Path):
        values = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        self.blank = values["audio_patch_token"]
        self.end = values["eos_token_id"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, config=LlamaConfig())
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder / "audio_tower")
        width, heads = values["hidden_size"], values["num_attention_heads"]
        ffn = tensors["model.asr_transformer_encoder.layers.0.linear1.weight"].shape[0]
        self.audio_tower = WhisperEncoder(WhisperConfig.from_pretrained(folder / "audio_tower"))
        self.mm_projector1 = nn.Linear(2 * values["adapter_size"], width)
        self.layer = nn.TransformerEncoderLayer(width, heads, ffn, norm_first=True)  # not batch_first
        self.out_norm = nn.LayerNorm(width)
        self.audio_feature_head = nn.Linear(width, values["vocab_size"], bias=False)
        self.encoder_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.atten_layer_norm = nn.LayerNorm(width)
        rope = {"rope_type": "default", **(values["rope_scaling"] or {}), "rope_theta": values["rope_theta"]}
        self.llama = LlamaForCausalLM(LlamaConfig(rope_parameters=rope, **{key: values[key] for key in LLAMA_KEYS}))
        self.parts = {
            "model.audio_tower.": self.audio_tower, "model.mm_projector1.": self.mm_projector1,
            "model.asr_transformer_encoder.layers.0.": self.layer, "model.out_norm.": self.out_norm,
            "model.audio_feature_head.": self.audio_feature_head, "model.lbm.encoder_attn.": self.encoder_attn,
            "model.lbm.atten_layer_norm.": self.atten_layer_norm,
        }
        for prefix, module in self.parts.items():
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            module.load_state_dict(own)
            module.eval()
        self.llama.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(tuple(self.parts))})
        self.llama.eval()

    def prompt_ids(self, prompt: str) -> list[int]:
        """The prompt, piece by piece; every tokenizer call adds its own BOS."""

        def tok(text: str) -> list[int]:
            return self.tokenizer(text).input_ids

        bos, start, end, eot = self.tokenizer.convert_tokens_to_ids(
            ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        )
        system = [start, *tok("system"), end, *tok("\n"), *tok(SYSTEM_TEXT), eot]
        user = [start, *tok("user"), end, *tok("\n<audio_patch>"), *tok(prompt), eot]
        return [bos, *system, *user, start, *tok("assistant"), end, *tok("\n")]

    def front_end(self, samples: np.ndarray) -> dict[str, Tensor]:
        """One clip to what the LLM reads; every name is of the golden files."""
        features = self.extractor(samples, sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            encoder = self.audio_tower(features).last_hidden_state[0]  # (1500, E)
        pairs = torch.stack([torch.cat([encoder[2 * t], encoder[2 * t + 1]]) for t in range(len(encoder) // 2)])
        aligned = self.out_norm(self.layer(self.mm_projector1(pairs)[None]))[0]  # [1, T, D]: a sequence of length one
        scores = self.audio_feature_head(aligned)
        path = scores.argmax(-1)
        keep = torch.tensor([t == 0 or bool(path[t] != path[t - 1]) for t in range(len(path))])
        kept = aligned[keep][None]
        looked, _ = self.encoder_attn(kept, aligned[None], aligned[None], key_padding_mask=~keep[None])
        shrunk = self.atten_layer_norm(kept + looked)[0]
        return {"features": features[0], "encoder": encoder, "aligned": aligned, "scores": scores, "path": path,
                "shrunk": shrunk}

    def logits(self, ids: list[int], shrunk: Tensor) -> Tensor:
        """(positions, V) of one prompt whose only placeholder becomes the audio."""
        at = ids.index(self.blank)
        table = self.llama.model.embed_tokens
        embedded = torch.cat([table(torch.tensor(ids[:at])), shrunk, table(torch.tensor(ids[at + 1 :]))])
        return self.llama(inputs_embeds=embedded[None], use_cache=False).logits[0]

    @torch.no_grad()
    def greedy(self, ids: list[int], shrunk: Tensor, tokens: int) -> list[int]:
        """The most likely continuation, without a cache."""
        said: list[int] = []
        while len(said) < tokens and (not said or said[-1] != self.end):
            said.append(int(self.logits([*ids, *said], shrunk)[-1].argmax()))
        return said

    def losses(
        self, rows: list[list[int]], labels: list[list[int]], audios: list[np.ndarray], transcripts: list[list[int]]
    ) -> tuple[Tensor, Tensor]:
        """(next-token + 0.3 CTC, next-token) of one training step; label -100: not predicted."""
        predicted, targets, ctc = [], [], []
        for ids, row_labels, audio, transcript in zip(rows, labels, audios, transcripts, strict=True):
            speech = self.front_end(audio)
            logits = self.logits(ids, speech["shrunk"])
            shift = len(speech["shrunk"]) - 1  # the audio stands before all targets
            for at, label in enumerate(row_labels):
                if label != -100:
                    predicted.append(logits[at + shift - 1])
                    targets.append(label)
            frames = torch.tensor([len(speech["scores"])])
            nll = F.ctc_loss(
                speech["scores"].log_softmax(-1), torch.tensor(transcript), frames[0], torch.tensor(len(transcript)),
                blank=self.blank, reduction="none", zero_infinity=True,
            )
            ctc.append(nll / len(transcript))
        next_token = F.cross_entropy(torch.stack(predicted), torch.tensor(targets))
        return next_token + 0.3 * torch.stack(ctc).mean(), next_token

    def gradient_norms(self) -> dict[str, float]:
        """By released name, after a backward pass."""
        modules: dict[str, Any] = {**self.parts, "": self.llama}
        return {
            prefix + name: float(parameter.grad.norm())
            for prefix, module in modules.items() if module is not self.audio_tower
            for name, parameter in module.named_parameters()
        }
