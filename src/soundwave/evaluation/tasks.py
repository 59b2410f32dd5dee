"""The tasks as data: what a clip is asked, what its manifest must hold, and how the replies become one score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from soundwave.errors import ConfigurationError
from soundwave.evaluation import TaskName
from soundwave.evaluation.clips import Clip
from soundwave.evaluation.replies import answer_part, is_repetition, label_part, named_label
from soundwave.evaluation.systems import System
from soundwave.evaluation.translation import translation_score
from soundwave.inference.backends.protocol import Prompt
from soundwave.inference.options import GenerationOptions, Via
from soundwave.text.metrics import is_answered, is_silent, word_errors

# The instructions that come first in the training data's files for these tasks (`data instruct`).
INTENT_PROMPT = "What is the intent of the speaker?"
SOUND_PROMPT = "Where's the sound in this clip originating from?"
TRANSLATION_PROMPT = "What is the German translation of this English speech?"
ANSWER_TOKENS = 64  # two or three sentences: an answer that comes later than that is not to the question

Samples = tuple[np.ndarray, int]  # float32 mono, and their rate in Hz
Said = dict[str, str]  # of one clip: `reply`, and what else the task looks at


@dataclass(frozen=True)
class Asking:
    """How every clip of one evaluation is asked.

    Attributes:
        prompt: None: a transcript is asked for; or what is said, or typed, is itself the prompt.
        max_new_tokens: None: the engine's bound for a transcript, which grows with the clip.
        via: what the LLM reads of a recording, as in `Engine.ask`.
        llm: whether the LLM has a say in a transcript, as in `Engine.transcribe`.
    """

    prompt: str | None
    max_new_tokens: int | None
    via: Via = "auto"
    llm: bool | None = None


@dataclass(frozen=True)
class Prediction:
    """What the model said about one clip: `reply`, and what else the task looks at, by name."""

    clip: Clip
    seconds: float  # of audio; 0 for a typed question
    said: Said

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
        listens: whether the recording is read; a typed question has none.
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
    answer: Callable[[System, Sequence[Clip], Sequence[Samples], Asking], list[Said]]
    score: Callable[[Sequence[Prediction]], Score]

    def ask_with(
        self, prompt: str | None = None, max_new_tokens: int | None = None, via: Via = "auto", llm: bool | None = None
    ) -> Asking:
        """The task's way of asking, with what the user wants otherwise.

        Raises:
            ConfigurationError: A setting that would change nothing here.
        """
        asks = self.asking.max_new_tokens is not None or prompt is not None  # for an answer, not for a transcript
        unused = {
            "prompt": prompt is not None and not self.takes_prompt,
            "max_new_tokens": max_new_tokens is not None and not asks,
            "via": via != "auto" and not (asks and self.listens),
            "llm": llm is not None and (asks or not self.takes_prompt),
        }
        for name in (name for name, is_unused in unused.items() if is_unused):
            raise ConfigurationError(f"{name} changes nothing in the task {self.name.value}; leave it out.")
        return Asking(prompt or self.asking.prompt, max_new_tokens or self.asking.max_new_tokens, via, llm)


def _transcribe(engine: System, clips: Sequence[Clip], audio: Sequence[Samples], asking: Asking) -> list[Said]:
    if asking.prompt is not None:
        return _ask(engine, clips, audio, asking)
    transcripts = engine.transcribe_batch(list(audio), llm=asking.llm)
    return [
        {"reply": transcript.text, "ctc": transcript.ctc_text, "source": transcript.source}
        for transcript in transcripts
    ]


def _greedy_ctc(engine: System, clips: Sequence[Clip], audio: Sequence[Samples], asking: Asking) -> list[Said]:
    return [{"reply": transcript.ctc_text} for transcript in engine.transcribe_batch(list(audio), llm=False)]


def _ask(engine: System, clips: Sequence[Clip], audio: Sequence[Samples], asking: Asking) -> list[Said]:
    replies = engine.ask_batch([(samples, asking.prompt) for samples in audio], via=asking.via, **_greedy(asking))
    return [
        {"reply": reply.text, "via": reply.via} | ({"transcript": reply.transcript} if reply.transcript else {})
        for reply in replies
    ]


def _ask_typed(engine: System, clips: Sequence[Clip], audio: Sequence[Samples], asking: Asking) -> list[Said]:
    questions = [clip.text or "" for clip in clips]
    limit = asking.max_new_tokens or ANSWER_TOKENS
    replies = engine.ask_batch([(None, question) for question in questions], **_greedy(asking))
    return [
        {"reply": reply.text, "plain": plain_reply(engine, question, limit)}
        for reply, question in zip(replies, questions, strict=True)
    ]


def _greedy(asking: Asking) -> dict[str, Any]:
    return {"temperature": 0, "max_new_tokens": asking.max_new_tokens or ANSWER_TOKENS}


def plain_reply(engine: System, question: str, max_new_tokens: int) -> str:
    """What the LLM alone answers, greedily: its own chat template, without the LoRA, nothing of ours around it."""
    assert engine.decoder is not None
    tokenizer = engine.processor.tokenizer
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    options = GenerationOptions(temperature=0, max_new_tokens=max_new_tokens)
    tokens = engine.decoder.generate([Prompt((list(ids),), adapted=False)], options)
    return tokenizer.decode([token.id for token in tokens], skip_special_tokens=True)


def _word_error_rate(predictions: Sequence[Prediction]) -> Score:
    said = [prediction.clip.text or "" for prediction in predictions]
    languages = [prediction.clip.language for prediction in predictions]
    errors = word_errors(said, [prediction.reply for prediction in predictions], languages)
    counts = {
        "words": errors.words, "substitutions": errors.substitutions, "insertions": errors.insertions,
        "deletions": errors.deletions,
    }
    also = {}
    ctc = [prediction.said.get("ctc", "") for prediction in predictions]
    if any(ctc):  # what else asks a model, or is no model of ours, has no such path
        also["ctc_word_error_rate"] = word_errors(said, ctc, languages).rate
    return Score(errors.rate, counts, also)


def _accuracy(predictions: Sequence[Prediction]) -> Score:
    right = repeated = 0
    read: list[tuple[str, str, str | None]] = []  # what is said, its transcript, the language
    for prediction in predictions:
        reply, clip = prediction.reply, prediction.clip
        right += is_answered(answer_part(reply, clip.text, clip.language), clip.answers, clip.language)
        repeated += bool(clip.text) and is_repetition(reply, clip.text or "", clip.language)
        if clip.text and "transcript" in prediction.said:
            read.append((clip.text, prediction.said["transcript"], clip.language))
    also = {"word_error_rate_of_transcript": word_errors(*zip(*read, strict=True)).rate} if read else {}
    return Score(right / len(predictions), {"right": right, "only_repeated": repeated}, also)


def _accuracy_and_likeness(predictions: Sequence[Prediction]) -> Score:
    score = _accuracy(predictions)
    same = sum(prediction.reply.strip() == prediction.said["plain"].strip() for prediction in predictions)
    plain_right = sum(
        is_answered(prediction.said["plain"], prediction.clip.answers, prediction.clip.language)
        for prediction in predictions
    )
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
        right = unnamed = 0
        first: list[tuple[str, str, str | None]] = []  # what is said, how the reply repeats it, the language
        for prediction in predictions:
            clip = prediction.clip
            words, rest = label_part(prediction.reply, clip.text, labels, clip.language)
            named = named_label(rest, labels, clip.language)
            right, unnamed = right + (named == clip.labels[name]), unnamed + (named is None)
            if clip.text and words is not None:
                first.append((clip.text, words, clip.language))
        counts, also = {"right": right, "named_no_label": unnamed, "labels": len(labels)}, {}
        if first:
            counts["transcribed_first"] = len(first)
            also["word_error_rate_of_transcribed"] = word_errors(*zip(*first, strict=True)).rate
        return Score(right / len(predictions), counts, also)

    return score


def _bleu(predictions: Sequence[Prediction]) -> Score:
    references = [prediction.clip.answers or (prediction.clip.labels["translation"],) for prediction in predictions]
    scored = translation_score([prediction.reply for prediction in predictions], references)
    exact = sum(prediction.reply.strip() in texts for prediction, texts in zip(predictions, references, strict=True))
    signatures = {"bleu": scored.bleu_signature, "chrf": scored.chrf_signature}
    return Score(scored.bleu / 100, {"exact": exact}, {"chrf": scored.chrf / 100}, signatures)


_AS_TRANSCRIPT, _AS_ANSWER = Asking(None, None), Asking(None, ANSWER_TOKENS)

TASKS = {
    task.name: task
    for task in (
        Task(
            TaskName.transcribe, "word error rate", lower_is_better=True, needs=("audio", "text"), listens=True,
            asking=_AS_TRANSCRIPT, takes_prompt=True, answer=_transcribe, score=_word_error_rate,
        ),
        Task(
            TaskName.ctc, "word error rate of the greedy CTC path", lower_is_better=True, needs=("audio", "text"),
            listens=True, asking=_AS_TRANSCRIPT, takes_prompt=False, answer=_greedy_ctc, score=_word_error_rate,
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
