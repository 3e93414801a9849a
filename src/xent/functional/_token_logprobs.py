from __future__ import annotations

from typing import Literal, TypedDict, Unpack, overload

from torch import Tensor

from xent.errors import DtypeError, OptionError
from xent.functional._cross_entropy import cross_entropy
from xent.functional._linear_cross_entropy import linear_cross_entropy
from xent.head import Head, HeadRows, head_rows_of
from xent.ops.choice import column
from xent.problem import Rows, check_tensor, rows_of
from xent.row_stats import TokenLogprobs
from xent.sparse_target import SparseTarget
from xent.terms import LossTerms


class TokenOptions(TypedDict, total=False):
    """The keyword options of `token_logprobs` that do not change what it returns, for type checkers."""

    linear_weight: Tensor | None
    linear_bias: Tensor | None
    ignore_index: int
    softcap: float | None
    logit_scale: float
    dim: int
    shift: int


@overload
def token_logprobs(
    input: Tensor,
    target: Tensor,
    *,
    entropy: Literal[False] = ...,
    top: Literal[0] = ...,
    **options: Unpack[TokenOptions],
) -> Tensor: ...
@overload
def token_logprobs(
    input: Tensor, target: Tensor, *, entropy: bool = ..., top: int = ..., **options: Unpack[TokenOptions]
) -> Tensor | TokenLogprobs: ...
def token_logprobs(
    input: Tensor,
    target: Tensor,
    *,
    linear_weight: Tensor | None = None,
    linear_bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    dim: int = -1,
    shift: int = 0,
    entropy: bool = False,
    top: int = 0,
) -> Tensor | TokenLogprobs:
    r"""Log-probability ln p(target) of every row: log-likelihoods for scoring and for reinforcement learning.

    ::

        result = z[target] − logsumexp(z),   z = softcap·tanh(logit_scale·logits / softcap)

    Args:
        input: logits (…, V); or with `linear_weight` hidden states (…, D), whose logits are input · linear_weightᵀ.
        target: class indices (…), any integer dtype.
        linear_weight: (V, D).
        linear_bias: (V,).
        ignore_index: rows with this target give 0.
        softcap: bound of the logits, > 0.
        logit_scale: factor on the logits (1/temperature).
        dim: dimension of the classes (of the features with `linear_weight`); the last when left out, unlike
            `cross_entropy`.
        shift: score position t against the target at t + shift; the result is that much shorter.
        entropy: also give the entropy of the predicted distribution, −Σ p ln p.
        top: also give the k most likely classes of every row and their log-probabilities; equals in the order of
            their class.

    Returns:
        Log-probabilities in nats, ≤ 0, of the shape of the rows; float32 for half inputs, else the input's dtype. With
        `entropy` or `top` a `TokenLogprobs` of them.

    Gradient:
        d / d z_c = [c = target] − p_c, for the classes of `top` as for the target; that of the entropy H is
        −p_c (ln p_c + H). Derivatives of any order and kind.

    Edge cases:
        A target logit of −inf gives −inf. A row with NaN or +inf is NaN, and its top classes mean nothing. An ignored
        row has top classes −1. No rows: empty tensors.

    Cost:
        That of `cross_entropy`, or with `linear_weight` of `linear_cross_entropy`, which makes no logits of all rows on
        the native backend; and one number for each row, 1 + k and as many indices with `top`.

    Raises:
        ShapeError, DtypeError, DeviceError, OptionError, TargetRangeError: as `cross_entropy`; `top` is negative or
            more than the classes, `target` holds probabilities, `linear_bias` has no `linear_weight`.

    Source:
        Goodfellow, Bengio, Courville, *Deep Learning*, section 6.2.2: it is −`cross_entropy(…, reduction="none")`.

    Differs from torch, which has no such function: `torch.nn.functional.log_softmax` and `gather` hold the
    log-probabilities of all classes. From `cross_entropy`: the sign, no reduction, and the classes are last.

    Example:
        >>> import torch, xent
        >>> xent.token_logprobs(torch.tensor([[[0.0, 0.0], [2.0, 0.0]]]), torch.tensor([[1, 0]]))
        tensor([[-0.6931, -0.1269]])
        >>> xent.token_logprobs(torch.tensor([[2.0, 0.0, 2.0]]), torch.tensor([1]), top=2).top_indices
        tensor([[0, 2]])
    """
    _check_given(input, target, linear_weight, linear_bias)
    if entropy or top != 0:
        terms = LossTerms(ignore_index=ignore_index, softcap=softcap, logit_scale=logit_scale, reduction="none")
        if linear_weight is None:
            problem = rows_of(input, target, terms, dim, shift)
        else:
            problem = head_rows_of(input, Head(linear_weight, linear_bias), target, terms, dim, shift)
        _check_top(problem, top)
        others = problem.target, linear_weight, linear_bias
        return column("token_logprobs", input, *others).rows(problem, entropy, top)
    if linear_weight is None:
        loss = cross_entropy(
            input,
            target,
            ignore_index=ignore_index,
            softcap=softcap,
            logit_scale=logit_scale,
            reduction="none",
            dim=dim,
            shift=shift,
        )
    else:
        loss = linear_cross_entropy(
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            ignore_index=ignore_index,
            softcap=softcap,
            logit_scale=logit_scale,
            reduction="none",
            dim=dim,
            shift=shift,
        )
    return -loss


def _check_given(input: Tensor, target: object, linear_weight: Tensor | None, linear_bias: Tensor | None) -> None:
    """What the losses would take."""
    dense = (
        isinstance(target, Tensor) and target.is_floating_point() and target.ndim >= check_tensor("input", input).ndim
    )
    if dense or isinstance(target, SparseTarget):
        raise DtypeError(
            "target holds probabilities", "a score is that of one class for each row", "pass class indices"
        )
    if linear_bias is not None and linear_weight is None:
        raise OptionError(
            "linear_bias without linear_weight", "logits as they are have no layer", "pass linear_weight, or no bias"
        )


def _check_top(problem: Rows | HeadRows, top: int) -> None:
    if isinstance(top, bool) or not isinstance(top, int):
        raise DtypeError(f"top is a {type(top).__name__}", "it counts classes", "pass int(top)")
    if not 0 <= top <= problem.num_classes:
        raise OptionError(
            f"top={top} of {problem.num_classes} classes", "it counts classes, 0 or more", "pass no more than there are"
        )
