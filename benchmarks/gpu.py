"""The losses on one GPU: right first, then how fast, beside what that very GPU can do and beside the peers installed.

    PYTHONPATH=src python benchmarks/gpu.py               # half an hour on an H200
    PYTHONPATH=src python benchmarks/gpu.py --interpret   # seconds, on a CPU: does the script run, is it right

It needs torch and triton, no installation of xent. Times are medians of device events over inputs larger than the
cache. It writes benchmarks/results/gpu.json and gpu.md (or --out), the second a table for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARIES = (32000, 50257, 128256, 151936, 256000)
SMALL = ((64, 10), (128, 1000), (1024, 1000), (4096, 1000), (2048, 32000))
HEADS = ((8192, 2304, 256000), (8192, 4096, 128256))
LOGITS_BYTES = 2 << 30  # forty times the largest second-level cache
TOLERANCE = {"float32": 2e-6, "bfloat16": 8e-3}  # of the largest entry of the gradient: some roundings, one of half


@dataclass
class Report:
    """What was measured."""

    machine: dict[str, Any]
    limits: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    correct: list[dict[str, Any]] = field(default_factory=list)
    logits: list[dict[str, Any]] = field(default_factory=list)
    small: list[dict[str, Any]] = field(default_factory=list)
    linear: list[dict[str, Any]] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interpret", action="store_true", help="tiny sizes under Triton's interpreter, on the CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    given = parser.parse_args()
    if given.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not given.interpret and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device; --interpret tries it on the CPU, with tiny sizes")
        return 1
    return run(Bench(tiny=given.interpret), given.out)


def run(bench: Bench, out: Path) -> int:
    report = Report(bench.machine())
    from gpu_peers import linear_contestants, logits_contestants

    logits, absent = logits_contestants()
    heads, absent_heads = linear_contestants()
    report.absent = {**absent, **absent_heads}
    for name, reason in report.absent.items():
        print(f"absent  {name}: {reason}")
    report.correct = bench.correctness(logits) + bench.linear_correctness(heads)
    wrong = [row for row in report.correct if row["contestant"].startswith("xent") and not row["right"]]
    for row in report.correct:
        print(
            "right  " if row["right"] else "WRONG  ", row["contestant"], row["case"], f"{row['error']:.1e}", row["note"]
        )
    if wrong:
        print(f"{len(wrong)} results of xent are wrong: nothing is timed")
        return 1
    report.limits = bench.limits()
    print("limits ", {name: round(value, 3) for name, value in report.limits.items()})
    report.logits = bench.logits(logits, report.limits)
    report.small = bench.small(logits)
    report.linear = bench.linear(heads, report.limits)
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(vars(report), indent=1) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(markdown(report), encoding="utf-8")
    print(f"wrote   {out / 'gpu.json'} and {out / 'gpu.md'}")
    return 0


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
        torch = self.torch
        for _ in range(1 if self.tiny else 5):
            call()
        times = []
        for _ in range(1 if self.tiny else repeats):
            if self.tiny:
                begin = time.perf_counter()
                call()
                times.append(1e3 * (time.perf_counter() - begin))
                continue
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            call()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last))
        return statistics.median(times)

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
            return {"contestant": name, "case": case, "error": float("nan"), "right": False, "note": repr(error)[:120]}
        error = max(
            float((a.double() - b).norm() / b.norm()) if a.ndim else abs(float((a - b) / b))
            for a, b in zip(got, truth, strict=True)
        )
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
                for name, loss in contestants.items():
                    row = {"contestant": name, "rows": rows, "classes": classes, "dtype": self.name_of(dtype)}
                    found.append({**row, **self.passes(loss, x, y, limits)})
                    print("logits ", *found[-1].values())
        return found

    def passes(self, loss: Any, x: Tensor, y: Tensor, limits: dict[str, float]) -> dict[str, Any]:
        """Forward reads the logits, backward reads them and writes a gradient: the rates are of these bytes."""
        try:
            size = x.numel() * x.element_size()
            forward = self.milliseconds(lambda: loss(x.detach(), y))
            value = loss(x, y)
            backward = self.milliseconds(lambda: self.torch.autograd.grad(value, x, retain_graph=True))
            peak = self.peak(lambda: self.torch.autograd.grad(loss(x, y), x))
        except Exception as error:  # a peer may refuse anything, in any way; its row says so
            return {"note": repr(error)[:120]}
        rates = {"forward TB/s": size / forward / 1e9, "backward TB/s": 2 * size / backward / 1e9}
        of_copy = {name.split()[0] + " of copy": rate / limits["copy TB/s"] for name, rate in rates.items()}
        return {"forward ms": forward, "backward ms": backward, **rates, **of_copy, "peak MB": peak / 1e6}

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
                for name, loss in (("xent", xent.cross_entropy), ("torch", contestants["torch"])):
                    row[f"{name} µs"] = 1e3 * self.step_milliseconds(lambda loss=loss, x=x, y=y: loss(x, y).backward())
                found.append({**row, "xent / torch": row["xent µs"] / row["torch µs"]})
                print("small  ", *found[-1].values())
        return found

    def step_milliseconds(self, call: Callable[[], Any]) -> float:
        times = []
        for _ in range(2 if self.tiny else 50):
            begin = time.perf_counter()
            for _ in range(1 if self.tiny else 20):
                call()
            if not self.tiny:
                self.torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - begin) / (1 if self.tiny else 20))
        return statistics.median(times)

    def linear(self, contestants: dict[str, Any], limits: dict[str, float]) -> list[dict[str, Any]]:
        found = []
        for shape in self.heads:
            products = self.three_products(*shape)
            hidden, weight, y = self.head(*shape)
            for name, loss in contestants.items():
                row: dict[str, Any] = {"contestant": name, "shape": "×".join(map(str, shape))}
                try:
                    call = partial(self.gradients_of, loss, (hidden, weight), y)
                    spent = self.milliseconds(call, repeats=10)
                    extra = self.peak(call) - 2 * (hidden.numel() + weight.numel())
                except Exception as error:  # a peer may refuse anything, in any way; its row says so
                    found.append({**row, "note": repr(error)[:120]})
                    continue
                flops = 6 * shape[0] * shape[1] * shape[2]
                rate = flops / spent / 1e9
                of_rate = rate / limits["bfloat16 TFLOP/s"]
                row |= {"ms": spent, "TFLOP/s": rate, "of the matrix rate": of_rate}
                found.append({**row, "over three products": spent / products, "extra MB": extra / 1e6})
                print("linear ", *found[-1].values())
        return found

    def gradients_of(self, loss: Any, inputs: tuple[Tensor, ...], y: Tensor) -> Any:
        return self.torch.autograd.grad(loss(*inputs, y), inputs)

    def three_products(self, rows: int, features: int, classes: int) -> float:
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

        return self.milliseconds(products, repeats=10)

    def name_of(self, dtype: Any) -> str:
        return str(dtype).removeprefix("torch.")


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


def markdown(report: Report) -> str:
    """The tables, with what they were measured on."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    limits = ", ".join(f"{value:.2f} {name}" for name, value in report.limits.items())
    parts = [f"Measured on {machine}. Limits of that device, measured: {limits}.\n"]
    for title, rows in (("Logits", report.logits), ("Small", report.small), ("Linear", report.linear)):
        parts.append(f"\n### {title}\n\n{_table(rows)}")
    errors = [{name: row[name] for name in ("contestant", "case", "error", "note")} for row in report.correct]
    return "".join([*parts, f"\n### Errors against float64\n\n{_table(errors)}"])


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([_cell(row.get(name, "")) for name in names] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
