"""`Explanation`: a loss value, every number behind it, and the proof that they are the value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from xent.errors import NotExplained, OptionError
from xent.inspection._equality import Equality
from xent.inspection._landmarks import Landmarks, landmarks_of
from xent.inspection._merge import Rest
from xent.inspection._page import Beside, save_page
from xent.inspection._receipt import heading, receipt_of
from xent.inspection._shown_rows import Names, chosen_rows, rows_table
from xent.inspection._term import Term
from xent.report import Receipt, ResultTable
from xent.report._files import write_whole

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from xent.inspection._gradient import Gradient
    from xent.inspection.examination._finding import Finding
    from xent.inspection.examination._report import Report


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What a loss value is made of; print it, or read its numbers.

    Attributes:
        terms: one for each loss inside the value, in canonical rows.
        rests: parts of the value that are no cross-entropy.
        equality: the tensor's value beside the one derived from the rows.
        shape: the shape of the loss; () for a scalar.
        is_sum: whether the value is the sum of its terms; if not, factors are derivatives at this point.
        is_linear: whether every row enters the value by a factor that stays as it is when the row moves.
        notes: what could not be read, and other facts.
        names: names of classes and rows, where they were given.
        checks: what the rules of `xent doctor` for single losses say of it.
    """

    terms: tuple[Term, ...]
    rests: tuple[Rest, ...]
    equality: Equality
    shape: tuple[int, ...] = ()
    is_sum: bool = True
    is_linear: bool = True
    notes: tuple[str, ...] = ()
    names: Names = field(default_factory=Names)
    checks: Report | None = None

    @property
    def value(self) -> float:
        """The loss, as the tensor has it."""
        return self.equality.value

    @property
    def nats(self) -> float:
        """The loss as derived, in nats."""
        return self.equality.derived

    @property
    def bits(self) -> float:
        """The same in bits."""
        return self._landmarks_of_first().bits

    @property
    def perplexity(self) -> float:
        """Exp of the mean loss of a row."""
        return self._landmarks_of_first().perplexity

    @property
    def landmarks(self) -> Landmarks | None:
        """What the (first) loss is read against."""
        return self.landmarks_of(self.term()) if self.terms else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Mistakes that can be proved or suspected from what is here."""
        return () if self.checks is None else self.checks.findings

    def term(self, number: int = 0) -> Term:
        """One of the losses inside the value, counted from 0.

        Raises:
            OptionError: there is none with this number.
        """
        if not 0 <= number < len(self.terms):
            raise OptionError(
                f"term={number}", f"this value has {len(self.terms)} losses in it", "pass a number from 0 on"
            )
        return self.terms[number]

    def value_of(self, term: Term) -> float:
        """What a term adds to the value."""
        return term.value

    def landmarks_of(self, term: Term) -> Landmarks | None:
        """Floor, label prior and guessing of a term; None where it has none."""
        if id(term) not in self._landmarks:
            self._landmarks[id(term)] = landmarks_of(term)
        return self._landmarks[id(term)]

    @cached_property
    def _landmarks(self) -> dict[int, Landmarks | None]:
        return {}

    def _landmarks_of_first(self) -> Landmarks:
        found = self.landmarks
        if found is None:
            raise NotExplained(
                "the loss has no landmarks",
                "bits and perplexity need log-probabilities and positive weights",
                "read .value",
            )
        return found

    def rows(self, order: str = "worst", n: int = 10, *, term: int = 0, seed: int = 0) -> ResultTable:
        """Rows of a loss: target, logit, p, −ln p, bits, loss, gradient, prediction.

        Args:
            order: "worst" (those that add most to the value first), "best", "first", or "random".
            n: how many.
            term: which of the losses inside the value.
            seed: of the random rows; torch's own random state is left alone.

        Raises:
            OptionError: another order, a number below 0, or no such term.
        """
        chosen = self.term(term)
        rows = chosen_rows(chosen, order, n, seed)
        which = order if order == "random" else f"the {order}"
        title = f"{which} {len(rows):,} of {chosen.num_rows:,} rows"
        table = rows_table(chosen, rows, self.names, title)
        return ResultTable(table.records, table.columns, title)

    def gradient(self, *, term: int = 0) -> Gradient:
        """Who pushes which logit how hard: ∂ value / ∂ logits, by row and by class."""
        from xent.inspection._gradient import Gradient

        if not self.term(term).scores.normalised:
            raise NotExplained(
                "the input of nll_loss is not log-probabilities", "p − y needs p", "pass log_softmax(logits)"
            )
        return Gradient(self.term(term), self.names)

    def tokens(
        self, tokenizer: Any = None, input_ids: Any = None, *, n: int | None = None, term: int = 0
    ) -> ResultTable:
        """The rows as a language model's tokens: context → target → p → nats → bits → perplexity so far → rank.

        Args:
            tokenizer: anything with `decode(ids)` or `id_to_token(id)`, or a list or dict of token texts; ids without.
            input_ids: what the model read, of the shape of the rows (or longer: then a context ends where the row's
                target begins), for the context column.
            n: rows to show; all when None.
            term: which of the losses inside the value.
        """
        from xent.inspection._tokens import token_ledger

        return token_ledger(self.term(term), tokenizer, input_ids, n)

    def by_class(self, *, term: int = 0) -> ResultTable:
        """For each class: rows, loss, accuracy, mean confidence, and how far confidence is from accuracy."""
        from xent.inspection._classes import by_class

        return by_class(self.term(term), self.names)

    def suspects(self, n: int = 10, *, term: int = 0) -> ResultTable:
        """Rows whose label the model contradicts most: little p on the label, much on another class."""
        from xent.inspection._classes import suspects

        return suspects(self.term(term), self.names, n)

    def code(self, *, term: int = 0) -> str:
        """A short cell of plain PyTorch that reproduces the loss by hand from `tensors()`."""
        from xent.inspection._code import code_of

        return code_of(self.term(term))

    def tensors(self, *, term: int = 0) -> dict[str, Tensor]:
        """The tensors that `code()` names, as the graph holds them: views, not copies."""
        from xent.inspection._code import tensors_of

        return tensors_of(self.term(term))

    def plot(self, *, term: int = 0) -> Any:
        """Where the loss comes from: the losses of the rows, largest first, as an Altair chart.

        Raises:
            DependencyError: altair is not installed.
        """
        from xent.inspection._plot import chart_of

        return chart_of(self, self.term(term))

    def to_frame(self, *, term: int = 0) -> Any:
        """All rows as a pandas data frame, in order.

        Raises:
            DependencyError: pandas is not installed.
        """
        return self.rows("first", self.term(term).num_rows, term=term).to_frame()

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain values, for JSON: what a page needs to be drawn."""
        from xent.inspection._dictionary import dictionary_of

        return dictionary_of(self)

    def save(
        self, path: str | Path, *, images: Tensor | None = None, tokenizer: Any = None, input_ids: Any = None
    ) -> Path:
        """Write the explanation to `path`, by its suffix: .html, a page with rows that can be moved, or .json.

        Args:
            path: where to; a file that is there is replaced once the new one is whole.
            images: for a page: a square grey image for each row of the first loss, values from 0 to 1,
                (n, side, side) or (n, side²).
            tokenizer: for a page: gives the classes of the first loss their texts, as in `tokens`.
            input_ids: for a page: what a language model read, as in `tokens`: the context of each row.

        Raises:
            OptionError: another suffix, or a folder that is not there.
            ShapeError: images or input_ids that do not fit the rows.
            DataError: the file can't be written.
        """
        target = Path(path)
        if target.suffix not in WRITERS:
            raise OptionError(
                f"{target.name} has the suffix {target.suffix!r}",
                f"an explanation is saved as {', '.join(sorted(WRITERS))}",
                f"pass such as {target.stem}.html",
            )
        WRITERS[target.suffix](self, target, Beside(images, tokenizer, input_ids))
        return target

    def show(self) -> None:
        """Print the receipt: with colours in a terminal, as HTML in a notebook."""
        from xent.report._show import show

        show(self)

    @cached_property
    def receipt(self) -> Receipt:
        """The blocks of the receipt."""
        return receipt_of(self)

    def __str__(self) -> str:
        return str(self.receipt)

    def __repr__(self) -> str:
        what = " + ".join(heading(term, is_sum=self.is_sum) for term in self.terms) or "no cross-entropy"
        return f"<Explanation: {what}: {self.value:.4g}, {self.equality}>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from xent.report._terminal import rich_receipt

        yield rich_receipt(self.receipt, min(options.max_width, 100))

    def _repr_html_(self) -> str:
        from xent.report._notebook import html_receipt

        return html_receipt(self.receipt, self.code() if len(self.terms) == 1 else "")


def _write_json(explanation: Explanation, path: Path, beside: Beside) -> None:
    del beside
    write_whole(path, json.dumps(explanation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


WRITERS = {".html": save_page, ".json": _write_json}
