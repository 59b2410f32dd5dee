"""What a run will cost, before anything heavy: parameters, bytes on a device, FLOPs of a step.

Pure functions of a configuration and a recipe; nothing here was measured, and every figure says how it was derived.
Weights are never read: models are built on the `meta` device.
"""

# F encoder frames (50 Hz), T aligned frames (25 Hz), L LLM positions, D LLM width, E encoder width, C CTC classes

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import nn

from soundwave.configuration import SoundwaveConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.whisper import is_own, is_upper
from soundwave.training.recipe import LoraRecipe, Recipe
from soundwave.training.stages import Stage, learns

ENCODER_FRAMES_PER_SECOND = 50
WINDOW_SECONDS = 30.0
TOKENS_PER_SECOND = 3.3  # of speech: 2.5 words a second, 1.3 tokens a word; an assumption
PROMPT_TOKENS = 80  # template, system text and instruction; an assumption
PAPER_AUDIO = {  # hours and clips of each stage's data (paper, Table 1)
    "alignment": (6_858, 3.04e6), "shrinking": (8_710, 3.65e6), "instruction": (5_359, 2.65e6),
}

FLOAT32, BFLOAT16 = 4, 2  # bytes
NF4 = (4 + 0.127) / 8  # bytes: 4 bits and double-quantised scales (QLoRA, arXiv 2305.14314, section 3)
ADAM_BYTES = 8  # two moments in float32
# Bytes of CTC scores per class and frame while they are differentiated: logits and their rows (2 + 2), log-softmax and
# its argument (4 + 4), the gradient (4).
CTC_BYTES, CTC_BYTES_WITHOUT_LOSS = 16, 2
# Likewise of next-token scores: logits (2), their float32 copy (4), gradients (4 + 2).
LOGIT_BYTES = 12


@dataclass(frozen=True)
class Parameters:
    """Parameters of each part; `linear` and `table` are of `language_model`, `upper` and `own` of `audio_tower`."""

    audio_tower: int
    alignment: int
    ctc_head: int
    shrinking: int
    language_model: int
    lora: int
    linear: int  # of the LLM's layers: what 4-bit quantisation packs
    table: int  # the LLM's input embeddings
    upper: int = 0  # the encoder's layers that belong to the model, with what is added to them
    own: int = 0  # what they learn

    @property
    def total(self) -> int:
        """All parts together."""
        return self.audio_tower + self.adapters + self.ctc_head + self.language_model + self.lora

    @property
    def adapters(self) -> int:
        """Both adapters without a CTC matrix."""
        return self.alignment + self.shrinking

    def trained(self, stage: Stage) -> int:
        """What a stage trains."""
        parts = {"alignment.": self.alignment, "shrinking.": self.shrinking}
        learned = self.own if learns(stage) else 0
        return sum(parts[prefix] for prefix in stage.trained) + learned + (self.lora if stage.lora else 0)


