"""The released 9B format gives what the released code gives, and each of its quirks matters.

Every claim is tested twice: on a tiny checkpoint made here, against our slow rewriting of the released steps, and on
the released code's own outputs where SOUNDWAVE_REFERENCE says that they are at hand.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import golden
import numpy as np
import pytest
import tiny
import torch
from released_reference import SYSTEM_TEXT, ReleasedSteps

from soundwave.checkpoints.loading import load_checkpoint
from soundwave.checkpoints.released import rename
from soundwave.inference.options import GenerationOptions
from soundwave.model.shrink import keep_first
from soundwave.model.whisper import encode_window
from soundwave.text.prompt import RELEASED_SYSTEM_PROMPT
from soundwave.training.objective import ctc_loss, next_token_loss, total_loss

TOLERANCE = 1e-4
CASES = [0, 1, 2]


@pytest.fixture(scope="module", params=["made here", "released code"])
def expected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> golden.Golden:
    if request.param == "released code":
        return golden.from_files(golden.reference_folder())
    return golden.from_steps(tmp_path_factory.mktemp("released") / "checkpoint")


@pytest.fixture(scope="module")
def loaded(expected: golden.Golden) -> tuple[Any, Any]:
    return load_checkpoint(expected.folder, "cpu", torch.float32)[:2]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, expected: golden.Golden) -> golden.Case:
    return expected.cases[request.param]


def ask(processor: Any, case: golden.Case) -> dict[str, torch.Tensor]:
    return dict(processor.apply_chat_template([tiny.user(case.prompt, case.audio)]))


def close(ours: torch.Tensor, theirs: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    return ours.shape == theirs.shape and float((ours - torch.from_numpy(theirs)).abs().max()) <= tolerance


def encode(model: Any, processor: Any, case: golden.Case) -> Any:
    return model.encode_speech(**processor.features([case.audio]))


# What one clip and prompt give


def test_prompt_ids_are_the_released_codes(loaded: Any, case: golden.Case) -> None:
    _, processor = loaded
    assert ask(processor, case)["input_ids"].tolist() == [case.ids]


def test_log_mel_and_encoder_frames_agree(loaded: Any, case: golden.Case) -> None:
    model, processor = loaded
    features = processor.features([case.audio])["input_features"]
    assert close(features[0, :, : golden.MEL_HEAD], case.features_head)
    assert close(encode_window(model.audio_tower, features, None)[0, : golden.HEAD], case.encoder_head)


def test_aligned_frames_decisions_and_audio_embeddings_agree(loaded: Any, case: golden.Case) -> None:
    speech = encode(*loaded, case)
    assert close(speech.aligned[0, : golden.HEAD], case.aligned_head)
    assert speech.ctc_logits[0].argmax(-1).tolist() == case.path
    assert close(speech.kept()[0], case.shrunk)


def test_next_token_logits_agree(loaded: Any, case: golden.Case) -> None:
    model, processor = loaded
    logits = model(**ask(processor, case)).logits[0]
    assert close(logits[-golden.LOGITS_TAIL :], case.logits_tail)


def test_greedy_tokens_and_text_are_the_same(loaded: Any, expected: golden.Golden, case: golden.Case) -> None:
    model, processor = loaded
    tokens = model.generate(**ask(processor, case), max_new_tokens=golden.NEW_TOKENS, do_sample=False)[0].tolist()
    assert tokens == case.generated
    text = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    assert text == expected.texts[expected.cases.index(case)]


def test_all_clips_in_one_batch_give_the_same_tokens(loaded: Any, expected: golden.Golden) -> None:
    model, processor = loaded
    batch = processor.apply_chat_template([[tiny.user(case.prompt, case.audio)] for case in expected.cases])
    answers = model.generate(**batch, max_new_tokens=golden.NEW_TOKENS, do_sample=False).tolist()
    for answer, case in zip(answers, expected.cases, strict=True):
        assert answer[: len(case.generated)] == case.generated


def test_our_rewriting_of_the_released_steps_is_right() -> None:
    released = golden.from_files(golden.reference_folder())
    steps = ReleasedSteps(released.folder)
    case = released.cases[0]
    with torch.no_grad():
        speech = steps.front_end(case.audio)
        assert steps.prompt_ids(case.prompt) == case.ids
        assert speech["path"].tolist() == case.path
        assert close(speech["shrunk"], case.shrunk)
        assert close(steps.logits(case.ids, speech["shrunk"])[-golden.LOGITS_TAIL :], case.logits_tail)
    labels = released.step.labels.tolist()
    loss, next_token = steps.losses(
        released.step.rows.tolist(), labels, released.step.audios, released.step.transcripts
    )
    assert loss.item() == pytest.approx(released.step.loss, rel=TOLERANCE)
    assert next_token.item() == pytest.approx(released.step.next_token_loss, rel=TOLERANCE)


# One training step


def train_once(model: Any, processor: Any, step: golden.TrainingStep, blank: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.from_numpy(step.rows)
    output = model(
        rows, rows != processor.tokenizer.pad_token_id, **processor.features(step.audios),
        labels=torch.from_numpy(step.labels),
    )
    next_token = next_token_loss(output.logits, output.targets)
    speech = output.speech
    ctc = ctc_loss(speech.ctc_logits, speech.valid.sum(1), step.transcripts, blank)
    return total_loss(next_token, ctc), next_token


def test_a_training_steps_losses_and_gradients_agree(loaded: Any, expected: golden.Golden) -> None:
    model = copy.deepcopy(loaded[0]).requires_grad_(True)
    loss, next_token = train_once(model, loaded[1], expected.step, model.config.blank_class)
    assert loss.item() == pytest.approx(expected.step.loss, rel=TOLERANCE)
    assert next_token.item() == pytest.approx(expected.step.next_token_loss, rel=TOLERANCE)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if not name.startswith("audio_tower.")}
    assert all(p.grad is None for p in model.audio_tower.parameters())
    for released_name, norm in expected.step.gradient_norms.items():
        parts = [gradients.pop(name) for name, _ in rename(released_name, torch.empty(3))]  # three where packed
        ours = math.sqrt(sum(float(part.norm()) ** 2 for part in parts if part is not None))
        assert ours == pytest.approx(norm, rel=1e-3), released_name
    assert gradients == {}  # nothing else learns


# The quirks of the released code, each of which changes results when it is taken away


def switched(model: Any, **switches: Any) -> Any:
    changed = copy.deepcopy(model)
    for name, value in switches.items():
        setattr(changed.config, name, value)
    return changed


def test_quirk_1_frames_see_only_themselves(loaded: Any, expected: golden.Golden) -> None:
    model = copy.deepcopy(loaded[0])
    assert not model.alignment.layers[0].temporal
    model.alignment.layers[0].temporal = True
    aligned = encode(model, loaded[1], expected.cases[1]).aligned[0, : golden.HEAD]
    assert not close(aligned, expected.cases[1].aligned_head, 0.01)


def test_quirk_2_kept_frames_look_back_at_kept_frames_only(loaded: Any, expected: golden.Golden) -> None:
    model = switched(loaded[0], look_back_over="all_valid")
    assert not close(encode(model, loaded[1], expected.cases[1]).kept()[0], expected.cases[1].shrunk, 0.001)


@pytest.mark.parametrize("pooling", ["peak", "mean"])
def test_quirk_3_the_first_frame_stands_for_a_run(loaded: Any, expected: golden.Golden, pooling: str) -> None:
    model = switched(loaded[0], run_pooling=pooling)
    assert not close(encode(model, loaded[1], expected.cases[1]).kept()[0], expected.cases[1].shrunk, 0.001)


def test_quirk_3_every_run_has_one_frame_and_frame_0_is_kept(loaded: Any, case: golden.Case) -> None:
    path = torch.tensor([case.path])
    keep = keep_first(path, torch.ones_like(path, dtype=torch.bool))[0]
    by_hand = [t == 0 or case.path[t] != case.path[t - 1] for t in range(len(case.path))]
    assert keep.tolist() == by_hand
    assert sum(by_hand) == len(case.shrunk)


@pytest.mark.parametrize("blanks", ["drop", "pool"])
def test_quirk_3_a_blank_run_counts_like_any_other(loaded: Any, expected: golden.Golden, blanks: Any) -> None:
    # Random weights hardly ever decide for the blank, so the most frequent decision is called blank here.
    often = int(torch.tensor(expected.cases[1].path).mode().values)
    model = switched(loaded[0], ctc_blank_id=often)
    as_released = encode(model, loaded[1], expected.cases[1]).kept()[0]
    assert close(as_released, expected.cases[1].shrunk)
    model = switched(model, blank_handling=blanks)
    assert len(encode(model, loaded[1], expected.cases[1]).kept()[0]) < len(as_released)


def test_quirk_4_the_blank_is_the_placeholders_id(loaded: Any, expected: golden.Golden) -> None:
    model, processor = loaded
    config = model.config
    assert config.blank_class == config.audio_token_id == config.text_config.vocab_size - 1 == config.ctc_classes - 1
    loss, _ = train_once(model, processor, expected.step, blank=0)
    assert loss.item() != pytest.approx(expected.step.loss, rel=0.001)


def test_quirk_5_the_window_is_30_seconds_and_silence_is_predicted_too(loaded: Any, expected: golden.Golden) -> None:
    model, processor = loaded
    assert encode(model, processor, expected.cases[0]).valid.sum() == 750
    dynamic = copy.deepcopy(processor)
    dynamic.encoder_window = "dynamic"
    speech = encode(model, dynamic, expected.cases[0])
    assert speech.valid.sum() < 100  # 2.5 s of 40 ms
    assert not close(speech.aligned[0, : golden.HEAD], expected.cases[0].aligned_head, 0.001)


def test_quirk_6_the_limits_of_its_bug_are_gone(loaded: Any, expected: golden.Golden) -> None:
    """The released code keeps a 1 x 1,024 mask on the module: one clip, one prompt, 1,024 positions."""
    model, processor = loaded
    case = expected.cases[1]
    long_prompt = case.prompt + " the cat" * 400
    batch = processor.apply_chat_template([tiny.user(long_prompt, case.audio)])
    steps = ReleasedSteps(expected.folder)
    with torch.no_grad():
        theirs = steps.logits(steps.prompt_ids(long_prompt), steps.front_end(case.audio)["shrunk"])
        ours = model(**batch).logits[0]
    assert len(ours) > 1024
    assert close(ours, theirs.numpy())


def test_quirk_7_a_bos_stands_before_every_piece(loaded: Any, case: golden.Case) -> None:
    _, processor = loaded
    tokenizer = processor.tokenizer
    bos = tokenizer.bos_token_id
    assert case.ids.count(bos) == 9  # one of its own, and one for each of eight pieces
    text = tokenizer.decode([token for token in case.ids if token != bos])
    assert tokenizer(text).input_ids != case.ids


def test_quirk_8_the_system_text_is_the_released_one(loaded: Any, case: golden.Case) -> None:
    _, processor = loaded
    assert RELEASED_SYSTEM_PROMPT == SYSTEM_TEXT
    system = {"role": "system", "content": "Be brief."}
    assert processor.tokenize([system, tiny.user(case.prompt, case.audio)]).ids != case.ids


def test_quirk_9_it_samples_with_a_low_temperature_and_transcribes_first(loaded: Any) -> None:
    defaults = GenerationOptions()
    assert (defaults.temperature, defaults.top_p, defaults.max_new_tokens) == (0.2, 0.9, 512)
    assert loaded[1].inference.default_prompt == (
        "Please transcribe the following audio and then answer based on the audio's transcription."
    )


def test_a_reply_that_is_learnt_stands_as_in_the_released_training_step(loaded: Any, expected: golden.Golden) -> None:
    _, processor = loaded
    tokenizer = processor.tokenizer
    row, labels = expected.step.rows[0].tolist(), expected.step.labels[0].tolist()
    said = tokenizer.decode([token for token in labels if token != -100], skip_special_tokens=True)
    asked = tokenizer.decode(row).split("<audio_patch><|begin_of_text|>")[1].split("<|eot_id|>")[0]
    conversation = [tiny.user(asked, expected.step.audios[0]), tiny.assistant(said)]
    tokens = processor.tokenize(conversation, reply=False)
    assert tokens.ids == row[: len(tokens.ids)]
    assert [i for i, s in zip(tokens.ids, tokens.is_target, strict=True) if s] == [t for t in labels if t != -100]


