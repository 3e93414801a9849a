"""A decoder over many processes: replicas, shards of every parameter, or a vocabulary in parts; and whole again.

Whatever the way, a checkpoint holds whole tensors under the names that one process gives them: a run goes on with any
number of processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from xent.recipes._decoder import Decoder
from xent.recipes._workers import Workers


class VocabularyShard(nn.Module):
    """The rows `start` … of an embedding (V, D); the ranks of the group have the others."""

    def __init__(self, whole_VD: Tensor, group: Any) -> None:
        super().__init__()
        self.group = group
        parts = whole_VD.tensor_split(dist.get_world_size(group))
        self.start = sum(len(part) for part in parts[: dist.get_rank(group)])
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


class ParallelModel:
    """A decoder as the processes train it.

    Attributes:
        model: the decoder, changed in place.
        forward: tokens (B, T) → hidden states (B, T, D), with the wrapper's collectives.
    """

    def __init__(self, model: Decoder, workers: Workers) -> None:
        self.model, self.workers = model, workers
        if workers.options.vocab_parallel > 1:
            shard: Any = VocabularyShard(model.embedding.weight.detach(), workers.vocab_group)
            model.embedding = shard
        self.forward: Any = model
        if workers.options.shard:
            from torch.distributed.fsdp import fully_shard

            self.forward = fully_shard(model, mesh=workers.data_mesh)
        elif workers.data_size > 1:
            self.forward = nn.parallel.DistributedDataParallel(model, process_group=workers.data_group)

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """The whole of a parameter, or of a tensor that lies as it does."""
        if hasattr(tensor, "full_tensor"):
            return tensor.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
        embedding = self.model.embedding
        if not isinstance(embedding, VocabularyShard) or name != "embedding.weight" or not tensor.ndim:
            return tensor.detach()
        parts: list[Any] = [None] * dist.get_world_size(embedding.group)
        dist.all_gather_object(parts, tensor.detach(), group=embedding.group)
        return torch.cat(parts)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor that lies as the parameter does."""
        parameter = dict(self.model.named_parameters())[name]
        if whole.ndim and hasattr(parameter, "device_mesh"):
            from torch.distributed.tensor import distribute_tensor

            return distribute_tensor(whole, parameter.device_mesh, parameter.placements)  # pyright: ignore[reportAttributeAccessIssue]
        embedding = self.model.embedding
        if whole.ndim and isinstance(embedding, VocabularyShard) and name == "embedding.weight":
            return whole[embedding.start : embedding.start + len(embedding.weight)].clone()
        return whole.clone()

    def state(self) -> dict[str, Tensor]:
        """The whole parameters by name."""
        reshard = getattr(self.model, "reshard", None)
        if self.workers.options.shard and reshard is not None:
            reshard()
        return {name: self.whole(name, value).detach() for name, value in self.model.state_dict().items()}

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
        """The whole optimizer state by the number of the parameter."""
        found: dict[int, dict[str, Tensor]] = {}
        for number, (name, parameter) in enumerate(self.model.named_parameters()):
            values = optimizer.state.get(parameter, {})
            found[number] = {key: self.whole(name, value) for key, value in values.items() if isinstance(value, Tensor)}
        return found

    def restore_moments(self, optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, Tensor]]) -> None:
        """Give the optimizer this rank's part of whole state."""
        for number, (name, parameter) in enumerate(self.model.named_parameters()):
            if moments.get(number):
                optimizer.state[parameter] = {key: self.part(name, value) for key, value in moments[number].items()}

    def clip(self, most: float) -> None:
        """Scale gradients so that the norm of all of them, over all ranks, is at most `most`."""
        embedding = self.model.embedding
        if not isinstance(embedding, VocabularyShard):
            nn.utils.clip_grad_norm_(self.model.parameters(), most)
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None and p is not embedding.weight]
        squares = torch.zeros(()) if embedding.weight.grad is None else embedding.weight.grad.square().sum()
        dist.all_reduce(squares, group=embedding.group)
        norm = (squares + sum(g.square().sum() for g in gradients)).sqrt()
        factor = torch.clamp(most / (norm + 1e-6), max=1.0)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
