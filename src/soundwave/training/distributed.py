"""Several processes of one run: how they start, what they decide together, the precision, and who holds which part.

Every process calls these functions at the same points; a decision that only one of them took would leave the others
waiting for ever. In one process, or with whole parameters in each (DDP), all of it is trivial.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from soundwave.errors import ConfigurationError, SoundwaveError, TrainingError
from soundwave.training.deepspeed import uses_zero, wrapped_by_zero
from soundwave.training.recipe import Recipe
from soundwave.training.resume import read_kept

ROWS, INNER, COLUMNS = 2048, 576, 1536  # a feed-forward part of a small language model, on one batch
REPEATS = 5
WORTH_IT = 1.15  # bfloat16 must be this much faster: what it loses in exactness is not free


def start_processes(recipe: Recipe) -> Accelerator:
    """This process's accelerator; `torchrun` or `accelerate launch` start several, on GPUs or, with gloo, on CPUs.

    Where the recipe is meant for another number of them, the main process says so on standard error.

    Raises:
        ConfigurationError: `batches_per_step` cannot be shared equally.
        TrainingError: several processes were started, but they do not find each other.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = launched > 1 and not torch.accelerator.is_available()  # accelerate takes gloo only when it is told to
    state = PartialState(cpu=on_cpu)
    together = state.num_processes
    if launched > 1 and together == 1:
        raise TrainingError(
            f"{launched} processes were started, but on this device each would train alone; start one, "
            "or set ACCELERATE_USE_CPU=true."
        )
    told = other_number(recipe, together)
    if told is not None and state.is_main_process:
        print(told, file=sys.stderr, flush=True)
    chosen = [precision_of(recipe.mixed_precision, Path(recipe.output_dir))]  # `auto` is a trial: one of them decides
    broadcast_object_list(chosen)
    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)  # the launcher's; the recipe has its own
    return Accelerator(
        mixed_precision=chosen[0], cpu=on_cpu, gradient_accumulation_steps=accumulation(recipe, together)
    )


def end_processes() -> None:
    """Lets processes part together: one that goes while others still talk to it takes them down."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def shards(accelerator: Accelerator) -> bool:
    """Whether each process holds parts of the parameters (FSDP2)."""
    return accelerator.distributed_type == DistributedType.FSDP


def autocast(accelerator: Accelerator) -> AbstractContextManager[Any]:
    """In what precision a model computes; accelerate leaves that to DeepSpeed, which does not see ours."""
    if not uses_zero(accelerator):
        return accelerator.autocast()
    low = accelerator.mixed_precision == "bf16"
    return torch.autocast(accelerator.device.type, torch.bfloat16 if low else None, enabled=low)


def device_of(accelerator: Accelerator) -> torch.device:
    """Where the model lives. Never "cpu:0", as accelerate says among processes: moving there unmakes parameters."""
    return torch.device("cpu") if accelerator.device.type == "cpu" else accelerator.device


def wrapped(
    accelerator: Accelerator, module: nn.Module, optimizers: list[torch.optim.Optimizer], max_grad_norm: float,
    layer_classes: Sequence[str] = (),
) -> tuple[Any, list[Any]]:
    """Module and optimizers as accelerate runs them: with several processes, gradients are their mean.

    With FSDP2 the layers that are gathered one at a time are those of `layer_classes`, and parameters keep their own
    precision as they do with DDP: autocast alone decides what is computed in which.
    """
    if uses_zero(accelerator):
        return module, wrapped_by_zero(accelerator, module, optimizers, max_grad_norm)
    if shards(accelerator):
        plugin = accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = list(layer_classes)
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
    module, *prepared = accelerator.prepare(module, *optimizers)
    if isinstance(module, DistributedDataParallel):
        module.broadcast_buffers = False  # ours never change
    return module, prepared


def accumulation(recipe: Recipe, processes: int) -> int:
    """How many batches each process computes for one optimizer step.

    Raises:
        ConfigurationError: `batches_per_step` is no multiple of the processes.
    """
    if recipe.batches_per_step is None:
        return recipe.gradient_accumulation_steps
    if recipe.batches_per_step % processes:
        raise ConfigurationError(
            f"batches_per_step is {recipe.batches_per_step}, which {processes} processes cannot share equally; "
            f"set a multiple of {processes}, or start another number of processes."
        )
    return recipe.batches_per_step // processes


def other_number(recipe: Recipe, processes: int) -> str | None:
    """What to say where another number of processes trains than the recipe's `devices`; None where it is the same.

    Args:
        recipe: it decides whether the batch of a step stays (`batches_per_step`) or changes with the processes.
        processes: that train.

    Raises:
        ConfigurationError: `batches_per_step` is no multiple of the processes.
    """
    if processes == recipe.devices:
        return None
    each = accumulation(recipe, processes)
    there = f"warning: the recipe's devices is {recipe.devices}, the number of processes {processes}; batches a step:"
    if recipe.batches_per_step is not None:
        return f"{there} {recipe.batches_per_step} as the recipe says, {each} of each process."
    meant = each * recipe.devices
    return (
        f"{there} {each * processes} instead of {meant} (batches_per_step={meant} keeps their number, "
        f"devices={processes} says that this one is meant)."
    )


def gathered(accelerator: Accelerator, values: list[Any]) -> list[Any]:
    """The lists of all processes, one after the other, in every process."""
    return gather_object(values) if accelerator.num_processes > 1 else values


def in_main_process(accelerator: Accelerator, action: Callable[[], Any]) -> None:
    """Does something in the main process only; what goes wrong there stops every process with the same words.

    Raises:
        SoundwaveError: what the action raised.
    """
    problem: SoundwaveError | None = None
    if accelerator.is_main_process:
        try:
            action()
        except SoundwaveError as error:
            problem = error
    told = gathered(accelerator, [] if problem is None else [str(problem)])
    if problem is not None:
        raise problem
    if told:
        raise TrainingError(told[0])


@contextmanager
def alone_in(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Keeps a run's folder for this run; two that write into one would mix their figures and checkpoints.

    The system takes the lock from a process that was killed.

    Raises:
        TrainingError: another run has the folder, or it cannot be written.
    """
    lock = FileLock(folder / "run.lock", timeout=0)

    def claim() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise TrainingError(
                f"Another run is training into {folder}; wait for its end, stop it, or change output_dir."
            ) from error
        except OSError as error:
            raise TrainingError(f"{folder} cannot be written ({error.strerror}); change output_dir.") from error

    in_main_process(accelerator, claim)
    try:
        yield
    finally:
        lock.release()


