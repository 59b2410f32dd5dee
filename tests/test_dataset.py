"""Examples to batches: nothing lost, nothing repeated, nothing learnt that nobody said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_runs
import torch

from soundwave.configuration import AUDIO_TOKEN
from soundwave.errors import DataError
from soundwave.model.splice import IGNORED
from soundwave.text.ctc_tokenizer import CtcTokenizer
from soundwave.training.collate import Collator, mask_frames
from soundwave.training.features import Clip, FeatureStore
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.sampler import Source, batches, clips_of

RECIPE = Recipe(batch_seconds=4.0, max_batch_size=3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("data")
    return folder, tiny_runs.clips(folder)


def source(folder: Path, rows: list[dict[str, Any]], name: str = "manifest.jsonl", **options: Any) -> Source:
    path = tiny_runs.manifest_of(folder, rows, name)
    return Source(DataSource(str(path), **options), CtcTokenizer(tiny.chat_tokenizer()))


def store_of(folder: Path, *sources: Source) -> FeatureStore:
    """A store with two frames a tenth of a second, each full of its clip's number."""
    made = FeatureStore(folder, tiny.ENCODER_WIDTH, {})
    for i, (clip, seconds) in enumerate(clips_of(sources)):
        count = 4 * round(5 * seconds)
        made.add([clip.key()], [np.full((count, tiny.ENCODER_WIDTH), i + 1, np.float16)])
    return made


# One epoch


@pytest.mark.parametrize(("repeat", "times"), [(1.0, {1}), (3.0, {3}), (0.5, {0, 1}), (2.5, {2, 3})])
def test_an_epoch_has_each_example_as_often_as_the_recipe_says(
    rows: tuple[Path, list[dict[str, Any]]], repeat: float, times: set[int]
) -> None:
    one = source(*rows, repeat=repeat)
    drawn = one.items(seed=1, epoch=0)
    counts = Counter(item.name for item in drawn)
    assert len(drawn) == round(8 * repeat)
    assert {counts[example.where] for example in one.examples} == times


def test_an_epoch_depends_on_seed_and_number_only(rows: tuple[Path, list[dict[str, Any]]]) -> None:
    options: dict[str, Any] = {"repeat": 0.5, "speeds": [0.9, 1.0, 1.1], "prompts": ["What?", "Write."]}
    one, again = source(*rows, **options), source(*rows, **options)
    assert one.items(1, 3) == again.items(1, 3)
    assert one.items(1, 3) != one.items(1, 4)
    assert one.items(1, 3) != one.items(2, 3)
    drawn = [item for epoch in range(9) for item in one.items(1, epoch)]
    assert {clip.speed for item in drawn for clip in item.clips} == {0.9, 1.0, 1.1}
    assert {item.prompt for item in drawn} == {"What?", "Write."}


@pytest.mark.parametrize(
    ("seconds", "heard"), [(26.9, {0.9, 1.0, 1.1}), (29.0, {1.0, 1.1}), (32.0, {1.1}), (None, {0.9, 1.0, 1.1})]
)
def test_no_speed_makes_a_clip_longer_than_the_encoder_hears(
    rows: tuple[Path, list[dict[str, Any]]], seconds: float | None, heard: set[float]
) -> None:
    folder, (first, *_) = rows
    one = source(folder, [first | {"duration": seconds}], "long.jsonl", repeat=40, speeds=[0.9, 1.0, 1.1])
    assert {clip.speed for item in one.items(1, 0) for clip in item.clips} == heard
    assert {clip.speed for clip, _ in clips_of([one])} == heard
    one.keep_stored(store_of(folder / "long", one))  # it is not left out for the speeds at which it is too long
    assert len(one.examples) == 1


@pytest.mark.parametrize("seed", range(4))
def test_batches_hold_every_item_once_within_the_limits(rows: tuple[Path, list[dict[str, Any]]], seed: int) -> None:
    items = source(*rows, repeat=5).items(seed, 0)
    made = batches(items, RECIPE, seed, 0)
    assert Counter(item.name for batch in made for item in batch) == Counter(item.name for item in items)
    for batch in made:
        assert len(batch) <= RECIPE.max_batch_size
        assert len(batch) == 1 or len(batch) * max(item.seconds for item in batch) <= RECIPE.batch_seconds
    assert made == batches(items, RECIPE, seed, 0)
    assert made != batches(items, RECIPE, seed, 1)


