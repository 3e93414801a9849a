"""The Triton column beside the others: who may choose it, what it refuses, graphs, targets out of range, launches."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

import xent
from tests.transforms.test_compile import LOSSES
from xent.backends import triton
from xent.backends.triton import row_layout
from xent.errors import BackendError
from xent.problem import Rows
from xent.terms import LossTerms

LAUNCHES = importlib.import_module("xent.backends.triton.launches")
LOGITS, TARGET = torch.zeros(3, 5), torch.tensor([0, 4, 2])
ON_GPU = torch.cuda.is_available()


@pytest.mark.skipif(ON_GPU, reason="the interpreter is for machines without a GPU")
def test_the_interpreter_runs_where_it_is_asked_for_by_name_and_nowhere_else():
    assert "asked for by name" in xent.choices(LOGITS, label_smoothing=0.1).rejected["triton"]
    with xent.backend("triton"):
        assert xent.choices(LOGITS, TARGET).chosen == "triton"
        torch.testing.assert_close(xent.cross_entropy(LOGITS, TARGET), torch.tensor(5.0).log())


@pytest.mark.skipif(ON_GPU, reason="the interpreter is for machines without a GPU")
def test_refusals_say_why(monkeypatch):
    with xent.backend("triton"):
        with pytest.raises(BackendError, match="no Triton kernel for nll_loss"):
            xent.nll_loss(LOGITS, TARGET)
        with pytest.raises(BackendError, match=r"torch\.func and vmap"):
            torch.func.grad(lambda x: xent.cross_entropy(x, TARGET))(LOGITS)
        monkeypatch.setattr(triton, "INTERPRETED", False)
        with pytest.raises(BackendError, match="run on a GPU, and input is on cpu"):
            xent.cross_entropy(LOGITS, TARGET)
        monkeypatch.setattr(triton, "INTERPRETED", True)
        monkeypatch.setattr(triton, "MISSING", "triton is not installed")
        with pytest.raises(BackendError, match="triton is not installed"):
            xent.cross_entropy(LOGITS, TARGET)


IN_A_GRAPH = [name for name in LOSSES if name not in ("nll_loss", "binary_cross_entropy", "token_logprobs-top")]


QUICK = ("cross_entropy-terms", "linear_cross_entropy")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in IN_A_GRAPH])
def test_one_graph_with_the_same_value_and_gradient(name, device):
    if ON_GPU:
        pytest.skip("its constants are on the CPU")
    torch._dynamo.reset()
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    logits = logits.bfloat16() if name.endswith("bf16") else logits
    eager, compiled = (logits.clone().requires_grad_() for _ in range(2))
    with xent.backend("triton"):
        losses = LOSSES[name](eager), torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")(compiled)
        for loss in losses:
            loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(compiled.grad, eager.grad)


def test_a_graph_holds_our_operations():
    """Not the reference formula: a graph that fell back would have the same numbers."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    seen: list[str] = []

    def noted(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph)

    torch._dynamo.reset()
    x = torch.randn(4, 5, requires_grad=True)
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    backend = aot_autograd(fw_compiler=noted, bw_compiler=noted)
    with xent.backend("triton"):
        torch.compile(lambda x: xent.cross_entropy(x, torch.tensor([0, 1, 2, 3])), fullgraph=True, backend=backend)(
            x
        ).backward()
        torch.compile(
            lambda h, w: xent.linear_cross_entropy(h, w, torch.tensor([0, 1, 2])), fullgraph=True, backend=backend
        )(hidden, weight).backward()
    for name in ("cross_entropy_rows", "cross_entropy_gradient", "linear_rows_and_gradients"):
        assert any(f"xent.{name}" in target for target in seen), (name, seen)


@pytest.mark.parametrize("target", [torch.tensor([1, 5, -1, -100]), torch.tensor([1, 2**40, -(2**40), -100])], ids=str)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "weight": torch.ones(5), "z_loss": 0.1}], ids=str)
def test_a_target_out_of_range_makes_its_row_nan_and_reads_nothing(target, options, device):
    """2⁴⁰ elements away there is no memory: a read there would end the process."""
    from xent.backends.triton import cross_entropy, cross_entropy_gradient

    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    problem = Rows(torch.randn(4, 5).to(device), target.to(device), LossTerms(**options))
    values = cross_entropy.forward(problem, True)
    upstream = cross_entropy_gradient.Upstream(torch.ones(4, device=device))
    gradient = cross_entropy_gradient.gradient(problem, values.saved, upstream)
    assert values.loss.isnan().tolist() == [False, True, True, False]
    assert gradient.isnan().all(1).tolist() == [False, True, True, False]
    assert gradient[[0, 3]].isfinite().all()
    entries = torch.stack([torch.zeros(4, dtype=torch.int64), target], 1).to(device)
    sparse = Rows(problem.logits, entries, LossTerms(**options), torch.full((4, 2), 0.5, device=device))
    assert cross_entropy.forward(sparse, False).loss.isnan().tolist() == [False, True, True, False]


def test_rows_of_a_view_lie_in_two_strides():
    """(N, C, d1, d2) and a shifted batch are not copied; every second row of every second image is."""
    image = torch.empty(4, 5, 6, 8).movedim(1, -1)
    (same,), layout = row_layout.in_two_strides((image,))
    assert same is image
    assert (layout.num_outer, layout.num_inner, layout.strides) == (4, 48, ((240, 1, 48),))
    gaps = torch.empty(4, 6, 8, 5)[::2, ::2, ::2]
    (copied,), layout = row_layout.in_two_strides((gaps,))
    assert copied is not gaps
    assert (layout.num_outer, layout.num_inner, layout.strides) == (1, 24, ((0, 5, 1),))


