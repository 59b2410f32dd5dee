"""DeepSpeed's ZeRO, stage 1: each process keeps a part of the optimizer's moments.

DeepSpeed is given the trained parameters alone, in float32 as with DDP. The model itself runs outside it, under
autocast, so its frozen parts stay as they are and the losses are those of DDP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim import Optimizer

from soundwave.errors import ConfigurationError

STAGE = 1  # 2 adds up gradients in the order in which each process has them, which differs where nobody speaks
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainedParameters(nn.Module):
    """What DeepSpeed takes for a model: parameters that another module computes with."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.trained = nn.ParameterList(parameter for parameter in module.parameters() if parameter.requires_grad)


def uses_zero(accelerator: Accelerator) -> bool:
    """Whether the run was started with DeepSpeed."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def wrapped_by_zero(
    accelerator: Accelerator, module: nn.Module, optimizers: list[Optimizer], max_grad_norm: float
) -> list[Any]:
    """The optimizers as accelerate and DeepSpeed run them; the module stays as it is.

    Raises:
        ConfigurationError: another stage than 1, or several optimizers.
    """
    config = accelerator.state.deepspeed_plugin.deepspeed_config
    if (stage := config["zero_optimization"]["stage"]) != STAGE:
        raise ConfigurationError(
            f"zero_stage is {stage}; set {STAGE}. To spread gradients and the language model too, start with FSDP2."
        )
    if len(optimizers) != 1:
        raise ConfigurationError("DeepSpeed runs one optimizer; set optimizer=auto, or start with DDP or FSDP2.")
    for precision in ("bf16", "fp16"):
        config[precision] = {"enabled": False}  # autocast instead, so that what is trained stays float32
    config["train_micro_batch_size_per_gpu"] = 1  # only counted with; batches have as many clips as fit
    config["gradient_clipping"] = max_grad_norm
    return list(accelerator.prepare(TrainedParameters(module), *optimizers)[1:])


class ZeroMoments:
    """The moments as DeepSpeed keeps them: in parts, of all parameters of a group in one piece.

    Args:
        accelerator: after `wrapped_by_zero`.
        optimizer: what was given to it.
    """

    def __init__(self, accelerator: Accelerator, optimizer: Optimizer):
        self.zero = accelerator.deepspeed_engine_wrapped.engine.optimizer
        self.optimizer = optimizer

    def of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The whole moments of a parameter, by name; none before the first step. Every process calls this."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if not self.optimizer.state:
            return {}
        self._link()
        step = next(iter(self.optimizer.state.values()))["step"]
        return {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS} | {"step": step.clone()}

    def put(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        """Gives this process its part of a whole moment, the model's parameters having their values already."""
        from deepspeed.utils import safe_set_full_optimizer_state

        if not self.optimizer.state:
            self._make_room()
        if moment != "step":
            safe_set_full_optimizer_state(parameter, value.to(parameter.device).reshape(parameter.shape), moment)
            return
        fused = self.optimizer.defaults.get("fused")  # that kernel counts on the device
        for state in self.optimizer.state.values():
            state["step"] = value.to(state["exp_avg"].device if fused else "cpu", copy=True)

    def _make_room(self) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        for parameters, part in self._groups():
            self.optimizer.state[part] = {name: torch.zeros_like(part) for name in MOMENTS} | {"step": torch.zeros(())}
            for parameter in parameters:  # DeepSpeed steps a copy of its own
                safe_set_full_fp32_param(parameter, parameter.detach())
        self._link()

    def _link(self) -> None:
        """Tells DeepSpeed where in the pieces each parameter's moments lie; itself it does so for the first group."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        for parameters, part in self._groups():
            lazy_init_hp_params_optimizer_state(parameters, part, self.optimizer.state)

    def _groups(self) -> Iterator[tuple[list[nn.Parameter], Tensor]]:
        """The parameters of each group, and this process's part of DeepSpeed's copy of them."""
        return zip(self.zero.bit16_groups, self.zero.single_partition_of_fp32_groups, strict=True)
