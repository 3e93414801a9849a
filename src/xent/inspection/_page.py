"""An explanation as a page: the receipt, and its rows to be moved. What is drawn is in `xent.report._page`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.errors import ShapeError
from xent.inspection import _page_rows as moving
from xent.inspection._landmarks import Landmarks
from xent.inspection._receipt import heading
from xent.inspection._shown_rows import Names
from xent.inspection._term import Term
from xent.inspection._tokens import contexts_of, text_of
from xent.report import ResultTable
from xent.report._page import Folded, write_page

if TYPE_CHECKING:
    from xent.inspection._explanation import Explanation

_ROWS, _TABLE = 50, 40  # rows and lines of a table that are listed
_CONTEXT = 120  # characters of a context that are shown
_WHOLE_TABLES = 1 << 24  # log-probabilities that are read for the tables of classes


@dataclass(frozen=True, eq=False)
class Beside:
    """What a page shows beside the rows of its first loss.

    Attributes:
        images: a square grey image for each row, values from 0 to 1, (n, side, side) or (n, side²).
        tokenizer: gives classes their texts, as in `Explanation.tokens`.
        input_ids: what a language model read: the context of each row.
    """

    images: Tensor | None = None
    tokenizer: Any = None
    input_ids: Any = None


def save_page(explanation: Explanation, path: Path, beside: Beside) -> None:
    """Write the page of an explanation."""
    explanation = _named(explanation, beside)
    terms = [_term(explanation, term) for term in explanation.terms]
    if beside.images is not None and terms:
        _add_images(terms[0], beside.images, explanation.term().num_rows)
    equality = explanation.equality
    several = len(explanation.terms) + len(explanation.rests) > 1
    data = {
        "value": equality.derived if equality.elements == 1 else sum(term["value"] for term in terms),
        "madeBy": equality.made_by,
        "perRow": equality.elements > 1,
        "several": several,
        "temperatures": list(moving.TEMPERATURES),
        "terms": terms,
    }
    title = " + ".join(heading(term, is_sum=explanation.is_sum) for term in explanation.terms) or "a loss"
    write_page(path, title, data, explanation.receipt, _folded(explanation))


def _named(explanation: Explanation, beside: Beside) -> Explanation:
    """The same with the texts of tokens for classes, and contexts for rows."""
    if (beside.tokenizer is None and beside.input_ids is None) or not explanation.terms:
        return explanation
    term = explanation.term()
    names = _TokenNames(explanation.names, term, beside)
    return replace(explanation, names=names)


class _TokenNames(Names):
    def __init__(self, names: Names, term: Term, beside: Beside) -> None:
        super().__init__(names.classes, names.rows)
        text = text_of(beside.tokenizer)
        self._text = None if beside.tokenizer is None else text
        self._context = None if beside.input_ids is None else contexts_of(term, beside.input_ids, text, _CONTEXT)
        self._count = term.num_rows

    def of_class(self, number: int) -> str:
        return super().of_class(number) if self._text is None else self._text(number)

    def of_row(self, number: int) -> str | None:
        if self._context is None or number >= self._count:
            return super().of_row(number)
        return self._context(number)


def _term(explanation: Explanation, term: Term) -> dict[str, Any]:
    names = Names(("0", "1"), explanation.names.rows) if term.is_binary else explanation.names
    options, landmarks = term.scores.options, explanation.landmarks_of(term)
    rows, orders = moving.rows_on_page(term)
    records = moving.page_rows(term, rows, names) if term.scores.normalised else []
    why = _why_fixed(explanation) or moving.why_fixed(term, records, explanation.equality.dtype)
    classes = sorted({number for record in records for number in record["classes"]})
    return {
        "heading": heading(term, is_sum=explanation.is_sum),
        "kind": term.kind,
        "value": term.value,
        "held": _held(explanation, term),
        "why": why,
        "plain": term.is_plain,
        "hard": term.target is not None,
        "binary": term.is_binary,
        "reduction": term.reduction,
        "scale": float(options.logit_scale),
        "softcap": options.softcap,
        "clamp": -100.0 if moving.clamped(term) else None,
        "numRows": term.num_rows,
        "numClasses": term.num_classes,
        "names": {number: names.of_class(number)[:80] for number in classes},
        "orders": orders,
        "rows": [] if why else records,
        "others": moving.other_rows(term, rows),
        "guessing": _guessing(term, landmarks),
        "factored": term.row_weight is not None,
    }


def _guessing(term: Term, landmarks: Landmarks | None) -> float | None:
    """Ln C where the height of a row may be read against it."""
    readable = landmarks is not None and term.z_part is None and term.num_classes > 1
    return math.log(term.num_classes) if readable else None


def _held(explanation: Explanation, term: Term) -> float:
    """What the other parts of the value add."""
    others = [explanation.value_of(other) for other in explanation.terms if other is not term]
    return sum(others) + sum(rest.value for rest in explanation.rests)


def _why_fixed(explanation: Explanation) -> str | None:
    if not explanation.equality.explained:
        return "its rows do not add up to the value of the tensor"
    if not explanation.is_sum or not explanation.is_linear:
        return "the value is a function of its rows that is no weighted sum of them"
    return None


def _folded(explanation: Explanation) -> list[Folded]:
    """The tables below the receipt."""
    folded: list[Folded] = []
    for place, term in enumerate(explanation.terms):
        of = f" of term {place + 1}" if len(explanation.terms) > 1 else ""
        order = "first" if term.num_rows <= _ROWS else "worst"
        folded.append(Folded(f"the rows{of}", explanation.rows(order, _ROWS, term=place)))
        if term.scores.normalised and not term.is_binary and term.num_rows * term.num_classes <= _WHOLE_TABLES:
            folded += [
                Folded(f"by class{of}", _first(explanation.by_class(term=place))),
                Folded(f"labels the model contradicts{of}", explanation.suspects(10, term=place)),
                Folded(f"gradient by class{of}", _first(explanation.gradient(term=place).by_class())),
            ]
        folded.append(Folded(f"the same by hand{of}, in plain PyTorch", explanation.code(term=place)))
    return folded


def _first(table: ResultTable) -> ResultTable:
    if len(table) <= _TABLE:
        return table
    below = (*table.below, f"   … {len(table) - _TABLE:,} more")
    return ResultTable(table.records[:_TABLE], table.columns, table.title, below)


def _add_images(term: dict[str, Any], images: Tensor, num_rows: int) -> None:
    pixels = torch.as_tensor(images).detach().cpu().reshape(len(images), -1)
    side = math.isqrt(pixels.shape[1])
    if len(images) != num_rows or side * side != pixels.shape[1]:
        raise ShapeError(
            f"images has shape {tuple(images.shape)} and the loss {num_rows} rows",
            "it is one square image for each row: (n, side, side) or (n, side²)",
            "pass the images of these rows",
        )
    for record in term["rows"]:
        grey = (pixels[record["row"]].double().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
        record["image"] = {"side": side, "hex": bytes(grey.tolist()).hex()}
