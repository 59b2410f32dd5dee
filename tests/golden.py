"""What a checkpoint of the released format must give: from the released code's own outputs, or from our slow rewriting.

The released code's outputs lie in the folder that the variable SOUNDWAVE_REFERENCE names, outside this repository.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from released_reference import ReleasedSteps

VARIABLE = "SOUNDWAVE_REFERENCE"
HEAD = 32  # frames of encoder and aligned output that the golden files hold
MEL_HEAD = 100  # mel frames, likewise
LOGITS_TAIL = 8  # last positions
NEW_TOKENS = 40


@dataclass(frozen=True)
class Case:
    """One clip and prompt, and every intermediate result; shapes without a batch axis."""

    prompt: str
    audio: np.ndarray
    ids: list[int]
    features_head: np.ndarray
    encoder_head: np.ndarray
    aligned_head: np.ndarray
    path: list[int]
    shrunk: np.ndarray
    logits_tail: np.ndarray
    generated: list[int]


@dataclass(frozen=True)
class TrainingStep:
    """One batch, the two losses and every gradient's norm by released name; the encoder is frozen."""

    rows: np.ndarray
    labels: np.ndarray
    audios: list[np.ndarray]
    transcripts: list[list[int]]
    loss: float
    next_token_loss: float
    gradient_norms: dict[str, float]


@dataclass(frozen=True)
class Golden:
    """A checkpoint's folder and what it must give."""

    folder: Path
    cases: list[Case]
    texts: list[str]
    step: TrainingStep


def reference_folder() -> Path:
    """Of the released code's outputs; skips the test where there are none."""
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} is not set, so the released code's own outputs are not at hand")
    return Path(os.environ[VARIABLE]) / "golden-a"


def from_files(folder: Path) -> Golden:
    """What the released code itself computed."""
    arrays, notes = np.load(folder / "golden.npz"), json.loads((folder / "golden.json").read_text())
    names = ("features_head", "encoder_head", "aligned_head", "shrunk", "logits_tail")
    cases = [
        Case(
            prompt=case["prompt"], audio=arrays[f"{i}.audio"], ids=arrays[f"{i}.input_ids"][0].tolist(),
            path=arrays[f"{i}.ctc_argmax"].tolist(), generated=arrays[f"{i}.generated"][0].tolist(),
            **{name: arrays[f"{i}.{name}"] for name in names},
        )
        for i, case in enumerate(notes["cases"])
    ]
    for case, note in zip(cases, notes["cases"], strict=True):
        assert len(case.shrunk) == note["frames_kept"]
    step = TrainingStep(
        arrays["train.input_ids"], arrays["train.labels"], [cases[i].audio for i in notes["train"]["audio"]],
        [[token for token in row if token >= 0] for row in arrays["train.asr_targets"].tolist()],
        notes["train"]["loss"], notes["train"]["next_token_loss"], notes["grad_norms"],
    )
    return Golden(folder, cases, [note["text"] for note in notes["cases"]], step)


def from_steps(folder: Path) -> Golden:
    """What our slow rewriting computes on a tiny checkpoint that is made here."""
    steps = ReleasedSteps(tiny.released_folder(folder))
    asked = {"What does the person say?": 2.0, "Hi": 9.3, "The cat.": 29.9}  # seconds
    cases = [_case(steps, prompt, tiny.sound(seconds, seed=1)) for prompt, seconds in asked.items()]
    texts = [steps.tokenizer.decode(case.generated, skip_special_tokens=True) for case in cases]
    return Golden(folder, cases, texts, _step(steps, cases))


def _case(steps: ReleasedSteps, prompt: str, audio: np.ndarray) -> Case:
    ids = steps.prompt_ids(prompt)
    with torch.no_grad():
        speech = {name: value.detach() for name, value in steps.front_end(audio).items()}
        tail = steps.logits(ids, speech["shrunk"])[-LOGITS_TAIL:]
    return Case(
        prompt, audio, ids, speech["features"][:, :MEL_HEAD].numpy(), speech["encoder"][:HEAD].numpy(),
        speech["aligned"][:HEAD].numpy(), speech["path"].tolist(), speech["shrunk"].numpy(), tail.numpy(),
        steps.greedy(ids, speech["shrunk"], NEW_TOKENS),
    )


def _step(steps: ReleasedSteps, cases: list[Case]) -> TrainingStep:
    replies = [[30, 31, 32, steps.end], [33, 34, steps.end]]
    rows = [case.ids + reply for case, reply in zip(cases, replies, strict=False)]
    labels = [[-100] * len(case.ids) + reply for case, reply in zip(cases, replies, strict=False)]
    audios, transcripts = [case.audio for case in cases[:2]], [[30, 31, 32], [33, 34, 35, 36]]
    loss, next_token = steps.losses(rows, labels, audios, transcripts)
    loss.backward()
    longest = max(len(row) for row in rows)
    pad = steps.tokenizer.pad_token_id
    return TrainingStep(
        np.array([row + [pad] * (longest - len(row)) for row in rows]),
        np.array([row + [-100] * (longest - len(row)) for row in labels]),
        audios, transcripts, loss.item(), next_token.item(), steps.gradient_norms(),
    )
