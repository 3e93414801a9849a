"""The first line of the records: what runs, on which machine, with which versions."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import xent

SCHEMA = 1
_ALSO = ("numpy", "lightning", "transformers", "accelerate", "triton")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, accelerators, system."""
    accelerators = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "accelerators": accelerators,
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Of Python, torch, xent and the packages that are in use."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "xent": xent.__version__}
    for name in _ALSO:
        if name in sys.modules:
            try:
                found[name] = version(name)
            except PackageNotFoundError:  # a module of that name that is no installed package
                continue
    return found


def started() -> str:
    """Now, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
