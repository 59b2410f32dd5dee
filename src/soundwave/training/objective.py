"""What a stage computes: the losses as pure functions, and a module whose forward gives those of a batch.

Next-token and CTC are the paper's (section 3.3; released code); the KL to a teacher is Ultravox's. Knows nothing about
optimizers or processes.
"""

# B clips, F aligned frames, C CTC classes, V LLM vocabulary

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundwave.model.soundwave import SoundwaveForConditionalGeneration
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


def total_loss(next_token: Tensor | None, ctc: Tensor | None, ctc_weight: float = CTC_WEIGHT) -> Tensor:
    """next-token + 0.3 · CTC; with one term only, that term (stage I has no next-token loss, stage III no CTC)."""
    if next_token is None:
        assert ctc is not None
        return ctc
    return next_token if ctc is None else next_token + ctc_weight * ctc


@dataclass(frozen=True)
class Losses:
    """A step's losses; `paths` are the greedy CTC decisions (N, F), for the error rate during evaluation.

    `next_token` is always the cross-entropy, also where KL takes its place in `total`: so runs can be compared.
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
    """

    def __init__(
        self, model: SoundwaveForConditionalGeneration, stage: Stage, ctc_weight: float, kl_weight: float = 0.0,
        kl_temperature: float = 1.0,
    ):
        super().__init__()
        self.kl_weight, self.kl_temperature = kl_weight, kl_temperature
        self.alignment = model.alignment
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

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch on the module's device."""
        if self.rest is None:
            assert batch.encoder_frames is not None
            assert batch.frame_mask is not None
            aligned = self.alignment(batch.encoder_frames, batch.frame_mask)
            logits = self.alignment.ctc_logits(aligned, self.ctc_embeddings)
            ctc = self._ctc(logits, batch.frame_mask, batch)
            return Losses(total_loss(None, ctc), None, ctc, logits.detach().argmax(-1))
        # The teacher first: its switching of LoRA must not touch what the student's gradient is about to need.
        teacher = self._text_llm(batch) if self.kl_weight else None
        output = self.rest(
            batch.input_ids, batch.attention_mask, encoder_frames=batch.encoder_frames, frame_mask=batch.frame_mask,
            labels=batch.labels, aligned_frames=batch.aligned_frames,
        )
        next_token = next_token_loss(output.logits, output.targets)
        learned, kl = next_token, None
        if teacher is not None and batch.typed_rows is not None:
            matched = torch.isin(output.rows, batch.typed_rows)
            each = kl_to_teacher(output.logits[matched], teacher, self.kl_temperature)
            learned, kl = matched_loss(output.logits, output.targets, matched, each, self.kl_weight), each.mean()
        ctc, paths = None, None
        if output.speech is not None:
            paths = output.speech.ctc_logits.detach().argmax(-1)
            if self.stage.ctc:
                ctc = self._ctc(output.speech.ctc_logits, output.speech.valid, batch)
        total = total_loss(learned, ctc, self.ctc_weight)
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

    def _ctc(self, logits: Tensor, mask: Tensor, batch: Batch) -> Tensor | None:
        known = [i for i, target in enumerate(batch.ctc) if target is not None]
        if not known:
            return None if self.stage.next_token else logits.sum() * 0.0
        rows = torch.tensor(known, device=logits.device)
        targets = [target for target in batch.ctc if target is not None]
        return ctc_loss(logits[rows], mask[rows].sum(1), targets, self.blank)
