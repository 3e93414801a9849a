"""NAdam (Dozat 2016), with decoupled weight decay on request.

g ← ±gradient, + λθ; decoupled θ ← (1 − lr·λ)·θ instead
μₜ = β₁·(1 − ½·0.96^(t·ψ))            M ← M·μₜ
m, v as in Adam                       v̂ = v / (1 − β₂ᵗ)
θ ← θ − lr·((1 − μₜ) / (1 − M)·g + μₜ₊₁ / (1 − M·μₜ₊₁)·m) / (√v̂ + ε)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xent.inspection._optimizer_formulas.adam import moments
from xent.inspection._optimizer_formulas.formula import Account, Recomputed, Taken, decayed_parts, words
from xent.report._numbers import MINUS

EQUATION = f"θ {MINUS} lr·((1 {MINUS} μₜ)/(1 {MINUS} M)·g + μₜ₊₁/(1 {MINUS} M·μₜ₊₁)·m) / (√v̂ + ε)"


def recompute(taken: Taken) -> Recomputed:
    """The step again."""
    account = Account(taken)
    lr, eps = taken.option("lr"), taken.option("eps")
    theta, g = account.decayed()
    m, v = moments(account, g)
    bias = 1 - taken.options["betas"][1] ** taken.time
    spread = (v.sqrt().div(bias**0.5) if taken.route == "foreach" else v.div(bias).sqrt()).add(eps)
    account.add("√v̂ + ε", f"√(v ÷ {words(bias)}) + {words(eps)}", spread)
    of_gradient, of_mean = _sizes(taken, lr)
    account.add("step", f"({words(of_gradient)}·g {words(of_mean)}·m) ÷ (√v̂ + ε)",
                (of_gradient * g + of_mean * m) / spread)  # fmt: skip
    if taken.is_capturable and taken.route == "foreach":
        after = theta.addcdiv((g * of_gradient).addcmul(m, of_mean), spread)
    elif taken.is_capturable or taken.is_differentiable:
        after = theta.addcdiv(g * of_gradient, spread).addcdiv(m * of_mean, spread)
    else:
        after = theta.addcdiv(g, spread, value=float(of_gradient)).addcdiv(m, spread, value=float(of_mean))

    def parts() -> dict[str, Tensor]:
        beta1 = taken.options["betas"][0]
        new, old = float(of_gradient) + float(of_mean) * (1 - beta1), float(of_mean) * beta1
        return decayed_parts(taken, 1 / spread.double(), new=new, old=old)

    return account.end(after, parts)


def _sizes(taken: Taken, lr: Any) -> tuple[Any, Any]:
    """The factors of g and of m, signs included."""
    beta1, slowing, time = taken.options["betas"][0], taken.option("momentum_decay"), taken.time
    mu = beta1 * (1.0 - 0.5 * (0.96 ** (time * slowing)))
    apart = taken.is_capturable and taken.route == "foreach"  # rounded in float32, where this is another number
    next_mu = beta1 * (1.0 - 0.5 * (0.96 ** (time * slowing + slowing if apart else (time + 1) * slowing)))
    product = _product(taken, mu)
    return -lr * (1.0 - mu) / (1.0 - product), -lr * next_mu / (1.0 - product * next_mu)


def _product(taken: Taken, mu: Any) -> Any:
    """μ₁·…·μₜ, rounded as the float32 tensor that torch keeps."""
    from torch import get_default_dtype, ones

    held = taken.state.get("mu_product")
    if held is None:
        held = ones((), dtype=get_default_dtype(), device=taken.value.device if taken.is_capturable else "cpu")
    product = held * mu
    return product if taken.is_capturable or taken.is_differentiable else product.item()
