"""The numbers of a ledger, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from xent.inspection._parameter_account import ParameterAccount


def layer_records(accounts: Sequence[ParameterAccount], predicted: float) -> tuple[dict, ...]:
    """For each module with parameters that were stepped: norms, their ratio, and its promise to the loss."""
    layers: dict[str, list[ParameterAccount]] = {}
    for account in accounts:
        if account.stepped:
            layers.setdefault(account.record.layer, []).append(account)
    return tuple(_record(layer, members, predicted) for layer, members in layers.items())


def _record(layer: str, members: Sequence[ParameterAccount], predicted: float) -> dict:
    def norm(of: str) -> float:
        return sum(account.summaries[of].norm ** 2 for account in members if of in account.summaries) ** 0.5

    promised = sum(account.predicted for account in members)
    return {
        "layer": layer, "parameters": len(members), "entries": sum(account.record.count for account in members),
        "gradient": norm("gradient"), "update": norm("update"),
        "ratio": norm("update") / norm("before") if norm("before") else None,
        "predicted": promised, "share": promised / predicted if predicted else None,
    }  # fmt: skip
