"""What rules are given: one object for each thing that the program did."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from xent.inspection._nodes import Edge
from xent.inspection._term import Term
from xent.inspection.examination import _values
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._finding import NotChecked
from xent.inspection.examination._provenance import (
    Provenance,
    embedded_ids_behind,
    nodes_behind,
    parameters_behind,
    provenance_of,
    provenance_of_edge,
)


@dataclass(eq=False, kw_only=True)
class LossTable:
    """The logits of a loss that was found in a graph, or its log-probabilities, as far as the graph keeps them.

    Attributes:
        edge: the node that made the input; None where that has no graph.
        shape, class_dim: of the input.
        log_probs: ln p, as kept.
        node: the loss's own node.
        term: the loss as `explain` reads it, where it was written by hand.
        is_root: whether it is what was asked about: nothing was added to it since.
    """

    edge: Edge | None
    shape: tuple[int, ...]
    class_dim: int
    log_probs: Tensor | None = None
    node: Edge | None = None
    term: Term | None = None
    is_root: bool = False


@dataclass(eq=False, kw_only=True)
class LossCall:
    """One call of a loss function, or a loss that was found in a graph.

    Attributes:
        name: "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div",
            "linear_cross_entropy".
        origin: "torch" or "xent": its function was called; "graph": its node was found; "by hand": written out.
        arguments: by torch's names, defaults included, size_average and reduce turned into reduction. From a graph,
            what its nodes kept: "input" may be missing.
        output: the loss; None where torch raised.
        error: what torch raised.
        site: the user's line.
        number: the how-manieth call at this line, from 1.
        sampled: whether expensive checks are due (calls 1, 2, 3, 5, 10, 20, 50, …).
        grad_enabled: whether the graph was being recorded.
        was_seen: of a loss found in a graph: whether its function's call was observed too.
        table: of a loss found in a graph: what its nodes keep.
    """

    name: str
    origin: Literal["torch", "xent", "graph", "by hand"]
    arguments: dict[str, Any]
    output: Tensor | None = None
    error: BaseException | None = None
    site: CallSite | None = None
    number: int = 1
    sampled: bool = True
    grad_enabled: bool = True
    was_seen: bool = True
    table: LossTable | None = None

    @property
    def input(self) -> Tensor:
        """The first argument as the caller gave it.

        Raises:
            NotChecked: it is known by its graph only.
        """
        found = self.arguments.get("input")
        if found is None:
            raise NotChecked("the graph did not keep the logits")
        return found

    @property
    def has_input(self) -> bool:
        """Whether `input` is there."""
        return self.arguments.get("input") is not None

    @property
    def target(self) -> Tensor:
        """The target.

        Raises:
            NotChecked: the graph did not keep it.
        """
        found = self.arguments.get("target")
        if found is None:
            raise NotChecked("the graph did not keep the targets")
        return found

    def option(self, name: str, default: Any = None) -> Any:
        """An argument by torch's name."""
        return self.arguments.get(name, default)

    @property
    def reduction(self) -> str:
        """How rows are reduced: "mean", "sum", "none" or "batchmean"."""
        return self.arguments.get("reduction", "mean")

    @property
    def ignore_index(self) -> int:
        """The target that does not count, −100 if none was given."""
        found = self.arguments.get("ignore_index")
        return -100 if found is None else found

    @property
    def is_binary(self) -> bool:
        """Whether every element is a prediction of its own."""
        return self.name.startswith("binary")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the input, as far as the call or the graph knows it."""
        if self.has_input:
            return tuple(self.input.shape)
        if self.table is not None:
            return self.table.shape
        raise NotChecked("the graph did not keep the logits")

    @cached_property
    def class_dim(self) -> int:
        """Where the loss looks for the classes: 0 for one row, else 1, or xent's `dim=`."""
        rank = len(self.shape)
        if self.table is not None:
            return self.table.class_dim
        dim = self.arguments.get("dim")
        if dim is not None:
            return dim % rank
        return rank - 1 if self.name in ("kl_div", "linear_cross_entropy") else min(1, rank - 1)

    @property
    def num_classes(self) -> int:
        """C, as the loss sees it."""
        if self.name == "linear_cross_entropy":
            return self.arguments["linear_weight"].shape[0]
        if self.is_binary:
            return 2
        return self.shape[self.class_dim]

    @cached_property
    def has_class_indices(self) -> bool:
        """Whether the targets are class indices (else probabilities)."""
        target = self.target
        return not self.is_binary and isinstance(target, Tensor) and not target.is_floating_point()

    @cached_property
    def class_indices(self) -> Tensor:
        """The class index of each row, where xent's `shift=` puts it; a row that it leaves without one is ignored.

        Raises:
            NotChecked: the targets are probabilities, or can't be read.
        """
        if not self.has_class_indices:
            raise NotChecked("the targets are no class indices")
        target, shift = _values.readable(self.target), self.option("shift", 0)
        if not shift or target.ndim == 0:
            return target
        ignored = torch.full_like(target[..., :shift], self.ignore_index)
        return torch.cat([target[..., shift:], ignored], -1)

    @cached_property
    def provenance(self) -> Provenance:
        """What made the input.

        Raises:
            NotChecked: there is no graph.
        """
        if self.table is not None and self.table.edge is not None:
            return provenance_of_edge(self.table.edge)
        return provenance_of(self.input)

    @cached_property
    def embedded_ids(self) -> list[Tensor]:
        """The index tensors of all embeddings behind the input; empty if there are none."""
        return embedded_ids_behind(self.edge)

    @property
    def edge(self) -> Edge:
        """The node that made the input.

        Raises:
            NotChecked: there is no graph.
        """
        if self.table is not None and self.table.edge is not None:
            return self.table.edge
        if self.input.grad_fn is None:
            raise NotChecked("no graph: the logits need no gradient" if self.grad_enabled else
                             "no graph: computed under no_grad")  # fmt: skip
        return Edge(self.input.grad_fn, self.input.output_nr)

    def rows(self, most: int = 4096) -> Tensor:
        """At most so many rows of the input, classes last: (n, C), detached, evenly spread; a view where it can be.

        Of a loss without logits, those that the layer makes of so many hidden states; xent's scale and cap are applied.

        Raises:
            NotChecked: the values can't be read (meta, functorch, a tensor subclass), or the graph did not keep them.
        """
        if self.name == "linear_cross_entropy":
            hidden = _values.rows(self.input, self.class_dim, most, self.num_classes)
            found = _values.through_layer(hidden, self.arguments["linear_weight"], self.option("linear_bias"))
        else:
            found = _values.rows(self.input, self.class_dim, most)
        scale, cap = self.option("logit_scale", 1.0), self.option("softcap")
        found = found if scale == 1 else found * scale
        return found if cap is None else cap * (found / cap).tanh()

    def values_of(self, tensor: Tensor) -> Tensor:
        """The tensor, detached, where its values can be read.

        Raises:
            NotChecked: they can't.
        """
        return _values.readable(tensor)

    def log_prob_rows(self, most: int = 4096) -> Tensor:
        """Ln p (n, C) of such rows, from the graph or the input.

        Raises:
            NotChecked: as `rows`.
        """
        if self.table is not None and self.table.log_probs is not None:
            return _values.rows(self.table.log_probs, self.class_dim, most)
        found = self.rows(most)
        return found if self.name in ("nll_loss", "kl_div") else found.float().log_softmax(-1)

    def targets_of_rows(self, most: int = 4096) -> Tensor:
        """The class index of each of the rows that `rows(most)` gives.

        Raises:
            NotChecked: the targets are probabilities, or can't be read.
        """
        return _values.evenly(self.class_indices.reshape(-1), most, self.num_classes)

    @cached_property
    def counted(self) -> Tensor:
        """The target class indices that count, flat (all of them).

        Raises:
            NotChecked: the targets are probabilities, or can't be read.
        """
        flat = self.class_indices.reshape(-1)
        return flat[flat != self.ignore_index]


