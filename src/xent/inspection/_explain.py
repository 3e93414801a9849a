from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xent.errors import DtypeError, NotExplained
from xent.inspection._equality import Sums, compared, magnitude_of
from xent.inspection._explanation import Explanation
from xent.inspection._findings import checks_of_arguments, checks_of_graph
from xent.inspection._fold import Fold
from xent.inspection._given import KINDS, explained_arguments
from xent.inspection._groups import HowReduced
from xent.inspection._leaves import ClassSums, Leaf
from xent.inspection._linearity import is_linear
from xent.inspection._merge import merged
from xent.inspection._nodes import BY_ARGUMENTS, Unreadable, edge_of
from xent.inspection._shown_rows import Names, texts_of
from xent.inspection._term import Term

__all__ = ["KINDS", "explain"]


def explain(
    loss: Tensor,
    target: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    kind: str = "cross_entropy",
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    row_names: Sequence[str] | Mapping[int, str] | None = None,
    **terms: Any,
) -> Explanation:
    r"""Explain a loss value: every number between the logits and it, and whether they add up to it.

    ::

        explain(loss)                        the graph behind a loss, before backward()
        explain(input, target, **terms)      the tensors, when there is no graph

    With one argument, the autograd graph behind the tensor is read: `torch.nn.functional`'s and xent's losses on every
    backend, losses written by hand, sums and means of several. The rows found there are folded again in float64,
    and the result is compared with the tensor's value. With `target`, the loss is computed by xent.

    Args:
        loss: a scalar or per-row loss with its graph; or, with `target`, the first argument of the loss: logits
            (hidden states with `linear_weight`, log-probabilities or probabilities for another `kind`).
        target: class indices or probabilities, as in the loss.
        weight: class weights, as in the loss.
        kind: with `target`: "cross_entropy", "nll_loss", "binary_cross_entropy" or "binary_cross_entropy_with_logits".
        class_names: names to show for classes, in order, or by number.
        row_names: a text for each row, shown beside it, likewise.
        **terms: with `target`: the options of the loss (`xent.cross_entropy`, and `linear_weight`, `linear_bias`).

    Returns:
        An `Explanation`: print it for the receipt; `.rows()`, `.gradient()`, `.tokens()`, `.by_class()`, `.suspects()`,
        `.code()`, `.plot()`, `.to_frame()`, `.to_dict()`, `.save()`.

    Gradient:
        None: the graph, its gradients, the versions of its tensors and torch's random state are left as they are.

    Edge cases:
        What the graph does not keep (a constant that was added) shows as a difference that is not explained. An
        addend that is no cross-entropy is made again if its node allows it, else named. NaN and infinities are
        compared as they are. `loss[i] = …` in a loop is read for sums and means, which do not depend on the order.

    Cost:
        The logits are never copied. What torch saved for its backward is read: one number of each row for class
        indices, one pass for probabilities and label smoothing; xent's kernels read their logits once more.

    Raises:
        NotExplained: the tensor has no graph, the graph was freed by `backward()`, or leads to what is no loss.
        DtypeError: not a floating point tensor.
        What the losses raise, with `target`.

    Source:
        https://docs.pytorch.org/docs/stable/notes/autograd.html#saved-tensors

    Differs from torch, which has no such function.

    Example:
        >>> import torch, xent
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], requires_grad=True)
        >>> loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
        >>> xent.explain(loss)
        <Explanation: cross_entropy · mean over 2 rows · 3 classes: 0.8606, equal (0 ulp)>
    """
    names = Names(texts_of(class_names, "class_names"), texts_of(row_names, "row_names"))
    if target is not None:
        with torch.inference_mode(False), torch.no_grad():
            explanation = explained_arguments(loss, target, weight, kind, terms, names)
        return replace(explanation, checks=checks_of_arguments(loss, target, weight, kind, terms))
    _check_loss(loss, weight, terms)
    with torch.enable_grad():
        explanation = explained_graph(loss, names)
    return replace(explanation, checks=checks_of_graph(loss, explanation))


def _check_loss(loss: object, weight: Tensor | None, terms: dict[str, Any]) -> None:
    if not isinstance(loss, Tensor):
        raise DtypeError(f"loss is a {type(loss).__name__}", "it is a tensor with a graph", _instead_of(loss))
    if not loss.is_floating_point():
        raise DtypeError(f"loss has dtype {loss.dtype}", "a loss is floating point", BY_ARGUMENTS)
    if weight is not None or terms:
        given: list[str] = sorted({*terms, *(["weight"] if weight is not None else [])})
        raise NotExplained(
            f"{', '.join(given)} without a target",
            "a graph already holds the options of its loss",
            "leave them out, or pass xent.explain(input, target, …)",
        )
    if loss.grad_fn is None:
        why = "it is a leaf" if loss.requires_grad else "it was computed under no_grad, detached, or needs no gradient"
        raise NotExplained("loss has no graph", why, BY_ARGUMENTS)