SIZES = [(kernel, classes, inner, strided) for kernel in ("cross_entropy",) for classes in (1, 5, 1000, 50257, 256000)
         for inner in (0, 1, 7, 100000) for strided in (False, True)]  # fmt: skip


def question(kernel="cross_entropy", classes=50257, inner=8192, strided=False):
    return LAUNCHES.Question(kernel, "bfloat16", classes, inner, strided, "a GPU")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_launches_are_powers_of_two_that_fit(size):
    for launch in LAUNCHES.candidates(question(*size)):
        assert LAUNCHES._is_sound(launch)
        assert launch.rows * launch.columns <= 1 << 14


@pytest.fixture
def a_gpu(monkeypatch, tmp_path):
    """A device whose clock prefers eight warps, and a cache of its own."""
    monkeypatch.setenv("XENT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(LAUNCHES, "INTERPRETED", False)
    monkeypatch.setattr(LAUNCHES, "_choices", {})
    monkeypatch.setattr(LAUNCHES, "_file_is_read", False)
    monkeypatch.setattr(LAUNCHES, "_milliseconds", lambda run, launch: abs(launch.warps - 8) + launch.columns / 1e9)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return tmp_path / "triton_launches.json"


def test_a_launch_is_measured_once_kept_in_a_file_and_shown(a_gpu, monkeypatch):
    asked, many = question(), 1 << 24
    assert "to be measured" in LAUNCHES.choice_in_words(asked, many)
    assert LAUNCHES.launch_for(asked, 1000, print) == LAUNCHES.heuristic(asked)
    assert not a_gpu.exists()
    best = LAUNCHES.launch_for(asked, many, print)
    assert best.warps == 8
    assert json.loads(a_gpu.read_text())[asked.key]["warps"] == 8
    monkeypatch.setattr(LAUNCHES, "_choices", {})
    monkeypatch.setattr(LAUNCHES, "_file_is_read", False)
    monkeypatch.setattr(LAUNCHES, "_milliseconds", lambda *_: pytest.fail("it is known"))
    assert LAUNCHES.launch_for(asked, many, print) == best
    assert f"measured; {a_gpu}" in LAUNCHES.choice_in_words(asked, many)
    monkeypatch.setenv("XENT_AUTOTUNE", "0")
    assert LAUNCHES.launch_for(asked, many, print) == LAUNCHES.heuristic(asked)


@pytest.mark.skipif(ON_GPU, reason="test_on_a_gpu.py has a real clock")
def test_a_loss_measures_its_launches_once_and_choices_shows_them(a_gpu, monkeypatch):
    """A real call of the interpreted kernels, with the launch that the clock preferred; only the clock is not real."""
    timed: list = []

    def clock(run, launch) -> float:
        run(launch)
        timed.append(launch)
        return launch.rows

    monkeypatch.setattr(LAUNCHES, "_MEASURED_FROM", 1)
    monkeypatch.setattr(LAUNCHES, "_milliseconds", clock)
    x, y = torch.randn(64, 50, requires_grad=True), torch.randint(50, (64,))
    with xent.backend("triton"):
        guess = xent.choices(x, y).note
        assert guess.endswith("(to be measured)")
        loss = xent.cross_entropy(x, y)
        (gradient,) = torch.autograd.grad(loss, x)
        note, count = xent.choices(x, y).note, len(timed)
        assert note.endswith(f"(measured; {a_gpu})")
        assert note.split(",")[0] != guess.split(",")[0]
        xent.cross_entropy(x, y).backward()
    assert count == len(timed) > 2
    assert {key.split("/")[1] for key in json.loads(a_gpu.read_text())} == {"cross_entropy", "cross_entropy_gradient"}
    wanted = torch.nn.functional.cross_entropy(x, y)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, x)[0])


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', '{"x": {"rows": 3, "columns": 8, "warps": 4}}', "\x00"])
def test_a_file_that_is_not_ours_is_measured_anew(a_gpu, text):
    a_gpu.write_text(text)
    assert LAUNCHES.launch_for(question(), 1 << 24, print).warps == 8
    assert list(json.loads(a_gpu.read_text())) == [question().key]


def test_a_user_without_a_home_directory_keeps_launches_in_memory(a_gpu, monkeypatch):
    """Such as the numbered user of a container, for whom Path.home() raises."""
    for name in ("XENT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(LAUNCHES.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    assert LAUNCHES.launch_for(question(), 1 << 24, print).warps == 8
    assert LAUNCHES.launch_for(question(), 1 << 24, lambda _: pytest.fail("it is known")).warps == 8
    assert "its user has no home directory" in LAUNCHES.choice_in_words(question(), 1 << 24)


def test_an_empty_name_of_the_cache_is_none(monkeypatch, tmp_path):
    """And not the current directory."""
    monkeypatch.setenv("XENT_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert LAUNCHES.cache_file() == tmp_path / "xent" / "triton_launches.json"


def test_a_choice_names_the_launch():
    with xent.backend("triton"):
        assert "logits a program" in xent.choices(LOGITS, TARGET).note
        linear = xent.choices(torch.empty(64, 8), torch.empty(5, 8), operation="linear_cross_entropy")
    assert "64 rows at a time" in linear.note
