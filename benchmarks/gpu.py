"""The losses on one GPU: right first, then how fast, beside what that very GPU can do and beside the peers installed.

    PYTHONPATH=src python benchmarks/gpu.py                 # four minutes on an H200
    PYTHONPATH=src python benchmarks/gpu.py --only linear   # a part; what other parts measured on this GPU is kept
    PYTHONPATH=src python benchmarks/gpu.py --interpret     # seconds, on a CPU: does the script run, is it right

It needs torch and triton, no installation of xent. Times are medians of device events over inputs larger than the
cache, of kernels that the host has queued before; those of small losses are of the host's clock. It writes gpu.json
and gpu.md to benchmarks/results/gpu (or --out), the second with tables for docs/gpu.md and with what must be reached
beside what was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_report import Report

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARIES = (32000, 50257, 128256, 151936, 256000)
SMALL = ((64, 10), (128, 1000), (1024, 1000), (4096, 1000), (2048, 32000))
HEADS = ((8192, 2304, 256000), (8192, 4096, 128256))
PARTS = ("logits", "small", "linear")
# Clocks of a GPU, two milliseconds: the host has queued a call before its time begins, as in training, where it runs
# ahead. What the host takes is measured in `small`.
HEAD_START = 1 << 22
SLOW = 250  # milliseconds
THREE_PRODUCTS = "three products"
LOGITS_BYTES = 2 << 30  # forty times the largest second-level cache
TOLERANCE = {"float32": 2e-6, "bfloat16": 8e-3}  # of the largest entry of the gradient: some roundings, one of half


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interpret", action="store_true", help="tiny sizes under Triton's interpreter, on the CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; all when left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/gpu", help="folder of the results")
    given = parser.parse_args()
    if given.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not given.interpret and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device; --interpret tries it on the CPU, with tiny sizes")
        return 1
    return run(Bench(tiny=given.interpret), given.only, given.out)


def run(bench: Bench, parts: Sequence[str], out: Path) -> int:
    report = known(bench.machine(), out / "gpu.json")
    from gpu_peers import linear_contestants, logits_contestants

    logits, absent = logits_contestants()
    heads, absent_heads = linear_contestants()
    report.absent = {**absent, **absent_heads}
    for name, reason in report.absent.items():
        print(f"absent  {name}: {reason}")
    report.correct = bench.correctness(logits) + bench.linear_correctness(heads)
    wrong = [row for row in report.correct if row["contestant"].startswith("xent") and not row["right"]]
    for row in report.correct:
        print("right  " if row["right"] else "WRONG  ", row["contestant"], row["case"], row["error"], row["note"])
    if wrong:
        print(f"{len(wrong)} results of xent are wrong: nothing is timed")
        return 1
    report.limits = bench.limits()
    print("limits ", {name: round(value, 3) for name, value in report.limits.items()})
    if "logits" in parts:
        report.logits = bench.logits(logits, report.limits)
    if "small" in parts:
        report.small = bench.small(logits)
    if "linear" in parts:
        report.linear = bench.linear(heads, report.limits)
    for goal in report.goals():
        print("reached" if goal["reached"] else "MISSED ", goal["goal"], goal["wanted"], f"{goal['worst']:.3g}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(vars(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(report.markdown(), encoding="utf-8")
    print(f"wrote   {out / 'gpu.json'} and {out / 'gpu.md'}")
    return 0


def known(machine: dict[str, Any], file: Path) -> Report:
    """What earlier runs with other parts measured on this GPU with these versions; nothing of any other."""
    try:
        before = Report(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Report(machine)
    same = {**before.machine, "date": ""} == {**machine, "date": ""}
    return Report(machine, logits=before.logits, small=before.small, linear=before.linear) if same else Report(machine)


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


class Bench:
    """Sizes, clock and device; `tiny` is the interpreter's."""

    def __init__(self, tiny: bool) -> None:
        import torch

        self.torch, self.tiny = torch, tiny
        self.device = "cpu" if tiny else "cuda"
        self.vocabularies = (37, 130) if tiny else VOCABULARIES
        self.small_sizes = ((4, 10),) if tiny else SMALL
        self.heads = ((6, 5, 37),) if tiny else HEADS
        self.dtypes = (torch.bfloat16, torch.float32)
        torch.manual_seed(0)

    def machine(self) -> dict[str, Any]:
        torch = self.torch
        name = "interpreter" if self.tiny else torch.cuda.get_device_name()
        from importlib.metadata import version

        versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": version("triton")}
        return {"device": name, **versions, "date": time.strftime("%Y-%m-%d")}

    def milliseconds(self, call: Callable[[], Any], repeats: int = 20) -> float:
        """The median of device events; of a clock under the interpreter."""
        for _ in range(1 if self.tiny else 5):
            call()
        return statistics.median(self.once(call) for _ in range(1 if self.tiny else repeats))

    def once(self, call: Callable[[], Any]) -> float:
        cuda = self.torch.cuda
        if self.tiny:
            begin = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - begin)
        first, last = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda._sleep(HEAD_START)
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)

    def problem(self, rows: int, classes: int, dtype: Any) -> tuple[Tensor, Tensor]:
        x = (3 * self.torch.randn(rows, classes, device=self.device)).to(dtype).requires_grad_()
        return x, self.torch.randint(classes, (rows,), device=self.device)

    def head(self, rows: int, features: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        torch = self.torch
        hidden = torch.randn(rows, features, device=self.device).bfloat16().requires_grad_()
        weight = (torch.randn(classes, features, device=self.device) / features**0.5).bfloat16().requires_grad_()
        return hidden, weight, torch.randint(classes, (rows,), device=self.device)

    def correctness(self, contestants: dict[str, Any]) -> list[dict[str, Any]]:
        """Loss and gradient of some rows against float64."""
        rows = []
        for classes in self.vocabularies:
            for dtype in self.dtypes:
                x, y = self.problem(4 if self.tiny else 64, classes, dtype)
                truth = self.gradients(self.torch.nn.functional.cross_entropy, (x.double(),), y)
                for name, loss in contestants.items():
                    case = f"{classes} {self.name_of(dtype)}"
                    rows.append(self.compared(name, case, loss, (x,), y, truth, TOLERANCE[self.name_of(dtype)]))
        return rows

    def linear_correctness(self, contestants: dict[str, Any]) -> list[dict[str, Any]]:
        """Gradients of a smaller head against float64: the figure is the error in the 2-norm, over the norm."""
        shape = self.heads[0] if self.tiny else (1024, 2304, 32768)
        hidden, weight, y = self.head(*shape)
        functional = self.torch.nn.functional
        truth = self.gradients(
            lambda h, w, y: functional.cross_entropy(h @ w.t(), y), (hidden.double(), weight.double()), y
        )
        case = "linear " + "×".join(map(str, shape))
        return [self.compared(name, case, loss, (hidden, weight), y, truth, 0.03) for name, loss in contestants.items()]

    def gradients(self, loss: Any, inputs: tuple[Tensor, ...], y: Tensor) -> list[Tensor]:
        leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
        value = loss(*leaves, y)
        return [value.detach(), *self.torch.autograd.grad(value, leaves)]

    def compared(
        self, name: str, case: str, loss: Any, inputs: tuple[Tensor, ...], y: Tensor, truth: list[Tensor], most: float
    ) -> dict[str, Any]:
        try:
            got = self.gradients(loss, inputs, y)
        except Exception as error:  # a peer may refuse anything, in any way; its row says so
            return {"contestant": name, "case": case, "error": None, "right": False, "note": repr(error)[:120]}
        error = max(
            float((a.double() - b).norm() / b.norm()) if a.ndim else abs(float((a - b) / b))
            for a, b in zip(got, truth, strict=True)
        )
        if not math.isfinite(error):  # which JSON can't say
            return {"contestant": name, "case": case, "error": None, "right": False, "note": "not finite"}
        return {"contestant": name, "case": case, "error": error, "right": error <= most, "note": ""}

    def limits(self) -> dict[str, float]:
        """What this device does when nothing is computed, and when nothing is moved."""
        torch = self.torch
        x = torch.empty((1 << 12 if self.tiny else LOGITS_BYTES) // 2, dtype=torch.bfloat16, device=self.device)
        y = torch.empty_like(x)
        copy = 2 * 2 * x.numel() / self.milliseconds(lambda: y.copy_(x)) / 1e9
        side = 16 if self.tiny else 8192
        a, b = (torch.randn(side, side, device=self.device).bfloat16() for _ in range(2))
        return {"copy TB/s": copy, "bfloat16 TFLOP/s": 2 * side**3 / self.milliseconds(lambda: a @ b) / 1e9}

    def logits(self, contestants: dict[str, Any], limits: dict[str, float]) -> list[dict[str, Any]]:
        found = []
        for classes in self.vocabularies:
            for dtype in self.dtypes:
                rows = 4 if self.tiny else max(LOGITS_BYTES // (classes * dtype.itemsize) // 128 * 128, 128)
                x, y = self.problem(rows, classes, dtype)
                self.torch.compiler.reset()  # or torch.compile would go on with one graph for all shapes
                for name, loss in contestants.items():
                    row = {"contestant": name, "rows": rows, "classes": classes, "dtype": self.name_of(dtype)}
                    found.append({**row, **self.passes(loss, x, y, limits)})
                    print("logits ", *found[-1].values())
        return found

    def passes(self, loss: Any, x: Tensor, y: Tensor, limits: dict[str, float]) -> dict[str, Any]:
        """Forward reads the logits, backward reads them and writes a gradient: the rates are of these bytes.

        A step is both at once, which is what counts beside a peer that makes its gradient in its forward pass.
        """
        try:
            x = x.detach().clone().requires_grad_()  # it may write over its input
            size = x.numel() * x.element_size()
            forward = self.milliseconds(lambda: loss(x.detach(), y))
            backward = self.milliseconds(partial(self.torch.autograd.grad, loss(x, y), x, retain_graph=True))
            step = self.milliseconds(lambda: self.torch.autograd.grad(loss(x, y), x))
            peak = self.peak(lambda: self.torch.autograd.grad(loss(x, y), x))
        except Exception as error:  # a peer may refuse anything, in any way; its row says so
            return {"note": repr(error)[:120]}
        rates = {"forward TB/s": size / forward / 1e9, "backward TB/s": 2 * size / backward / 1e9}
        rates["step TB/s"] = 3 * size / step / 1e9
        of_copy = {name.split()[0] + " of copy": rate / limits["copy TB/s"] for name, rate in rates.items()}
        times = {"forward ms": forward, "backward ms": backward, "step ms": step}
        return {**times, **rates, **of_copy, "peak MiB": peak / 2**20}

    def peak(self, call: Callable[[], Any]) -> int:
        """The most memory beyond what was held before."""
        if self.tiny:
            return 0
        cuda = self.torch.cuda
        cuda.synchronize()
        before = cuda.memory_allocated()
        cuda.reset_peak_memory_stats()
        call()
        cuda.synchronize()
        return cuda.max_memory_allocated() - before

    def small(self, contestants: dict[str, Any]) -> list[dict[str, Any]]:
        """Whole steps as a program sees them, the host's work included: xent as it chooses by itself, beside torch."""
        import xent

        found = []
        for rows, classes in self.small_sizes:
            for dtype in self.dtypes:
                x, y = self.problem(rows, classes, dtype)
                row: dict[str, Any] = {"rows": rows, "classes": classes, "dtype": self.name_of(dtype)}
                eager = contestants["torch"]
                losses = {"xent µs": xent.cross_entropy, "torch µs": eager}
                if dtype.itemsize == 2:  # whose loss eager torch rounds to half, and xent does not
                    losses["torch of float32 µs"] = partial(of_float32, eager)
                row |= self.steps_in_turns({name: partial(step, loss, x, y) for name, loss in losses.items()})
                found.append({**row, "xent / torch": row["xent µs"] / row["torch µs"]})
                print("small  ", *found[-1].values())
        return found

    def steps_in_turns(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Microseconds of a call, medians of stretches of twenty; in turns, for the host's speed comes and goes."""
        stretches, length = (2, 1) if self.tiny else (100, 20)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(stretches):
            for name, call in calls.items():
                begin = time.perf_counter()
                for _ in range(length):
                    call()
                if not self.tiny:
                    self.torch.cuda.synchronize()
                times[name].append(1e6 * (time.perf_counter() - begin) / length)
        return {name: statistics.median(of_call) for name, of_call in times.items()}

    def linear(self, contestants: dict[str, Any], limits: dict[str, float]) -> list[dict[str, Any]]:
        found = []
        for shape in self.heads:
            hidden, weight, y = self.head(*shape)
            self.torch.compiler.reset()
            calls = {name: partial(self.gradients_of, loss, (hidden, weight), y) for name, loss in contestants.items()}
            rows = {name: {"contestant": name, "shape": "×".join(map(str, shape))} for name in calls}
            for name, call in list(calls.items()):
                try:
                    extra = self.peak(call) - 2 * (hidden.numel() + weight.numel())
                except Exception as error:  # a peer may refuse anything, in any way; its row says so
                    rows[name]["note"] = repr(error)[:120]
                    del calls[name]
                    continue
                rows[name]["extra MiB"] = extra / 2**20
            spent = self.milliseconds_in_turns({THREE_PRODUCTS: self.three_products(*shape), **calls})
            rows[THREE_PRODUCTS] = {"contestant": THREE_PRODUCTS, "shape": "×".join(map(str, shape))}
            for name in (THREE_PRODUCTS, *calls):
                rate = 6 * shape[0] * shape[1] * shape[2] / spent[name] / 1e9
                of_rate = rate / limits["bfloat16 TFLOP/s"]
                rows[name] |= {"ms": spent[name], "TFLOP/s": rate, "of the matrix rate": of_rate}
                rows[name]["over three products"] = spent[name] / spent[THREE_PRODUCTS]
            for row in rows.values():
                found.append(row)
                print("linear ", *row.values())
        return found

    def milliseconds_in_turns(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Medians of device events, in an order drawn anew for each round: a GPU at its power limit is as fast as what
        it did before lets it be. Calls of over a quarter of a second take part in three rounds.
        """
        times: dict[str, list[float]] = {name: [] for name in calls}
        draw = random.Random(0)
        for number in range(1 if self.tiny else 16):
            names = [name for name, of_call in times.items() if number < 3 or statistics.median(of_call) < SLOW]
            for name in draw.sample(names, len(names)):
                times[name].append(self.once(calls[name]))
        return {name: statistics.median(of_call[1:] or of_call) for name, of_call in times.items()}

    def gradients_of(self, loss: Any, inputs: tuple[Tensor, ...], y: Tensor) -> Any:
        return self.torch.autograd.grad(loss(*inputs, y), inputs)

    def three_products(self, rows: int, features: int, classes: int) -> Callable[[], None]:
        """Logits, gradient of the hidden states, gradient of the weight, of bare matrices."""
        torch = self.torch
        hidden, weight, _ = self.head(rows, features, classes)
        hidden, weight = hidden.detach(), weight.detach()
        logits = torch.empty(rows, classes, dtype=hidden.dtype, device=self.device)
        of_hidden, of_weight = torch.empty_like(hidden), torch.empty_like(weight)

        def products() -> None:
            torch.mm(hidden, weight.t(), out=logits)
            torch.mm(logits, weight, out=of_hidden)
            torch.mm(logits.t(), hidden, out=of_weight)

        return products

    def name_of(self, dtype: Any) -> str:
        return str(dtype).removeprefix("torch.")


def step(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> None:
    """A loss and its gradient."""
    loss(x, y).backward()


def of_float32(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The loss of half logits as float32."""
    return loss(x.float(), y)


if __name__ == "__main__":
    sys.exit(main())
