"""Every kernel compiles for compute capability 9.0 (H100, H200), in every dtype, down to machine code: the compiler
and ptxas come with triton and need no GPU. What the code does is tested under the interpreter, and on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = {
    "cross_entropy._forward_kernel",
    "cross_entropy_gradient._gradient_kernel",
    "logsumexp._forward_kernel",
    "log_softmax._forward_kernel",
    "log_softmax._gradient_kernel",
    "binary_cross_entropy_with_logits._elements_kernel",
    "linear_recompute._forward_kernel",
    "linear_recompute._gradient_kernel",
    "scale._scale_kernel",
    "top_classes._top_kernel",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", "few"),
        ("bfloat16", "few"),
        *((dtype, "all") for dtype in ("float32", "bfloat16", "float16", "float64")),
    ],
)
def test_every_kernel_compiles(dtype, options, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "triton" / "aot.py"), dtype, options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = json.loads(done.stdout.splitlines()[-1])
    assert {kernel["kernel"] for kernel in compiled} == KERNELS
    assert all(kernel["cubin"] > 0 for kernel in compiled)
    assert sum(kernel["atomics"] for kernel in compiled) == 0, "a sum must not depend on who comes first"
    assert max(kernel["shared"] for kernel in compiled) <= 227 * 1024
    if options == "few":  # 32000 classes: rows of an aligned length are read 16 bytes at a time
        assert all(kernel["wide"] for kernel in compiled if kernel["kernel"] == "log_softmax._forward_kernel")