@dataclass(frozen=True)
class Workload:
    """What one batch on one device holds, on average."""

    clips: int
    seconds: float  # of audio in a clip
    frames: int  # F of a clip's window
    aligned: int  # T of a clip's window
    positions: int  # of a clip in the LLM: prompt, audio, reply
    audio_positions: int
    replied: int  # tokens that are predicted


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    frozen: float
    trained: float
    gradients: float
    optimizer: float
    activations: float
    average: float = 0.0  # of what is trained, where the recipe asks for one (ema_decay)

    @property
    def total(self) -> float:
        """All of it, without what the allocator and CUDA itself take."""
        return sum(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class Flops:
    """FLOPs of one clip, backward and recomputation included; a multiply-add is two."""

    audio_tower: float
    alignment: float
    ctc_head: float
    shrinking: float
    language_model: float

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(getattr(self, f.name) for f in fields(self))


def count_parameters(config: SoundwaveConfig, lora: LoraRecipe) -> Parameters:
    """Counts each part of a model that is built without memory; `lora` is one that leaves nothing open."""
    with torch.device("meta"):
        model = SoundwaveForConditionalGeneration(config)
    head = model.alignment.ctc_projection
    head_size = 0 if head is None else head.weight.numel()
    table = model.language_model.get_input_embeddings().weight.numel()
    layers = dict(_linear_layers(model.language_model))
    tower = {f"audio_tower.{name}": p.numel() for name, p in model.audio_tower.named_parameters()}
    adapted = [m for name, m in layers.items() if name.rsplit(".", 1)[-1] in (lora.target_modules or [])]
    return Parameters(
        audio_tower=_size(model.audio_tower), alignment=_size(model.alignment) - head_size, ctc_head=head_size,
        shrinking=_size(model.shrinking), language_model=_size(model.language_model),
        lora=sum((lora.r or 0) * (m.in_features + m.out_features) for m in adapted),
        linear=sum(m.weight.numel() for m in layers.values()), table=table,
        upper=sum(size for name, size in tower.items() if is_upper(config, name)),
        own=sum(size for name, size in tower.items() if is_own(config, name)),
    )


def _linear_layers(language_model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The LLM's matrices, its output head left out."""
    head = language_model.get_output_embeddings()  # type: ignore[operator]
    return [(n, m) for n, m in language_model.named_modules() if isinstance(m, nn.Linear) and m is not head]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def paper_clip_seconds(stage: Stage) -> float:
    """The average length of a clip of the paper's data for a stage."""
    hours, clips = PAPER_AUDIO[stage.name]
    return hours * 3600 / clips


def workload(config: SoundwaveConfig, recipe: Recipe, seconds: float) -> Workload:
    """A batch of clips of the average length.

    Args:
        config: its window and blank rule decide how many frames and positions a clip has.
        recipe: `batch_seconds` and `max_batch_size` decide how many clips a batch has.
        seconds: average length of a clip.
    """
    window = WINDOW_SECONDS
    if config.encoder_window == "dynamic":
        window = min(WINDOW_SECONDS, seconds + config.window_tail_seconds)
    groups = math.ceil(round(window * ENCODER_FRAMES_PER_SECOND) / config.frames_per_group)
    frames = groups * config.frames_per_group
    spoken = max(1, round(seconds * TOKENS_PER_SECOND))
    audio = {"one_per_run": 2 * spoken + 1, "pool": spoken + 1, "drop": spoken}[config.blank_handling]
    return Workload(
        clips=max(1, min(recipe.max_batch_size, int(recipe.batch_seconds // seconds))), seconds=seconds,
        frames=frames, aligned=frames // config.frames_per_group, audio_positions=audio,
        positions=PROMPT_TOKENS + audio + spoken, replied=spoken,
    )


def memory(
    config: SoundwaveConfig, recipe: Recipe, stage: Stage, parts: Parameters, work: Workload, low_precision: bool = True
) -> Memory:
    """Bytes on one device, as `build.build_model` lays a run out.

    Args:
        config, recipe, stage: of the run.
        parts: from `count_parameters`.
        work: from `workload`.
        low_precision: whether frozen parts are kept in bfloat16.
    """
    kept = BFLOAT16 if low_precision else FLOAT32
    trained = parts.trained(stage)
    # adapters, LoRA and the encoder's own layers are in float32, trained or not; a frozen CTC matrix is like the LLM
    own = parts.adapters + (parts.lora if stage.next_token else 0)
    frozen: float = (own + parts.upper - trained) * FLOAT32 + parts.ctc_head * kept
    if recipe.features is None:
        frozen += (parts.audio_tower - parts.upper) * kept
    if stage.next_token:
        packed = parts.linear if recipe.llm_quantization == "4bit" else 0
        frozen += (parts.language_model - packed) * kept + packed * NF4
    else:
        own_copy = 0 if config.ctc_head == "projection" else config.ctc_tokens * _width(config)
        frozen += parts.table * kept + own_copy * FLOAT32
    frozen += trained * (BFLOAT16 if low_precision else 0)  # autocast keeps a copy of what it casts
    return Memory(
        frozen=frozen, trained=trained * FLOAT32, gradients=trained * FLOAT32, optimizer=trained * ADAM_BYTES,
        activations=sum(
            _activations(config, stage, work, recipe.gradient_checkpointing, ctc_passes(config, recipe, stage))
        ),
        average=trained * FLOAT32 if recipe.ema_decay else 0.0,
    )


def ctc_passes(config: SoundwaveConfig, recipe: Recipe, stage: Stage) -> int:
    """How often a training step runs the CTC head: for the last alignment layer, or for each."""
    return config.alignment_layers if stage.ctc and recipe.intermediate_ctc_weight else 1


def _width(config: SoundwaveConfig) -> int:
    return config.text_config.hidden_size


def _activations(
    config: SoundwaveConfig, stage: Stage, work: Workload, checkpointing: bool, ctc_passes: int
) -> tuple[float, float, float]:
    """Bytes kept for the backward pass: adapters and the encoder's layers that learn, LLM, scores.

    A layer keeps 18 D + 4 ffn bytes a position in 16 bits (Korthikanti et al. 2022, section 4.1, without the attention
    scores, which are never stored); with a gated feed-forward part 8 ffn, and for LoRA 7 D for each of four matrices.
    With checkpointing each layer of the LLM keeps its input (2 D), and one layer at a time all of it.
    """
    width, text = _width(config), config.text_config
    adapters = work.clips * work.aligned * (config.alignment_layers + 1) * (18 * width + 4 * config.alignment_ffn_dim)
    if learns(stage) and config.encoder_training != "none":
        audio = config.audio_config
        kept = 18 * audio.d_model + 4 * audio.encoder_ffn_dim
        adapters += work.clips * work.frames * config.encoder_upper_layers * kept
    ctc = CTC_BYTES if stage.ctc else CTC_BYTES_WITHOUT_LOSS
    scores = work.clips * work.aligned * config.ctc_classes * ctc * ctc_passes
    if not stage.next_token:
        return adapters, 0.0, scores
    layer = 18 * width + 8 * text.intermediate_size + 4 * 7 * width
    positions = work.clips * work.positions
    layers = text.num_hidden_layers
    language_model = positions * (layer + layers * 2 * width if checkpointing else layers * layer)
    return adapters, language_model, scores + work.clips * work.replied * text.vocab_size * LOGIT_BYTES


def flops(
    config: SoundwaveConfig, stage: Stage, parts: Parameters, work: Workload, encode: bool = True,
    checkpointing: bool = False, ctc_passes: int = 1,
) -> Flops:
    """FLOPs of one clip of one step.

    A matrix of P weights costs 2 P a position forward, as much again for the gradient of its input, and as much again
    for its own gradient where it is trained. Attention between n queries and m keys costs 4 n m width.

    Args:
        config, stage: of the run.
        parts: from `count_parameters`.
        work: from `workload`.
        encode: whether the frozen encoder runs (features that were stored cost nothing).
        checkpointing: whether the LLM's layers are computed a second time.
        ctc_passes: how often the CTC head runs.
    """
    width, audio, text = _width(config), config.audio_config, config.text_config
    mixed = 4 * work.frames**2 * audio.d_model  # by one layer's attention
    learning = learns(stage) and config.encoder_training != "none"
    upper, own = 2 * parts.upper * work.frames, 2 * parts.own * work.frames
    tower = upper + mixed * config.encoder_upper_layers
    if learning:
        tower += upper + own + 2 * mixed * config.encoder_upper_layers
    if encode:
        tower += 2 * (parts.audio_tower - parts.upper) * work.frames + mixed * config.encoder_depth
    passes = 3 if learns(stage) else 1
    mixing = 4 * work.aligned**2 * width * config.alignment_layers if config.alignment_attention == "temporal" else 0
    whitening = 2 * audio.d_model**2 * config.frames_per_group * work.aligned * config.alignment_whitening
    alignment = passes * (2 * parts.alignment * work.aligned + mixing) + whitening
    scores = 2 * config.ctc_classes * width * work.aligned
    head = scores * (2 * ctc_passes if stage.ctc else 1)  # frozen: its input's gradient alone
    if not stage.next_token:
        return Flops(tower, alignment, head, 0.0, 0.0)
    looked_at = work.audio_positions if config.look_back_over == "kept" else work.aligned
    look_back = 2 * width**2 * (2 * looked_at + 2 * work.audio_positions) + 4 * work.audio_positions * looked_at * width
    layers = 2 * parts.linear * work.positions + 2 * work.positions**2 * width * text.num_hidden_layers  # causal: half
    lora = 2 * parts.lora * work.positions
    output = 2 * width * text.vocab_size * work.replied
    language_model = 2 * (layers + output) + (3 if stage.lora else 2) * lora + (layers + lora if checkpointing else 0)
    return Flops(tower, alignment, head, 3.0 * look_back, language_model)
