"""Stochastic gradient descent with momentum (Sutskever et al. 2013, as torch writes it).

g ← ±gradient + λθ
b ← g at the first step, μ·b + (1 − τ)·g later
θ ← θ − lr·(g + μ·b with Nesterov, b with momentum, g without)
"""

from __future__ import annotations

from torch import Tensor

from xent.inspection._optimizer_formulas.formula import Account, Recomputed, Taken, linear_parts, words
from xent.report._numbers import MINUS

EQUATION = f"θ {MINUS} lr·g"


def recompute(taken: Taken) -> Recomputed:
    """The step again."""
    account = Account(taken)
    lr, decay, momentum = taken.option("lr"), taken.option("weight_decay"), taken.option("momentum")
    dampening = taken.option("dampening")
    theta, g = account.begin()
    g = account.coupled(g, theta, decay)
    held = taken.state.get("momentum_buffer")
    direction = g
    if momentum:
        buffer = g.clone()
        if held is not None:
            buffer = taken.scaled(held.to(taken.dtype), momentum).add_(g, alpha=1 - dampening)
        kept = "g (first step)" if held is None else f"{words(momentum)}·b + {words(1 - dampening)}·g"
        direction = account.add("b", kept, buffer)
        if taken.option("nesterov"):
            direction = account.add("g + μb", f"g + {words(momentum)}·b", g.add(buffer, alpha=momentum))
    account.add("step", f"{MINUS}{words(lr)}·{account.stages[-1].name if account.stages else 'g'}", -lr * direction)
    after = theta.add(direction, alpha=-lr)  # pyright: ignore[reportArgumentType]

    def parts() -> dict[str, Tensor]:
        new, old = _weights(taken, held is None)
        before = taken.value if held is None else held
        return linear_parts(taken, -float(lr), new=new, old=old, held=before, decay=float(decay))

    return account.end(after, parts)


def _weights(taken: Taken, first: bool) -> tuple[float, float]:
    """With which factors g + λθ and the buffer before the step enter the direction."""
    momentum = float(taken.option("momentum"))
    if not momentum:
        return 1.0, 0.0
    new, old = (1.0, 0.0) if first else (1 - float(taken.option("dampening")), momentum)
    return (1 + momentum * new, momentum * old) if taken.option("nesterov") else (new, old)