def _instead_of(loss: object) -> str:
    inside = loss.get("loss") if isinstance(loss, Mapping) else getattr(loss, "loss", None)
    if isinstance(inside, Tensor):
        return 'pass its ["loss"]' if type(loss) is dict else "pass its .loss"
    if isinstance(loss, (list, tuple)):
        return "pass the loss alone"
    return "leave out .item(), or " + BY_ARGUMENTS


def explained_graph(loss: Tensor, names: Names) -> Explanation:
    fold = Fold(loss.dtype)
    explanation = _folded(loss, fold, names)
    if not explanation.equality.explained and fold.divergences:
        again = _folded(loss, Fold(loss.dtype, as_divergences=True), names)
        return again if again.equality.explained else explanation
    return explanation


def _folded(loss: Tensor, fold: Fold, names: Names) -> Explanation:
    try:
        derived = fold.whole(edge_of(loss))
    except Unreadable as reason:
        raise reason.in_words() from reason
    leaves = fold.leaves
    factors = _factors(derived, leaves)
    divisor = fold.divisors[0] if len(set(fold.divisors)) == 1 else None
    scalar = loss.ndim == 0 or (loss.numel() == 1 and any(leaf.values.numel() > 1 for leaf in leaves))
    terms, rests = merged(leaves, factors, HowReduced(_factors_dtype(loss, fold), scalar, divisor))
    if not terms:
        raise _no_cross_entropy(loss, 0.0 in fold.divisors)
    if not scalar:
        terms = [_of_values(term, loss.numel()) for term in terms]
    linear = sum(term.value for term in terms) + sum(rest.value for rest in rests)
    size = magnitude_of(leaves, factors)
    whole = float(derived.detach().sum())
    is_sum = not abs(linear - whole) > 8 * max(torch.finfo(loss.dtype).eps, 1e-9) * max(size.total, abs(whole))
    count = sum(leaf.values.numel() * (leaf.base.shape[leaf.class_dim] if isinstance(leaf, ClassSums) else 1)
                for leaf in leaves)  # fmt: skip
    if not scalar and all(leaf.values.numel() == loss.numel() for leaf in leaves):
        size, count = magnitude_of(leaves, factors, each=True), count // max(loss.numel(), 1)
    made_by = "xent" if any(term.written.startswith("xent.") for term in terms) else "torch"
    equality = compared(loss, derived.detach(), Sums(size, count, made_by, fold.additions, fold.coarsest))
    notes = _notes(fold, equality.explained, is_sum)
    shape = tuple(loss.shape)
    moves_alike = is_linear(derived) and not fold.held
    return Explanation(tuple(terms), tuple(rests), equality, shape, is_sum, moves_alike, notes, names)


def _no_cross_entropy(loss: Tensor, divided_by_0: bool) -> NotExplained:
    if divided_by_0:
        got = f"the loss is {float(loss.detach().reshape(-1)[0])}: a sum of rows divided by 0"
        return NotExplained(got, "a mean has rows that count", "divide by max(count, 1), or leave such a batch out")
    found = f"no cross-entropy was found behind {edge_of(loss).name}"
    if not bool(loss.isfinite().all()):
        overflowed = "a log-softmax by hand that overflowed is none any more (exp ends at 88.7 in float32)"
        return NotExplained(f"{found}, and the loss is not finite", overflowed, "write x.log_softmax(1)")
    return NotExplained(found, "a loss is made of log-probabilities of classes, picked or weighted", BY_ARGUMENTS)


def _factors_dtype(loss: Tensor, fold: Fold) -> torch.dtype:
    """The dtype to which factors were rounded: the loss's, but for one that a loss in float32 was only cast to."""
    return torch.float32 if loss.dtype == torch.float64 and fold.coarsest != torch.float64 else loss.dtype


def _of_values(term: Term, count: int) -> Term:
    """The term of a loss with several values: one for each row, or fewer, each of several rows."""
    return term if count == term.num_rows else replace(term, num_values=count)


def _factors(derived: Tensor, leaves: list[Leaf]) -> list[Tensor]:
    """The derivative of the fold with respect to every leaf."""
    if not leaves or not derived.requires_grad:
        return [torch.zeros_like(leaf.values) for leaf in leaves]
    found = torch.autograd.grad(derived.sum(), [leaf.values for leaf in leaves], allow_unused=True)
    return [torch.zeros_like(leaf.values) if factor is None else factor for leaf, factor in
            zip(leaves, found, strict=True)]  # fmt: skip


def _notes(fold: Fold, explained: bool, is_sum: bool) -> tuple[str, ...]:
    notes = [
        f"{reason.edge.name} was added and can't be made again"
        + (f" ({reason.reason})" if reason.reason else "")
        + ": the difference is its part"
        for reason in fold.unread
    ]
    if fold.added and not explained:
        notes.append(f"{fold.added[0].name} added something without a graph; no node keeps what it was")
    if fold.held:
        notes.append(
            "a factor of the rows could not be read and is held at its numbers: gradients are without its part"
        )
    if not is_sum:
        notes.append("the value is no sum of its rows: the factors are its derivative at this point")
    return tuple(notes)
