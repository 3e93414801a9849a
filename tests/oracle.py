"""The truth: every loss from the equations of its docstring, in mpmath with 50 digits (or 80-bit floats when large).

Nothing here calls torch's or xent's losses; torch tensors are read, exactly, and plain numbers come back. Each result
is a `Figure`: the value and the magnitude, the sum of the absolute values of what the equation adds up to get it. An
error is judged against the magnitude, because no arithmetic can be better than the rounding of the things it adds.

    z = softcap·tanh(logit_scale·x / softcap)    ln p = z − logsumexp(z)    q = (1 − ε)·target + ε/C
    S_i = r·(−Σ_c w_c q_c ln p_c) + W_i·ζ·logsumexp(z)²      W_i = r·w[target], or r; 0 for an ignored row
    mean = Σ S / Σ W, or Σ S / normalizer
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import mpmath
import numpy as np
from torch import Tensor

_MP = mpmath.MPContext()
_MP.dps = 50
PRECISE_UP_TO = 500  # entries; a larger problem takes 80-bit floats, 2000 times finer than float64


class Figure:
    """A true value and the magnitude that its rounding errors are relative to, both float64 arrays."""

    def __init__(self, value: Any, magnitude: Any) -> None:
        self.value = np.asarray(value, dtype=object).astype(np.float64)
        self.magnitude = np.broadcast_to(np.asarray(magnitude, dtype=object).astype(np.float64), self.value.shape)


@dataclass(frozen=True)
class Arithmetic:
    """Arrays of one kind of number and the functions on them."""

    number: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    log: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    dtype: Any

    @np.errstate(all="ignore")
    def array(self, tensor: Tensor) -> np.ndarray:
        """The exact values of a tensor."""
        values = tensor.detach().double().numpy()
        if self.dtype is not object:
            return values.astype(self.dtype)
        return np.frompyfunc(self.number, 1, 1)(values.astype(object)) if values.ndim else self._scalar(values)

    def _scalar(self, values: np.ndarray) -> np.ndarray:
        out = np.empty((), dtype=object)
        out[()] = self.number(float(values))
        return out

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        """Zeros of this kind."""
        out = np.empty(shape, dtype=self.dtype)
        out[...] = self.number(0)
        return out


def _on_arrays(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return np.frompyfunc(function, 1, 1)


PRECISE = Arithmetic(_MP.mpf, _on_arrays(_MP.exp), _on_arrays(_MP.log), _on_arrays(_MP.tanh), object)
WIDE = Arithmetic(np.longdouble, np.exp, np.log, np.tanh, np.longdouble)


def arithmetic_for(size: int) -> Arithmetic:
    """50 digits for small problems, 80-bit floats for large ones."""
    return PRECISE if size <= PRECISE_UP_TO else WIDE


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a loss, under the names of `xent.cross_entropy`."""

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    row_weight: Tensor | None = None
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    reduction: str = "mean"
    normalizer: float | Tensor | None = None
    dim: int | None = None
    shift: int = 0


