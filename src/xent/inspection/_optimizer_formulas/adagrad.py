"""Adagrad (Duchi, Hazan and Singer 2011).

g ← ±gradient + λθ
s ← s + g²
θ ← θ − lr / (1 + (t − 1)·η) · g / (√s + ε)           η: lr_decay
"""

from __future__ import annotations

from torch import Tensor

from xent.inspection._optimizer_formulas.formula import Account, Recomputed, Taken, linear_parts, used, words
from xent.report._numbers import MINUS

EQUATION = f"θ {MINUS} lr·g / (√s + ε)"


def recompute(taken: Taken) -> Recomputed:
    """The step again."""
    account = Account(taken)
    lr, decay, eps = taken.option("lr"), taken.option("weight_decay"), taken.option("eps")
    rate = lr / (1 + (taken.time - 1) * taken.option("lr_decay"))
    theta, g = account.begin()
    g = account.coupled(g, theta, decay)
    total = account.add("s", "s + g²", taken.held("sum").addcmul(g, g, value=1))
    spread = account.add("√s + ε", f"√s + {words(eps)}", total.sqrt().add_(eps))
    account.add("step", f"{MINUS}{words(rate)}·g ÷ (√s + ε)", -rate * (g / spread))
    if taken.route == "foreach":  # in place, where torch made a tensor of its own before; that rounds halves otherwise
        own = bool(used(decay) or taken.options.get("maximize"))
        after = theta.addcdiv(taken.scaled(g, -rate) if own else g * -rate, spread)
    else:
        after = theta.addcdiv(g, spread, value=-rate)

    def parts() -> dict[str, Tensor]:
        return linear_parts(taken, -float(rate) / spread.double(), new=1, old=0, held=g, decay=float(decay))

    return account.end(after, parts)
