"""Training checkpoints: complete, inspectable, written atomically, never pickled.

`checkpoints/step-000200/` holds the trained parameters, their moving average where the run keeps one, and the
optimizers' moments as safetensors, and the position as JSON.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from soundwave.errors import TrainingError, WriteError
from soundwave.files import atomic_folder
from soundwave.training.distributed import laid_out_as, shard_again, whole

KEPT = 2  # checkpoints that stay
PARAMETERS, AVERAGE = "model.safetensors", "average.safetensors"
FILES = (PARAMETERS, "optimizer.safetensors", "position.json")
MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")  # AdamW's, and Muon's


@dataclass
class Position:
    """Where a run stands, in all processes alike.

    Attributes:
        step: optimizer steps done.
        epoch, batch: the batch that comes next.
        window: sum and number of each loss since the figures were last written, by name.
        sources: of a stream: the shards that its order is made of.
        lanes: of a stream: where each lane stands; a process moves its own on, and knows of the others' when it saves.
        minutes: spent on steps, their evaluations and checkpoints.
        data: what each manifest held when the run began, by its path (`resume.data_marks`).
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    window: dict[str, list[float]] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    lanes: dict[str, Any] = field(default_factory=dict)
    minutes: float = 0.0
    data: dict[str, str] = field(default_factory=dict)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the stage trains, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Moments(Protocol):
    """How a run's optimizers keep what they remember of each parameter."""

    def of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is remembered, by name; every process asks, since each may keep a part only."""

    def put(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        """Gives back what was remembered, whole."""


class OptimizerMoments:
    """Moments in the state of PyTorch's own optimizers, each parameter's for itself."""

    def __init__(self, optimizers: Sequence[Optimizer]):
        self.optimizers = optimizers

    def of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """See `Moments`."""
        state = self._optimizer(parameter).state.get(parameter, {})
        return {moment: torch.as_tensor(state[moment]) for moment in MOMENTS if moment in state}

    def put(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        """See `Moments`."""
        optimizer = self._optimizer(parameter)
        if moment != "step":
            value = laid_out_as(value, parameter)
        elif optimizer.defaults.get("fused"):  # the fused kernel counts on the device
            value = value.to(parameter.device)
        optimizer.state[parameter][moment] = value

    def _optimizer(self, parameter: nn.Parameter) -> Optimizer:
        groups = ((optimizer, group) for optimizer in self.optimizers for group in optimizer.param_groups)
        return next(optimizer for optimizer, group in groups if any(parameter is one for one in group["params"]))


@dataclass(frozen=True)
class TrainedState:
    """Trained parameters by name, the optimizers' moments by `moment/name`, and the average, whole and on the CPU."""

    parameters: dict[str, Tensor]
    moments: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)  # empty: none is kept


def trained_state(
    model: nn.Module, moments: Moments, kept: bool = True, average: Mapping[str, Tensor] | None = None
) -> TrainedState:
    """What a checkpoint holds beside the position.

    Every process calls this, since each may hold a part only; where it is not `kept`, nothing is copied.
    """
    shard_again(model)
    parameters = trained_parameters(model)
    remembered: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        each = {f"{moment}/{name}": value for moment, value in moments.of(parameter).items()}
        remembered |= _on_cpu(each, kept)
    return TrainedState(_on_cpu(parameters, kept), remembered, _on_cpu(average or {}, kept))


def _on_cpu(tensors: Mapping[str, Tensor], kept: bool) -> dict[str, Tensor]:
    made = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if kept:
            made[name] = value.cpu().contiguous()
    return made


def save_checkpoint(folder: Path, state: TrainedState, position: Position, best: int | None = None) -> Path:
    """Writes a checkpoint beside the earlier ones and removes all but the newest two, and that of the step `best`.

    Nothing half-written, or half-removed, can be taken for a checkpoint: a folder is renamed before it is removed. What
    a killed run left of either goes with the next checkpoint.

    Raises:
        TrainingError: the disk is full or cannot be written; earlier checkpoints stay as they are.
    """
    target = checkpoint_at(folder, position.step)
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with atomic_folder(target, overwrite=True) as draft:
            save_file(state.parameters, draft / PARAMETERS)
            if state.average:
                save_file(state.average, draft / AVERAGE)
            save_file(state.moments, draft / "optimizer.safetensors")
            (draft / "position.json").write_text(json.dumps(asdict(position)) + "\n", encoding="utf-8")
    except WriteError as error:
        raise TrainingError(
            f"The checkpoint {target} could not be written ({error.__cause__}); free some space and start the "
            "same command again: it goes on from the last checkpoint."
        ) from error
    for old in list_checkpoints(folder)[:-KEPT]:
        if best is not None and old == checkpoint_at(folder, best):
            continue
        removed = old.rename(folder / f".{old.name}.tmp")
        shutil.rmtree(removed, ignore_errors=True)
    return target


def checkpoint_at(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return folder / f"step-{step:06d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if all((path / name).is_file() for name in FILES))


def load_checkpoint(path: Path, model: nn.Module, moments: Moments | None) -> Position:
    """Puts a checkpoint's values into a model and fresh optimizers, in every process; returns where the run stood.

    Args:
        path: of the checkpoint.
        model: with the same trained parameters.
        moments: of its optimizers; None: only the parameters are wanted.

    Raises:
        TrainingError: the checkpoint is of a model with other trained parameters, or others' shapes, or was damaged.
    """
    with _intact(path):
        parameters = _load_parameters(path, model, PARAMETERS)
        if moments is not None:
            with safe_open(path / "optimizer.safetensors", framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - safe_open has no iterator
                    moment, name = key.split("/", 1)
                    moments.put(parameters[name], moment, tensors.get_tensor(key))
        return Position(**json.loads((path / "position.json").read_text(encoding="utf-8")))


def load_evaluated(path: Path, model: nn.Module) -> None:
    """Puts what a checkpoint's held-out figures are of into a model: its average, or where it has none the parameters.

    Raises:
        TrainingError: as `load_checkpoint`.
    """
    with _intact(path):
        _load_parameters(path, model, AVERAGE if (path / AVERAGE).is_file() else PARAMETERS)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is damaged ({error}); delete it, and the same command goes on from the checkpoint before it."
        ) from error


def _load_parameters(path: Path, model: nn.Module, file: str) -> dict[str, nn.Parameter]:
    parameters = trained_parameters(model)
    with safe_open(path / file, framework="pt") as tensors:
        names = set(tensors.keys())
        if names != set(parameters):
            different = sorted(names ^ set(parameters))[0]
            raise TrainingError(
                f"{path} was made by a run with other trained parameters ({different} is in one of them only); "
                "change output_dir, or delete that folder to start anew."
            )
        for name, parameter in parameters.items():
            stored, wanted = tuple(tensors.get_slice(name).get_shape()), tuple(parameter.shape)
            if stored != wanted and (parameter.numel() != 1 or math.prod(stored) != 1):  # of a scalar () or (1,)
                raise TrainingError(
                    f"{path} was made by a run of another model: {name} has the shape {stored} there, and {wanted} by "
                    "the recipe; undo what changed the model, or change output_dir to start a new run."
                )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(laid_out_as(tensors.get_tensor(name), parameter))
    return parameters
