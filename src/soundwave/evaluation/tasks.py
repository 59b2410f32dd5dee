"""The tasks as data: what a clip is asked, what its manifest must hold, and how the replies become one score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from soundwave.errors import ConfigurationError
from soundwave.evaluation import TaskName
from soundwave.evaluation.clips import Clip
from soundwave.evaluation.replies import answer_part, is_repetition, label_part, named_label
from soundwave.evaluation.translation import translation_score
from soundwave.inference.engine import Engine
from soundwave.model.lora import switch_lora
from soundwave.text.metrics import is_answered, is_silent, word_errors

ANSWER_PROMPT = "Please answer the question that the person asks."
# The instructions that come first in the training data's files for these tasks (`data instruct`).
INTENT_PROMPT = "What is the intent of the speaker?"
SOUND_PROMPT = "Where's the sound in this clip originating from?"
TRANSLATION_PROMPT = "What is the German translation of this English speech?"
ANSWER_TOKENS = 64  # two or three sentences: an answer that comes later than that is not to the question

Samples = tuple[np.ndarray, int]  # float32 mono, and their rate in Hz


@dataclass(frozen=True)
class Asking:
    """How every clip of one evaluation is asked.

    Attributes:
        prompt: None: the model's own prompt for transcripts, or, typed, the question itself.
        max_new_tokens: None: the engine's bound for a transcript, which grows with the clip.
    """

    prompt: str | None
    max_new_tokens: int | None


@dataclass(frozen=True)
class Prediction:
    """What the model said about one clip: `reply`, and what else the task looks at, by name."""

    clip: Clip
    seconds: float  # of audio; 0 for a typed question
    said: dict[str, str]

    @property
    def reply(self) -> str:
        """What is scored."""
        return self.said["reply"]


@dataclass(frozen=True)
class Score:
    """One figure, what it was counted from, further figures from the same replies, and how a library names its ways."""

    value: float
    counts: dict[str, int]
    also: dict[str, float] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One kind of evaluation.

    Attributes:
        name: how the command line calls it.
        measure: the name of its score, for people.
        lower_is_better: of that score, a fraction.
        needs: what every line of a manifest must have (see `read_clips`).
        listens: whether the clip is heard; a typed question is not.
        asking: the defaults.
        takes_prompt: whether another prompt makes sense.
        answer: clips and their audio to what is said about each.
        score: predictions to the score.
    """

    name: TaskName
    measure: str
    lower_is_better: bool
    needs: tuple[str, ...]
    listens: bool
    asking: Asking
    takes_prompt: bool
    answer: Callable[[Engine, Sequence[Clip], Sequence[Samples], Asking], list[dict[str, str]]]
    score: Callable[[Sequence[Prediction]], Score]

    def ask_with(self, prompt: str | None, max_new_tokens: int | None) -> Asking:
        """The task's way of asking, with what the user wants otherwise.

        Raises:
            ConfigurationError: A setting that would change nothing here.
        """
        if prompt is not None and not self.takes_prompt:
            raise ConfigurationError(f"The task {self.name.value} has no prompt: leave {prompt!r} out.")
        asking = Asking(self.asking.prompt if prompt is None else prompt, max_new_tokens or self.asking.max_new_tokens)
        if max_new_tokens is not None and self.asking.max_new_tokens is None and asking.prompt is None:
            raise ConfigurationError(
                f"max_new_tokens={max_new_tokens} changes nothing in the task {self.name.value}, where the clip's "
                "length bounds what is written down; leave it out."
            )
        return asking


def _transcribe(
    engine: Engine, clips: Sequence[Clip], audio: Sequence[Samples], asking: Asking
) -> list[dict[str, str]]:
    if asking.prompt is not None:
        return _ask(engine, clips, audio, asking)
    heard = engine.transcribe_batch(list(audio))
    return [{"reply": one.text, "ctc": one.ctc_text} for one in heard]


