"""A ledger as plain values: JSON, and everything that a page needs to draw it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from xent.inspection._dictionary import finite
from xent.inspection._ledger_lines import because
from xent.inspection._optimizer_formulas import Formula
from xent.inspection._parameter_account import ParameterAccount
from xent.inspection._step_equality import StepEquality
from xent.inspection._step_records import OptimizerRecord

if TYPE_CHECKING:
    from xent.inspection._ledger import StepLedger

FORMAT = 1


def ledger_dictionary(ledger: StepLedger) -> dict[str, Any]:
    """The whole ledger; of each parameter summaries and a dozen entries."""
    promise, sets, first = ledger.promise, ledger.sets, ledger.first_step
    return finite({
        "xent_step": FORMAT,
        "steps": ledger.steps,
        "optimizers": [_optimizer(optimizer) for optimizer in ledger.optimizers],
        "parameters": [_parameter(account) for account in ledger.accounts],
        "loss": {
            "before": promise.loss_before, "after": promise.loss_after, "losses": ledger.losses.values,
            "predicted": promise.predicted, "measured": promise.measured, "ratio": promise.ratio,
        },
        "layers": [dict(layer) for layer in promise.layers],
        "sets": {
            "reached": sets.reached, "registered": sets.registered, "optimized": sets.optimized,
            "frozen": sets.frozen, "differences": [[what, list(names)] for what, names in sets.differences],
        },
        "first_step": None if first is None else {
            "lr": first.lr, "count": first.count, "still": first.still, "near": first.near,
            "entries": list(first.records),
        },
        "equality": _equality(ledger.equality),
    })  # fmt: skip


def parameter_dictionary(account: ParameterAccount) -> dict[str, Any]:
    """One parameter."""
    return finite(_parameter(account))


def _parameter(account: ParameterAccount) -> dict[str, Any]:
    record = account.record
    plain = account.stepped and not record.dtype.is_complex
    entries = account.entries_of_dictionary().to_dict() if plain else []  # first: what it makes, the rest reads
    return {
        "name": account.name, "aliases": list(record.aliases), "layer": record.layer, "shape": list(record.shape),
        "dtype": str(record.dtype).removeprefix("torch."), "count": record.count, "trainable": record.trainable,
        "optimizer": record.optimizer, "group": record.group, "backwards": record.backwards, "steps": record.steps,
        "summaries": {name: found.to_dict() for name, found in account.summaries.items()},
        "stages": [
            {"name": name, "formula": formula, "summary": of.to_dict()} for name, formula, of in account.stages
        ],
        "parts": [{"cause": part.cause, "share": part.share, "norm": part.norm} for part in account.parts],
        "ratio": account.update_ratio, "predicted": account.predicted, "because": because(account),
        "unknown": account.unknown, "equality": _equality(account.equality), "notes": list(record.notes),
        "gradient_at_exit": record.gradient_at_exit, "entries": entries,
    }  # fmt: skip


def _optimizer(optimizer: OptimizerRecord) -> dict[str, Any]:
    formula, change = optimizer.formula, optimizer.change
    known = isinstance(formula, Formula)
    return {
        "name": optimizer.name, "formula": formula.equation if known else None,
        "unknown": "" if known else str(formula), "steps": optimizer.steps, "skipped": optimizer.skipped,
        "groups": [{name: _plain(value) for name, value in group.items()} for group in optimizer.groups],
        "unscaled": optimizer.unscaled,
        "change": None if change is None else {
            "kind": change.kind, "value": change.value, "norm_before": change.norm_before,
            "norm_after": change.norm_after, "changed": change.changed, "count": change.count, "words": str(change),
        },
    }  # fmt: skip


def _equality(equality: StepEquality | None) -> dict[str, Any] | None:
    if equality is None:
        return None
    return {"holds": equality.holds, "ulps": equality.ulps, "apart": equality.apart, "words": str(equality)}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
