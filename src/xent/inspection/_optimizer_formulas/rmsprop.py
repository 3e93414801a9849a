"""RMSprop (Hinton 2012; centered: Graves 2013; ε outside the root, as torch has it).

g ← ±gradient + λθ
v ← α·v + (1 − α)·g²                  centered: ḡ ← α·ḡ + (1 − α)·g, and v − ḡ² in the place of v
b ← μ·b + g / (√v + ε) with momentum
θ ← θ − lr·(b, or g / (√v + ε))
"""

from __future__ import annotations

from torch import Tensor

from xent.inspection._optimizer_formulas.formula import Account, Recomputed, Taken, linear_parts, words
from xent.report._numbers import MINUS

EQUATION = f"θ {MINUS} lr·g / (√v + ε)"


def recompute(taken: Taken) -> Recomputed:
    """The step again."""
    account = Account(taken)
    lr, decay, momentum = taken.option("lr"), taken.option("weight_decay"), taken.option("momentum")
    theta, g = account.begin()
    g = account.coupled(g, theta, decay)
    spread = _spread(account, g)
    if momentum > 0:
        buffer = taken.scaled(taken.held("momentum_buffer"), momentum).addcdiv_(g, spread)
        account.add("b", f"{words(momentum)}·b + g ÷ (√v + ε)", buffer)
        account.add("step", f"{MINUS}{words(lr)}·b", -lr * buffer)
        after = theta.add(buffer, alpha=-lr)
    else:
        account.add("step", f"{MINUS}{words(lr)}·g ÷ (√v + ε)", -lr * (g / spread))
        after = theta.addcdiv(g, spread, value=-lr)

    def parts() -> dict[str, Tensor]:
        causes = linear_parts(taken, -float(lr) / spread.double(), new=1, old=0, held=g, decay=float(decay))
        if momentum > 0 and "momentum_buffer" in taken.state:
            causes["earlier steps"] = -float(lr) * momentum * taken.held("momentum_buffer").double()
        return causes

    return account.end(after, parts)


def _spread(account: Account, g: Tensor) -> Tensor:
    """√v + ε."""
    taken = account.taken
    alpha, eps = taken.option("alpha"), taken.option("eps")
    v = taken.scaled(taken.held("square_avg"), alpha).addcmul_(g, g, value=1 - alpha)
    account.add("v", f"{words(alpha)}·v + {words(1 - alpha)}·g²", v)
    if not taken.option("centered"):
        return account.add("√v + ε", f"√v + {words(eps)}", v.sqrt().add_(eps))
    mean = taken.held("grad_avg").lerp(g, 1 - alpha)
    account.add("ḡ", f"{words(alpha)}·ḡ + {words(1 - alpha)}·g", mean)
    spread = v.addcmul(mean, mean, value=-1).sqrt_().add_(eps)
    return account.add("√v + ε", f"√(v {MINUS} ḡ²) + {words(eps)}", spread)