def _read_ctc(
    engine: Engine, clips: Sequence[Clip], audio: Sequence[Samples], asking: Asking
) -> list[dict[str, str]]:
    return [{"reply": one.text, "ctc": one.ctc_text} for one in engine.read_batch(list(audio))]


def _ask(
    engine: Engine, clips: Sequence[Clip], audio: Sequence[Samples], asking: Asking
) -> list[dict[str, str]]:
    assert asking.prompt is not None
    replies = engine.ask_batch([(one, asking.prompt) for one in audio], **_greedy(asking))
    return [{"reply": reply.text} | ({"heard": reply.heard} if reply.heard else {}) for reply in replies]


def _ask_typed(
    engine: Engine, clips: Sequence[Clip], audio: Sequence[Samples], asking: Asking
) -> list[dict[str, str]]:
    questions = [clip.text or "" for clip in clips]
    limit = asking.max_new_tokens or ANSWER_TOKENS
    replies = engine.ask_batch([(None, question) for question in questions], **_greedy(asking))
    return [
        {"reply": reply.text, "plain": plain_reply(engine, question, limit)}
        for reply, question in zip(replies, questions, strict=True)
    ]


def _greedy(asking: Asking) -> dict[str, Any]:
    return {"temperature": 0, "max_new_tokens": asking.max_new_tokens or ANSWER_TOKENS}


def plain_reply(engine: Engine, question: str, max_new_tokens: int) -> str:
    """What the language model alone answers, greedily: its own template, its own `generate`, nothing of ours."""
    tokenizer, language_model = engine.processor.tokenizer, engine.model.language_model
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(engine.model.device)
    adapted = engine.model.has_lora
    if adapted:
        switch_lora(language_model, False)
    try:
        with torch.no_grad():
            ids = language_model.generate(**prompt, do_sample=False, max_new_tokens=max_new_tokens)
    finally:
        if adapted:
            switch_lora(language_model, True)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def _word_error_rate(predictions: Sequence[Prediction]) -> Score:
    said = [prediction.clip.text or "" for prediction in predictions]
    errors = word_errors(said, [prediction.reply for prediction in predictions])
    counts = {
        "words": errors.words, "substitutions": errors.substitutions, "insertions": errors.insertions,
        "deletions": errors.deletions,
    }
    also = {}
    if all("ctc" in prediction.said for prediction in predictions):
        also["ctc_word_error_rate"] = word_errors(said, [prediction.said["ctc"] for prediction in predictions]).rate
    return Score(errors.rate, counts, also)


def _accuracy(predictions: Sequence[Prediction]) -> Score:
    right = sum(
        is_answered(answer_part(prediction.reply, prediction.clip.text), prediction.clip.answers)
        for prediction in predictions
    )
    counts = {"right": right}
    said = [prediction for prediction in predictions if prediction.clip.text]
    counts["only_repeated"] = sum(is_repetition(prediction.reply, prediction.clip.text or "") for prediction in said)
    heard = [(one.clip.text or "", one.said["heard"]) for one in said if "heard" in one.said]
    also = {"word_error_rate_of_heard": word_errors(*zip(*heard, strict=True)).rate} if heard else {}
    return Score(right / len(predictions), counts, also)


def _accuracy_and_likeness(predictions: Sequence[Prediction]) -> Score:
    score = _accuracy(predictions)
    same = sum(prediction.reply.strip() == prediction.said["plain"].strip() for prediction in predictions)
    plain_right = sum(is_answered(prediction.said["plain"], prediction.clip.answers) for prediction in predictions)
    counts = score.counts | {"same_as_plain_model": same, "plain_model_right": plain_right}
    also = {"same_as_plain_model": same / len(predictions), "plain_model_accuracy": plain_right / len(predictions)}
    return Score(score.value, counts, also)


def _silence(predictions: Sequence[Prediction]) -> Score:
    silent = sum(is_silent(prediction.reply) for prediction in predictions)
    return Score(silent / len(predictions), {"empty": silent})


