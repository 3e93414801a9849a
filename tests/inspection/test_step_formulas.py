"""The recomputed step is torch's, for every optimizer, option, implementation and dtype, over steps that carry state.

How far may it be off? The step is made again by the same operations in the same order, so mostly by nothing; the budget
is 4 units in the last place (ulp) *of the parameter after the step, in its own dtype*: that number is what the ledger
explains, and in that dtype it is stored. A `fused` kernel contracts a·b + c as its compiler likes. There θ and the move
are each right to a rounding or two, and where they cancel that is many ulp of what is left: its unit is the spacing at
the largest of θ before, θ after and the move between them, which no addition can be finer than.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import xent
from xent.inspection._optimizer_formulas import FORMULAS
from xent.inspection._parameter_account import ParameterAccount
from xent.inspection._step_equality import ULPS_OF_EQUALS, step_equality
from xent.inspection._tensor_copies import spacing

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
DRAWS, STEPS = 24, 6

CHOICES: dict[str, dict[str, list[Any]]] = {
    "SGD": {"momentum": [0, 0.5, 0.9], "dampening": [0, 0.3], "nesterov": [False, True]},
    "Adam": {"betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)], "eps": [1e-8, 1e-3], "amsgrad": [False, True],
             "decoupled_weight_decay": [False, True]},
    "AdamW": {"betas": [(0.9, 0.999), (0.6, 0.95)], "eps": [1e-8, 1e-3], "amsgrad": [False, True]},
    "RMSprop": {"alpha": [0.99, 0.5], "eps": [1e-8, 1e-3], "momentum": [0, 0.9], "centered": [False, True]},
    "Adagrad": {"lr_decay": [0, 0.1], "eps": [1e-10, 1e-3], "initial_accumulator_value": [0, 0.3]},
    "NAdam": {"betas": [(0.9, 0.999), (0.5, 0.9)], "eps": [1e-8, 1e-3], "momentum_decay": [4e-3, 0.1],
              "decoupled_weight_decay": [False, True]},
    "RAdam": {"betas": [(0.9, 0.999), (0.5, 0.9)], "eps": [1e-8, 1e-3], "decoupled_weight_decay": [False, True]},
    "Adamax": {"betas": [(0.9, 0.999), (0.5, 0.9)], "eps": [1e-8, 1e-3]},
}  # fmt: skip


def drawn_options(name: str, draw: random.Random) -> dict[str, Any]:
    options = {key: draw.choice(values) for key, values in CHOICES[name].items()}
    options |= {"lr": draw.choice([1e-3, 0.05, 0.7]), "weight_decay": draw.choice([0, 0, 0.01, 0.3])}
    options |= {"maximize": draw.random() < 0.3}
    if options.get("nesterov") and (not options["momentum"] or options["dampening"]):
        options["nesterov"] = False
    if draw.random() < 0.15:
        options["lr"] = torch.tensor(options["lr"])
    return options


def drawn_parameters(dtype: torch.dtype, generator: torch.Generator) -> dict[str, torch.nn.Parameter]:
    """Sizes on both sides of a vector register, a scalar, one that is not contiguous, one that is empty."""
    wide = torch.randn(67, 5, generator=generator).to(dtype)
    tensors = {
        "wide": wide,
        "turned": torch.randn(6, 11, generator=generator).to(dtype).t(),
        "small": 0.01 * torch.randn(3, generator=generator).to(dtype),
        "scalar": torch.tensor(0.5, dtype=dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
    }
    return {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}


def drawn_gradient(parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """From far below ε to far above θ, with zeros among them; laid out in memory as the parameter is, which is what
    backward does and what torch's fused kernels count on."""
    size = 10.0 ** torch.randint(-10, 2, parameter.shape, generator=generator)
    gradient = torch.randn(parameter.shape, generator=generator) * size
    gradient[torch.rand(parameter.shape, generator=generator) < 0.1] = 0
    return torch.empty_like(parameter).copy_(gradient).detach()


