"""A model over many processes: replicas or shards of every parameter, and beside either a vocabulary in parts.

Whatever the way, a checkpoint knows of each piece where it lies in the whole, under the names that one process gives
them: a run goes on with any number of processes.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from xent.recipes._pieces import Piece, piece_of
from xent.recipes._training_state import MODEL, OPTIMIZER
from xent.recipes._workers import Workers

_VOCABULARY = "embedding.weight"


class VocabularyShard(nn.Module):
    """The rows `start` … of an embedding (V, D); the ranks of the group have the others."""

    def __init__(self, whole_VD: Tensor, group: Any) -> None:
        super().__init__()
        self.group = group
        parts = whole_VD.tensor_split(dist.get_world_size(group))
        self.start, self.total = sum(len(part) for part in parts[: dist.get_rank(group)]), len(whole_VD)
        self.weight = nn.Parameter(parts[dist.get_rank(group)].clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings (*, D) of tokens (*): each from the rank that has it."""
        row = tokens.long() - self.start
        outside = (row < 0) | (row >= len(self.weight))
        found = F.embedding(row.masked_fill(outside, 0), self.weight).masked_fill(outside.unsqueeze(-1), 0)
        return _SumOverRanks.apply(found, self.group)


class _SumOverRanks(torch.autograd.Function):
    """Σ over the ranks; each rank's part gets the whole gradient, which all of them have."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        part, group = inputs
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


def _no_buffers() -> dict[str, Any]:
    """That buffers are not sent at every step: they are word vectors, which do not change. Newer torch renamed it."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


class ParallelModel:
    """A model as the processes train it.

    Attributes:
        model: the model, changed in place; with `vocab_parallel` it has an `embedding`, which is also its head.
        forward: the model, with the wrapper's collectives.
    """

    def __init__(self, model: nn.Module, workers: Workers) -> None:
        self.model, self.workers, self._vocabulary = model, workers, None
        if workers.options.vocab_parallel > 1:
            embedding: Any = model.embedding
            self._vocabulary = VocabularyShard(embedding.weight.detach(), workers.vocab_group)
            model.embedding = self._vocabulary
        self.forward: Any = model
        if workers.options.shard:
            from torch.distributed.fsdp import fully_shard

            self.forward = fully_shard(model, mesh=workers.data_mesh)
        elif workers.data_size > 1:
            self.forward = nn.parallel.DistributedDataParallel(model, process_group=workers.data_group, **_no_buffers())

    def piece(self, name: str, tensor: Tensor) -> Piece:
        """This rank's piece of a parameter, or of a tensor that lies as it does."""
        shard = self._vocabulary
        return piece_of(tensor, shard.start, shard.total) if shard and name == _VOCABULARY else piece_of(tensor)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor that lies as the parameter does."""
        parameter, shard = dict(self.model.named_parameters())[name], self._vocabulary
        if whole.ndim and shard and name == _VOCABULARY:
            whole = whole[shard.start : shard.start + len(shard.weight)]
        if whole.ndim and hasattr(parameter, "device_mesh"):
            from torch.distributed.tensor import distribute_tensor

            return distribute_tensor(whole, parameter.device_mesh, parameter.placements)  # pyright: ignore[reportAttributeAccessIssue]
        return whole.clone()

    def pieces(self, optimizer: torch.optim.Optimizer) -> dict[str, Piece]:
        """This rank's pieces of weights and optimizer state, under the names of `state_tensors`."""
        reshard = getattr(self.model, "reshard", None)
        if self.workers.options.shard and reshard is not None:
            reshard()
        found = {MODEL + name: self.piece(name, value) for name, value in self.model.state_dict().items()}
        for number, (name, parameter) in enumerate(self.model.named_parameters()):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"{OPTIMIZER}{number}.{key}"] = self.piece(name, value) if value.ndim else piece_of(value)
        return found

    def restore_moments(self, optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, Tensor]]) -> None:
        """Give the optimizer this rank's part of whole state."""
        for number, (name, parameter) in enumerate(self.model.named_parameters()):
            if moments.get(number):
                optimizer.state[parameter] = {key: self.part(name, value) for key, value in moments[number].items()}

    def clip(self, most: float) -> None:
        """Scale gradients so that the norm of all of them, over all ranks, is at most `most`."""
        embedding = self._vocabulary
        if embedding is None:
            nn.utils.clip_grad_norm_(self.model.parameters(), most)
            return
        own = [_local(p.grad) for p in (embedding.weight,) if p.grad is not None]
        same = [_local(p.grad) for p in self.model.parameters() if p.grad is not None and p is not embedding.weight]
        squares = torch.stack([sum((g.square().sum() for g in part), torch.zeros(())) for part in (own, same)])
        if self.workers.options.shard:  # each data rank has a piece of every gradient
            dist.all_reduce(squares, group=self.workers.data_group)
        dist.all_reduce(squares[:1], group=embedding.group)
        factor = torch.clamp(most / (squares.sum().sqrt() + 1e-6), max=1.0)
        for gradient in own + same:
            gradient.mul_(factor)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore[reportAttributeAccessIssue]
