"""Trains recipes in a process of its own, which tests start several of, or kill.

    python train_recipes.py RECIPE.yaml …

A user's mistake is written to `error-<process>.txt` in the run's folder, and the next recipe follows. With
`KILL_IN_SAVE=n` the process kills itself with SIGKILL in the middle of the first file of its n-th checkpoint. With
`SHARDED_ON_CPU=1` accelerate shards (FSDP2, or ZeRO) as it does on GPUs: PyTorch and DeepSpeed can on CPUs too, it is
accelerate alone that does not let them.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from soundwave.errors import SoundwaveError
from soundwave.training import checkpoint, distributed
from soundwave.training.loop import train
from soundwave.training.recipe_io import read_recipe


def die_while_saving(number: int) -> None:
    whole, calls = checkpoint.save_file, []

    def save_file(tensors: dict[str, Any], path: Path) -> None:
        calls.append(None)
        whole(tensors, path)
        if len(calls) == 2 * number - 1:  # two files a checkpoint
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = save_file


def shard_on_cpu() -> None:
    by_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"

    def state(**options: Any) -> PartialState:
        made = PartialState(**options)
        kind = DistributedType.DEEPSPEED if by_deepspeed else DistributedType.MULTI_GPU
        PartialState._shared_state["distributed_type"] = kind
        return made

    def accelerator(cpu: bool, **options: Any) -> Accelerator:
        return Accelerator(cpu=cpu and not by_deepspeed, **options)

    distributed.PartialState, distributed.Accelerator = state, accelerator


if __name__ == "__main__":
    if "SHARDED_ON_CPU" in os.environ:
        shard_on_cpu()
    if "KILL_IN_SAVE" in os.environ:
        die_while_saving(int(os.environ["KILL_IN_SAVE"]))
    for path in sys.argv[1:]:
        recipe = read_recipe(path)
        try:
            train(recipe)
        except SoundwaveError as error:
            folder = Path(recipe.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"error-{os.environ.get('RANK', '0')}.txt").write_text(f"{type(error).__name__}: {error}")
    distributed.end_processes()
