"""Who pushes which logit how hard: ∂ value / ∂ logits = upstream · (a · p − t)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.inspection._shown_rows import Names, gradient_header
from xent.inspection._term import Term, exact_sum
from xent.report import Column, ResultTable

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, eq=False, repr=False)
class Gradient:
    """The gradient of a value with respect to the logits of one of its losses; tables are made when asked for.

    Attributes:
        term: the loss.
        names: names of classes and rows.
    """

    term: Term
    names: Names

    def of_rows(self, rows: Tensor) -> Tensor:
        """The gradient (m, C) of some rows, float64; of binary losses (m,), of their one logit."""
        gradient = self.term.gradient(rows)
        return gradient[:, 1] if self.term.is_binary else gradient

    @cached_property
    def _sums(self) -> dict[str, Tensor]:
        """One pass over the rows."""
        term = self.term
        signed = torch.zeros(term.num_classes, dtype=torch.float64)
        size, down = torch.zeros_like(signed), torch.zeros_like(signed)
        of_row, net = [], []
        for rows in term.blocks():
            gradient = term.gradient(rows)
            signed += gradient.sum(0)
            size += gradient.abs().sum(0)
            down += gradient.clamp(max=0).sum(0)
            of_row.append(gradient.abs().sum(1))
            net.append(gradient.sum(1).abs())
        empty = torch.zeros(0, dtype=torch.float64)
        return {"signed": signed, "size": size, "down": down, "row": torch.cat(of_row or [empty]),
                "net": torch.cat(net or [empty])}  # fmt: skip

    @property
    def total(self) -> float:
        """Σ |gradient| over all rows and classes."""
        return exact_sum(self._sums["size"])

    @property
    def largest_row_sum(self) -> float:
        """The largest |Σ_c gradient| of a row: 0 but for rounding, since p and y both sum to 1."""
        net = self._sums["net"]
        return float(net.max()) if len(net) else 0.0

    def by_class(self, n: int | None = None) -> ResultTable:
        """For each class: Σ gradient, how much pushes its logit up and how much down, and its share of all pushes."""
        sums, total = self._sums, self.total or 1.0
        order = torch.sort(sums["size"], descending=True, stable=True).indices[:n].tolist()
        records = [
            {
                "class": self.names.of_class(place),
                "sum": float(sums["signed"][place]),
                "up": -float(sums["down"][place]),
                "down": float(sums["size"][place] + sums["down"][place]),
                "share": float(sums["size"][place]) / total,
            }
            for place in order
        ]
        columns = (
            Column("class", "class", "name", 24), Column("sum", "Σ gradient"), Column("up", "pushes up"),
            Column("down", "pushes down"), Column("share", "share of all", "percent"),
        )  # fmt: skip
        return ResultTable(tuple(records), columns, f"gradient by class · {gradient_header(self.term)}")

    def by_row(self, n: int = 10) -> ResultTable:
        """The rows that push hardest: Σ_c |gradient|, and their share of all pushes."""
        sizes, total = self._sums["row"], self.total or 1.0
        order = torch.sort(sizes, descending=True, stable=True).indices[:n].tolist()
        records = [
            {
                "row": row,
                "position": self.term.position(row),
                "target": self._target(row),
                "size": float(sizes[row]),
                "share": float(sizes[row]) / total,
                "name": self.names.of_row(row),
            }
            for row in order
        ]
        columns = (
            Column("position", "row", "name"), Column("target", "target", "name", 18), Column("size", "Σ |gradient|"),
            Column("share", "share of all", "percent"),
        )  # fmt: skip
        return ResultTable(tuple(records), columns, f"gradient by row · {gradient_header(self.term)}")

    def by_token(self, n: int = 10) -> ResultTable:
        """The targets (tokens of a language model) whose rows push hardest, all their rows together."""
        term = self.term
        if term.target is None:
            return self.by_class(n)
        counted = term.counted
        size, count = torch.zeros(term.num_classes, dtype=torch.float64), torch.zeros(term.num_classes)
        size.index_add_(0, term.target[counted], self._sums["row"][counted])
        count.index_add_(0, term.target[counted], torch.ones(int(counted.sum())))
        order = torch.sort(size, descending=True, stable=True).indices[:n].tolist()
        records = [
            {"token": self.names.of_class(place), "rows": int(count[place]), "size": float(size[place]),
             "share": float(size[place]) / (self.total or 1.0)}
            for place in order if count[place]
        ]  # fmt: skip
        columns = (
            Column("token", "target", "name", 24), Column("rows", "rows", "integer"), Column("size", "Σ |gradient|"),
            Column("share", "share of all", "percent"),
        )  # fmt: skip
        return ResultTable(tuple(records), columns, f"gradient by target · {gradient_header(term)}")

    def _target(self, row: int) -> str:
        if not bool(self.term.counted[row]):
            return "ignored"
        return "·" if self.term.target is None else self.names.of_class(int(self.term.target[row]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "total": self.total, "largest_row_sum": self.largest_row_sum,
            "by_class": self.by_class(50).to_dict(), "by_row": self.by_row(50).to_dict(),
        }  # fmt: skip

    def _tables(self) -> tuple[ResultTable, ResultTable]:
        by_class, by_row = self.by_class(8), self.by_row(5)
        of_all = (f" Σ |gradient| {self.total:.4g}; each row sums to 0 within {self.largest_row_sum:.1e}",)
        if self.term.z_part is not None or self.term.is_binary:
            of_all = (f" Σ |gradient| {self.total:.4g}",)
        return by_class, ResultTable(by_row.records, by_row.columns, by_row.title, of_all)

    def __str__(self) -> str:
        return "\n".join(str(table) for table in self._tables())

    def __repr__(self) -> str:
        return f"<Gradient of {self.term.kind}: {self.term.num_rows:,} rows, {self.term.num_classes:,} classes>"

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        return Group(*self._tables())

    def _repr_html_(self) -> str:
        from xent.report._style import page

        return page("".join(table.html() for table in self._tables()))
