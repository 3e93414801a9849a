"""Adam (Kingma and Ba 2015), AMSGrad (Reddi et al. 2018) and AdamW (Loshchilov and Hutter 2019).

g ← ±gradient, + λθ in Adam; in AdamW θ ← (1 − lr·λ)·θ instead
m ← β₁·m + (1 − β₁)·g                 m̂ = m / (1 − β₁ᵗ)
v ← β₂·v + (1 − β₂)·g²                v̂ = v / (1 − β₂ᵗ), of the largest v so far with AMSGrad
θ ← θ − lr·m̂ / (√v̂ + ε)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xent.inspection._optimizer_formulas.formula import Account, Recomputed, Taken, decayed_parts, words
from xent.report._numbers import MINUS

EQUATION = f"θ {MINUS} lr·m̂ / (√v̂ + ε)"


def recompute(taken: Taken) -> Recomputed:
    """The step again."""
    account = Account(taken)
    lr, eps = taken.option("lr"), taken.option("eps")
    theta, g = account.decayed()
    m, v = moments(account, g)
    if taken.options.get("amsgrad"):
        v = account.add("v max", "max(v, largest v so far)", torch.maximum(taken.held("max_exp_avg_sq"), v))
    beta1, beta2 = (taken.plain(beta) for beta in taken.options["betas"])
    tensors = taken.is_capturable or taken.is_differentiable
    time = taken.time_as_tensor if tensors else taken.time
    bias1, bias2 = 1 - beta1**time, 1 - beta2**time
    size, root = lr / bias1, bias2**0.5
    denominator = v.sqrt().div(root).add(eps)
    account.add("m̂", f"m ÷ {words(bias1)} (1 {MINUS} {words(beta1)}^{float(time):.0f})", m / bias1)
    account.add("√v̂ + ε", f"√(v ÷ {words(bias2)}) + {words(eps)}", denominator)
    account.add("step", f"{MINUS}{words(lr)}·m̂ ÷ (√v̂ + ε)", -size * (m / denominator))
    if tensors:
        after = theta.addcdiv(m, (v.sqrt() / (root * -size)).add(eps / -size))
    else:
        after = theta.addcdiv(m, denominator, value=-_number(size))

    def parts() -> dict[str, Tensor]:
        scale = -float(size) / denominator.double()
        return decayed_parts(taken, scale, new=1 - float(beta1), old=float(beta1))

    return account.end(after, parts)


def moments(account: Account, g: Tensor) -> tuple[Tensor, Tensor]:
    """The running means of g and of g²."""
    taken = account.taken
    beta1, beta2 = (taken.plain(beta) for beta in taken.options["betas"])
    m = taken.held("exp_avg").lerp(g, _weight(1 - beta1, g))
    v = taken.scaled(taken.held("exp_avg_sq"), beta2).addcmul_(g, g, value=_number(1 - beta2))
    account.add("m", f"{words(beta1)}·m + {words(1 - beta1)}·g", m)
    account.add("v", f"{words(beta2)}·v + {words(1 - beta2)}·g²", v)
    return m, v


def _weight(value: Any, like: Tensor) -> Any:
    return value.to(like) if isinstance(value, Tensor) else value


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
