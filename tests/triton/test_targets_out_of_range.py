"""Class indices that are no class, as on a GPU: the row is NaN, nobody waits, and a later call says where it was."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import xent
from tests.triton.conftest import ON_GPU
from xent import target_checks
from xent.errors import OptionError, TargetRangeError

pytestmark = pytest.mark.skipif(ON_GPU, reason="test_on_a_gpu.py marks targets on a GPU")
BAD = torch.tensor([1, 5, 2, -1, -100, 2**40])
IS_BAD = [False, True, False, True, False, True]
GOOD = torch.tensor([1, 4, 2, 0, -100, 3])


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Tensors of the CPU that nobody may look at: what a column does with those of a GPU."""
    monkeypatch.setattr(target_checks, "readable_at_once", lambda tensor: False)
    monkeypatch.setattr(target_checks, "_marks", {})
    monkeypatch.setattr(target_checks.switch, "on", False)


@pytest.fixture
def checked(monkeypatch):
    monkeypatch.setattr(target_checks.switch, "on", True)


def logits():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()


def sparse(target):
    return xent.SparseTarget(torch.stack([torch.zeros_like(target), target], 1), torch.full((len(target), 2), 0.5))


LOSSES = {
    "cross_entropy": lambda x, y: xent.cross_entropy(x, y, reduction="none"),
    "terms": lambda x, y: xent.cross_entropy(
        x, y, torch.ones(5), label_smoothing=0.1, z_loss=0.1, row_weight=torch.ones(6), reduction="none"
    ),
    "linear": lambda x, y: xent.linear_cross_entropy(x, torch.eye(5), y, reduction="none"),
    "no logits": lambda x, y: xent.linear_cross_entropy(x, torch.eye(5), y, reduction="none", max_memory=1),
    "token_logprobs": lambda x, y: xent.token_logprobs(x, y, dim=-1),
    "token_logprobs, top": lambda x, y: xent.token_logprobs(x, y, top=2, entropy=True).logprob,
    "nll_loss": lambda x, y: xent.nll_loss(x, y, reduction="none"),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_the_row_is_nan_and_its_gradient_and_no_other(name, backend):
    """2⁴⁰ classes away there is no memory: a read there would end the process."""
    if (name, backend) == ("nll_loss", "triton"):
        pytest.skip("no such kernel")
    if (name, backend) == ("no logits", "reference"):
        pytest.skip("it holds the logits")
    x = logits()
    with xent.backend(backend):
        loss = LOSSES[name](x, BAD)
    assert loss.isnan().tolist() == IS_BAD
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.isnan().any(1).tolist() == IS_BAD
    assert gradient[4].eq(0).all()


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_row_of_entries_is_nan_where_one_is_out_of_range(backend):
    with xent.backend(backend):
        loss = xent.cross_entropy(logits(), sparse(BAD), reduction="none")
    assert loss.isnan().tolist() == IS_BAD


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_second_derivatives_touch_nothing_either(backend):
    x = logits()
    with xent.backend(backend):
        (gradient,) = torch.autograd.grad(xent.cross_entropy(x, BAD, reduction="sum"), x, create_graph=True)
        torch.autograd.grad(gradient[0].sum(), x)


@pytest.mark.parametrize("name", LOSSES)
def test_the_next_call_raises_and_names_the_line(name, checked):
    with xent.backend("reference" if name == "nll_loss" else "triton"):
        LOSSES[name](logits(), GOOD)
        LOSSES[name](logits(), BAD)
        with pytest.raises(TargetRangeError) as raised:
            LOSSES[name](logits(), GOOD)
        LOSSES[name](logits(), GOOD)  # once for each
    text = str(raised.value)
    assert "3 of 6 targets are out of bounds (-1 to 1099511627776; the first at row 1 in their order" in text
    assert "checked call 2 of 2" in text
    line = LOSSES[name].__code__.co_firstlineno
    assert any(f"{__file__}:{at});" in text for at in range(line, line + 3)), text  # the lambda is what calls xent


def test_a_sparse_target_counts_its_entries(checked):
    with xent.backend("triton"):
        xent.cross_entropy(logits(), sparse(BAD))
    with pytest.raises(TargetRangeError, match=r"3 of 12 targets .* at row 3 in their order"):
        xent.check_targets()


def test_asked_for_it_raises_at_once_and_once(checked):
    """check_targets waits; the first bad call is told, with the hint that it deserves."""
    with xent.backend("triton"):
        xent.cross_entropy(logits(), torch.arange(6).clamp(1, 5))
    with pytest.raises(TargetRangeError, match=r"1 of 6 .*\(5; .* classes count from 0: pass target - 1"):
        xent.check_targets()
    assert xent.check_targets(False)
    assert not xent.check_targets(False)


def test_the_lowest_class_is_one_that_counts(checked):
    with xent.backend("triton"):
        xent.cross_entropy(logits(), torch.tensor([1, 5, 2, 1, -100, 3]))
    with pytest.raises(TargetRangeError, match=r"pass torch.where\(target == -100, target, target - 1\)"):
        xent.check_targets()


def test_nothing_is_marked_while_it_is_off():
    with xent.backend("triton"):
        xent.cross_entropy(logits(), BAD)
    assert not target_checks._marks
    assert not xent.check_targets(False)


def test_turning_it_off_raises_for_what_was_marked(checked):
    with xent.backend("triton"):
        xent.cross_entropy(logits(), BAD)
    with pytest.raises(TargetRangeError):
        xent.check_targets(False)
    assert not target_checks.switch.on


@pytest.mark.parametrize("name", ["cross_entropy", "linear", "terms"])
@pytest.mark.slow
def test_a_graph_of_torch_compile_marks_and_raises(name, checked):
    """In the operations themselves: what a door only traces, it can't check."""
    torch._dynamo.reset()
    compiled = torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")
    with xent.backend("triton"):
        x = logits()
        assert compiled(x, GOOD).isfinite().all()
        assert compiled(x, BAD).isnan().tolist() == IS_BAD
        with pytest.raises(TargetRangeError, match="3 of 6 targets"):
            compiled(x, GOOD)


def test_the_kernels_alone_mark_a_call_twice_never(checked):
    with xent.backend("triton"):
        for _ in range(3):
            xent.cross_entropy(logits(), GOOD)
    (marks,) = target_checks._marks.values()
    assert (marks.calls, len(marks.sites)) == (3, 1)


def test_calls_in_inference_mode_share_the_marks(checked):
    with xent.backend("triton"):
        with torch.inference_mode():
            xent.cross_entropy(logits().detach(), GOOD)
        xent.cross_entropy(logits(), GOOD)
        with torch.inference_mode():
            xent.cross_entropy(logits().detach(), BAD)
    with pytest.raises(TargetRangeError):
        xent.check_targets()


class Captured:
    """A device whose stream is captured."""

    type = "cuda"

    def __str__(self):
        return "cuda:0"


def test_a_capture_before_any_checked_call_is_refused_in_words(monkeypatch):
    """Memory that a replay would not find must not be made then; nor may anybody wait or raise."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(OptionError, match="call the loss once before the capture"):
        target_checks._marks_on(Captured())
    marks = target_checks._Marks(torch.device("cpu"))
    marks.here[0, 0], marks.device = 1, Captured()
    marks.raise_if_known()


def test_asked_for_in_a_capture_it_waits_for_nobody_and_keeps_what_is_marked(monkeypatch, checked):
    """A wait would end the capture."""
    with xent.backend("triton"):
        xent.cross_entropy(logits(), BAD)
    (marks,) = target_checks._marks.values()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(marks, "_wait", lambda: pytest.fail("it waited"))
    assert xent.check_targets(False)
    assert not xent.check_targets(True)
    monkeypatch.undo()
    with pytest.raises(TargetRangeError, match="3 of 6 targets"):
        marks.raise_if_known()


def test_streams_write_into_rows_of_their_own(monkeypatch, checked):
    """Each bad call is told, in the order of the calls; a capture has a row of its own; none is missing after 100."""
    stream = iter([7, 8, target_checks._CAPTURED, *range(100, 200)])
    monkeypatch.setattr(target_checks, "_stream_of", lambda device: next(stream))
    marks = target_checks._marks_on(torch.device("cpu"))
    for target in (BAD, GOOD, torch.tensor([-5])):
        marks.mark(target, 5, -100)
    assert marks.rows == {target_checks._CAPTURED: 0, 7: 1, 8: 2}
    with pytest.raises(TargetRangeError) as raised:
        xent.check_targets()
    assert re.fullmatch(
        r"on cpu, 3 of 6 targets .*checked call 1 of 3, .*; on cpu, 1 of 1 targets .*checked call 3 of 3, .*; with C=5 "
        r"classes a target lies in \[0, 4\] or is ignore_index=-100: mend the labels",
        str(raised.value),
    )
    for _ in range(100):
        marks.mark(GOOD, 5, -100)
    marks.rows["the last"] = max(marks.rows.values())
    monkeypatch.setattr(target_checks, "_stream_of", lambda device: "the last")
    marks.mark(BAD, 5, -100)
    with pytest.raises(TargetRangeError, match="checked call 104 of 104"):
        marks.raise_if_known()


def test_all_devices_are_named(monkeypatch, checked):
    """Two of them, on the CPU; the second is reached although the first has found something."""
    both = [target_checks._Marks(torch.device("cpu", index)) for index in (0, 1)]
    monkeypatch.setattr(target_checks, "_marks", {marks.device: marks for marks in both})
    for marks, target in zip(both, (BAD, torch.tensor([5, 1])), strict=True):
        marks.mark(target, 5, -100)
    with pytest.raises(
        TargetRangeError, match=r"on cpu:0, 3 of 6 .*; on cpu:1, 1 of 2 .*mend the labels; classes count"
    ):
        xent.check_targets()
    assert xent.check_targets()


class Copies(TorchDispatchMode):
    """Whether each copy let the host go on."""

    def __init__(self):
        super().__init__()
        self.non_blocking = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.copy_.default:
            self.non_blocking.append(bool(args[2]) if len(args) > 2 else False)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_only_cuda_copies_without_a_wait(kind, monkeypatch):
    """Elsewhere the memory of the host is not pinned, and would be read half-written."""
    marks = target_checks._Marks(torch.device("cpu"))
    marks.device = SimpleNamespace(type=kind)
    monkeypatch.setattr(target_checks, "_stream_of", lambda device: 7)
    with Copies() as copies:
        marks.mark(GOOD, 5, -100)
    assert copies.non_blocking == [False, kind == "cuda"]
