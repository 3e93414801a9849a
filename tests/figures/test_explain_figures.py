"""The numbers that the notebooks printed about a loss, a probability, bits or a step, each read from an explanation.

The recipes of test_seed_figures.py compute the same figures with the losses; here the graph behind torch's own loss is
read, and the figure is a field of what `xent.explain` gives.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import xent
from tests.figures.test_seed_figures import (
    ENTRIES,
    ONE_HOT,
    RECIPES,
    ROWS_294,
    drawn_in_notebook_003,
    step_undone,
    tensor,
    xor_loss,
    xor_parameters,
)

FIRST = torch.zeros(3, dtype=torch.int64)


def leaf(values) -> torch.Tensor:
    return tensor(values).requires_grad_()


def of_classes(logits, target, **options):
    """The explanation of torch's loss."""
    return xent.explain(F.cross_entropy(leaf(logits), torch.tensor(target), **options))


def of_entry(entry, logits: str, target: str, **options) -> float:
    explanation = of_classes(entry[logits], entry[target], **options)
    assert explanation.equality.holds
    return explanation.value


def classes(explanation, field: str) -> torch.Tensor:
    """p or ln p of every class of every row."""
    return tensor([row["classes"][field] for row in explanation.to_dict()["terms"][0]["rows"]])


def column(explanation, field: str) -> torch.Tensor:
    return tensor([row[field] for row in explanation.rows("first", 100)])


def softmax_of(logits) -> torch.Tensor:
    return classes(of_classes(logits, [0] * len(logits)), "p")


def sigmoid_of(logits) -> torch.Tensor:
    """p(1) of each logit."""
    x = leaf(logits)
    return column(xent.explain(F.binary_cross_entropy_with_logits(x, torch.zeros_like(x))), "p")


def bits_of(probabilities: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    """−t·log₂ p: what each element costs as a positive, where it is one."""
    p = probabilities.detach().requires_grad_()
    return column(xent.explain(F.binary_cross_entropy(p, torch.ones_like(p))), "bits") * one_hot.reshape(-1)


def surprisals(probabilities) -> torch.Tensor:
    p = leaf(probabilities)
    return column(xent.explain(F.binary_cross_entropy(p, torch.ones_like(p))), "nats")


def of_picked(values, reduction: str) -> float:
    picked = (-torch.tensor(values)[:, None]).requires_grad_()
    return xent.explain(F.nll_loss(picked, FIRST[: len(values)], reduction=reduction)).value


def third_of(total: float) -> float:
    return xent.explain(tensor([[-total]]), torch.tensor([0]), kind="nll_loss", normalizer=3).nats


def xor_logits(parameters) -> torch.Tensor:
    x, (w1, b1, w2, b2) = tensor([[0, 0], [0, 1], [1, 0], [1, 1]]), parameters
    return torch.sigmoid(x @ w1.T + b1) @ w2.T + b2


def both_forms(cells: int) -> torch.Tensor:
    logits, target = drawn_in_notebook_003(True, cells)
    x = logits.requires_grad_()
    by_hand = torch.zeros(len(target))
    for i in range(len(target)):  # as the cell does
        by_hand[i] = -x.log_softmax(-1)[i, target[i]]
    one = F.nll_loss(x.log_softmax(-1), target)
    explanations = [xent.explain(one), xent.explain(by_hand.mean())]
    assert all(explanation.equality.holds for explanation in explanations)
    return tensor([explanation.nats for explanation in explanations])


def every_form_is_explained_alike() -> bool:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1000, 10, generator=generator).requires_grad_()
    y, rows = torch.randint(10, (1000,), generator=generator), torch.arange(1000)
    forms = [
        -(z.exp() / z.exp().sum(-1, keepdim=True)).log()[rows, y].mean(),
        -(z - z.exp().sum(-1, keepdim=True).log())[rows, y].mean(),
        -(z - z.logsumexp(-1, keepdim=True))[rows, y].mean(),
        F.nll_loss(F.log_softmax(z, -1), y),
        F.cross_entropy(z, y),
    ]
    explanations = [xent.explain(form) for form in forms]
    headings = {str(explanation).splitlines()[0] for explanation in explanations}
    nats = tensor([explanation.nats for explanation in explanations])
    return headings == {"cross_entropy · mean over 1,000 rows · 10 classes · float32"} and bool(
        ((nats - nats[0]).abs() < 1e-6).all()
    )


def soft_bce(predictions, truth) -> float:
    return xent.explain(
        F.binary_cross_entropy_with_logits(tensor(predictions).logit().requires_grad_(), tensor(truth))
    ).value


