"""The losses as modules: the values of the functions, state, representation, checked options."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import xent
from tests.edge_cases import BACKENDS_HERE
from xent.errors import DtypeError, OptionError

N, D, C = 4, 5, 6
OPTIONS = {"label_smoothing": 0.1, "ignore_index": 2, "reduction": "sum", "z_loss": 0.01, "softcap": 9.0}
backends = pytest.mark.parametrize("backend", BACKENDS_HERE)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TARGET, WEIGHT = torch.tensor([0, 2, 5, 1]), torch.linspace(0.5, 2.0, C)
LOG_P, PROBABILITY = normal(N, C).log_softmax(1), normal(N, C).sigmoid()
BINARY = (normal(N, C, seed=1) > 0).float()
SAME = {
    # module, its arguments, the function's call
    "CrossEntropyLoss": (
        xent.nn.CrossEntropyLoss(WEIGHT, **OPTIONS),
        (normal(N, C), TARGET),
        lambda x, t: xent.cross_entropy(x, t, WEIGHT, **OPTIONS),
    ),
    "NLLLoss": (
        xent.nn.NLLLoss(WEIGHT, ignore_index=2, normalizer=3),
        (LOG_P, TARGET),
        lambda x, t: xent.nll_loss(x, t, WEIGHT, ignore_index=2, normalizer=3),
    ),
    "BCELoss": (
        xent.nn.BCELoss(WEIGHT, reduction="none"),
        (PROBABILITY, BINARY),
        lambda x, t: xent.binary_cross_entropy(x, t, WEIGHT, reduction="none"),
    ),
    "BCEWithLogitsLoss": (
        xent.nn.BCEWithLogitsLoss(WEIGHT, pos_weight=WEIGHT.flip(0), normalizer=2.0),
        (normal(N, C), BINARY),
        lambda x, t: xent.binary_cross_entropy_with_logits(x, t, WEIGHT, pos_weight=WEIGHT.flip(0), normalizer=2.0),
    ),
}


@backends
@pytest.mark.parametrize("name", SAME)
def test_values_are_those_of_the_function(backend, name):
    module, arguments, function = SAME[name]
    with xent.backend(backend):
        assert torch.equal(module(*arguments), function(*arguments))


@backends
def test_row_weight_belongs_to_a_batch(backend):
    weight = torch.tensor([1.0, 2.0, 0.0, 0.5])
    with xent.backend(backend):
        ours = xent.nn.CrossEntropyLoss()(normal(N, C), TARGET, row_weight=weight)
        assert torch.equal(ours, xent.cross_entropy(normal(N, C), TARGET, row_weight=weight))
        ours = xent.nn.NLLLoss()(LOG_P, TARGET, weight)
        assert torch.equal(ours, xent.nll_loss(LOG_P, TARGET, row_weight=weight))


@backends
@pytest.mark.parametrize("make", [
    lambda: (xent.nn.CrossEntropyLoss(stats=True), normal(N, C)),
    lambda: (xent.nn.LinearCrossEntropyLoss(D, C, stats=True), normal(N, D)),
])  # fmt: skip
def test_stats(backend, make):
    module, input = make()
    with xent.backend(backend):
        loss, rows = module(input, TARGET)
    assert isinstance(rows, xent.RowStats)
    torch.testing.assert_close(rows.loss.sum() / rows.weight.sum(), loss)


@pytest.mark.parametrize("name", list(SAME))
def test_state_is_torchs(name):
    """Class weights are buffers under torch's names: state dicts go both ways."""
    ours, theirs = SAME[name][0], getattr(nn, name)(WEIGHT)
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if k == "weight"})
    assert torch.equal(theirs.weight, WEIGHT)
    again = copy.deepcopy(ours)
    again.load_state_dict(ours.state_dict())
    assert set(ours.state_dict()) <= {"weight", "pos_weight"}
    assert list(ours.parameters()) == []
    assert ours.to(torch.float64).weight.dtype == torch.float64
    ours.to(torch.float32)
    assert xent.nn.CrossEntropyLoss().state_dict() == {}


@backends
def test_linear_loss_is_torchs_and_trades_its_state(backend):
    ours, theirs = xent.nn.LinearCrossEntropyLoss(D, C, bias=True), nn.LinearCrossEntropyLoss(D, C, bias=True)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    with xent.backend(backend):
        loss = ours(normal(N, D), TARGET)
    torch.testing.assert_close(loss, theirs(normal(N, D), TARGET))
    loss.backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
    assert len(list(ours.parameters())) == 2


@backends
def test_linear_loss_with_options(backend):
    module = xent.nn.LinearCrossEntropyLoss(
        D, C, out_features=(2,), bias=True, dtype=torch.float64, weight=WEIGHT.double(), label_smoothing=0.2
    )
    hidden, target = normal(N, D).double(), torch.randint(C, (N, 2), generator=torch.Generator().manual_seed(0))
    with xent.backend(backend):
        loss = module(hidden, target)
        direct = xent.linear_cross_entropy(
            hidden,
            module.linear.weight.view(C, 2, D),
            target,
            linear_bias=module.linear.bias.view(C, 2),
            weight=WEIGHT.double(),
            label_smoothing=0.2,
        )
    assert torch.equal(loss, direct)
    assert set(module.state_dict()) == {"linear.weight", "linear.bias", "weight"}


@backends
def test_tied_weight(backend):
    embedding = nn.Embedding(C, D)
    module = xent.nn.LinearCrossEntropyLoss(D, C, shift=1)
    module.linear.weight = embedding.weight
    tokens = torch.tensor([[0, 3, 5, 1]])
    with xent.backend(backend):
        module(embedding(tokens), tokens).backward()
    assert embedding.weight.grad.shape == (C, D)
    assert module.linear.weight.grad is embedding.weight.grad


def test_representation_shows_the_options():
    assert repr(xent.nn.CrossEntropyLoss()) == "CrossEntropyLoss()"
    shown = repr(xent.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum"))
    assert shown == "CrossEntropyLoss(label_smoothing=0.1, reduction='sum')"
    assert "normalizer=3" in repr(xent.nn.BCELoss(normalizer=3))
    assert "shift=1" in repr(xent.nn.LinearCrossEntropyLoss(D, C, shift=1))


MODULES = [
    xent.nn.CrossEntropyLoss,
    xent.nn.NLLLoss,
    xent.nn.BCELoss,
    xent.nn.BCEWithLogitsLoss,
    lambda **options: xent.nn.LinearCrossEntropyLoss(D, C, **options),
]


@pytest.mark.parametrize("make", MODULES)
def test_options_are_checked_when_made(make):
    with pytest.raises(TypeError, match=r"unexpected option 'lable_smoothing'; .* has "):
        make(lable_smoothing=0.1)
    with pytest.raises(TypeError, match="unexpected option 'row_weight'"):
        make(row_weight=torch.ones(1))
    with pytest.raises(OptionError, match="reduction='average'"):
        make(reduction="average")
    with pytest.raises(OptionError, match="normalizer=-1"):
        make(normalizer=-1)


def test_options_of_the_wrong_type_are_refused_when_made():
    with pytest.raises(DtypeError, match="ignore_index is a str"):
        xent.nn.CrossEntropyLoss(ignore_index="-100")
    with pytest.raises(TypeError, match="unexpected option 'softcap'; nll_loss has"):
        xent.nn.NLLLoss(softcap=1.0)