@dataclass(eq=False, kw_only=True)
class Reduction:
    """`mean()` or `sum()` gave a number of what was picked from a table: perhaps a loss written by hand."""

    output: Tensor
    site: CallSite | None = None
    number: int = 1
    sampled: bool = True

    @property
    def edges(self) -> list[Edge]:
        """The graph's end."""
        return [] if self.output.grad_fn is None else [Edge(self.output.grad_fn, self.output.output_nr)]


@dataclass(eq=False, kw_only=True)
class Write:
    """`x[…] = …` on a tensor of `run.looked_at`, after it."""

    tensor: Tensor
    site: CallSite | None = None


@dataclass(eq=False, kw_only=True)
class BackwardCall:
    """One `backward()` or `autograd.grad()`, before it runs and after.

    Attributes:
        roots: the tensors it starts from; empty after it has run (they are not kept).
        gradients: what flows into each root, None for ones.
        inputs: the tensors that get a gradient, where they were named; else None.
        is_grad: `autograd.grad`, which gives nothing to `.grad`.
        retain_graph, create_graph: as passed.
        site, number, sampled: as in `LossCall`.
    """

    roots: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...] = ()
    inputs: tuple[Tensor, ...] | None = None
    is_grad: bool = False
    retain_graph: bool = False
    create_graph: bool = False
    site: CallSite | None = None
    number: int = 1
    sampled: bool = True

    @property
    def edges(self) -> list[Edge]:
        """The graph's ends at the roots."""
        return [Edge(root.grad_fn, root.output_nr) for root in self.roots if root.grad_fn is not None]

    @cached_property
    def nodes(self) -> list[Edge]:
        """Every node behind the roots; expensive: only where `sampled`."""
        return list(nodes_behind(*self.edges))

    @cached_property
    def parameters(self) -> list[Tensor]:
        """The leaves that get a gradient; expensive: only where `sampled`."""
        leaves = [root for root in self.roots if root.grad_fn is None and root.requires_grad]
        return leaves + parameters_behind(*self.edges)

    @cached_property
    def loss_calls(self) -> list[LossCall]:
        """The losses found in the graph, those that were seen when called included; only where `sampled`."""
        from xent.inspection.examination._from_graph import losses_behind

        return [call for root in self.roots if root.grad_fn is not None for call in losses_behind(root, self)]


@dataclass(eq=False, kw_only=True)
class OptimizerStep:
    """One `optimizer.step()`, before it runs and after."""

    optimizer: Optimizer
    number: int = 1
    site: CallSite | None = None
    sampled: bool = True

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimizer holds, in the order of its groups."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


@dataclass(eq=False, kw_only=True)
class GradientEvent:
    """Gradients were cleared, clipped or unscaled.

    Attributes:
        kind: "zero_grad" (of an optimizer or a module), "clip" (clip_grad_norm_, clip_grad_value_), "unscale", or
            "scaler_step" (GradScaler.step, before the optimizer's own step, if it makes one).
        optimizer: where it was given one.
        parameters: where it was given them; empty else.
        scaler: the GradScaler of "unscale" and "scaler_step".
        site: the user's line.
    """

    kind: Literal["zero_grad", "clip", "unscale", "scaler_step"]
    optimizer: Optimizer | None = None
    parameters: tuple[Tensor, ...] = ()
    scaler: Any = None
    site: CallSite | None = None


Event = LossCall | Reduction | Write | BackwardCall | OptimizerStep | GradientEvent
