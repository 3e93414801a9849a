"""What torch raises for a target, said again with the cause and a fix that works."""

from __future__ import annotations

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn.functional as F
input, target = {}, {}
F.{}(input, target)
"""
RULE = "target-dtype-or-shape"
CE, NLL, BCE = "cross_entropy", "nll_loss", "binary_cross_entropy"
INDICES = "torch.tensor([0, 2, 1, 1])"
# input, target, loss, what the fix says; where it names an expression, that is run
REFUSED = {
    "float": ("torch.randn(4, 3)", f"{INDICES}.float()", CE, "pass target.long()"),
    "int32": ("torch.randn(4, 3)", f"{INDICES}.int()", CE, "pass target.long()"),
    "bool": ("torch.randn(4, 3)", f"{INDICES} > 1", CE, "pass target.long()"),
    "float for nll": ("torch.randn(4, 3)", f"{INDICES}.float()", NLL, "pass target.long()"),
    "a column": ("torch.randn(4, 3)", f"{INDICES}[:, None]", CE, "pass target.squeeze(1)"),
    "a float column": ("torch.randn(4, 3)", f"{INDICES}[:, None].float()", CE, "pass target.squeeze(1).long()"),
    "one-hot": ("torch.randn(4, 3)", f"F.one_hot({INDICES})", CE, "pass target.argmax(1), or target.float()"),
    "one-hot for nll": ("torch.randn(4, 3)", f"F.one_hot({INDICES}).float()", NLL, "pass target.argmax(1)"),
    "a channel": ("torch.randn(2, 3, 4, 4)", "torch.zeros(2, 1, 4, 4).long()", CE, "pass target.squeeze(1)"),
    "flat targets": ("torch.randn(2, 5, 3)", "torch.zeros(10).long()", CE, "pass input.flatten(0, -2)"),
    "flat logits": ("torch.randn(10, 3)", "torch.zeros(2, 5).long()", CE, "pass target.flatten()"),
    "a list": ("torch.randn(4, 3)", "[0, 2, 1, 1]", CE, "pass torch.tensor(target)"),
    "a tuple": ("(torch.randn(4, 3), None)", INDICES, CE, "pass its logits: output[0]"),
    "swapped": (INDICES, "torch.randn(4, 3)", CE, "pass (input, target): logits first"),
    "integer logits": ("torch.ones(4, 3).long()", INDICES, CE, "pass input.float()"),
    "fractions": ("torch.randn(4, 3)", "torch.rand(4)", CE, "for real numbers use a regression loss"),
    "too few": ("torch.randn(4, 3)", "torch.zeros(3).long()", CE, "make both have as many rows"),
    "a binary column": ("torch.rand(4, 1)", "torch.zeros(4)", BCE, "pass input.squeeze(1)"),
    "a column of targets": ("torch.rand(4)", "torch.zeros(4, 1)", f"{BCE}_with_logits", "pass target.squeeze(1)"),
    "integer binary targets": ("torch.rand(4)", "torch.ones(4).long()", BCE, "pass target.float()"),
    "the same, with logits": ("torch.rand(4)", "torch.ones(4).long()", f"{BCE}_with_logits", "pass target.float()"),
    "doubles": ("torch.rand(4)", "torch.ones(4).double()", BCE, "pass target.to(input.dtype)"),
}
LET_PASS = {
    "indices": ("torch.randn(4, 3)", INDICES, CE),
    "bytes": ("torch.randn(4, 3)", f"{INDICES}.byte()", CE),
    "probabilities": ("torch.randn(4, 3)", "torch.rand(4, 3).softmax(1)", CE),
    "one row": ("torch.randn(3)", "torch.tensor(1)", CE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_torch_and_explained(name: str) -> None:
    """One finding, beside torch's message; after the fix, if it is an expression, nothing is left to say."""
    *arguments, fix = REFUSED[name]
    report = examined(HEAD.format(*arguments), mute=("logits-into-bce",))
    assert found(report) == [(RULE, 4)], str(report)
    assert report.findings[0].raised
    assert report.findings[0].fix.startswith(fix)
    expression = fix.removeprefix("pass ").split(",")[0]
    if expression.startswith(("target.", "torch.tensor")):
        assert not found(
            examined(HEAD.format(arguments[0], f"{arguments[1]}\ntarget = {expression}", arguments[2]), only=(RULE,))
        )
    elif expression.startswith("input."):
        given = f"{arguments[1]}\ninput = {expression}"
        assert not found(examined(HEAD.format(arguments[0], given, arguments[2]), only=(RULE,)))


@pytest.mark.parametrize("name", LET_PASS)
def test_not_found(name: str) -> None:
    report = examined(HEAD.format(*LET_PASS[name]), only=(RULE,))
    assert not report.findings
    assert report.checked == (RULE,)


def test_the_arguments_alone_are_judged_too() -> None:
    import torch

    import xent

    report = xent.check(torch.randn(4, 3), torch.zeros(4, 1).long())
    assert [finding.rule for finding in report.findings] == [RULE]