def test_a_batch_holds_clips_of_similar_length(rows: tuple[Path, list[dict[str, Any]]]) -> None:
    made = batches(source(*rows).items(0, 0), replace(RECIPE, batch_seconds=99.0), 0, 0)
    spans = [(min(item.seconds for item in batch), max(item.seconds for item in batch)) for batch in made]
    assert max(longest - shortest for shortest, longest in spans) < 0.25  # lengths run from 0.5 to 1.2 s


def test_examples_without_audio_take_no_seconds_and_are_bounded_by_their_number(
    rows: tuple[Path, list[dict[str, Any]]]
) -> None:
    texts = [conversation([], f"Question {i}", "Good day.") | {"duration": duration} for i in range(7)
             for duration in (None, 9.0)]  # a duration without audio means nothing
    items = source(rows[0], [*texts, *rows[1][:4]], "texts.jsonl").items(0, 0)
    assert {item.seconds for item in items if not item.clips} == {0.0}
    made = batches(items, replace(RECIPE, max_batch_size=5, batch_seconds=2.5), 0, 0)
    assert sorted(sum(not item.clips for item in batch) for batch in made if not batch[-1].clips) == [5, 5]
    mixed = [batch for batch in made if not batch[0].clips and batch[-1].clips]
    assert [len(batch) * batch[-1].seconds <= 2.5 for batch in mixed] == [True]
    assert sum(len(batch) for batch in made) == 18


# Targets


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ({"transcript": "the cat"}, "the cat"),
        ({"transcript": ""}, ""),  # nobody speaks: blanks only
        ({}, "the person"),  # the reply of a transcription is its transcript
        ({"text": "It costs $5."}, None),  # how it was spoken is not known
        ({"transcript": "the cat " * 150}, None),  # over 200 tokens
    ],
)
def test_ctc_targets(
    rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path, row: dict[str, Any], target: str | None
) -> None:
    audio = str(rows[0] / "0.wav")
    one = source(tmp_path, [{"audio": audio, "text": "The person.", "duration": 1.0} | row])
    expected = None if target is None else CtcTokenizer(tiny.chat_tokenizer()).encode(target)
    assert one.ctc == [expected]


def conversation(audios: list[str], *turns: str) -> dict[str, Any]:
    """Turns of user and assistant by turns; `<audio>` marks."""
    roles = ["user", "assistant"] * len(turns)
    return {
        "messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)],
        "audios": audios, "duration": 0.5 * len(audios) or None,
    }


MIXED = [
    {"audio": "0.wav", "text": "The cat.", "transcript": "the cat", "duration": 0.5},
    conversation([], "Hi", "Good day."),
    conversation(["1.wav", "2.wav"], "<audio><audio>Which?", "The first."),
    conversation(["3.wav"], "<audio>Who?", "A person.", "And?", "A son."),
]


@pytest.fixture(scope="module")
def mixed(rows: tuple[Path, list[dict[str, Any]]]) -> Source:
    return source(rows[0], MIXED, "mixed.jsonl")


def test_stage_one_keeps_only_what_ctc_can_learn(rows: tuple[Path, list[dict[str, Any]]], mixed: Source) -> None:
    kept = source(rows[0], MIXED, "mixed.jsonl")
    kept.keep_transcribed()
    assert [example.reply for example in kept.examples] == ["The cat."]
    assert len(kept.ctc) == 1
    nothing = source(rows[0], MIXED[1:2], "text.jsonl")
    with pytest.raises(DataError, match=r"text.jsonl: no example has one audio and a transcript that can be spelt"):
        nothing.keep_transcribed()