def accounts_of_steps(
    parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> Iterator[ParameterAccount]:
    """Every parameter in every step that is taken, each with gradients drawn anew."""
    for _ in range(STEPS):
        for parameter in parameters.values():
            parameter.grad = drawn_gradient(parameter, generator)
        with xent.step(parameters, optimizer) as ledger:
            optimizer.step()
        yield from ledger.accounts


def strict_ulps(derived: torch.Tensor, after: torch.Tensor) -> float:
    if not after.numel():
        return 0.0
    return float(((derived.double() - after.double()).abs() / spacing(after, after.dtype)).max())


@pytest.mark.parametrize("route", ["single", "foreach", "fused"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", CHOICES)
def test_the_recomputed_step_is_torchs(name, dtype, route):
    if route == "fused" and name not in FUSED:
        pytest.skip(f"torch has no fused {name} on the CPU")
    if (name, route, dtype) == ("SGD", "fused", torch.bfloat16):
        pytest.skip("torch's own fused SGD leaves most halves where they are; see the test below")
    draw, generator = random.Random(f"{name}{dtype}{route}"), torch.Generator().manual_seed(7)
    worst = 0.0
    for _ in range(DRAWS):
        options = drawn_options(name, draw)
        if route == "foreach" and isinstance(options["lr"], torch.Tensor):
            options["lr"] = float(options["lr"])  # refused by torch
        if route != "single":
            options[route] = True
        parameters = drawn_parameters(dtype, generator)
        optimizer = getattr(torch.optim, name)(parameters.items(), **options)
        for account in accounts_of_steps(parameters, optimizer, generator):
            made, equality = account.recomputed(), account.equality
            assert account.record.route == route
            assert equality is not None
            assert equality.holds, f"{account.name} {options}: {equality}"
            assert torch.equal(account.after, parameters[account.name].detach())
            worst = max(worst, equality.ulps)
            if route != "fused":
                assert strict_ulps(made.after, account.after) <= ULPS_OF_EQUALS, f"{account.name} {options}"
            parts_add_up(account, made)
    assert worst <= ULPS_OF_EQUALS


def parts_add_up(account, made):
    """The causes, in float64, sum to the update, to within the roundings of the formula in its own dtype.

    θ is rounded up to four times by half a spacing (1 − lr·λ, its product with θ, one or two sums); the moments that
    the update is made of carry 16 roundings, relative to the causes before they cancel.
    """
    parts = made.parts()
    update = account.after.double() - account.before.double()
    unit = max(torch.finfo(account.record.dtype).eps, torch.finfo(torch.float32).eps if float_lr(account) else 0.0)
    size = sum(part.abs() for part in parts.values())
    theta = torch.maximum(account.before.abs(), account.after.abs()).double()
    assert bool(((sum(parts.values()) - update).abs() <= unit * (2 * theta + 16 * size) + 1e-37).all())


def float_lr(account) -> bool:
    """A tensor lr is float32, and torch computes with it rounded to that."""
    return isinstance(account.record.options["lr"], torch.Tensor)


def test_every_formula_is_fuzzed():
    assert {cls.__name__ for cls in FORMULAS} == set(CHOICES)


def test_fused_sgd_of_torch_leaves_halves_where_they_are():
    """torch 2.13 on the CPU: `_fused_sgd_` writes only the last entries of a bfloat16 parameter; the ledger says so."""
    parameter = torch.nn.Parameter(torch.linspace(-2, 2, 64).bfloat16())
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.SGD([parameter], lr=0.5, fused=True)
    with xent.step(optimizer) as ledger:
        optimizer.step()
    moved = bool((ledger.accounts[0].update == -0.5).all())
    assert ledger.equality.holds == moved
    assert ("NOT EQUAL" in str(ledger)) == (not moved)


def test_fused_optimizers_of_torch_mix_up_layouts():
    """torch 2.13 on the CPU: a gradient that is laid out otherwise than its parameter is read in the wrong order."""
    parameter = torch.nn.Parameter(torch.zeros(6, 11).t())
    parameter.grad = torch.arange(66.0).reshape(11, 6)
    optimizer = torch.optim.SGD([parameter], lr=1.0, fused=True)
    with xent.step(optimizer) as ledger:
        optimizer.step()
    assert ledger.equality.holds == torch.equal(ledger.accounts[0].update, -parameter.grad)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax"])
def test_differentiable_steps(name):
    """With `differentiable=True` scalars are tensors of float32, and rounded as such."""
    parameter = torch.nn.Parameter(torch.randn(40, generator=torch.Generator().manual_seed(0)))
    inner = parameter.clone()
    optimizer = getattr(torch.optim, name)([inner], lr=0.05, differentiable=True)
    for step in range(4):
        inner.grad = drawn_gradient(inner, torch.Generator().manual_seed(step))
        with xent.step(optimizer) as ledger:
            optimizer.step()
        assert ledger.equality is not None
        assert ledger.equality.holds, str(ledger)
        inner.detach_()


CAPTURABLE = ("Adam", "AdamW", "RMSprop", "NAdam", "RAdam", "Adamax")


@pytest.mark.slow
@pytest.mark.parametrize("route", ["single", "foreach"])
@pytest.mark.parametrize("name", CAPTURABLE)
def test_capturable_steps_as_the_cpu_makes_them(monkeypatch, name, route):
    """torch refuses capturable=True on a CPU, though its operations are the same there; the refusal is taken out."""
    module = importlib.import_module(f"torch.optim.{name.lower()}")
    monkeypatch.setattr(importlib.import_module("torch.optim.adam"), "_get_capturable_supported_devices", _with_cpu)
    monkeypatch.setattr(module, "_get_capturable_supported_devices", _with_cpu, raising=False)
    draw, generator = random.Random(f"{name}{route}"), torch.Generator().manual_seed(3)
    for _ in range(DRAWS // 3):
        options = drawn_options(name, draw) | {"capturable": True, "foreach": route == "foreach"}
        parameters = drawn_parameters(torch.float32, generator)
        optimizer = getattr(torch.optim, name)(parameters.items(), **options)
        for account in accounts_of_steps(parameters, optimizer, generator):
            assert account.equality.holds, f"{account.name} {options}: {account.equality}"


def _with_cpu(*args: Any, **kwargs: Any) -> list[str]:
    return ["cpu", "cuda"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_groups_of_parameters_have_their_own_options(name):
    draw, generator = random.Random(name), torch.Generator().manual_seed(11)
    for _ in range(DRAWS // 3):
        parameters = drawn_parameters(torch.float32, generator)
        names = list(parameters)
        groups = [{"params": [(one, parameters[one]) for one in names[place::2]], **drawn_options(name, draw)}
                  for place in range(2)]  # fmt: skip
        optimizer = getattr(torch.optim, name)(groups)
        for account in accounts_of_steps(parameters, optimizer, generator):
            assert account.record.options["lr"] == groups[names.index(account.name) % 2]["lr"]
            assert account.equality.holds, f"{account.name} {account.record.options}: {account.equality}"
            assert strict_ulps(account.recomputed().after, account.after) <= ULPS_OF_EQUALS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="capturable optimizers run on CUDA only")
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", CAPTURABLE)
def test_capturable_steps(name, foreach):
    parameter = torch.nn.Parameter(torch.randn(4000, device="cuda"))
    optimizer = getattr(torch.optim, name)([parameter], lr=0.05, capturable=True, foreach=foreach)
    for step in range(8):
        parameter.grad = drawn_gradient(parameter.cpu(), torch.Generator().manual_seed(step)).cuda()
        with xent.step(optimizer) as ledger:
            optimizer.step()
        assert ledger.equality.holds, str(ledger)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("route", [{}, {"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", CHOICES)
def test_steps_on_a_gpu(name, dtype, route):
    if route.get("fused") and name not in FUSED[:3]:
        pytest.skip(f"torch has no fused {name} on CUDA")
    parameter = torch.nn.Parameter(torch.randn(4000).to("cuda", dtype))
    optimizer = getattr(torch.optim, name)([parameter], lr=0.05, weight_decay=0.1, **route)
    for step in range(8):
        parameter.grad = drawn_gradient(parameter.cpu(), torch.Generator().manual_seed(step)).cuda()
        with xent.step(optimizer) as ledger:
            optimizer.step()
        assert ledger.equality.holds, str(ledger)


def test_equality_tells_a_wrong_step():
    """A test that can't fail is a defect: five ulp are too many, NaN is no number, the same infinity is equal."""
    before, after = torch.ones(3), torch.tensor([1.0, 2.0, torch.inf])
    assert step_equality(before, after, after).holds
    assert not step_equality(before, after, torch.tensor([1.0, 2.0 + 5 * 2.0**-22, torch.inf])).holds
    assert step_equality(before, after, torch.tensor([1.0, 2.0 + 4 * 2.0**-22, torch.inf])).holds
    wrong = step_equality(before, after, torch.tensor([torch.nan, 2.0, torch.inf]))
    assert (wrong.apart, wrong.worst) == (1, (0,))
