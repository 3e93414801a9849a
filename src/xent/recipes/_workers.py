"""The processes that train one model together under torchrun: who reads which windows, who has which classes.

    torchrun --nproc-per-node 4 --no-python xent train language_model --vocab-parallel 2

R processes = D data ranks × V vocabulary ranks, the vocabulary ranks of a data rank next to each other. All draw the
windows of a step from generators in one state, and each data rank takes its share: none is read twice or left out, and
the step is the one that a single process makes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from xent.errors import OptionError

PATIENCE = timedelta(minutes=10)  # for a rank that does not answer


@dataclass(frozen=True)
class ParallelOptions:
    """How the processes share the model; it decides no weight beyond rounding and is not kept with the run.

    Attributes:
        shard: spread parameters, gradients and optimizer state over the data ranks (FSDP2); replicas (DDP) if not.
        vocab_parallel: ranks that share the vocabulary.

    Raises:
        OptionError: both at once, or no positive number.
    """

    shard: bool = False
    vocab_parallel: int = 1

    def __post_init__(self) -> None:
        if self.vocab_parallel < 1:
            raise OptionError(f"vocab_parallel is {self.vocab_parallel}", "it counts ranks, 1 or more", "pass 2 or so")
        if self.shard and self.vocab_parallel > 1:
            raise OptionError(
                "--shard with --vocab-parallel", "a run spreads its parameters in one of the two ways", "leave one out"
            )


@dataclass(frozen=True, eq=False)
class Workers:
    """This process among the others; alone, it talks to nobody.

    Attributes:
        options: how the processes share the model.
        rank: of this process.
        data_rank: which share of the windows it reads.
        data_size: into how many shares they are cut.
        data_group: the ranks with the same classes.
        vocab_group: the ranks with the same windows.
        data_mesh: the mesh over the data ranks, of a sharded model.
    """

    options: ParallelOptions = ParallelOptions()
    rank: int = 0
    data_rank: int = 0
    data_size: int = 1
    data_group: Any = None
    vocab_group: Any = None
    data_mesh: Any = None

    @property
    def is_alone(self) -> bool:
        """Whether there is one process."""
        return self.data_size * self.options.vocab_parallel == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This data rank's rows of a batch; with fewer rows than ranks, none for some."""
        return batch.tensor_split(self.data_size)[self.data_rank]

    def summed(self, numbers: list[float]) -> list[float]:
        """Sums over the data ranks, in their order."""
        if self.data_size == 1:
            return numbers
        mine = torch.tensor(numbers, dtype=torch.float64)
        parts = [torch.empty_like(mine) for _ in range(self.data_size)]
        dist.all_gather(parts, mine, group=self.data_group)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total.tolist()

    def told(self, value: Any) -> Any:
        """What rank 0 has to say."""
        box = [value]
        if not self.is_alone:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def close(self) -> None:
        """Leave the others in peace."""
        if not self.is_alone and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Workers()


def start_workers(options: ParallelOptions) -> Workers:
    """Meet the other processes that torchrun started; alone where there are none.

    Raises:
        OptionError: an option asks for other numbers of processes than there are.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        if options.vocab_parallel > 1:
            raise _wrong_number(options, size)
        return ALONE
    if size % options.vocab_parallel:
        raise _wrong_number(options, size)
    dist.init_process_group("gloo", timeout=PATIENCE)
    rank, per = dist.get_rank(), options.vocab_parallel
    data_groups = [dist.new_group(list(range(first, size, per)), timeout=PATIENCE) for first in range(per)]
    vocab_groups = [dist.new_group(list(range(at, at + per)), timeout=PATIENCE) for at in range(0, size, per)]
    mesh = None
    if options.shard:
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", (size,))
    return Workers(options, rank, rank // per, size // per, data_groups[rank % per], vocab_groups[rank // per], mesh)


def _wrong_number(options: ParallelOptions, size: int) -> OptionError:
    need = options.vocab_parallel
    return OptionError(
        f"--vocab-parallel {need} with {size} process{'es' if size > 1 else ''}",
        "their number must be a multiple of it",
        f"torchrun --nproc-per-node {need} --no-python xent train language_model --vocab-parallel {need}",
    )


def restarted() -> bool:
    """Whether torchrun started these processes again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
