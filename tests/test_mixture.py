"""The dynamic mixture: shares by hand, counts that follow them, the same order again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_runs

from soundwave.text.ctc_tokenizer import CtcTokenizer
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.sampler import Source, epoch_items, source_counts, task_probabilities

PAPER = {"text questions": 78_000, "asr": 3_012_000, "speech translation": 460_000, "speech with sound": 25_000}


@pytest.mark.parametrize(
    ("sizes", "epoch", "shares"),
    [
        ([1, 1], 0, [0.5, 0.5]),
        ([3, 1], 0, [0.75, 0.25]),  # T = 1: all examples alike
        ([64, 1], 1, [2 / 3, 1 / 3]),  # T = 6: sixth roots, 2 to 1
        ([2**22, 2**11, 1], 2, [4 / 7, 2 / 7, 1 / 7]),  # T = 11: eleventh roots, 4 to 2 to 1
        ([5], 7, [1.0]),
        ([9, 0], 3, [1.0, 0.0]),
    ],
)
def test_shares_by_hand(sizes: list[int], epoch: int, shares: list[float]) -> None:
    named = {str(i): size for i, size in enumerate(sizes)}
    assert list(task_probabilities(named, epoch).values()) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("epoch", "shares"),
    [
        (0, [0.0218, 0.8425, 0.1287, 0.0070]),  # uniform over examples
        (1, [0.1996, 0.3670, 0.2683, 0.1651]),  # ratios to the power 1/6: .5286, .9718, .7105, .4373
        (1000, [0.25, 0.25, 0.25, 0.25]),  # uniform over tasks
    ],
)
def test_the_papers_tasks(epoch: int, shares: list[float]) -> None:
    assert list(task_probabilities(PAPER, epoch).values()) == pytest.approx(shares, abs=3e-4)


def test_the_step_of_the_temperature_is_the_recipes() -> None:
    assert list(task_probabilities({"a": 4, "b": 1}, 1, temperature_step=1.0).values()) == pytest.approx([2 / 3, 1 / 3])
    assert Recipe().mixture_temperature_step == 5.0


@pytest.mark.parametrize("epoch", range(4))
def test_counts_are_the_shares_of_an_epoch_of_the_same_size(epoch: int) -> None:
    sizes, tasks = [3000, 1200, 450, 25, 70], ["asr", "asr", "translation", "sound", "text"]
    counts = source_counts(sizes, tasks, epoch, 5.0)
    assert sum(counts) == sum(sizes)
    shares = task_probabilities({"asr": 4200, "translation": 450, "sound": 25, "text": 70}, epoch)
    by_task: Counter[str] = Counter()
    for task, count in zip(tasks, counts, strict=True):
        by_task[task] += count
    for task, share in shares.items():
        assert abs(by_task[task] - share * sum(sizes)) < 2  # rounding
    assert counts[0] / counts[1] == pytest.approx(3000 / 1200, rel=0.01)  # within a task: by size
    assert epoch or counts == sizes


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("data")
    rows = tiny_runs.clips(folder)
    rows += [dict(row, id=str(i)) for i in range(3) for row in rows[:6]]  # 26 in all
    return [
        source(folder, "asr.jsonl", rows[:20]),
        source(folder, "more.jsonl", rows[20:24], repeat=0.5),
        source(folder, "translation.jsonl", rows[24:], task="translation"),
    ]


def source(folder: Path, name: str, rows: list[dict[str, Any]], **options: Any) -> Source:
    manifest = str(tiny_runs.manifest_of(folder, rows, name))
    return Source(DataSource(manifest, **options), CtcTokenizer(tiny.chat_tokenizer()))


def drawn(sources: list[Source], epoch: int, **options: Any) -> Counter[str]:
    return Counter(item.name for item in epoch_items(sources, Recipe(**options), epoch))


def test_the_first_epoch_is_the_data_as_listed(sources: list[Source]) -> None:
    assert drawn(sources, 0, mixture="dynamic") == drawn(sources, 0)
    assert drawn(sources, 3).total() == 20 + 2 + 2


def test_the_examples_drawn_follow_the_shares(sources: list[Source]) -> None:
    for epoch in range(1, 4):
        counts = drawn(sources, epoch, mixture="dynamic")
        share = task_probabilities({"asr": 22, "translation": 2}, epoch)["translation"]
        translations = [count for name, count in counts.items() if "translation" in name]
        assert counts.total() == 24
        assert sum(translations) == pytest.approx(24 * share, abs=1)
        assert len(translations) == 2
        assert max(translations) - min(translations) <= 1  # whole passes, then a part of one
        assert max(count for name, count in counts.items() if "asr" in name) == 1


def test_other_examples_are_left_out_in_another_epoch(sources: list[Source]) -> None:
    seen: Counter[str] = Counter()
    for epoch in range(1, 41):  # in eight, one in some hundred draws leaves one out by chance
        seen += drawn(sources, epoch, mixture="dynamic")
    assert {example.where for one in sources for example in one.examples} == set(seen)


def test_a_mixture_depends_on_seed_and_epoch_only(sources: list[Source]) -> None:
    recipe = Recipe(mixture="dynamic", seed=3)
    assert epoch_items(sources, recipe, 2) == epoch_items(sources, recipe, 2)
    assert epoch_items(sources, recipe, 2) != epoch_items(sources, recipe, 3)
    assert epoch_items(sources, recipe, 2) != epoch_items(sources, Recipe(mixture="dynamic", seed=4), 2)
