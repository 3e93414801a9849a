"""Whether the compiled kernels are here, and the arrays they are given."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import torch
from torch import Tensor

_HUGE_PAGE_BYTES = 4 << 20  # two huge pages: below, the advice costs more than the page faults
_DIMS = 7  # max_row_dims of native/row_view.h, and the classes
_STREAMING_BYTES = 32 << 20  # a gradient larger than the last-level cache is not in it when somebody reads it


@cache
def availability() -> str | None:
    """None when the kernels are here; else the reason. A wrong XENT_ISA is an error of the call, not a reason."""
    try:
        import_module("xent.backends.native._kernels")
    except ImportError as error:
        return f"the compiled kernels can't be loaded ({error}): reinstall xent where a C++20 compiler is installed"
    return None


def reason_against_memory(tensor: Tensor) -> str | None:
    """Why no kernel can read where this tensor lies, in words; None when they can."""
    if tensor.data_ptr() % tensor.itemsize:
        return "its kernels read aligned memory, and one tensor lies at no multiple of its element size"
    if tensor.ndim > _DIMS and not tensor.is_contiguous():
        return f"its kernels walk {_DIMS} dimensions, and one tensor has {tensor.ndim} and is not contiguous"
    return None


def readable(upstream: Tensor) -> Tensor:
    """A gradient that autograd brings, copied where no kernel can read it: it came after the choice of the kernels."""
    upstream = upstream.detach()
    return (
        upstream if reason_against_memory(upstream) is None else upstream.clone(memory_format=torch.contiguous_format)
    )


def empty_gradient(like: Tensor) -> Tensor:
    """A fresh buffer of the layout of `like`, in huge pages where the system allows it."""
    from xent.backends.native import _kernels

    buffer = torch.empty_like(like, requires_grad=False)
    if any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True)):
        buffer = torch.empty_like(like, memory_format=torch.contiguous_format)
    if buffer.nbytes >= _HUGE_PAGE_BYTES:
        _kernels.advise_huge_pages(buffer)
    return buffer


def streams(buffer: Tensor) -> bool:
    """Whether stores should go around the caches."""
    return buffer.nbytes >= _STREAMING_BYTES


def flat(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One number per row, in the order of the rows, as the kernels take it."""
    if tensor is None:
        return None
    return tensor.detach().to(dtype).reshape(-1)