@dataclass
class Truth:
    """Figures by name: "loss", "rows.loss", "rows.lse", …, "grad.input", "grad.target", "grad.weight", …

    `best` is the largest (scaled, capped) logit of each row and `z` all of them, to judge predictions by.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    z: Any = None
    best: Any = None
    counted: Any = None
    true_class: Any = None


def cross_entropy(logits: Tensor, target: Tensor, options: Options, grad_output: Tensor | None = None) -> Truth:
    """Truth of `xent.cross_entropy` and of its gradients for `grad_output`."""
    numbers = arithmetic_for(logits.numel())
    return _Loss(numbers, numbers.array(logits), target, options).truth(grad_output)


def statistics(logits: Tensor, target: Tensor, options: Options) -> Truth:
    """Truth of `stats=True`: "grad.lse" and "grad.entropy", gradients of the sums over the rows, besides."""
    numbers = arithmetic_for(logits.numel())
    return _Loss(numbers, numbers.array(logits), target, options).statistic_gradients()


def nll_loss(log_p: Tensor, target: Tensor, options: Options, grad_output: Tensor | None = None) -> Truth:
    """Truth of `xent.nll_loss`."""
    numbers = arithmetic_for(log_p.numel())
    return _Loss(numbers, numbers.array(log_p), target, options, log_probabilities=True).truth(grad_output)


def linear_cross_entropy(
    hidden: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    options: Options,
    linear_bias: Tensor | None = None,
    grad_output: Tensor | None = None,
) -> Truth:
    """Truth of `xent.linear_cross_entropy`; "grad.hidden", "grad.linear_weight" and "grad.linear_bias" besides."""
    dim = (-1 if options.dim is None else options.dim) % hidden.ndim
    rows = np.moveaxis(PRECISE.array(hidden), dim, -1)
    head, extra = PRECISE.array(linear_weight), linear_weight.ndim - 2
    bias = PRECISE.zeros(head.shape[:-1]) if linear_bias is None else PRECISE.array(linear_bias)
    x = np.tensordot(rows, head, ([-1], [-1])) + bias  # (*rows, C, d1, …)
    size = np.tensordot(abs(rows), abs(head), ([-1], [-1])) + abs(bias)
    class_axis = x.ndim - 1 - extra
    x, size = np.moveaxis(x, class_axis, dim), np.moveaxis(size, class_axis, dim)
    loss = _Loss(PRECISE, x, target, replace(options, dim=dim), logit_size=size)
    truth = loss.truth(grad_output)
    kinds = []
    for pick, sign in ((lambda figure: figure.value, lambda a: a), (lambda figure: figure.magnitude, abs)):
        to_x = np.moveaxis(pick(truth.figures["grad.input"]), dim, class_axis)
        h, w = sign(rows.astype(float)), sign(head.astype(float))
        axes = list(range(rows.ndim - 1))
        to_hidden = np.tensordot(to_x, w, (list(range(class_axis, x.ndim)), list(range(extra + 1))))
        to_weight = np.tensordot(to_x, h, (axes, axes))
        kinds.append((np.moveaxis(to_hidden, -1, dim), to_weight, to_x.sum(tuple(axes))))
    for name, value, magnitude in zip(("hidden", "linear_weight", "linear_bias"), *kinds, strict=True):
        truth.figures[f"grad.{name}"] = Figure(value, magnitude)
    return truth


class _Loss:
    """One problem on flat rows: x (N, C), q (N, C), r (N)."""

    def __init__(self, numbers, x, target, options, log_probabilities=False, logit_size=None):
        self.numbers, self.options, self.hard = numbers, options, target.ndim < x.ndim
        self.class_dim = (options.dim if options.dim is not None else min(x.ndim - 1, 1)) % x.ndim
        rows = np.moveaxis(x, self.class_dim, -1)
        self.kept = _kept(rows.shape[:-1], options.shift, ahead=False)
        behind = _kept(rows.shape[:-1], options.shift, ahead=True)
        self.row_shape = rows[..., 0][self.kept].shape
        self.moved_shape = rows.shape
        self.num_classes = rows.shape[-1]
        self.x = rows[self.kept].reshape(-1, self.num_classes)
        size = numbers.zeros(x.shape) if logit_size is None else logit_size
        self.logit_size = np.moveaxis(size, self.class_dim, -1)[self.kept].reshape(-1, self.num_classes)
        self.row_weight = numbers.zeros((len(self.x),)) + numbers.number(1)
        self.behind = behind
        if options.row_weight is not None:
            expanded = np.broadcast_to(numbers.array(options.row_weight), rows.shape[:-1])
            self.row_weight = expanded[behind].reshape(-1)
        self.weight = numbers.zeros((self.num_classes,)) + numbers.number(1)
        if options.weight is not None:
            self.weight = numbers.array(options.weight)
        self._read_target(target, behind)
        self._forward(log_probabilities)

    def _read_target(self, target: Tensor, behind) -> None:
        numbers, epsilon = self.numbers, self.numbers.number(self.options.label_smoothing)
        if self.hard:
            self.index = target.numpy().astype(object)[behind].reshape(-1)  # Python integers: 156 is not −100
            self.counted = np.array([int(i) != self.options.ignore_index for i in self.index], dtype=bool)
            self.raw = numbers.zeros((len(self.x), self.num_classes))
            for row, index in enumerate(self.index):
                if self.counted[row]:
                    self.raw[row, int(index)] = numbers.number(1)
        else:
            self.counted = np.ones(len(self.x), dtype=bool)
            self.raw = np.moveaxis(numbers.array(target), self.class_dim, -1)[behind].reshape(-1, self.num_classes)
        self.q = (1 - epsilon) * self.raw + epsilon / self.num_classes

    @np.errstate(all="ignore")
    def _forward(self, log_probabilities: bool) -> None:
        numbers, options = self.numbers, self.options
        scale = numbers.number(options.logit_scale)
        z = self.x * scale if options.logit_scale != 1 else self.x
        self.slope = numbers.zeros(self.x.shape) + scale
        self.slope_magnitude = abs(self.slope)
        if options.softcap is not None:
            cap = numbers.number(options.softcap)
            capped = numbers.tanh(z / cap)
            z, self.slope = cap * capped, scale * (1 - capped * capped)
            self.slope_magnitude = abs(scale) * (2 - capped * capped)  # 1 − t² rounds as 1 and t² do
        self.z = z
        rounded = options.softcap is not None or options.logit_scale != 1
        self.best, self.lse, self.log_p, self.p = _log_softmax(numbers, z)
        spread = _finite(abs(z - self.best)) + _finite(abs(self.lse - self.best)) + 1  # ln Σ errs as Σ ≥ 1 does
        self.distance = spread + (_finite(abs(z)) + _finite(abs(self.best)) if rounded else 0)
        self.distance = self.distance + abs(self.slope) * self.logit_size  # what rounding the logits moves them by
        if log_probabilities:  # only the target's entry is read
            self.p, self.log_p, self.distance = 0 * self.q, np.where(self.q == 0, 0 * self.q, z), _finite(abs(z))
        self.level = _finite(abs(self.best[:, 0])) + _finite(abs(self.lse - self.best))[:, 0]
        self.level = self.level + (abs(self.slope) * self.logit_size).sum(-1)

    @np.errstate(all="ignore")  # infinities and NaN are wanted here
    def truth(self, grad_output: Tensor | None) -> Truth:
        numbers, options = self.numbers, self.options
        zeta = numbers.number(options.z_loss)
        parts = _limit(self.q, self.log_p) * self.weight
        ce, ce_size = -parts.sum(-1), (abs(self.q * self.weight) * self.distance).sum(-1)
        own = numbers.zeros(ce.shape) + numbers.number(1)  # w[target], or 1
        if self.hard:
            own = (self.raw * self.weight).sum(-1)
        square = self.lse[:, 0] ** 2 if options.z_loss else numbers.zeros(ce.shape)
        z_term = own * zeta * square
        loss = self._only_counted(self.row_weight * ce + self.row_weight * z_term)
        total_weight = self._only_counted(self.row_weight * own)
        self.z_size = 4 * abs(own) * zeta * self.level**2
        size = self._only_counted(abs(self.row_weight) * (ce_size + self.z_size))
        truth = Truth(z=self.z, best=self.best[:, 0], counted=self.counted)
        truth.true_class = self.index if self.hard else None
        self._rows(truth, loss, size, total_weight, self._only_counted(self.row_weight * z_term))
        alpha, beta, alpha_size, beta_size = self._reduce(truth, loss, size, total_weight, grad_output)
        self._gradients(truth, (alpha, beta, alpha_size, beta_size), ce, ce_size, own, square, zeta)
        return truth

    def _only_counted(self, value):
        out = self.numbers.zeros(value.shape)
        out[self.counted] = value[self.counted]
        return out

    def _rows(self, truth: Truth, loss, size, weight, z_term) -> None:
        entropy = -_limit(self.p, self.log_p).sum(-1)
        entropy_size = (abs(self.p) * (1 + self.distance) * (1 + _finite(abs(self.log_p)))).sum(-1)
        for name, value, magnitude in (
            ("loss", loss, size),
            ("lse", self._only_counted(self.lse[:, 0]), self.level),
            ("entropy", self._only_counted(entropy), entropy_size),
            ("z_loss", z_term, self.z_size * abs(self.row_weight)),
            ("weight", weight, abs(weight)),
        ):
            truth.figures[f"rows.{name}"] = Figure(value.reshape(self.row_shape), magnitude.reshape(self.row_shape))
        self.entropy = entropy

    def _reduce(self, truth: Truth, loss, size, weight, grad_output: Tensor | None):
        """The loss, and what d loss / d S_i and d loss / d W_i are."""
        numbers, options = self.numbers, self.options
        one, none = numbers.zeros(loss.shape) + numbers.number(1), numbers.zeros(loss.shape)
        if options.reduction == "none":
            upstream = one if grad_output is None else numbers.array(grad_output).reshape(-1)
            truth.figures["loss"] = truth.figures["rows.loss"]
            return upstream, none, abs(upstream), none
        factor = numbers.number(1 if grad_output is None else float(grad_output))
        total, total_size = loss.sum(), size.sum()
        if options.reduction == "sum":
            truth.figures["loss"] = Figure(total, total_size)
            return one * factor, none, one * abs(factor), none
        given = options.normalizer
        below = weight.sum() + numbers.number(0) if given is None else numbers.number(float(given))
        if below == 0:
            truth.figures["loss"] = Figure(np.nan, 0)
            return one * np.nan, none, one, none
        below_size = abs(weight).sum() / abs(below) if given is None else 1  # > 1 where weights cancel
        truth.figures["loss"] = Figure(total / below, (total_size + abs(total) * below_size) / abs(below))
        alpha, alpha_size = one * factor / below, one * abs(factor) * below_size / abs(below)
        if given is not None:
            return alpha, none, alpha_size, none
        return alpha, -alpha * total / below, alpha_size, alpha_size * total_size * below_size / abs(below)

    def _gradients(self, truth: Truth, reduced, ce, ce_size, own, square, zeta) -> None:
        alpha, beta, alpha_size, beta_size = reduced
        r, options, hard = self.row_weight, self.options, self.hard
        pull = (self.q * self.weight).sum(-1)  # a of the docstring
        z_pull = 2 * own * zeta * self.lse[:, 0] if options.z_loss else 0 * own
        to_z = (r * (pull + z_pull))[:, None] * self.p - r[:, None] * self.weight * self.q
        relative = 2 + self.distance
        pull_size = abs(self.q * self.weight).sum(-1) + 2 * abs(own) * zeta * self.level
        to_z_size = abs(r)[:, None] * (pull_size[:, None] * self.p * relative + abs(self.weight * self.q))
        self._place(
            truth,
            "grad.input",
            alpha[:, None] * to_z * self.slope,
            alpha_size[:, None] * to_z_size * self.slope_magnitude,
            self.kept,
            self.counted,
        )
        if not hard:
            keep = 1 - self.numbers.number(options.label_smoothing)
            to_q = keep * (alpha * r)[:, None] * -(self.weight * self.log_p)
            to_q_size = (alpha_size * abs(r))[:, None] * abs(self.weight) * self.distance
            self._place(truth, "grad.target", to_q, to_q_size, self.behind, self.counted)
        if options.weight is not None:
            self._class_weight(truth, reduced, square, zeta)
        if options.row_weight is not None:
            to_r = self._only_counted(alpha * (ce + own * zeta * square) + beta * own)
            to_r_size = self._only_counted(alpha_size * (ce_size + self.z_size) + beta_size * abs(own))
            self._place_rows(truth, to_r, to_r_size)

    @np.errstate(all="ignore")
    def statistic_gradients(self) -> Truth:
        """ "grad.lse" and "grad.entropy": the gradients of the sums of the two over the rows."""
        truth, relative = self.truth(None), 2 + self.distance
        self._place(
            truth, "grad.lse", self.p * self.slope, self.p * relative * self.slope_magnitude, self.kept, self.counted
        )
        to_entropy = -(_limit(self.p, self.log_p) + self.p * self.entropy[:, None])
        entropy_size = self.p * relative * (1 + _finite(abs(self.log_p)) + abs(self.entropy)[:, None])
        self._place(
            truth, "grad.entropy", to_entropy * self.slope, entropy_size * self.slope_magnitude, self.kept, self.counted
        )
        return truth

    def _class_weight(self, truth: Truth, reduced, square, zeta) -> None:
        alpha, beta, alpha_size, beta_size = reduced
        r = self._only_counted(self.row_weight)
        to_w = -(alpha * r)[:, None] * _limit(self.q, self.log_p)
        to_w_size = (alpha_size * abs(r))[:, None] * abs(self.q) * self.distance
        if self.hard:
            to_w = to_w + (r * (alpha * zeta * square + beta))[:, None] * self.raw
            own_size = alpha_size * 4 * zeta * self.level**2 + beta_size
            to_w_size = to_w_size + (abs(r) * own_size)[:, None] * self.raw
        truth.figures["grad.weight"] = Figure(to_w[self.counted].sum(0), to_w_size[self.counted].sum(0))

    def _place(self, truth: Truth, name: str, value, magnitude, kept, counted) -> None:
        """Put rows (N, C) back into the shape that the caller gave; what was shifted away has gradient 0."""
        whole = []
        for part in (value, magnitude):
            out = self.numbers.zeros(self.moved_shape)
            masked = self.numbers.zeros(part.shape)
            masked[counted] = part[counted]
            out[kept] = masked.reshape(out[kept].shape)
            whole.append(np.moveaxis(out, -1, self.class_dim))
        truth.figures[name] = Figure(*whole)

    def _place_rows(self, truth: Truth, value, magnitude) -> None:
        whole = []
        for part in (value, magnitude):
            out = self.numbers.zeros(self.moved_shape[:-1])
            out[self.behind] = part.reshape(out[self.behind].shape)
            whole.append(_sum_to(out, tuple(self.options.row_weight.shape)))
        truth.figures["grad.row_weight"] = Figure(*whole)


def _kept(row_shape: tuple[int, ...], shift: int, ahead: bool):
    """Index of the positions that take part: all but the first `shift` (targets) or the last (logits)."""
    if not shift:
        return (Ellipsis,) if not row_shape else (slice(None),) * len(row_shape)
    length = row_shape[-1]
    part = slice(min(shift, length), None) if ahead else slice(0, max(length - shift, 0))
    return (*(slice(None),) * (len(row_shape) - 1), part)


def _sum_to(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    while value.ndim > len(shape):
        value = np.asarray(value.sum(0))
    for axis, size in enumerate(shape):
        if size == 1 and value.shape[axis] != 1:
            value = value.sum(axis, keepdims=True)
    return value


def _limit(q, log_p):
    """q·ln p, where 0·(−∞) is 0."""
    gone = (q == 0) & (log_p == -np.inf)
    return np.where(gone, 0 * q, q * np.where(gone, 0 * q, log_p))


def _finite(value):
    """Infinite and NaN entries as 0: they are compared exactly, so that their magnitude does not matter."""
    odd = (value != value) | (value == np.inf)
    return np.where(odd, 0, value)


def _log_softmax(numbers: Arithmetic, z):
    """Per row of z (N, C): the maximum, logsumexp (both (N, 1)), ln p and p."""
    if z.shape[0] == 0:
        empty = numbers.zeros((0, 1))
        return empty, empty, z, z
    nan = (z != z).any(-1, keepdims=True)
    best = np.where(nan, numbers.number("nan"), np.where(z != z, -np.inf, z).max(-1, keepdims=True))
    lse = best + numbers.log(numbers.exp(z - best).sum(-1, keepdims=True))
    return best, lse, z - lse, numbers.exp(z - lse)
