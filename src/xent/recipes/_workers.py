"""The processes that train one model together under torchrun: who reads which windows, who has which classes.

    torchrun --nproc-per-node 4 -m xent train language_model --vocab-parallel 2

R processes = D data ranks × V vocabulary ranks, the vocabulary ranks of a data rank next to each other. All draw the
windows of a step from generators in one state, and each data rank takes its share: none is read twice or left out, and
the step is the one that a single process makes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from xent.errors import OptionError, RunError, XentError
from xent.recipes._endings import Endings
from xent.recipes._fresh_part import fresh_part
from xent.recipes._launcher import told_number, told_size
from xent.recipes._run_options import PATIENCE, check_count

_WEEK = 7 * 86_400


@dataclass(frozen=True)
class ParallelOptions:
    """How the processes share the model; it decides no weight beyond rounding and is not kept with the run.

    Attributes:
        shard: spread parameters, gradients and optimizer state over the data ranks (FSDP2); replicas (DDP) if not.
        vocab_parallel: ranks that share the vocabulary.
        patience: seconds to wait for a process that does not answer.

    Raises:
        OptionError: no positive number.
    """

    shard: bool = False
    vocab_parallel: int = 1
    patience: int = PATIENCE

    def __post_init__(self) -> None:
        check_count("patience", self.patience, _WEEK)
        if self.vocab_parallel < 1:
            raise OptionError(f"vocab_parallel is {self.vocab_parallel}", "it counts ranks, 1 or more", "pass 2 or so")


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
        endings: what the ranks tell each other of their end; None alone.
    """

    options: ParallelOptions = ParallelOptions()
    rank: int = 0
    data_rank: int = 0
    data_size: int = 1
    data_group: Any = None
    vocab_group: Any = None
    data_mesh: Any = None
    endings: Endings | None = None

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

    def added(self, counts: Tensor) -> Tensor:
        """Whole numbers, summed over the data ranks."""
        if self.data_size > 1:
            dist.all_reduce(counts, group=self.data_group)
        return counts

    def first_does(self, action: Callable[[], Any]) -> Any:
        """What rank 0 gets from an action that only it takes; every rank makes the call.

        Raises:
            XentError: what the action raises, on every rank.
        """
        if self.is_alone:
            return action()
        value, failure = None, None
        if self.is_first:
            try:
                value = action()
            except Exception as error:  # whatever it is, the others must hear of it
                failure = error
                if self.endings is not None:
                    self.endings.claim()  # before the others can
        try:
            value, told = self.told((value, _as_told(failure)))
        except RuntimeError:
            if failure is None:
                raise
            raise failure from None  # who heard of it may be gone before the telling is over
        if failure or told:
            raise failure or told
        return value

    def meet(self, place: str) -> None:
        """Wait until all ranks came to a place, as long as they live: some may have much to read."""
        if self.endings is not None:
            self.endings.meet(place)

    def told(self, value: Any) -> Any:
        """What rank 0 has to say."""
        box = [value]
        if not self.is_alone:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def close(self) -> None:
        """Leave the others in peace."""
        if self.endings is not None and dist.is_initialized():
            self.endings.stop()
            dist.destroy_process_group()


ALONE = Workers()


def start_workers(options: ParallelOptions) -> Workers:
    """Meet the other processes that torchrun started; alone where there are none.

    Raises:
        OptionError: an option asks for other numbers of processes than there are, or they are not started by torchrun.
        RunError: not all of them came.
    """
    size = told_size()
    if size == 1:
        if options.vocab_parallel > 1:
            raise _wrong_number(options, size)
        return ALONE
    if size % options.vocab_parallel:
        raise _wrong_number(options, size)
    told_number("RANK")
    told_number("MASTER_PORT")
    patience = timedelta(seconds=options.patience)
    store = _met(size, patience)
    rank, per = dist.get_rank(), options.vocab_parallel
    data_groups = [dist.new_group(list(range(first, size, per)), timeout=patience) for first in range(per)]
    vocab_groups = [dist.new_group(list(range(at, at + per)), timeout=patience) for at in range(0, size, per)]
    endings, mesh = Endings(store, rank, size, options.patience), None
    if options.shard:
        from torch.distributed.device_mesh import DeviceMesh

        group: Any = data_groups[rank % per]
        mesh = DeviceMesh.from_group(group, "cpu")  # its own groups would have their own patience
    return Workers(
        options, rank, rank // per, size // per, data_groups[rank % per], vocab_groups[rank // per], mesh, endings
    )


def _met(size: int, patience: timedelta) -> Any:
    """Meet the others; the part of the launcher's store that is theirs."""
    longest = max(patience, timedelta(seconds=PATIENCE))  # a process loads torch for as long as its machine takes
    try:
        store, rank, _ = next(iter(rendezvous("env://", timeout=longest)))
        store = fresh_part(store, rank, size, longest.total_seconds())
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=patience)
    except (RuntimeError, ValueError) as error:  # the second without MASTER_ADDR
        raise RunError(
            f"rank {os.environ.get('RANK')} did not meet all of {size} processes ({str(error).splitlines()[0][:200]})",
            "they begin together",
            "look at what the others printed",
        ) from error
    return store


def _as_told(failure: Exception | None) -> XentError | None:
    if failure is None or isinstance(failure, XentError):
        return failure
    return RunError(
        f"rank 0 raised {type(failure).__name__}: {str(failure)[:300]}", "it does this for all ranks", "mend it there"
    )


def _wrong_number(options: ParallelOptions, size: int) -> OptionError:
    need = options.vocab_parallel
    return OptionError(
        f"--vocab-parallel {need} with {size} process{'es' if size > 1 else ''}",
        "their number must be a multiple of it",
        f"torchrun --nproc-per-node {need} -m xent train language_model --vocab-parallel {need}",
    )
