"""An exponential moving average (EMA) of all that a run trains: what is evaluated, kept as the best and written.

Knows nothing about files or losses; it holds one more copy of what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from soundwave.training.checkpoint import trained_parameters


class Average:
    """The moving average of a module's trained parameters, which begins as they are.

    Args:
        module: all of whose trained parameters are whole in this process.
        decay: how much of the average stays with each step, once the run is long.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.parameters = trained_parameters(module)
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the parameters after another step; `step` of them were taken before.

        Early on less stays, (1 + step) / (10 + step), so that the average forgets where a short run began
        (TensorFlow's `ExponentialMovingAverage` with `num_updates`).
        """
        stays = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self.parameters[name], 1 - stays)

    def exchange(self) -> None:
        """Lets the module have the average, and keeps its parameters here; a second time undoes it, to the bit."""
        for name, parameter in self.parameters.items():
            parameter.data, self.values[name] = self.values[name], parameter.data

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the module's parameters are the average."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()
