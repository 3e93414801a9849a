"""How long does a cross-entropy take on the CPU, and how much memory, beside its peers?

Side by side in one process, alternating, so that a slow minute of the machine hits all of them:

    python benchmarks/native_kernels_cpu.py                # every case; writes results/native_kernels_cpu.json
    python benchmarks/native_kernels_cpu.py --only forward --repeat 3 --scale 0.25

Peers: F.cross_entropy, torch.compile(F.cross_entropy) (--compile), optax under jit (where jax is installed), the bare
read of the logits (sum) and logits.clone(). Extra memory is the rise of the process's peak during one call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import xent

RESULTS = Path(__file__).parent / "results" / "native_kernels_cpu.json"


@dataclass(frozen=True)
class Case:
    """One row of the table: logits, options, with or without a gradient, and what must be reached against torch."""

    name: str
    shape: tuple[int, ...]
    must: float
    backward: bool = True
    dtype: torch.dtype = torch.float32
    layout: str = "rows"
    options: dict[str, Any] = field(default_factory=dict)
    soft: bool = False

    def scaled(self, factor: float) -> tuple[int, ...]:
        return (max(1, int(self.shape[0] * factor)), *self.shape[1:]) if self.numbers > 1 << 20 else self.shape

    @property
    def numbers(self) -> int:
        return torch.Size(self.shape).numel()


BIG, WIDE = (4096, 32000), (1024, 128256)
CASES = [
    Case("forward float32 4096x32000", BIG, 4.5, backward=False),
    Case("forward float32 1024x128256", WIDE, 4.5, backward=False),
    Case("float32 4096x32000", BIG, 3.5),
    Case("float32 1024x128256", WIDE, 3.5),
    Case("bfloat16 4096x32000", BIG, 3.5, dtype=torch.bfloat16),
    Case("smoothing 4096x32000", BIG, 3.0, options={"label_smoothing": 0.1}),
    Case("class weights 4096x32000", BIG, 3.0, options={"weight": "C"}),
    Case("probabilities 4096x32000", BIG, 3.0, soft=True),
    Case("(8, 32000, 512) contiguous", (8, 32000, 512), 3.5, layout="columns"),
    Case("(8, 512, 32000).transpose(1, 2)", (8, 512, 32000), 7.0, layout="transposed"),
    Case("segmentation (8, 19, 256, 512)", (8, 19, 256, 512), 1.5, layout="columns"),
    Case("65536x1000", (65536, 1000), 3.0),
    Case("65536x10", (65536, 10), 1.3),
    Case("64x10", (64, 10), 1 / 1.1),
    Case("32x2", (32, 2), 1 / 1.1),
    Case("1x50257", (1, 50257), 1 / 1.1),
    Case("forward 64x10", (64, 10), 1 / 1.1, backward=False),
    Case("forward 32x2", (32, 2), 1 / 1.1, backward=False),
    Case("forward 1x50257", (1, 50257), 1 / 1.1, backward=False),
]


def main() -> None:
    arguments = read_arguments()
    results = []
    for case in CASES:
        if arguments.only in case.name:
            results.append(measure(case, arguments))
            print_row(results[-1])
            RESULTS.parent.mkdir(exist_ok=True)
            arguments.out.write_text(json.dumps({"machine": machine(), "cases": results}, indent=1) + "\n")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--repeat", type=int, default=7, help="rounds over all peers (small cases take many more)")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the rows of the large cases")
    parser.add_argument("--compile", action="store_true", help="torch.compile(F.cross_entropy) too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    logits, target, options = tensors(case, arguments.scale)
    calls = peers(case, logits, target, options, arguments.compile)
    rounds = arguments.repeat if logits.numel() > 1 << 20 else arguments.repeat * 40
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles, and warms the caches of every allocator
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    result = {
        "case": case.name,
        "shape": list(logits.shape),
        "milliseconds": medians,
        "fastest_milliseconds": {name: 1e3 * min(values) for name, values in seconds.items()},
        "torch_over_xent": medians["torch"] / medians["xent"],
        "must": case.must,
        "load_average": os.getloadavg()[0],
    }
    if logits.nbytes > 64 << 20:
        result["extra_memory_over_logits"] = {
            name: extra_memory(calls[name]) / logits.nbytes for name in ("xent", "torch")
        }
    if case.dtype == torch.bfloat16:
        result["gradient_error"] = {
            name: gradient_error(function)
            for name, function in (("xent", xent.cross_entropy), ("torch", F.cross_entropy))
        }
    return result


def tensors(case: Case, scale: float) -> tuple[Tensor, Tensor, dict[str, Any]]:
    logits = torch.randn(case.scaled(scale)).to(case.dtype)
    if case.layout == "transposed":
        logits = logits.transpose(1, 2)
    classes = logits.shape[1]
    target = torch.randint(0, classes, (logits.shape[0], *logits.shape[2:]))
    if case.soft:
        target = torch.randn(logits.shape).softmax(1)
    options = {name: torch.rand(classes) + 0.5 if value == "C" else value for name, value in case.options.items()}
    return logits, target, options


def peers(
    case: Case, logits: Tensor, target: Tensor, options: dict[str, Any], compiled: bool
) -> dict[str, Callable[[], object]]:
    def call_of(function: Callable[..., Tensor]) -> Callable[[], object]:
        if not case.backward:
            return (
                torch.no_grad()(lambda: function(logits, target, **options))
                if logits.numel() > 1 << 20
                else (lambda: function(logits, target, **options))
            )
        leaf = logits.detach().requires_grad_()
        return lambda: torch.autograd.grad(function(leaf, target, **options), leaf)

    calls = {"xent": call_of(xent.cross_entropy), "torch": call_of(F.cross_entropy)}
    if logits.numel() > 1 << 20:
        calls |= {"read": logits.sum, "clone": logits.clone}
    if compiled:
        calls["torch.compile"] = call_of(torch.compile(F.cross_entropy, fullgraph=True))
    if not options and not case.soft and case.layout == "rows":
        optax_call = under_optax(logits, target, case.backward)
        if optax_call is not None:
            calls["optax"] = optax_call
    return calls


def under_optax(logits: Tensor, target: Tensor, backward: bool) -> Callable[[], object] | None:
    try:
        import jax
        import optax
    except ImportError:
        return None
    x, y = jax.dlpack.from_dlpack(logits), jax.numpy.asarray(target.numpy())

    def mean(z: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    function = jax.jit(jax.value_and_grad(mean) if backward else mean)
    return lambda: jax.block_until_ready(function(x))


def extra_memory(call: Callable[[], object]) -> float:
    """Bytes that the resident peak rises by; Linux resets the peak on request."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024.0 * float(line.split()[1])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def gradient_error(function: Callable[..., Tensor]) -> float:
    """Largest relative error of a bfloat16 gradient against float64, over the entries that bfloat16 can hold."""
    logits = torch.randn(256, 32000, generator=torch.Generator().manual_seed(1)).bfloat16()
    target = torch.arange(256)
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    (got,) = torch.autograd.grad(function(leaf, target), leaf)
    (truth,) = torch.autograd.grad(F.cross_entropy(exact, target), exact)
    return float(((got.double() - truth).abs() / truth.abs()).max())


def machine() -> dict[str, Any]:
    from xent.backends.native import kernels_info

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "kernels": kernels_info(),
        "commit": commit.stdout.strip(),
    }


def print_row(result: dict[str, Any]) -> None:
    times = "  ".join(f"{name} {value:.4g}" for name, value in result["milliseconds"].items())
    verdict = "reached" if result["torch_over_xent"] >= result["must"] else "NOT REACHED"
    print(
        f"{result['case']}: {result['torch_over_xent']:.2f}x torch (must {result['must']:.2f}: {verdict}); ms: {times}"
    )
    for name in ("extra_memory_over_logits", "gradient_error"):
        if name in result:
            print(f"  {name}: " + ", ".join(f"{who} {value:.4f}" for who, value in result[name].items()))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
