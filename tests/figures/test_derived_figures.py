"""What follows from the notebooks' numbers though they don't print it, and what holds of figures that can't be had.

Entries of `seed_figures.json` beside those of test_explain_figures.py: derived values and traps, an order of losses,
a text of digits, and properties of losses whose notebook set no seed. All are read from explanations.
"""

from __future__ import annotations

import gzip
import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xent
from tests.figures.test_explain_figures import EXPLAINED, NO_LOSS, PROPERTIES, classes, column, leaf, of_classes
from tests.figures.test_seed_figures import ENTRIES, FIGURES, NOT_COVERED, RECIPES, ROWS_294, drawn_in_notebook_003
from xent.errors import NotExplained

HELD_IN_DOUBLE = 1e-12  # of values that JSON holds in full and float64 forms again, in another order
MNIST = FIGURES.parent / "data" / "mnist"


def on_elements(probabilities, target):
    """The rows of a binary loss that the notebook's torch took: targets outside [0, 1] are refused today."""
    x = torch.tensor(probabilities, dtype=torch.float64).logit().requires_grad_()
    loss = F.binary_cross_entropy_with_logits(x, torch.tensor(target, dtype=torch.float64), reduction="none")
    return xent.explain(loss)


def loss_after_the_check_in_place() -> float:
    scores = torch.tensor(ENTRIES[90]["inputs"]["inp"])
    for row in range(2):
        scores[row] = scores[row].softmax(0)
    return xent.explain(F.cross_entropy(scores.requires_grad_(), torch.tensor([0, 1]), reduction="sum")).value


def mean_of_in_205() -> tuple[float, float]:
    picked = [bits for bits in ENTRIES[40]["inputs"]["rows"] if bits]
    p = torch.tensor([2**-bits for bits in picked], dtype=torch.float64).requires_grad_()
    explanation = xent.explain(F.binary_cross_entropy(p, torch.ones_like(p)))
    return explanation.bits, explanation.nats


def test_36_the_loss_that_one_would_want():
    inputs = ENTRIES[36]["inputs"]
    value = of_classes(inputs["last_layer"], inputs["truth"]).value
    assert value == pytest.approx(ENTRIES[36]["got"], abs=HELD_IN_DOUBLE)


def test_40_the_same_rows_in_bits_and_nats():
    bits, nats = mean_of_in_205()
    assert bits == pytest.approx(ENTRIES[40]["got"]["mean_bits"], abs=1e-7)  # the notebook's p is float32
    assert nats == pytest.approx(ENTRIES[40]["got"]["mean_nats"], abs=1e-7)


def test_47_targets_outside_0_and_1_give_losses_below_zero():
    inputs, expected = ENTRIES[46]["inputs"], torch.tensor(ENTRIES[47]["got"], dtype=torch.float64).flatten()
    explanation = on_elements(inputs["predictions"], inputs["truth"])
    losses = column(explanation, "loss")
    assert torch.allclose(losses, expected, rtol=0, atol=HELD_IN_DOUBLE)
    assert losses.min() < -3.38


def test_61_the_floor_of_a_perfect_fit_through_a_sigmoid():
    explanation = of_classes([[1, 0], [0, 1], [0, 1], [1, 0]], [0, 1, 1, 0])
    assert explanation.value == pytest.approx(ENTRIES[61]["got"], abs=HELD_IN_DOUBLE)


def test_95_the_loss_after_the_check_wrote_into_its_input():
    expected = ENTRIES[95]["got"]["loss_after_one_run"]
    assert loss_after_the_check_in_place() == pytest.approx(expected, abs=3e-7)  # float32, as in the cell: 2 ulp


def test_78_the_naive_forms_break_where_the_loss_does_not():
    """Logits 1000, 0, −1000: the last class costs 2000. The difference is read and told apart; ∞/∞ has no rows."""
    x, y = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True), torch.tensor([2])
    assert xent.explain(F.cross_entropy(x, y)).value == 2000.0
    quotient = -(x.exp() / x.exp().sum(1, keepdim=True)).log()[0, 2]
    difference = -(x - x.exp().sum(1, keepdim=True).log())[0, 2]
    with pytest.raises(NotExplained, match="a log-softmax by hand that overflowed"):
        xent.explain(quotient)
    explanation = xent.explain(difference)
    assert (explanation.nats, explanation.value) == (2000.0, math.inf)
    assert not explanation.equality.holds


