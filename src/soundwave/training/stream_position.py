"""The position of a stream between a checkpoint and the processes, each of which knows its own lanes only."""

from __future__ import annotations

from accelerate import Accelerator

from soundwave.errors import TrainingError
from soundwave.training.checkpointing import Position
from soundwave.training.processes import gathered
from soundwave.training.streaming import Stream


def begin(stream: Stream, position: Position, accelerator: Accelerator) -> None:
    """Makes every process read the same shards in the same order, from a checkpoint's position or from the start.

    Raises:
        TrainingError: the checkpoint's lanes are not as many as the recipe's batches a step, or of other sources.
    """
    if position.lanes and len(position.lanes) != stream.lanes:
        raise TrainingError(
            f"The checkpoint's data is shared among {len(position.lanes)} batches a step, but now a step has "
            f"{stream.lanes}; set batches_per_step={len(position.lanes)}, or change output_dir."
        )
    # Shards may have come or gone since, or while the processes looked: one listing holds for all of them, to the end.
    position.sources = position.sources or gathered(accelerator, stream.catalogue())[: len(stream.sources)]
    stream.use(position.sources)


def tell_lanes(position: Position, accelerator: Accelerator) -> None:
    """Lets every process know where the lanes of all of them stand, before one writes it down."""
    if not position.sources:
        return
    rank, processes = accelerator.process_index, accelerator.num_processes
    own = [(lane, state) for lane, state in position.lanes.items() if int(lane) % processes == rank]
    lanes = dict(gathered(accelerator, own))
    position.lanes = {lane: lanes[lane] for lane in sorted(lanes, key=int)}