def _label_accuracy(name: str) -> Callable[[Sequence[Prediction]], Score]:
    """Share of replies that name the clip's label and no other one of the manifests, after what they repeat."""

    def score(predictions: Sequence[Prediction]) -> Score:
        labels = sorted({prediction.clip.labels[name] for prediction in predictions})
        parted = [label_part(prediction.reply, prediction.clip.text, labels) for prediction in predictions]
        named = [named_label(rest, labels) for _, rest in parted]
        right = sum(
            label == prediction.clip.labels[name] for label, prediction in zip(named, predictions, strict=True)
        )
        counts = {"right": right, "named_no_label": named.count(None), "labels": len(labels)}
        heard = [
            (prediction.clip.text, words)
            for prediction, (words, _) in zip(predictions, parted, strict=True)
            if prediction.clip.text and words is not None
        ]
        also = {}
        if heard:
            counts["transcribed_first"] = len(heard)
            also["word_error_rate_of_transcribed"] = word_errors(*zip(*heard, strict=True)).rate
        return Score(right / len(predictions), counts, also)

    return score


def _bleu(predictions: Sequence[Prediction]) -> Score:
    references = [prediction.clip.answers or (prediction.clip.labels["translation"],) for prediction in predictions]
    found = translation_score([prediction.reply for prediction in predictions], references)
    exact = sum(prediction.reply.strip() in texts for prediction, texts in zip(predictions, references, strict=True))
    signatures = {"bleu": found.bleu_signature, "chrf": found.chrf_signature}
    return Score(found.bleu / 100, {"exact": exact}, {"chrf": found.chrf / 100}, signatures)


_AS_TRANSCRIPT, _AS_ANSWER = Asking(None, None), Asking(ANSWER_PROMPT, ANSWER_TOKENS)

TASKS = {
    task.name: task
    for task in (
        Task(
            TaskName.transcribe, "word error rate", lower_is_better=True, needs=("audio", "text"), listens=True,
            asking=_AS_TRANSCRIPT, takes_prompt=True, answer=_transcribe, score=_word_error_rate,
        ),
        Task(
            TaskName.ctc, "word error rate of the CTC path", lower_is_better=True, needs=("audio", "text"),
            listens=True, asking=_AS_TRANSCRIPT, takes_prompt=False, answer=_read_ctc, score=_word_error_rate,
        ),
        Task(
            TaskName.questions, "spoken questions answered", lower_is_better=False, needs=("audio", "answers"),
            listens=True, asking=_AS_ANSWER, takes_prompt=True, answer=_ask, score=_accuracy,
        ),
        Task(
            TaskName.typed_questions, "typed questions answered", lower_is_better=False, needs=("text", "answers"),
            listens=False, asking=Asking(None, ANSWER_TOKENS), takes_prompt=False, answer=_ask_typed,
            score=_accuracy_and_likeness,
        ),
        Task(
            TaskName.no_speech, "clips without speech left empty", lower_is_better=False, needs=("audio", "no text"),
            listens=True, asking=_AS_TRANSCRIPT, takes_prompt=True, answer=_transcribe, score=_silence,
        ),
        Task(
            TaskName.intent, "intents named", lower_is_better=False, needs=("audio", "intent"), listens=True,
            asking=Asking(INTENT_PROMPT, ANSWER_TOKENS), takes_prompt=True, answer=_ask,
            score=_label_accuracy("intent"),
        ),
        Task(
            TaskName.sounds, "sounds named", lower_is_better=False, needs=("audio", "label"), listens=True,
            asking=Asking(SOUND_PROMPT, ANSWER_TOKENS), takes_prompt=True, answer=_ask, score=_label_accuracy("label"),
        ),
        Task(
            TaskName.translation, "BLEU", lower_is_better=False, needs=("audio", "translation"), listens=True,
            asking=Asking(TRANSLATION_PROMPT, ANSWER_TOKENS), takes_prompt=True, answer=_ask, score=_bleu,
        ),
    )
}