def test_83_both_forms_have_the_same_log_probabilities():
    logits, target = drawn_in_notebook_003(False, 0)[0].requires_grad_(), torch.zeros(12, dtype=torch.int64)
    by_hand = classes(xent.explain(F.nll_loss(torch.log(F.softmax(logits, dim=-1)), target)), "log_p")
    in_one = classes(xent.explain(F.nll_loss(F.log_softmax(logits, dim=-1), target)), "log_p")
    assert f"Outputs are the same: {torch.allclose(by_hand, in_one)}" == ENTRIES[83]["expected"]


def test_92_the_printed_labels_are_the_least_of_the_nine():
    values = {
        pair: of_classes(ENTRIES[90]["inputs"]["inp"], list(pair), reduction="sum").value
        for pair in product(range(3), repeat=2)
    }
    assert min(values, key=values.get) == (0, 1)
    assert sorted(values.values())[1] > values[0, 1]


def test_100_the_digits_of_the_loop_as_its_cell_writes_it():
    """Bit for bit on the notebook's machine; another CPU's exp and log may be an ulp off: 2 of a float32 are left."""
    inp, label = leaf(ROWS_294["inp"]).detach().float().requires_grad_(), ROWS_294["label"]
    values = []
    for b, t in product(range(2), range(4)):
        p = torch.exp(inp[b, :, t]) / torch.sum(torch.exp(inp[b, :, t]))
        one_hot = torch.eye(3)[label[b][t]]
        explanation = xent.explain(-(torch.log(p) * one_hot).sum())
        assert explanation.equality.holds
        values.append(explanation.value)
    expected = [float(text) for text in ENTRIES[100]["expected"]]
    assert values == pytest.approx(expected, abs=2 * float(np.spacing(np.float32(1.5514448))))


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    if not MNIST.exists():
        pytest.skip(f"{MNIST} is not here: it lies beside the repository, not in it")
    images = np.frombuffer(gzip.decompress((MNIST / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((MNIST / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 784) / 255
    return (pixels - pixels.mean()) / pixels.std(), torch.tensor(labels, dtype=torch.int64)


def network_of_002(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))


@pytest.mark.parametrize("seed", range(5))
def test_79_an_untrained_network_costs_about_ln_10(digits, seed):
    """The property in the entry is ±0.05 over all rows of another split; ±0.15 leaves room for 64 rows."""
    x, y = (part[:64] for part in digits)
    explanation = xent.explain(F.cross_entropy(network_of_002(seed)(x), y))
    assert explanation.equality.holds
    assert explanation.value == pytest.approx(math.log(10), abs=0.15)
    assert explanation.landmarks.uniform == pytest.approx(math.log(10))


def test_80_one_epoch_takes_the_loss_of_the_last_16_rows_well_below_1(digits):
    """10,000 rows in batches of 64 end in 16 rows, as the notebook's 50,000 do."""
    (x, y), model = digits, network_of_002(0)
    for rows in torch.arange(len(x)).split(64):
        loss = F.cross_entropy(model(x[rows]), y[rows])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(0.5 * gradient)
    explanation = xent.explain(F.cross_entropy(model(x[rows]), y[rows]))
    right = [row["right"] for row in explanation.rows("first", 16)]
    assert len(right) == 16
    assert explanation.value < 1
    assert sum(right) / 16 >= 0.8


def test_105_a_softmax_over_time_keeps_the_loss_within_its_bounds():
    """Hard bounds of a loss on numbers in (0, 1) with 4 classes, and the printed 1.4105 lies among 200 draws."""
    low, high = ENTRIES[105]["property"]["hard_bounds"]
    generator, values = torch.Generator().manual_seed(0), []
    for _ in range(200):
        x = torch.randn(2, 4, 5, generator=generator).requires_grad_()
        label = torch.randint(0, 4, (2, 5), generator=generator)
        values.append(xent.explain(F.cross_entropy(x.softmax(2), label)).value)
    assert low <= min(values) < ENTRIES[105]["expected"] < max(values) <= high


def test_every_entry_is_read_from_an_explanation_or_says_why_not():
    """All 108: a figure, a property or value here, or a reason."""
    here = {int(name.split("_")[1]) for name in globals() if name.startswith("test_") and name.split("_")[1].isdigit()}
    assert here == PROPERTIES
    unexplained = set(RECIPES) - set(EXPLAINED) - here
    assert unexplained == {index for indices in NO_LOSS.values() for index in indices}
    assert set(EXPLAINED) | here | unexplained | set(NOT_COVERED) == set(range(len(ENTRIES)))
    assert all(index in NOT_COVERED or ENTRIES[index]["reproduces"] for index in range(len(ENTRIES)))