# Precision


def precision_of(asked: str, run: Path) -> str:
    """`bf16` or `no` (float32) for a recipe's `mixed_precision`.

    Args:
        asked: `auto` is decided by the device, on a CPU by trial.
        run: the run's folder; a run that goes on keeps what was decided at its start.

    Raises:
        TrainingError: the recipe that the folder keeps cannot be read.
    """
    if asked != "auto":
        return asked
    kept = read_kept(run) or {}
    if "mixed_precision" in kept:
        return str(kept["mixed_precision"])
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "no"
    return "bf16" if seconds(torch.float32) > WORTH_IT * seconds(torch.bfloat16) else "no"


def seconds(dtype: torch.dtype) -> float:
    """The best time of a matrix product in a dtype on this CPU."""
    left, right = torch.ones(ROWS, INNER, dtype=dtype), torch.ones(COLUMNS, INNER, dtype=dtype)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        times.append(time.perf_counter() - started)
    return min(times)


# Parameters that FSDP2 spreads over the processes. What works on parts is a collective too.


def flatten_scalars(module: nn.Module) -> set[str]:
    """Gives parameters without a dimension one, in place: FSDP2 and DeepSpeed take no others. Returns their names."""
    names = {name for name, parameter in module.named_parameters() if parameter.ndim == 0}
    for name in names:
        parameter = module.get_parameter(name)
        parameter.data = parameter.data[None]
    return names


def shard_again(module: nn.Module) -> None:
    """Lets go of parameters that a forward pass without a backward pass gathered: each is the optimizer's own again."""
    for one in module.modules():
        if isinstance(one, FSDPModule):
            one.reshard()


def whole(value: Tensor) -> Tensor:
    """The tensor itself, or what all processes' parts of it make together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def laid_out_as(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as this process holds a parameter of as many values: its device, its shape, the same part."""
    value = value.to(parameter.device).reshape(parameter.shape)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


@torch.no_grad()
def make_whole(model: nn.Module, scalars: Iterable[str]) -> None:
    """Puts whole parameters, on the CPU, in the place of all that the frozen language model has no part in.

    The model cannot be trained or run among processes after that; it is what the end of a run writes down.

    Args:
        model: with parameters named as when their scalars were flattened.
        scalars: the names that `flatten_scalars` returned.
    """
    for prefix, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            ours = not prefix.startswith("language_model") or "lora_" in f"{prefix}.{name}"
            if ours:
                value = whole(parameter).cpu()
                shape = () if f"{prefix}.{name}" in scalars else value.shape
                module._parameters[name] = nn.Parameter(value.reshape(shape), requires_grad=False)
