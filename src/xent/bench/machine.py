"""The machine that was measured on."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import xent

_TELLING_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "asimd", "bf16", "sve", "sve2"),
)
_WIDEST = ("avx512f", "avx2", "sve", "asimd")
_PEERS = ("jax", "jaxlib", "optax", "cut-cross-entropy", "triton")


def use_threads(num_threads: int) -> None:
    """Give torch, and by way of the allowed cores also XLA, `num_threads` threads."""
    if hasattr(os, "sched_setaffinity") and num_threads < len(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])
    torch.set_num_threads(num_threads)


def describe() -> dict[str, Any]:
    """Processor, memory, threads, versions and the settings that move the figures."""
    cpuinfo = _read("/proc/cpuinfo")
    flags = set(re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)[:1][0].split()) if cpuinfo else ()
    model = re.findall(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return {
        "cpu": (model[0] if model else platform.processor() or platform.machine()).strip(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "instruction_sets": [flag for flag in _TELLING_FLAGS if flag in flags],
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "transparent_huge_pages": _chosen(_read("/sys/kernel/mm/transparent_hugepage/enabled")),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "xent": xent.__version__,
            **{name: found for name in _PEERS if (found := _version(name))},
        },
    }


def slug(machine: dict[str, Any]) -> str:
    """The machine's part of a file name: processors of one name differ in their widest instructions."""
    cpu = re.sub(r"\((r|tm)\)|\bcpu\b|@.*|\d+-core|processor", " ", machine["cpu"].lower())
    widest = [found for found in _WIDEST if found in machine["instruction_sets"]][:1]
    return "-".join([*re.findall(r"[a-z0-9]+", cpu), *widest, f"{machine['threads']}t"])


def _memory_gib() -> float | None:
    total = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return round(int(total[1]) / 2**20, 1) if total else None


def _chosen(setting: str) -> str:
    chosen = re.search(r"\[(\w+)\]", setting)
    return chosen[1] if chosen else "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
