"""A process group as the losses here use it: three collectives, whose failures say which call and what to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from xent.errors import DistributedError, DtypeError


class Ranks(Protocol):
    """The ranks that make a call together."""

    rank: int
    size: int

    def gather(self, message: Tensor, into: Tensor | None = None) -> Pending:
        """Begin to collect a message (n,) of every rank, in the order of the ranks: (size, n), or `into` such."""
        ...

    def add(self, tensor: Tensor) -> Pending:
        """Begin to sum a tensor over the ranks, in place."""
        ...


class Pending:
    """A collective under way."""

    def __init__(self, wait: Callable[[], object], result: Tensor) -> None:
        self._wait, self._result = wait, result

    def wait(self) -> Tensor:
        """Its result.

        Raises:
            DistributedError: the collective failed or timed out.
        """
        self._wait()
        return self._result


class GroupRanks:
    """The ranks of a `torch.distributed` process group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)

    def gather(self, message: Tensor, into: Tensor | None = None) -> Pending:
        """Collect a message of every rank; the result is where the message is."""
        whole = message.new_empty(self.size * message.numel()) if into is None else into.view(-1)
        sent, found = (_where_sent(tensor, self.group) for tensor in (message, whole))
        gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        begin = _explained(self, lambda: gather(found, sent, group=self.group, async_op=True))
        return Pending(_explained_wait(self, begin, found, whole), whole.view(self.size, -1))

    def add(self, tensor: Tensor) -> Pending:
        """Sum a tensor over the ranks, in place."""
        summed = _where_sent(tensor, self.group)
        begin = _explained(self, lambda: dist.all_reduce(summed, group=self.group, async_op=True))
        return Pending(_explained_wait(self, begin, summed, tensor), tensor)


def _where_sent(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The tensor, or a copy on a device of the group: what a rank says of a bad argument lies on the CPU."""
    devices: list[torch.device] = group._device_types
    if not devices or tensor.device.type in [device.type for device in devices]:
        return tensor
    return tensor.to(devices[0])


def _explained(ranks: GroupRanks, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RuntimeError as error:
        raise _failure(ranks, error) from error


def _explained_wait(ranks: GroupRanks, work: Any, found: Tensor, wanted: Tensor) -> Callable[[], object]:
    def wait() -> None:
        if work is not None:
            _explained(ranks, work.wait)
        if found is not wanted:
            wanted.copy_(found)

    return wait


def _failure(ranks: GroupRanks, error: RuntimeError) -> DistributedError:
    reason = str(error).strip().splitlines()[0]
    where = f"rank {ranks.rank} of a group of {ranks.size}"
    if "timed out" in reason.lower() or "timeout" in reason.lower():
        return DistributedError(
            f"{where} waited for the others until the group's time was over ({reason})",
            "every rank of the group makes the same calls in the same order",
            "look for a rank that stopped, skipped this loss or is slower than the group's timeout, which "
            "init_process_group(timeout=) sets",
        )
    return DistributedError(
        f"{where} lost the others ({reason})",
        "every rank of the group must live until the call is over",
        "read the first error that another rank printed: it ended before this one",
    )


def ranks_of(group: object) -> Ranks:
    """The ranks of a process group or of a one-dimensional device mesh.

    Raises:
        DtypeError: it is neither.
        DistributedError: torch.distributed is not initialised, or this process is not in the group.
    """
    if not isinstance(group, dist.ProcessGroup) and hasattr(group, "gather") and hasattr(group, "add"):
        return group  # pyright: ignore[reportReturnType]  (ranks already)
    if not dist.is_available() or not dist.is_initialized():
        raise DistributedError(
            "torch.distributed is not initialised",
            "ranks find each other through it",
            "call torch.distributed.init_process_group() first, or use xent.cross_entropy on one process",
        )
    get_group = getattr(group, "get_group", None)
    if get_group is not None:
        if getattr(group, "ndim", 1) != 1:
            raise DtypeError(
                f"group is a DeviceMesh of {group.ndim} dimensions",  # pyright: ignore[reportAttributeAccessIssue]
                "it is a ProcessGroup or a one-dimensional DeviceMesh",
                'pass one axis of it, such as mesh["tensor"]',
            )
        group = get_group()
    if group == dist.GroupMember.NON_GROUP_MEMBER:
        raise DistributedError(
            "this process is not in the group",
            "only its members make the call",
            "call it on the ranks that new_group() was given",
        )
    if not isinstance(group, dist.ProcessGroup):
        raise DtypeError(
            f"group is a {type(group).__name__}",
            "it is a ProcessGroup or a one-dimensional DeviceMesh",
            "pass torch.distributed.group.WORLD for all ranks",
        )
    return GroupRanks(group)


def raise_together(ranks: Ranks, failure: Exception | None, flags: Tensor) -> None:
    """Raise on every rank if a flag (size,) is set; what the failing rank raised travels in one more collective.

    Raises:
        Exception: this rank's own.
        XentError: another's, of its class and with its number; DistributedError for an error that is not xent's.
    """
    if not bool(flags.any()):
        return
    texts = ranks.gather(_as_bytes(failure, flags.device)).wait()
    if failure is not None:
        raise failure
    rank = int(flags.nonzero()[0])
    raise _from_bytes(rank, texts[rank])


_TEXT = 1024  # bytes of an error that travel


def _as_bytes(failure: Exception | None, device: torch.device) -> Tensor:
    from xent.errors import XentError

    parts = ["", "", "", ""]
    if isinstance(failure, XentError):
        parts = [type(failure).__name__, failure.got[:400], failure.need[:250], failure.do[:250]]
    elif failure is not None:
        parts = ["", f"{type(failure).__name__}: {str(failure)[:400]}", "", ""]
    raw = "\0".join(parts).encode()[:_TEXT]
    return torch.tensor(list(raw.ljust(_TEXT, b"\0")), dtype=torch.uint8, device=device)


def _from_bytes(rank: int, text: Tensor) -> Exception:
    from xent import errors

    name, got, need, do = (*bytes(text.tolist()).decode(errors="replace").split("\0"), "", "", "", "")[:4]
    if name:
        return getattr(errors, name, DistributedError)(f"rank {rank}: {got}", need, do)
    return DistributedError(
        f"rank {rank} raised {got}", "all ranks of the group must get through the call", "mend it on that rank"
    )
