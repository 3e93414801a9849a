"""What is wrong with an explained loss: the checks line of its receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from xent.inspection._explanation import Explanation
    from xent.inspection.examination._report import Report


def checks_of_graph(loss: Tensor, explanation: Explanation) -> Report:
    """The rules on every loss behind a tensor."""
    from xent.inspection.examination._check import report_on
    from xent.inspection.examination._from_graph import losses_behind

    return report_on(losses_behind(loss, terms=explanation.terms))


def checks_of_arguments(
    input: Tensor, target: Tensor, weight: Tensor | None, kind: str, terms: dict[str, Any]
) -> Report:
    """The rules on a loss of which the arguments are known."""
    from xent.inspection.examination._check import report_on
    from xent.inspection.examination._events import LossCall

    name = "linear_cross_entropy" if terms.get("linear_weight") is not None else kind
    given = {"input": input, "target": target, "weight": weight, **terms}
    return report_on([LossCall(name=name, origin="xent", arguments=given)])
