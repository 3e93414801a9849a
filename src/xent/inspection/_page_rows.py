"""The rows of a term as a page moves them: what the loss of a row is as a function of its logits and a temperature.

z       = softcap · tanh(scale · x / softcap)          x: the caller's logits, some classes shown, the others one rest
lse     = ln (Σ_shown exp(z/T) + exp(rest))            rest: log-sum-exp of the others' z/T, one for each T of the page
cost    = Σ_shown t·(lse − z/T) + mass·lse − mz/T + ζ·lse²       mass, mz: Σ t and Σ t·z of the others
value   = held + Σ rows upstream · cost + others       held, others: what does not move
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from xent.backends.reference.cross_entropy import scaled_logits
from xent.inspection._shown_rows import SHOWN_BLOCK, Names, chosen_rows, row_records
from xent.inspection._term import Term

TEMPERATURES = tuple(2.0 ** (step / 4) for step in range(-8, 9))  # 1/4 … 4; the middle one is exactly 1
ALL_ROWS = 60  # as many are on a page
SOME_ROWS = {"worst": 16, "first": 16, "random": 16, "best": 8}  # of more, these
ALL_CLASSES = 16  # as many are shown
LIKELIEST = 10  # of more, these, and the targets
_GROUPS = 60  # in which the other rows are drawn
_MOVED = 1 << 25  # exponentials taken at most for the other rows at every temperature
_TARGETS = 4  # classes with most mass of a probability target that are shown
_TEXT = 300  # characters of a name that are written


def rows_on_page(term: Term) -> tuple[Tensor, dict[str, list[int]]]:
    """Numbers of the rows on the page, and for each order their places among these."""
    if term.num_rows <= ALL_ROWS:
        rows = torch.arange(term.num_rows)
        return rows, {order: chosen_rows(term, order, len(rows)).tolist() for order in ("first", "worst", "best")}
    chosen = {order: chosen_rows(term, order, count) for order, count in SOME_ROWS.items()}
    rows = torch.cat(list(chosen.values())).unique()
    return rows, {order: torch.searchsorted(rows, some).tolist() for order, some in chosen.items()}


def page_rows(term: Term, rows: Tensor, names: Names) -> list[dict[str, Any]]:
    """A plain record for each row."""
    records = row_records(term, rows, names)
    parts = rows.split(max(1, SHOWN_BLOCK // max(term.num_classes, 1)))
    moved = [found for part in parts for found in _moved(term, part)]
    widths = width_of_rows(term)
    return [
        {
            "row": record["row"],
            "position": record["position"],
            "name": None if record["name"] is None else record["name"][:_TEXT],
            "target": record["target"][:_TEXT],
            "predicted": record["predicted"][:_TEXT],
            "counted": record["counted"],
            "cost": record["loss"],
            "upstream": float(term.upstream[record["row"]]) if record["counted"] else 0.0,
            "width": float(widths[record["row"]]),
            **found,
        }
        for record, found in zip(records, moved, strict=True)
    ]


def width_of_rows(term: Term) -> Tensor:
    """How wide each row is drawn: its weight in the mean, so that height · width is what it adds; (n,)."""
    counted = term.counted & (term.upstream != 0)
    weighed = bool(((term.weight > 0) | (term.cost == 0))[counted].all())
    width = term.upstream.abs() * (term.weight if weighed else 1.0)
    return torch.where(counted, width, 0.0)


def _moved(term: Term, rows: Tensor) -> list[dict[str, Any]]:
    log_p, mass = term.log_probs(rows), term.mass(rows)
    x, known = _logits(term, rows, log_p)
    options = term.scores.options
    z = scaled_logits(x, options, torch.float64)
    squared = options.z_loss * term.weight[rows] if term.z_part is not None else torch.zeros(len(rows))
    found = []
    for place in range(len(rows)):
        shown = _shown(log_p[place], mass[place], term)
        rest = torch.ones(term.num_classes, dtype=torch.bool)
        rest[shown] = False
        own = int(mass[place].argmax()) if bool((mass[place] > 0).any()) else -1
        found.append({
            "classes": shown.tolist(),
            "x": x[place][shown].tolist(),
            "known": known,
            "t": mass[place][shown].tolist(),
            "own": shown.tolist().index(own) if own >= 0 else -1,
            "zeta": float(squared[place]),
            "rest": _rest(z[place][rest], mass[place][rest]) if bool(rest.any()) else None,
        })  # fmt: skip
    return found


def _logits(term: Term, rows: Tensor, log_p: Tensor) -> tuple[Tensor, bool]:
    """The logits (m, C), and whether they are the caller's; ln p, which is as good, where these can't be read."""
    x = term.scores.all_logits(term.row_ids[rows])
    if x is not None:
        again = scaled_logits(x, term.scores.options, torch.float64).log_softmax(-1)
        if torch.allclose(again, log_p, rtol=1e-2, atol=1e-2, equal_nan=True):
            return x, True
    if term.is_binary:  # log-odds
        return torch.stack([torch.zeros(len(rows), dtype=torch.float64), log_p[:, 1] - log_p[:, 0]], -1), False
    return log_p, False


def _shown(log_p: Tensor, mass: Tensor, term: Term) -> Tensor:
    if term.num_classes <= ALL_CLASSES:
        return torch.arange(term.num_classes)
    heaviest = mass.topk(1 if term.target is not None else _TARGETS).indices
    likeliest = log_p.nan_to_num(nan=math.inf).topk(LIKELIEST).indices
    return torch.cat([likeliest, heaviest[mass[heaviest] > 0]]).unique()


def _rest(z: Tensor, mass: Tensor) -> dict[str, Any]:
    weighed = torch.where(mass == 0, 0.0, mass * z)  # 0 · −∞ adds nothing
    temperatures = torch.tensor(TEMPERATURES, dtype=torch.float64)
    return {
        "count": len(z),
        "mass": float(mass.sum()),
        "mz": float(weighed.sum()),
        "lse": (z / temperatures.unsqueeze(1)).logsumexp(-1).tolist(),
    }


def other_rows(term: Term, rows: Tensor) -> dict[str, Any]:
    """The rows that are not on the page, in groups of like cost: width, and what they add at every temperature."""
    left = torch.ones(term.num_rows, dtype=torch.bool)
    left[rows] = False
    left = left & term.counted
    numbers = left.nonzero().squeeze(1)
    order = numbers[torch.sort(term.cost[numbers], descending=True, stable=True).indices]
    moves = len(order) * term.num_classes * len(TEMPERATURES) <= _MOVED and term.z_part is None
    widths = width_of_rows(term)
    groups = []
    for some in order.tensor_split(min(_GROUPS, len(order))) if len(order) else ():
        adds = _added(term, some) if moves else (term.upstream * term.cost)[some].sum().reshape(1)
        groups.append({"width": float(widths[some].sum()), "adds": adds.tolist()})
    return {"count": len(order), "moves": moves, "groups": groups}


def _added(term: Term, rows: Tensor) -> Tensor:
    """Σ upstream · cost of some rows at every temperature; ln p instead of z, which is as good without a z-term."""
    log_p, mass = term.log_probs(rows), term.mass(rows)
    adds = [term.upstream[rows] * _cross_entropy(log_p / t, mass) for t in TEMPERATURES]
    adds[len(TEMPERATURES) // 2] = (term.upstream * term.cost)[rows]
    return torch.stack(adds).sum(-1)


def _cross_entropy(z: Tensor, mass: Tensor) -> Tensor:
    return torch.where(mass == 0, 0.0, -mass * z.log_softmax(-1)).sum(-1)


def why_fixed(term: Term, records: list[dict[str, Any]], dtype: torch.dtype) -> str | None:
    """Why moving a logit of this term would show a wrong number; None where it can be moved."""
    if not term.scores.normalised:
        return "what went into nll_loss is not log-probabilities, so that there are no logits behind it to move"
    if len(term.row_ids.unique()) < len(term.row_ids):
        return "several of its rows read the same logits, so that one can't be moved without the others"
    slack = 16 * torch.finfo(dtype).eps
    for record in records:
        again, cost = cost_again(record, term), record["cost"]
        reach = 1 + max((abs(x) for x in record["x"] if math.isfinite(x)), default=0.0)
        same = again == cost or (math.isnan(again) and math.isnan(cost))
        if record["counted"] and not same and not abs(again - cost) <= slack * reach + 1e-6 * abs(cost):
            return f"its row {record['position']} is not what the page would make of its logits"
    return None


def cost_again(record: dict[str, Any], term: Term) -> float:
    """The loss of a row as the page makes it, at T = 1."""
    x, t = (torch.tensor(record[name], dtype=torch.float64) for name in ("x", "t"))
    z, rest = scaled_logits(x, term.scores.options, torch.float64), record["rest"]
    at_one = -math.inf if rest is None else rest["lse"][len(TEMPERATURES) // 2]
    lse = torch.cat([z, torch.tensor([at_one], dtype=torch.float64)]).logsumexp(0)
    surprisal = lse - z
    if clamped(term):
        surprisal = surprisal.clamp(max=100)
    cost = float(torch.where(t == 0, 0.0, t * surprisal).sum())
    if rest is not None:
        cost += (rest["mass"] * float(lse) if rest["mass"] else 0.0) - rest["mz"]
    return cost + (record["zeta"] * float(lse) ** 2 if record["zeta"] else 0.0)


def clamped(term: Term) -> bool:
    """Whether ln p ends at −100, as in torch's binary_cross_entropy."""
    return term.kind == "binary_cross_entropy" and not term.written.startswith("by hand")
