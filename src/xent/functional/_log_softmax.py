from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from xent.errors import DtypeError, ShapeError
from xent.ops.choice import column
from xent.problem import HALF, check_tensor, checked_dim


def log_softmax(input: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    r"""Logarithm of the softmax along one dimension.

    ::

        result_c = x_c − logsumexp(x),   computed as (x_c − m) − ln Σ exp(x − m),   m = max x

    Args:
        input: any shape, any dtype that torch's function takes; never modified.
        dim: the dimension that is normalised.
        dtype: the dtype that the input is converted to first, and of the result.

    Returns:
        Log-probabilities in nats, the shape of `input`, in `dtype` or the dtype of `input`. Half inputs are computed
        in float32 and rounded once.

    Gradient:
        g − softmax(x)·Σ g. Derivatives of any order and kind.

    Edge cases:
        −inf stays −inf, and gets gradient from the other entries only through p = 0. +inf or NaN anywhere, or −inf
        everywhere, makes the slice NaN. One entry gives 0. A scalar counts as one entry.

    Cost:
        Memory: the result, kept for the gradient beside the input; half inputs are copied to float32 first. The native
        kernel reads the input twice (the second time mostly from the cache) and writes the result once; its gradient
        is one more tensor of that size. Other backends: what torch's own operation takes.

    Raises:
        DimensionError: `input` has no such dimension.
        DtypeError: input is not a tensor, dim not an integer, or dtype no dtype.

    Source:
        Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Num. An. 2021.

    Differs from `torch.nn.functional.log_softmax`: `dim` is required (torch guesses with a warning).

    Example:
        >>> import torch, xent
        >>> xent.log_softmax(torch.tensor([1000.0, 999.0]), dim=0)
        tensor([-0.3133, -1.3133])
    """
    check_tensor("input", input)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise DtypeError(f"dtype is a {type(dtype).__name__}", "it is a torch.dtype", "pass such as torch.float32")
    x = input if dtype is None else input.to(dtype)
    dim = _dimension(dim, x)
    file = column("log_softmax", x)
    if x.dtype in HALF and not _takes_half(file):
        return file.log_softmax(x.float(), dim).to(x.dtype)
    return file.log_softmax(x, dim)


def logsumexp(input: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    r"""The log of the sum of exponentials along one or more dimensions.

    ::

        result = m + ln Σ exp(x − m),   m = max x

    Args:
        input: any shape, any dtype that torch's function takes (integers give the default floating dtype).
        dim: the dimension or dimensions that are summed.
        keepdim: keep them with size 1.

    Returns:
        The shape of `input` without `dim`. Half inputs are computed in float32 and rounded once.

    Gradient:
        softmax(x)·g. Derivatives of any order and kind.

    Edge cases:
        −inf everywhere, or nothing to sum, gives −inf; +inf gives +inf; NaN gives NaN. A scalar counts as one entry.

    Cost:
        The native kernel (one dimension) reads the input once, and holds two numbers for each result; its gradient
        reads the input once and writes a tensor of its size once. Several dimensions and other backends: several
        copies of the input. Half inputs are copied to float32 first.

    Raises:
        DimensionError: `input` has no such dimension.
        ShapeError: a dimension is named twice.
        DtypeError: input is not a tensor, or dim not an integer.

    Source:
        Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Num. An. 2021.

    Differs from `torch.logsumexp`: half inputs are accumulated in float32.

    Example:
        >>> import torch, xent
        >>> xent.logsumexp(torch.tensor([[0.0, 0.0], [1e4, 0.0]]), dim=1)
        tensor([6.9315e-01, 1.0000e+04])
    """
    check_tensor("input", input)
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    dims = tuple(_dimension(one, input) for one in dims)
    if len(set(dims)) < len(dims):
        raise ShapeError(f"dim={dim} for {input.ndim} dimensions", "each is summed once", "name each dim once")
    file = column("logsumexp", input)
    if input.dtype in HALF and not _takes_half(file):
        return file.logsumexp(input.float(), dims, keepdim).to(input.dtype)
    return file.logsumexp(input, dims, keepdim)


def _takes_half(file: ModuleType) -> bool:
    """Whether a column computes half inputs in float32 by itself, and rounds them once."""
    return getattr(file, "TAKES_HALF", False)


def _dimension(dim: object, input: Tensor) -> int:
    """`dim` checked and not negative; a scalar has the dims 0 and −1, as in torch."""
    return checked_dim(dim, input if input.ndim else input.unsqueeze(0))
