"""RAdam (Liu et al. 2020), with decoupled weight decay on request.

g ← ±gradient, + λθ; decoupled θ ← (1 − lr·λ)·θ instead
m, v as in Adam                       m̂ = m / (1 − β₁ᵗ)
ρ∞ = 2 / (1 − β₂) − 1                 ρₜ = ρ∞ − 2t·β₂ᵗ / (1 − β₂ᵗ)
θ ← θ − lr·m̂·r·√(1 − β₂ᵗ) / (√v + ε) where ρₜ > 5, θ − lr·m̂ before
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xent.inspection._optimizer_formulas.adam import moments
from xent.inspection._optimizer_formulas.formula import Account, Recomputed, Taken, decayed_parts, words
from xent.report._numbers import MINUS

EQUATION = f"θ {MINUS} lr·m̂·r·√(1 {MINUS} β₂ᵗ) / (√v + ε)"


def recompute(taken: Taken) -> Recomputed:
    """The step again."""
    account = Account(taken)
    lr, eps = taken.option("lr"), taken.option("eps")
    theta, g = account.decayed()
    m, v = moments(account, g)
    beta1, beta2 = taken.options["betas"]
    bias1, bias2 = 1 - beta1**taken.time, 1 - beta2**taken.time
    rectified, length = rectification(beta2, taken.time)
    mean = account.add("m̂", f"m ÷ {words(bias1)}", m / bias1)
    spread = v.sqrt().add_(eps)
    if rectified is None:
        account.add("step", f"{MINUS}{words(lr)}·m̂ (ρ = {words(length)} ≤ 5: no division by √v yet)", -lr * mean)
        scale: Any = -float(lr) / float(bias1)
    else:
        account.add("√v + ε", f"√v + {words(eps)}", spread)
        formula = f"{MINUS}{words(lr)}·m̂·{words(rectified)}·√{words(bias2)} ÷ (√v + ε) (ρ = {words(length)})"
        account.add("step", formula, -lr * mean * ((bias2**0.5) / spread) * rectified)
        scale = -float(lr) * float(rectified) * float(bias2) ** 0.5 / float(bias1) / spread.double()
    after = _moved(taken, theta, (m, spread), (bias1, bias2), rectified)

    def parts() -> dict[str, Tensor]:
        return decayed_parts(taken, scale, new=1 - beta1, old=beta1)

    return account.end(after, parts)


def rectification(beta2: float, time: Any) -> tuple[float | None, float]:
    """The factor r, None while the variance is not yet known well enough; and ρₜ."""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * time * (beta2**time) / (1 - beta2**time)
    if length <= 5.0:
        return None, length
    return ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5, length


def _moved(taken: Taken, theta: Tensor, means: tuple[Tensor, Tensor], biases: tuple[Any, Any], r: Any) -> Tensor:
    (m, spread), (bias1, bias2), lr = means, biases, taken.option("lr")
    if taken.route == "foreach":  # one factor of m for every entry, made before it is multiplied
        if r is None:
            return theta.addcmul(m, (spread * 0).add_(-lr / bias1))
        return theta.addcmul(m, spread.div((bias2**0.5) * (lr * r / bias1) * -1).reciprocal_())
    if r is None:
        return theta.add(m / bias1 * lr, alpha=-1.0)
    return theta.add(m / bias1 * lr * ((bias2**0.5) / spread) * r, alpha=-1.0)
