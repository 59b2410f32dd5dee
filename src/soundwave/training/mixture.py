"""The paper's dynamic mixture of tasks (section 3.3, stage II): from all examples alike to all tasks alike.

p_k ∝ (|D_k| / Σ|D_i|)^(1/T), with T = 1 in the first epoch and 5 more in each that follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from soundwave.training.dataset import Item, Source
from soundwave.training.recipe import Recipe

TEMPERATURE_STEP = 5.0  # per epoch (paper)


def task_probabilities(
    sizes: Mapping[str, float], epoch: int, temperature_step: float = TEMPERATURE_STEP
) -> dict[str, float]:
    """The share of each task in an epoch.

    Args:
        sizes: |D_k|, examples per task.
        epoch: the first is 0.
        temperature_step: how much T grows per epoch.

    Returns:
        p_k; they add up to 1.

    Example:
        >>> task_probabilities({"asr": 300, "translation": 100}, epoch=0)
        {'asr': 0.75, 'translation': 0.25}
    """
    temperature = 1.0 + temperature_step * epoch
    total = sum(sizes.values())
    weights = {task: (size / total) ** (1.0 / temperature) for task, size in sizes.items()}
    return {task: weight / sum(weights.values()) for task, weight in weights.items()}


def source_counts(sizes: Sequence[int], tasks: Sequence[str], epoch: int, temperature_step: float) -> list[int]:
    """How many examples each source gives in an epoch that is as long as all of them together.

    A task's share is divided among its sources by their sizes. Shares are rounded by largest remainder, not drawn: the
    counts are what a draw would give on average, and in the first epoch every example comes exactly as often as listed.

    Args:
        sizes: examples per source.
        tasks: the task of each source.
        epoch, temperature_step: as in `task_probabilities`.
    """
    by_task: Counter[str] = Counter()
    for task, size in zip(tasks, sizes, strict=True):
        by_task[task] += size
    probabilities = task_probabilities(by_task, epoch, temperature_step)
    total = sum(sizes)
    shares = [
        total * probabilities[task] * size / max(1, by_task[task]) for task, size in zip(tasks, sizes, strict=True)
    ]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def epoch_items(sources: Sequence[Source], recipe: Recipe, epoch: int) -> list[Item]:
    """The examples of one epoch, mixed as the recipe says; the same for the same seed and epoch."""
    sizes = [source.size() for source in sources]
    counts = sizes
    if recipe.mixture == "dynamic":
        tasks = [source.source.task for source in sources]
        counts = source_counts(sizes, tasks, epoch, recipe.mixture_temperature_step)
    pairs = zip(sources, counts, strict=True)
    return [item for source, count in pairs for item in source.items(recipe.seed, epoch, count)]
