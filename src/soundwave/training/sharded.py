"""Parameters that FSDP2 spreads over the processes: whole tensors of their parts, and parts of whole tensors.

What works on parts is a collective: every process calls it at the same point. Of parameters that are whole in each
process, as in a run of one process or with DDP, all of it is trivial.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


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
