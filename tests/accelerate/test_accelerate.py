"""xent.accelerate: torch's own functions and modules run on xent, and come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import xent
from xent.functional import _accelerate

NAMES = (
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)
TORCHS = {name: getattr(F, name) for name in NAMES}
LOGITS, TARGET = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 4, -100])
BINARY = torch.rand(6, 5, generator=torch.Generator().manual_seed(1))


def is_torchs() -> bool:
    return all(getattr(F, name) is TORCHS[name] for name in NAMES)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of xent's functions that run inside, in order."""
    seen: list[str] = []
    for name in NAMES:
        original = getattr(_accelerate, name)

        def spy(*args: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            seen.append(name)
            return original(*args, **options)

        monkeypatch.setattr(_accelerate, name, spy)
    return seen


def test_functions_run_on_xent_inside_and_on_torch_outside(calls: list[str]) -> None:
    expected = F.cross_entropy(LOGITS, TARGET)
    with xent.accelerate():
        torch.testing.assert_close(F.cross_entropy(LOGITS, TARGET), expected)
        assert calls == ["cross_entropy"]
    assert is_torchs()
    F.cross_entropy(LOGITS, TARGET)
    assert calls == ["cross_entropy"]


@pytest.mark.parametrize(
    ("module", "input", "target", "name"),
    [
        (torch.nn.CrossEntropyLoss(label_smoothing=0.1), LOGITS, TARGET, "cross_entropy"),
        (torch.nn.NLLLoss(), LOGITS.log_softmax(1), TARGET, "nll_loss"),
        (torch.nn.BCELoss(), BINARY, BINARY.round(), "binary_cross_entropy"),
        (
            torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)),
            LOGITS,
            BINARY,
            "binary_cross_entropy_with_logits",
        ),
        (torch.nn.LinearCrossEntropyLoss(5, 5, bias=True), LOGITS, TARGET, "linear_cross_entropy"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_modules_run_on_xent_with_the_same_loss_and_gradient(
    module: torch.nn.Module, input: torch.Tensor, target: torch.Tensor, name: str, calls: list[str]
) -> None:
    leaves = [input.clone().requires_grad_() for _ in range(2)]
    plain = module(leaves[0], target)
    with xent.accelerate():
        fast = module(leaves[1], target)
    assert calls == [name]
    torch.testing.assert_close(fast, plain)
    (plain + fast).backward()
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad)


def test_keyword_and_deprecated_arguments_mean_what_they_mean_to_torch() -> None:
    with pytest.warns(UserWarning, match="deprecated"):
        expected = F.cross_entropy(LOGITS, TARGET, size_average=False)
    with xent.accelerate(), pytest.warns(UserWarning, match="deprecated"):
        torch.testing.assert_close(F.cross_entropy(LOGITS, TARGET, size_average=False), expected)
    with xent.accelerate():
        torch.testing.assert_close(F.cross_entropy(input=LOGITS, target=TARGET, reduction="sum"), expected)
        F.cross_entropy(LOGITS, TARGET, None, None, -100, None, "mean", 0.1)


FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MIXED = {
    "indices": lambda one, other: F.cross_entropy(LOGITS.to(one), TARGET),
    "probabilities": lambda one, other: F.cross_entropy(LOGITS.to(one), BINARY.to(other)),
    "smoothed probabilities": lambda one, other: F.cross_entropy(
        LOGITS.to(one), BINARY.to(other), label_smoothing=0.1, reduction="none"
    ),
    "weighted probabilities": lambda one, other: F.cross_entropy(LOGITS.to(one), BINARY.to(one), BINARY[0].to(other)),
    "linear, probabilities": lambda one, other: F.linear_cross_entropy(
        LOGITS.to(one), torch.eye(5, dtype=one), BINARY.to(other)
    ),
    "log-probabilities": lambda one, other: F.nll_loss(LOGITS.to(one), TARGET),
    "binary": lambda one, other: F.binary_cross_entropy(BINARY.to(one), BINARY.to(one)),
    "binary logits": lambda one, other: F.binary_cross_entropy_with_logits(LOGITS.to(one), BINARY.to(other)),
    "weighted binary logits": lambda one, other: F.binary_cross_entropy_with_logits(
        LOGITS.to(one), BINARY.to(one), BINARY.to(other), pos_weight=BINARY[0].to(other), reduction="none"
    ),
}


@pytest.mark.parametrize("other", FLOATING, ids=str)
@pytest.mark.parametrize("one", FLOATING, ids=str)
@pytest.mark.parametrize("call", MIXED)
def test_the_dtype_stays_torchs(call: str, one: torch.dtype, other: torch.dtype) -> None:
    expected = MIXED[call](one, other)
    with xent.accelerate():
        assert MIXED[call](one, other).dtype == expected.dtype


def test_under_autocast_losses_are_float32() -> None:
    with xent.accelerate(), torch.autocast("cpu", torch.bfloat16):
        assert F.cross_entropy(LOGITS.bfloat16(), TARGET).dtype == torch.float32


NUMPYS: Any = np.int64(-100)
REFUSED_BY_XENT_ALONE = {
    "one row, target (1,)": lambda: F.cross_entropy(LOGITS[0], TARGET[:1]),
    "numpy ignore_index": lambda: F.cross_entropy(LOGITS, TARGET, ignore_index=NUMPYS),
    "negative smoothing": lambda: F.cross_entropy(LOGITS, TARGET, label_smoothing=-0.1),
    "no classes, no rows": lambda: F.cross_entropy(torch.empty(0, 0), torch.empty(0, dtype=torch.int64)),
    "log-probabilities, target (1,)": lambda: F.nll_loss(LOGITS[0], TARGET[:1]),
}


@pytest.mark.parametrize("call", REFUSED_BY_XENT_ALONE)
def test_what_torch_takes_still_works(call: str) -> None:
    expected = REFUSED_BY_XENT_ALONE[call]()
    with xent.accelerate():
        torch.testing.assert_close(REFUSED_BY_XENT_ALONE[call](), expected, equal_nan=True)


def test_a_backend_asked_for_by_name_is_not_replaced_by_torch() -> None:
    with xent.accelerate(), xent.backend("native"), pytest.raises(xent.errors.BackendError):
        F.cross_entropy(LOGITS.to("meta"), TARGET.to("meta"))


def test_errors_are_xents_and_of_torchs_class() -> None:
    with pytest.raises(IndexError):
        F.cross_entropy(LOGITS, TARGET + 200)
    with xent.accelerate(), pytest.raises(IndexError, match="lies in \\[0, 4\\]"):
        F.cross_entropy(LOGITS, TARGET + 200)
    with xent.accelerate(), pytest.raises(xent.errors.ShapeError, match="need shape \\(6,\\)") as caught:
        F.cross_entropy(LOGITS, TARGET[:3])
    with pytest.raises(ValueError, match="batch_size"):
        F.cross_entropy(LOGITS, TARGET[:3])
    assert isinstance(caught.value, ValueError)


def test_tensor_subclasses_and_chunk_options_are_left_to_torch(calls: list[str]) -> None:
    class Traced(torch.Tensor):
        pass

    with xent.accelerate():
        F.cross_entropy(LOGITS.as_subclass(Traced), TARGET)
        F.linear_cross_entropy(LOGITS, torch.ones(5, 5), TARGET, options=torch.nn.LinearCrossEntropyOptions())
    assert calls == []


def test_a_default_device_does_not_switch_it_off(calls: list[str]) -> None:
    with xent.accelerate(), torch.device("cpu"):
        F.cross_entropy(LOGITS, TARGET)
    assert calls == ["cross_entropy"]


def test_handles_nest_and_end_in_any_order() -> None:
    first, second = xent.accelerate(), xent.accelerate()
    first.undo()
    assert not is_torchs()
    assert "active" in repr(second)
    first.undo()  # a second time does nothing
    assert not is_torchs()
    second.undo()
    assert is_torchs()
    with pytest.raises(ZeroDivisionError), xent.accelerate():
        raise ZeroDivisionError
    assert is_torchs()


def test_an_undone_handle_is_not_entered_again() -> None:
    handle = xent.accelerate()
    with handle:
        pass
    with pytest.raises(xent.errors.OptionError, match="a handle serves once"), handle:
        pass
    assert is_torchs()


def test_threads_may_come_and_go() -> None:
    expected = F.cross_entropy(LOGITS, TARGET)
    wrong: list[torch.Tensor] = []

    def work() -> None:
        for _ in range(50):
            with xent.accelerate():
                loss = F.cross_entropy(LOGITS, TARGET)
            if not torch.allclose(loss, expected):
                wrong.append(loss)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert is_torchs()


def test_somebody_elses_patch_is_left_alone() -> None:
    def theirs(*args: object) -> None: ...

    with xent.accelerate():
        F.nll_loss = theirs  # by hand: monkeypatch would bring back what stood there inside
    try:
        assert F.nll_loss is theirs
    finally:
        F.nll_loss = TORCHS["nll_loss"]
    assert is_torchs()


def test_a_replacement_that_somebody_kept_calls_torch(calls: list[str]) -> None:
    with xent.accelerate():
        kept = F.cross_entropy
    try:
        F.cross_entropy = kept  # as a patch does that was made inside and is undone now
        F.cross_entropy(LOGITS, TARGET)
        assert calls == []
        with xent.accelerate():
            F.cross_entropy(LOGITS, TARGET)
        assert calls == ["cross_entropy"]
        assert is_torchs()
    finally:
        F.cross_entropy = TORCHS["cross_entropy"]


def test_on_the_meta_device() -> None:
    logits, target = LOGITS.to("meta"), TARGET.to("meta")
    with xent.accelerate():
        losses = [F.cross_entropy(logits, target), F.nll_loss(logits, target), F.binary_cross_entropy(logits, logits)]
    assert all((loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta") for loss in losses)


def test_compiled_code_keeps_one_graph_and_runs_on_xent_inside_alone() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def is_torchs_graph(graph: torch.fx.GraphModule) -> bool:
        kernel = torch._C._nn.cross_entropy_loss  # pyright: ignore[reportAttributeAccessIssue]
        whole_or_traced = {TORCHS["cross_entropy"], kernel}  # as dynamo pleases
        return not whole_or_traced.isdisjoint(node.target for node in graph.graph.nodes)

    torch._dynamo.reset()
    module = torch.nn.CrossEntropyLoss(label_smoothing=0.1)  # xent has no call of torch's own kernel for it
    compiled = torch.compile(lambda x: module(x, TARGET), fullgraph=True, backend=compiler)
    plain = compiled(LOGITS)
    with xent.accelerate():
        torch.testing.assert_close(compiled(LOGITS), plain)
        with xent.accelerate():
            compiled(LOGITS)  # a nested handle compiles nothing anew
    compiled(LOGITS)
    assert [is_torchs_graph(graph) for graph in graphs] == [True, False]


def test_compiled_calls_that_xent_refuses_are_torchs() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: F.cross_entropy(x, TARGET, label_smoothing=-0.1), backend="eager")
    expected = F.cross_entropy(LOGITS, TARGET, label_smoothing=-0.1)
    with xent.accelerate():  # the refusal is raised and caught outside the graph: dynamo cannot trace its class
        torch.testing.assert_close(compiled(LOGITS), expected)
