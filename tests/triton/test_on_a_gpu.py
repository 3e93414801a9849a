"""What only a GPU can show: no wait, CUDA graphs, measured launches, inductor's graphs, targets marked by replays.

    pytest -m gpu tests/triton

Without a GPU these are skipped; test_no_wait.py, test_shapes_in_a_graph.py and test_targets_out_of_range.py test the
same promises as far as a CPU can.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import xent
from tests.triton.conftest import LAUNCHES, ON_GPU
from xent import target_checks
from xent.errors import TargetRangeError
from xent.ops.choice import choices

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device"),
    # torch, once for each process: of the mode that finds waits, of autograd's thread before its first product, and of
    # leaves that are used on another stream than at first, which a capture does and the tests compare to the bit.
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning"),
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream does not match:UserWarning"),
]
LOSSES = importlib.import_module("xent.functional")  # not moved from the CPU and back, as the fixtures move xent's own
N, C, D = 64, 1000, 32

Call = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits or hidden states, linear weight, target
CALLS: dict[str, Call] = {
    "cross_entropy": lambda x, w, y: LOSSES.cross_entropy(x, y),
    "terms": lambda x, w, y: LOSSES.cross_entropy(
        x, y, label_smoothing=0.1, z_loss=1e-3, softcap=20.0, row_weight=w[:N, 0]
    ),
    "statistics": lambda x, w, y: LOSSES.cross_entropy(x, y, stats=True)[1].entropy.sum(),
    "a normalizer of the CPU": lambda x, w, y: LOSSES.cross_entropy(x, y, normalizer=torch.tensor(7.0)),
    "linear": lambda x, w, y: LOSSES.linear_cross_entropy(x[:, :D], w, y),
    "linear, each row": lambda x, w, y: LOSSES.linear_cross_entropy(x[:, :D], w, y, reduction="none").sum(),
    "linear, no logits": lambda x, w, y: LOSSES.linear_cross_entropy(x[:, :D], w, y, max_memory=1),
    "log_softmax": lambda x, w, y: LOSSES.log_softmax(x, 1).square().mean(),
    "logsumexp": lambda x, w, y: LOSSES.logsumexp(x, 1).mean(),
    "binary": lambda x, w, y: LOSSES.binary_cross_entropy_with_logits(x, torch.ones_like(x)),
    "token_logprobs": lambda x, w, y: LOSSES.token_logprobs(x, y, top=2, entropy=True).top_logprobs.sum(),
}


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, weight = (torch.randn(size, device="cuda").to(dtype).requires_grad_() for size in ((N, C), (C, D)))
    return x, weight, torch.randint(C, (N,), device="cuda")


def step(loss: Call, given: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    with xent.backend("triton"):
        value = loss(given[0], given[1].detach(), given[2])
        return value, *torch.autograd.grad(value, given[0])


@pytest.fixture(params=[False, True], ids=["", "targets checked"])
def with_check(request):
    before = xent.check_targets(request.param)
    yield
    xent.check_targets(before)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_host_does_not_wait(name, dtype, with_check):
    given = problem(dtype)
    step(CALLS[name], given)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(CALLS[name], given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CALLS)
def test_a_cuda_graph_is_captured_and_replayed(name, with_check):
    """With other numbers in the same memory: equal, to the bit, to the call that no graph made."""
    given = problem()
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(2):
            step(CALLS[name], given)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = step(CALLS[name], given)
    with torch.no_grad():
        given[0].copy_(torch.randn(N, C, device="cuda"))
        given[2].copy_(torch.randint(C, (N,), device="cuda"))
    graph.replay()
    for replayed, eager in zip(made, step(CALLS[name], given), strict=True):
        assert torch.equal(replayed, eager)


def test_a_replay_marks_targets_out_of_range():
    given, before = problem(), xent.check_targets(True)
    try:
        step(CALLS["cross_entropy"], given)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss, _ = step(CALLS["cross_entropy"], given)
        given[2][3] = C
        graph.replay()
        with pytest.raises(TargetRangeError, match=f"1 of {N} targets .*first at row 3"):
            xent.check_targets()
        assert loss.isnan()
    finally:
        xent.check_targets(before)


def test_targets_out_of_range_are_raised_for_at_a_later_call():
    given, before = problem(), xent.check_targets(True)
    bad = (given[0], given[1], given[2].clone().index_fill_(0, torch.tensor([5], device="cuda"), -1))
    try:
        assert step(CALLS["cross_entropy"], bad)[0].isnan()  # which waits
        with pytest.raises(TargetRangeError, match="-1; the first at row 5"):
            step(CALLS["cross_entropy"], given)
        step(CALLS["cross_entropy"], given)
    finally:
        xent.check_targets(before)


def test_each_stream_tells_its_first_bad_call():
    """They run at the same time, and good calls of either write beside them."""
    given, before = problem(), xent.check_targets(True)
    bad = given[2].clone().index_fill_(0, torch.tensor([5], device="cuda"), C)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    try:
        for targets in (bad, *[given[2]] * 20):
            for stream in streams:
                with torch.cuda.stream(stream):
                    target_checks._marks_on(targets.device).mark(targets, C, -100)
        with pytest.raises(TargetRangeError, match=r"on cuda:0, .* on cuda:0, 1 of"):
            xent.check_targets()
    finally:
        xent.check_targets(before)


def test_asked_for_in_a_capture_it_does_not_wait():
    """What was marked before raises after it."""
    given, before = problem(), xent.check_targets(True)
    bad = given[2].clone().index_fill_(0, torch.tensor([5], device="cuda"), C)
    try:
        step(CALLS["cross_entropy"], given)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            target_checks._marks_on(bad.device).mark(bad, C, -100)
            assert xent.check_targets(True)
        xent.check_targets()
        graph.replay()
        with pytest.raises(TargetRangeError, match=f"1 of {N} targets .*first at row 5"):
            xent.check_targets()
    finally:
        xent.check_targets(before)


def test_a_launch_is_measured_kept_and_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("XENT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(LAUNCHES, "_choices", {})
    monkeypatch.setattr(LAUNCHES, "_file_is_read", False)
    x = torch.randn(256, 32000, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    y = torch.randint(32000, (256,), device="cuda")
    assert "to be measured" in choices(x, y).note
    LOSSES.cross_entropy(x, y).backward()
    kept = json.loads((tmp_path / "triton_launches.json").read_text())
    assert {key.split("/")[1] for key in kept} == {"cross_entropy", "cross_entropy_gradient"}
    assert "(measured; " in choices(x, y).note
    measured = LAUNCHES._choices.copy()
    LOSSES.cross_entropy(x, y)
    assert measured == LAUNCHES._choices


@pytest.mark.parametrize("name", [name for name in CALLS if name != "token_logprobs"])
def test_inductor_makes_one_graph(name):
    torch._dynamo.reset()
    given = problem()
    with xent.backend("triton"):
        compiled = torch.compile(CALLS[name], fullgraph=True)
        value = compiled(given[0], given[1].detach(), given[2])
        gradient = torch.autograd.grad(value, given[0])[0]
    for found, wanted in zip((value, gradient), step(CALLS[name], given), strict=True):
        torch.testing.assert_close(found, wanted)
