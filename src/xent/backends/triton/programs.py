"""Compiled kernels with all that comes after their pointers: a call like an earlier one starts them at once.

`kernel[grid](…)` looks at every argument of every call to find the program that was compiled for such arguments; with
the forty arguments of a row kernel that takes several times as long as the launch. Two calls are alike when their
tensors have the same dtypes, shapes, strides and alignment and their options are the same: then they differ in their
pointers alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MOST = 4096  # of batches whose length is always another; then all are forgotten
_ALIGNED = 15  # a compiled program may count on pointers to whole 16 bytes


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled kernel on its grid.

    Attributes:
        run: launches it, on the current device.
        rest: its arguments after the pointers.
    """

    run: Callable[..., None]
    rest: tuple[Any, ...]

    def start(self, pointers: tuple[Tensor | None, ...], device: torch.device) -> None:
        """Launch it on tensors of this device."""
        if device.index == torch.cuda.current_device():
            self.run(*pointers, *self.rest)
            return
        with torch.cuda.device(device):
            self.run(*pointers, *self.rest)


_known: dict[tuple[Any, ...], Program] = {}


def known(key: tuple[Any, ...]) -> Program | None:
    """The program of an earlier call like this one."""
    return _known.get(key)


def keep(key: tuple[Any, ...], program: Program) -> None:
    """Have later calls like this one find it."""
    if len(_known) >= _MOST:
        _known.clear()
    _known[key] = program


def forget() -> None:
    """Have every call ask anew how it is launched."""
    _known.clear()


def described(tensor: Tensor) -> tuple[Any, ...]:
    """All that a program depends on of a tensor."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() & _ALIGNED


def alignment(tensor: Tensor) -> int:
    """The same of a tensor whose dtype and shape follow from those of others."""
    return tensor.data_ptr() & _ALIGNED


def program_of(
    kernel: Any, compiled: Any, where: tuple[int, tuple[int]], numbers: tuple[Any, ...], named: dict[str, Any]
) -> Program | None:
    """What `kernel[grid](…)` has compiled, to be launched again; None from the interpreter, which compiles nothing.

    Args:
        kernel: the function that Triton compiles.
        compiled: what the call returned.
        where: how many pointers come first, and the grid.
        numbers: the arguments after the pointers.
        named: the arguments after those, by name.
    """
    if compiled is None:
        return None
    num_pointers, grid = where
    names = kernel.arg_names[num_pointers + len(numbers) :]
    return Program(compiled[(*grid, 1, 1)], (*numbers, *(named[name] for name in names)))