EXPLAINED = {
    3: lambda i: of_entry(i, "output", "target"),
    4: lambda i: softmax_of(i["output"]),
    5: lambda i: of_classes(i["output"], [1]).nats,
    6: lambda i: surprisals(i["p"])[1],
    8: lambda i: of_entry(i, "output", "target"),
    9: lambda i: softmax_of(i["output"]),
    10: lambda i: -classes(of_classes(i["output"], [0, 0, 0]), "log_p"),
    11: lambda i: surprisals(i["softmax"]),
    12: lambda i: of_picked(i["picked"], "sum"),
    13: lambda i: third_of(float(np.float32(2.0743322))),
    15: lambda i: third_of(float(np.float32(2.0743322))),
    32: lambda i: of_classes(i["output"], i["target"]).gradient().of_rows(torch.tensor([0])),
    33: lambda i: sigmoid_of(i["last_layer"]),
    34: lambda i: of_entry(i, "predictions", "truth"),
    35: lambda i: xent.explain(F.cross_entropy(leaf(i["last_layer"]).sigmoid(), torch.tensor(i["truth"]))).value,
    38: lambda i: bits_of(tensor(i["predictions"]), tensor(i["one_hot"])),
    39: lambda i: bits_of(tensor(i["last_layer"]).sigmoid(), ONE_HOT),
    41: lambda i: sigmoid_of(i["last_layer"]),
    42: lambda i: xent.explain(F.binary_cross_entropy(leaf(i["predictions"]), tensor(i["truth"]))).value,
    43: lambda i: xent.explain(F.binary_cross_entropy_with_logits(leaf(i["last_layer"]), tensor(i["truth"]))).value,
    44: lambda i: soft_bce(i["predictions"], i["truth"]),
    46: lambda i: soft_bce(i["predictions"], i["truth"]),
    52: lambda i: sigmoid_of(xor_logits(step_undone(xor_parameters(ENTRIES[51]["inputs"]))).tolist()),
    54: lambda i: xent.explain(xor_loss(xor_parameters(i))).value,
    55: lambda i: of_entry(i, "predictions", "truth"),
    63: lambda i: classes(of_classes([i["logits"]], [0]), "log_p")[0][i["columns"]],
    64: lambda i: -of_classes([i["logits"]], [i["index"]]).nats,
    70: lambda i: (lambda row: row["logit"] + row["nats"])(of_classes([i["logits"]], [0]).rows()[0]),
    71: lambda i: of_picked([2.4006, 2.3486, 2.2264], "mean"),
    77: lambda i: every_form_is_explained_alike(),
    88: lambda i: both_forms(1),
    89: lambda i: both_forms(2),
    90: lambda i: of_entry(i, "inp", "label", reduction="sum"),
    93: lambda i: softmax_of([[1, 0, 0]])[0, :2],
    94: lambda i: xent.explain(F.binary_cross_entropy(leaf([0.5761, 0.5761]), tensor([1, 1]), reduction="sum")).nats,
    97: lambda i: of_entry(i, "inp", "label", reduction="sum"),
    101: lambda i: column(of_classes(i["inp"], i["label"], reduction="sum"), "nats"),
    102: lambda i: column(of_classes(ROWS_294["inp"], ROWS_294["label"], reduction="none"), "nats"),
    103: lambda i: of_entry(ROWS_294, "inp", "label", reduction="sum"),
    104: lambda i: f"tensor({of_entry(ROWS_294, 'inp', 'label', reduction='sum'):.4f})",
}
# No loss, probability, log-probability, bits or loss of a step:
NO_LOSS = {
    "gradients of parameters, and how many steps were made": (53, 57),
    "sums of what a softmax over time gives": (107,),
}
# In test_derived_figures.py: not printed, or printed without a seed, or a comparison of several losses.
PROPERTIES = {36, 40, 47, 61, 78, 79, 80, 83, 92, 95, 100, 105}


def test_every_covered_figure_is_explained_or_says_why_not():
    others = {index for indices in NO_LOSS.values() for index in indices}
    assert not set(EXPLAINED) & (others | PROPERTIES)
    assert set(EXPLAINED) | others | (PROPERTIES & set(RECIPES)) == set(RECIPES)


@pytest.mark.parametrize("index", EXPLAINED)
def test_figure(index):
    entry = ENTRIES[index]
    got = EXPLAINED[index](entry["inputs"])
    if isinstance(got, (bool, str)):
        assert got == entry["expected"], entry["what"]
        return
    expected, tolerance = np.array(entry["expected"], dtype=float), np.array(entry["tolerance"], dtype=float)
    difference = np.abs(torch.as_tensor(got, dtype=torch.float64).numpy().reshape(expected.shape) - expected)
    assert (difference <= tolerance).all(), f"{entry['what']}: {difference.max()} from the printed figure"
