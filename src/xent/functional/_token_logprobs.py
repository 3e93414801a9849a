from __future__ import annotations

from torch import Tensor

from xent.functional._cross_entropy import cross_entropy
from xent.functional._linear_cross_entropy import linear_cross_entropy


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
) -> Tensor:
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

    Returns:
        Log-probabilities in nats, ≤ 0, of the shape of the rows; float32 for half inputs, else the input's dtype.

    Gradient:
        d / d z_c = [c = target] − p_c. Derivatives of any order and kind.

    Edge cases:
        A target logit of −inf gives −inf. A row with NaN or +inf is NaN. No rows: an empty tensor.

    Cost:
        That of `cross_entropy`, or with `linear_weight` of `linear_cross_entropy`, which makes no logits of all rows on
        the native backend; and one number for each row.

    Raises:
        ShapeError, DtypeError, DeviceError, OptionError, TargetRangeError: as `cross_entropy`.

    Source:
        Goodfellow, Bengio, Courville, *Deep Learning*, section 6.2.2: it is −`cross_entropy(…, reduction="none")`.

    Differs from torch, which has no such function: `torch.nn.functional.log_softmax` and `gather` hold the
    log-probabilities of all classes. From `cross_entropy`: the sign, no reduction, and the classes are last.

    Example:
        >>> import torch, xent
        >>> xent.token_logprobs(torch.tensor([[[0.0, 0.0], [2.0, 0.0]]]), torch.tensor([[1, 0]]))
        tensor([[-0.6931, -0.1269]])
    """
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
