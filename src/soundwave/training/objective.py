"""What a stage computes: the losses as pure functions, and a module whose forward gives those of a batch.

Next-token and CTC are the paper's (section 3.3; released code); the KL to a teacher is Ultravox's; what keeps CTC from
overfitting is named where it stands. Knows nothing about optimizers or processes.
"""

# B clips, F aligned frames, C CTC classes, V LLM vocabulary

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.whisper import upper_frames
from soundwave.training.collate import Batch
from soundwave.training.stages import Stage

CTC_WEIGHT = 0.3  # of the CTC term beside the next-token loss (released code)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all targets of the batch: logits (targets, V), targets (targets,)."""
    return F.cross_entropy(logits.float(), targets)


def kl_to_teacher(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """How far each position's distribution is from the teacher's: T² · KL(teacher ‖ student), both softened by T.

    T² keeps the gradient's size when the distributions are softened (Hinton et al., arXiv 1503.02531); the use for
    speech is Ultravox's.

    Args:
        logits: (targets, V) of the student.
        teacher: (targets, V) of the teacher; no gradient reaches it.
        temperature: T; above 1 the teacher's less likely tokens count for more.

    Returns:
        (targets,) in nats, zero where the distributions agree.
    """
    student = (logits.float() / temperature).log_softmax(-1)
    wanted = (teacher.detach().float() / temperature).log_softmax(-1)
    return F.kl_div(student, wanted, reduction="none", log_target=True).sum(-1) * temperature**2


def matched_loss(logits: Tensor, targets: Tensor, matched: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
    """The mean over all targets of (1 - w) · cross-entropy + w · KL, and of cross-entropy where there is no teacher.

    Args:
        logits: (targets, V).
        targets: (targets,) token ids.
        matched: (targets,) True where a teacher speaks too.
        kl: (matched,) from `kl_to_teacher`.
        kl_weight: w; 1 takes the place of cross-entropy.
    """
    each = F.cross_entropy(logits.float(), targets, reduction="none")
    weight = kl_weight * matched.to(each.dtype)
    return (((1.0 - weight) * each).sum() + kl_weight * kl.sum()) / len(each)


def ctc_loss(logits: Tensor, frames: Tensor, targets: list[list[int]], blank: int) -> Tensor:
    """CTC in float32: each clip's loss over its target length, then the mean over clips.

    Args:
        logits: (B, F, C) scores.
        frames: (B,) real lengths: padding is not speech that was labelled blank.
        targets: classes per clip; an empty target asks for blanks only.
        blank: class of the blank.

    Returns:
        A scalar; clips with more tokens than frames allow count as zero.
    """
    lengths = torch.tensor([len(target) for target in targets], device=logits.device)
    flat = torch.tensor([token for target in targets for token in target], dtype=torch.long, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.float().log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(scores, flat, frames, lengths, blank=blank, reduction="mean", zero_infinity=True)


def kl_from_uniform(logits: Tensor) -> Tensor:
    """KL(uniform ‖ p), the mean over positions in nats: what label smoothing adds to a loss.

    Label smoothing as a KL: Pereyra et al., arXiv 1701.06548; beside CTC, which has no label for each frame to smooth:
    Kim et al., arXiv 1711.02212.

    Args:
        logits: (positions, C) scores.

    Returns:
        A scalar, zero where all classes are equally likely.
    """
    return -logits.float().log_softmax(-1).mean() - math.log(logits.shape[-1])


@contextmanager
def outputs_of(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that gets what each of the modules returns while this lasts, in the order in which they are called."""
    outputs: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda _, __, output: outputs.append(output)) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def total_loss(next_token: Tensor | None, ctc: Tensor | None, ctc_weight: float = CTC_WEIGHT) -> Tensor:
    """next-token + 0.3 · CTC; with one term only, that term (stage I has no next-token loss, stage III no CTC)."""
    if next_token is None:
        assert ctc is not None
        return ctc
    return next_token if ctc is None else next_token + ctc_weight * ctc


@dataclass(frozen=True)
class Losses:
    """A step's losses; `paths` are the greedy CTC decisions (N, F), for the error rate during evaluation.

    `next_token` is always the cross-entropy, also where KL takes its place in `total`, and `ctc` the last layer's, not
    smoothed: so runs can be compared.
    """

    total: Tensor
    next_token: Tensor | None = None
    ctc: Tensor | None = None
    paths: Tensor | None = None
    kl: Tensor | None = None


class StageModule(nn.Module):
    """A model and the losses of one stage.

    Args:
        model: in stage I only its adapters and the LLM's embedding table need to be in memory.
        stage: decides which losses are computed.
        ctc_weight: of the CTC loss beside the next-token loss.
        kl_weight: share of the KL to the text LLM in the next-token loss, where the batch has it typed.
        kl_temperature: of that KL.
        ctc_label_smoothing: share of `kl_from_uniform` in the CTC loss, in training only.
        intermediate_ctc_weight: share of the intermediate layers' mean CTC loss in that of the last layer, in training
            only (Lee and Watanabe, arXiv 2102.03216).
    """

    def __init__(
        self, model: SoundwaveForConditionalGeneration, stage: Stage, ctc_weight: float, kl_weight: float = 0.0,
        kl_temperature: float = 1.0, ctc_label_smoothing: float = 0.0, intermediate_ctc_weight: float = 0.0,
    ):
        super().__init__()
        self.ctc_label_smoothing, self.intermediate_ctc_weight = ctc_label_smoothing, intermediate_ctc_weight
        self.kl_weight, self.kl_temperature = kl_weight, kl_temperature
        self.alignment, self.config = model.alignment, model.config
        self.audio_tower = model.audio_tower if model.config.encoder_upper_layers else None
        self.rest = None if not stage.next_token else model  # stage I: the LLM stays out of memory and of the wrapper
        self.stage, self.ctc_weight = stage, ctc_weight
        self.blank = model.config.blank_class
        self.ctc_embeddings: Tensor | None
        table = model.speech_encoder.ctc_token_embeddings() if self.rest is None else None
        self.register_buffer("ctc_embeddings", None if table is None else table.float(), persistent=False)

    @property
    def layer_classes(self) -> list[str]:
        """Names of the classes of the language model's layers, where it is in memory."""
        return [] if self.rest is None else list(self.rest.language_model._no_split_modules or [])

    def require_input_gradients(self) -> None:
        """Lets gradients flow to the first layer's input even where nobody speaks.

        FSDP2 reduces a layer's gradients when its input has one; without, the processes would do so in other orders.
        """
        if self.rest is not None:
            self.rest.language_model.enable_input_require_grads()

    def adapter_input(self, batch: Batch) -> Tensor | None:
        """(N, 2 F, E) what the alignment adapter reads of a batch; None where it has no audio."""
        if batch.encoder_frames is None:
            return None
        frames = upper_frames(self.config, self.audio_tower, batch.encoder_frames, batch.frame_mask)
        return frames if batch.masking is None else frames * batch.masking

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch on the module's device."""
        frames = self.adapter_input(batch)
        if self.rest is None:
            assert batch.frame_mask is not None
            with outputs_of(self._intermediate_layers()) as between:
                aligned = self.alignment(frames, batch.frame_mask)
            logits = self.alignment.ctc_logits(aligned, self.ctc_embeddings)
            ctc, learned_ctc = self._ctc(logits, batch.frame_mask, batch, between)
            return Losses(total_loss(None, learned_ctc), None, ctc, logits.detach().argmax(-1))
        # The teacher first: its switching of LoRA must not touch what the student's gradient is about to need.
        teacher = self._text_llm(batch) if self.kl_weight else None
        with outputs_of(self._intermediate_layers()) as between:
            output = self.rest(
                batch.input_ids, batch.attention_mask, encoder_frames=frames, frame_mask=batch.frame_mask,
                labels=batch.labels, aligned_frames=batch.aligned_frames,
            )
        next_token = next_token_loss(output.logits, output.targets)
        learned, kl = next_token, None
        if teacher is not None and batch.typed_rows is not None:
            matched = torch.isin(output.rows, batch.typed_rows)
            each = kl_to_teacher(output.logits[matched], teacher, self.kl_temperature)
            learned, kl = matched_loss(output.logits, output.targets, matched, each, self.kl_weight), each.mean()
        ctc, learned_ctc, paths = None, None, None
        if output.speech is not None:
            paths = output.speech.ctc_logits.detach().argmax(-1)
            if self.stage.ctc:
                ctc, learned_ctc = self._ctc(output.speech.ctc_logits, output.speech.valid, batch, between)
        total = total_loss(learned, learned_ctc, self.ctc_weight)
        if self.training and torch.is_grad_enabled():
            total = total + self._nothing()
        return Losses(total, next_token, ctc, paths, kl)

    @torch.no_grad()
    def _text_llm(self, batch: Batch) -> Tensor | None:
        """(matched, V) what the LLM without LoRA expects of the replies where it reads the transcripts, typed.

        None where no transcript of the batch is known.
        """
        if batch.typed_ids is None:
            return None
        assert self.rest is not None
        language_model = self.rest.language_model
        training = language_model.training
        language_model.eval()
        try:
            with self.rest.plain_language_model():
                return self.rest(batch.typed_ids, batch.typed_mask, labels=batch.typed_labels).logits
        finally:
            language_model.train(training)

    def _nothing(self) -> Tensor:
        """Zero, out of every trained adapter weight.

        A batch may leave some of them aside: text only, no transcript, nothing kept. Several processes wait for the
        gradient of each weight from each other, so a batch that does not need it says zero; in one process the same.
        """
        adapters = (p for name, p in self.named_parameters() if p.requires_grad and "lora_" not in name)
        # One by one: multiplied together, torch lets scalars share one gradient in memory, and adds to it twice.
        return reduce(operator.add, [parameter.sum() * 0.0 for parameter in adapters])

    def _intermediate_layers(self) -> Sequence[nn.Module]:
        wanted = self.training and self.stage.ctc and self.intermediate_ctc_weight
        return list(self.alignment.layers)[:-1] if wanted else []

    def _ctc(
        self, logits: Tensor, mask: Tensor, batch: Batch, between: Sequence[Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The CTC loss of the clips whose words are known, and what is learned in its place; the same in evaluation.

        Args:
            logits: (N, F, C).
            mask: (N, F).
            batch: it has the targets.
            between: (N, F, D) what each intermediate alignment layer gave.
        """
        known = [i for i, target in enumerate(batch.ctc) if target is not None]
        if not known:
            none = None if self.stage.next_token else logits.sum() * 0.0
            return none, none
        rows = torch.tensor(known, device=logits.device)
        targets = [target for target in batch.ctc if target is not None]
        logits, inside = logits[rows], mask[rows]
        ctc = learned = ctc_loss(logits, inside.sum(1), targets, self.blank)
        if between:
            scores = [self._scores(layer[rows]) for layer in between]
            each = [ctc_loss(one, inside.sum(1), targets, self.blank) for one in scores]
            weight = self.intermediate_ctc_weight
            learned = (1.0 - weight) * learned + weight * torch.stack(each).mean()
        if self.training and self.ctc_label_smoothing:
            share = self.ctc_label_smoothing
            learned = (1.0 - share) * learned + share * kl_from_uniform(logits[inside])
        return ctc, learned

    def _scores(self, layer: Tensor) -> Tensor:
        """(N, F, C) what the CTC head makes of an intermediate layer (N, F, D), normed as the last one is."""
        table = self.ctc_embeddings if self.rest is None else self.rest.speech_encoder.ctc_token_embeddings()
        return self.alignment.ctc_logits(self.alignment.norm(layer), table)
