"""Adamax (Kingma and Ba 2015, section 7.1).

g ← ±gradient + λθ
m ← β₁·m + (1 − β₁)·g                 m̂ = m / (1 − β₁ᵗ)
u ← max(β₂·u, |g| + ε)
θ ← θ − lr·m̂ / u
"""

from __future__ import annotations

import torch
from torch import Tensor

from xent.inspection._optimizer_formulas.formula import Account, Recomputed, Taken, linear_parts, words
from xent.report._numbers import MINUS

EQUATION = f"θ {MINUS} lr·m̂ / u"


def recompute(taken: Taken) -> Recomputed:
    """The step again."""
    account = Account(taken)
    lr, decay, eps = taken.option("lr"), taken.option("weight_decay"), taken.option("eps")
    beta1, beta2 = taken.options["betas"]
    theta, g = account.begin()
    g = account.coupled(g, theta, decay)
    m = taken.held("exp_avg").lerp(g, 1 - beta1)
    account.add("m", f"{words(beta1)}·m + {words(1 - beta1)}·g", m)
    largest = torch.maximum(taken.scaled(taken.held("exp_inf"), beta2), g.abs().add_(eps))
    account.add("u", f"max({words(beta2)}·u, |g| + {words(eps)})", largest)
    bias = 1 - beta1**taken.time
    rate = lr / bias
    account.add("step", f"{MINUS}{words(lr)} ÷ {words(bias)}·m ÷ u", -rate * (m / largest))
    if taken.options.get("capturable"):
        after = theta.addcdiv(m, largest * (-bias / lr))
    else:
        after = theta.addcdiv(m, largest, value=-float(rate))

    def parts() -> dict[str, Tensor]:
        scale, held = -float(rate) / largest.double(), taken.held("exp_avg")
        return linear_parts(taken, scale, new=1 - beta1, old=beta1, held=held, decay=float(decay))

    return account.end(after, parts)