def test_examples_whose_audio_is_not_stored_are_left_out_at_any_speed(
    rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    one = source(*rows, speeds=[1.0, 1.1])
    full = store_of(tmp_path / "full", one)
    one.keep_stored(full)
    assert len(one.examples) == len(one.ctc) == 8
    dropped = Clip(one.examples[2].audios[0].path, speed=1.1).key()
    del full.index[dropped]
    one.keep_stored(full)
    assert len(one.examples) == len(one.ctc) == 7
    with pytest.raises(DataError, match="no example is left; its audio is unreadable or over 30 s long"):
        one.keep_stored(FeatureStore(tmp_path / "empty", tiny.ENCODER_WIDTH, {}))


# Items to tensors


@pytest.fixture(scope="module")
def collated(mixed: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    processor = tiny.processor()
    collator = Collator(store_of(tmp_path_factory.mktemp("store"), mixed), processor, RECIPE, with_text=True)
    items = sorted(mixed.items(0, 0), key=lambda item: item.name)
    return items, collator(items), processor


def test_frames_are_in_the_order_of_the_placeholders(collated: Any) -> None:
    _, batch, _ = collated
    assert batch.encoder_frames.shape == (4, 20, tiny.ENCODER_WIDTH)  # two clips of one item last a second together
    real = batch.frame_mask.repeat_interleave(2, dim=1)
    clips = [row[mask].unique().tolist() for row, mask in zip(batch.encoder_frames, real, strict=True)]
    assert clips == [[1.0], [2.0], [3.0], [4.0]]


def test_ctc_targets_belong_to_clips(collated: Any) -> None:
    items, batch, _ = collated
    assert batch.ctc == [items[0].ctc, None, None, items[3].ctc]


def test_labels_are_the_replies_and_nothing_else(collated: Any) -> None:
    _, batch, processor = collated
    decode = processor.tokenizer.decode
    learnt = [decode([token for token in row if token != IGNORED]) for row in batch.labels.tolist()]
    replies = [["The cat."], ["Good day."], ["The first."], ["A person.", "A son."]]
    assert learnt == ["".join(f"{reply}<|im_end|>" for reply in row) for row in replies]
    placeholder = processor.tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)
    assert (batch.input_ids == placeholder).sum(1).tolist() == [1, 0, 2, 1]
    said = batch.labels != IGNORED
    assert torch.equal(batch.labels[said], batch.input_ids[said])
    assert batch.attention_mask[said].all()
    last = [int(row.nonzero().max()) for row in batch.attention_mask]
    assert all(row[at] for row, at in zip(said, last, strict=True))  # nothing after the last reply


def test_a_recipes_prompt_replaces_the_examples_own(rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    one = source(rows[0], MIXED[:1], "one.jsonl", prompts=["Write it down."])
    processor = tiny.processor()
    batch = Collator(store_of(tmp_path, one), processor, RECIPE, with_text=True)(one.items(0, 0))
    text = processor.tokenizer.decode(batch.input_ids[0])
    assert f"<|im_start|>user\n{AUDIO_TOKEN}Write it down.<|im_end|>" in text
    assert one.examples[0].messages[0]["content"][-1]["text"] != "Write it down."  # the example itself is untouched


def test_stage_one_needs_no_text(mixed: Source, tmp_path: Path) -> None:
    collator = Collator(store_of(tmp_path, mixed), tiny.processor(), RECIPE, with_text=False)
    batch = collator(mixed.items(0, 0))
    assert batch.input_ids is batch.labels is batch.attention_mask is None


# SpecAugment


def test_masking_zeroes_spans_and_channels_and_repeats_with_its_seed() -> None:
    recipe = Recipe(time_masks=10, time_mask_frames=10, feature_dropout=0.25)
    masked = [np.ones((500, 64), np.float32) for _ in range(3)]
    for one, seed in zip(masked, (1, 1, 2), strict=True):
        mask_frames(one, recipe, np.random.default_rng(seed))
    assert np.array_equal(masked[0], masked[1])
    assert not np.array_equal(masked[0], masked[2])
    silent_frames, silent_channels = (masked[0] == 0).all(1).mean(), (masked[0] == 0).all(0).mean()
    assert 0 < silent_frames <= 0.2  # ten spans of at most ten frames in ten seconds
    assert 0.05 < silent_channels < 0.5
    assert np.unique(masked[0]).tolist() == pytest.approx([0, 1 / 0.75])  # what is left is scaled up


def test_without_a_seed_nothing_is_masked(mixed: Source, tmp_path: Path) -> None:
    recipe = replace(RECIPE, time_masks=50, feature_dropout=0.5)
    collator = Collator(store_of(tmp_path, mixed), tiny.processor(), recipe, with_text=False)
    items = mixed.items(0, 0)
    plain = collator(items).encoder_frames
    assert plain is not None
    real = collator(items).frame_mask.repeat_interleave(2, dim=1)
    assert (plain[real] != 0).all()
    assert not torch.equal(collator(items, "1/0/0").encoder_frames, plain)
    assert torch.equal(collator(items, "1/0/0").encoder_frames, collator(items, "1/0/0").encoder_frames)
