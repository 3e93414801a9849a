"""Perplexities of batches that are averaged. What becomes of a float can't be observed: the program's text is read."""

from __future__ import annotations

import ast
import linecache
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._run import Run

_MOST_BYTES = 1 << 20  # of a file that is parsed
_SAME_VALUE = ("item", "detach", "cpu", "float", "double", "clone", "mean")  # loss.item() is the loss
_COLLECTS = ("append", "add_", "extend")
_AVERAGES = ("mean", "sum", "stack", "fmean", "average", "nanmean")


@dataclass
class _Line:
    """A line that computes losses, where the exp of each is summed up, and the losses that were looked at."""

    place: CallSite | None
    losses: list[float] = field(default_factory=list)


class _PerplexityOfMeans(Watcher):
    """Reads the text around a line once, then the values of its sampled calls."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._lines: dict[CallSite, _Line] = {}

    def at_loss_call(self, call: LossCall) -> None:
        if call.site is None or call.output is None or call.reduction != "mean" or call.output.numel() != 1:
            return
        line = self._lines.get(call.site)
        if line is None:
            line = self._lines[call.site] = _Line(_place_of_exp(call.site))
        if line.place is not None:
            line.losses.append(float(call.values_of(call.output)))

    def at_end(self) -> Iterator[Found]:
        lines = [line for line in self._lines.values() if line.place is not None and len(line.losses) > 1]
        if not lines:
            raise NotChecked("no exp of a loss stands beside its call; what becomes of plain floats can't be seen")
        for line in lines:
            yield _found(line)


def _found(line: _Line) -> Found:
    count = len(line.losses)
    mean = sum(line.losses) / count
    averaged, exact = _exp_mean([*line.losses]), _exp_mean([mean])
    return Found(
        message=f"exp of each batch's mean loss is taken and averaged: over the {count} batches that were looked at "
        f"this gives {averaged:.4f}, while exp of their mean loss {mean:.4f} is {exact:.4f}. A mean of perplexities is "
        "never below the perplexity, and depends on the batch size. Intended if each is only shown by itself.",
        fix="sum the losses over all tokens, divide by their number, and take exp once: exp(total / count)",
        proof="the text of the loop; the losses of its sampled calls",
        values={"averaged": averaged, "perplexity": exact, "batches": count},
        site=line.place,
    )


def _exp_mean(losses: list[float]) -> float:
    return sum(math.exp(min(loss, 700.0)) for loss in losses) / len(losses)  # e^709 is the last double


def _place_of_exp(site: CallSite) -> CallSite | None:
    """The expression exp(loss) in the loop around a call, if its values are summed up and averaged."""
    tree = _tree(site.file)
    if tree is None:
        return None
    scope, loop = _around(tree, site)
    if loop is None:
        return None
    names = _names_of_loss(loop, site)
    for statement in ast.walk(loop):
        collected = _collected(statement)
        if collected is None:
            continue
        target, value = collected
        place = _exp_in(value, names, site) or _assigned_exp(value, loop, names, site)
        if place is not None and _is_averaged(target, scope, statement):
            return CallSite(site.file, place.lineno, place.end_lineno or place.lineno, site.function)
    return None


@lru_cache(maxsize=64)
def _tree(file: str) -> ast.Module | None:
    text = "".join(linecache.getlines(file))
    if not text or len(text) > _MOST_BYTES:
        return None
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _around(tree: ast.Module, site: CallSite) -> tuple[ast.AST, ast.AST | None]:
    """The function (or module) and the innermost loop in it that hold a line."""
    scope: ast.AST = tree
    loop: ast.AST | None = None
    for node in ast.walk(tree):  # outer ones come first
        end = getattr(node, "end_lineno", None)
        if end is None or not node.lineno <= site.line <= end:  # type: ignore[attr-defined]
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            scope, loop = node, None
        elif isinstance(node, (ast.For, ast.While, ast.AsyncFor)):
            loop = node
    return scope, loop


def _names_of_loss(loop: ast.AST, site: CallSite) -> set[str]:
    """What the loss is called: the target of its own statement, and of those that only copy it."""
    names: set[str] = set()
    for node in ast.walk(loop):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            own = isinstance(node.value, ast.Call) and node.lineno <= site.line <= (node.end_lineno or node.lineno)
            if own or _plain_name(node.value) in names:
                names.add(node.targets[0].id)
    return names


def _plain_name(node: ast.AST) -> str | None:
    """Of loss, loss.item(), float(loss.detach()), …"""
    node = _stripped(node)
    return node.id if isinstance(node, ast.Name) else None


def _stripped(node: ast.AST) -> ast.AST:
    """What has the same value, without .item(), float() and the like."""
    while isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in _SAME_VALUE and not node.args:
            node = function.value
        elif isinstance(function, ast.Name) and function.id == "float" and len(node.args) == 1:
            node = node.args[0]
        else:
            break
    return node


def _collected(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """(the sum or list, what is added to it)."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return node.target, node.value
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _COLLECTS
        and node.args
    ):
        return node.func.value, node.args[0]
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Add):
        target, left = node.targets[0], node.value.left
        if ast.dump(target).replace("Store", "Load") == ast.dump(left):
            return target, node.value.right
    return None


def _exp_in(value: ast.AST, names: set[str], site: CallSite) -> ast.Call | None:
    """The call exp(loss), or exp of the loss's own call."""
    for node in ast.walk(value):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if called == "exp":
            of = node.args[0] if node.args else getattr(function, "value", None)
            if of is not None and (_plain_name(of) in names or _is_the_call(of, site)):
                return node
    return None


def _is_the_call(node: ast.AST, site: CallSite) -> bool:
    node = _stripped(node)
    return isinstance(node, ast.Call) and (node.lineno, node.end_lineno) == (site.line, site.last_line)


def _assigned_exp(value: ast.AST, loop: ast.AST, names: set[str], site: CallSite) -> ast.Call | None:
    name = _plain_name(value)
    for node in ast.walk(loop):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return _exp_in(node.value, names, site)
    return None


def _is_averaged(target: ast.expr, scope: ast.AST, statement: ast.AST) -> bool:
    """Whether what was summed up is divided, or its mean is taken, in the same function."""
    wanted = ast.dump(target).replace("Store", "Load")

    def has(node: ast.AST) -> bool:
        return any(ast.dump(each) == wanted for each in ast.walk(node) if isinstance(each, ast.expr))

    for node in ast.walk(scope):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and has(node.left):
            return True
        if isinstance(node, ast.Call) and node is not statement:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _AVERAGES and has(node):
                return True
    return False


_HEAD = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
total = 0.0
with torch.no_grad():
    for _ in range(4):
        x, y = torch.randn(32, 8), torch.randint(3, (32,))
        loss = F.cross_entropy(model(x), y)
        total += {}
print({})
"""

RULES = (
    Rule(
        slug="perplexity-of-means",
        severity="warning",
        certainty="heuristic",
        title="exp of each batch's mean loss is averaged",
        needs=("the program's text, with the exp in the loop of the loss",),
        watcher=_PerplexityOfMeans,
        example=_HEAD.format("loss.exp().item()", "total / 4"),
        corrected=_HEAD.format("loss.item() * 32", "torch.tensor(total / 128).exp()"),
    ),
)
