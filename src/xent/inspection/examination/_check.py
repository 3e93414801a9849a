"""`xent.check`: the rules on one value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xent.errors import DtypeError, NotExplained, OptionError
from xent.inspection.checks._registry import all_rules
from xent.inspection.examination import _sessions
from xent.inspection.examination._call_site import CallSite, site_of, user_frame
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._from_graph import losses_behind
from xent.inspection.examination._report import Report
from xent.inspection.examination._session import Session

_KINDS = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")


def check(loss: Tensor, target: Tensor | None = None, *, kind: str = "cross_entropy", **terms: Any) -> Report:
    """Name what is wrong with one loss, as far as one value shows it.

    ::

        check(loss)                     a loss with its graph, before backward()
        check(input, target, **terms)   the arguments of the loss

    The rules of `xent doctor` that judge a single call are applied. With the arguments more can be judged than with the
    graph, which may not keep the logits; with a graph behind the logits both are there.

    Args:
        loss: a loss with its graph; or, with `target`, the first argument of the loss.
        target: class indices or probabilities, as in the loss.
        kind: with `target`, the loss: "cross_entropy", "nll_loss", "binary_cross_entropy",
            "binary_cross_entropy_with_logits" or "kl_div".
        **terms: with `target`, the options of the loss by torch's names.

    Returns:
        A `Report`: print it; `.findings`, `.checked`, `.unchecked`, `.assert_clean()`, `.to_dict()`.

    Gradient:
        None: nothing is changed.

    Cost:
        A pass over at most 2²⁰ logits and all targets.

    Raises:
        NotExplained: no loss is found behind the tensor.
        DtypeError: not a floating point tensor.
        OptionError: an unknown kind.

    Source:
        The catalogue: `xent doctor --list`.

    Differs from torch, which has no such function.

    Example:
        >>> import torch, xent
        >>> probabilities = torch.zeros(2, 4, requires_grad=True).softmax(1)
        >>> report = xent.check(torch.nn.functional.cross_entropy(probabilities, torch.tensor([0, 3])))
        >>> [finding.rule for finding in report.findings]
        ['softmax-before-cross-entropy']
    """
    calls = _calls(loss, target, kind, terms)
    return report_on(calls, site_of(user_frame()))


def report_on(calls: list[LossCall], place: CallSite | None = None) -> Report:
    """The report on some calls; rules for other losses and for runs are left out."""
    names = {call.name for call in calls}
    rules = tuple(
        rule for rule in all_rules() if rule.at_loss_call and (not rule.functions or names & {*rule.functions})
    )
    session = Session(rules)
    with _sessions.quiet():
        for call in calls:
            call.site = place
            session.run.num_calls[call.name] += 1
            session.loss_called(call)
    return session.end()


def _calls(loss: Tensor, target: Tensor | None, kind: str, terms: dict[str, Any]) -> list[LossCall]:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        got = f"a {type(loss).__name__}" if not isinstance(loss, Tensor) else f"a tensor of dtype {loss.dtype}"
        raise DtypeError(
            got, "a loss is a floating point tensor", "leave out .item(), or pass xent.check(input, target)"
        )
    if target is not None:
        if kind not in _KINDS:
            raise OptionError(f"kind={kind!r}", f"it is one of {', '.join(_KINDS)}", "pass one of them")
        arguments = {"input": loss, "target": target, **terms}
        return [LossCall(name=kind, origin="torch", arguments=arguments, grad_enabled=torch.is_grad_enabled())]
    found = [] if loss.grad_fn is None else losses_behind(loss)
    if not found:
        raise NotExplained(
            "no loss was found behind the tensor" if loss.grad_fn is not None else "loss has no graph",
            "a loss is read from its graph, before backward()",
            "pass the tensors: xent.check(input, target, …)",
        )
    return found
