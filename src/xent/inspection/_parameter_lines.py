"""One parameter through a step, line by line of the formula, and single entries in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from xent.inspection._ledger_lines import Block, percent, shape_words
from xent.inspection._optimizer_formulas import Recomputed
from xent.inspection._parameter_account import ParameterAccount
from xent.inspection._tensor_summary import Summary, summary
from xent.report import Column, Line, Receipt, ResultTable, Title
from xent.report._numbers import number

WHOLE = 12  # a parameter with no more entries is shown whole
SOME_ENTRIES = 5

_LINES = (
    Column("line", "", "text", 14),
    Column("mean_abs", "mean |x|"),
    Column("norm", "norm"),
    Column("least", "min"),
    Column("largest", "max"),
    Column("zeros", "zeros", "percent"),
    Column("spread", "− spread +", "text", 11),
    Column("formula", "formula", "text", 60),
)


def account_receipt(account: ParameterAccount) -> Receipt:
    """All blocks, in order."""
    blocks: list[Block] = [Title(_title(account)), _lines_table(account)]
    if account.record.options:
        from xent.inspection._ledger_lines import options_words

        blocks.append(Line("step", options_words(account.record.options)))
    if account.parts:
        words = " + ".join(f"{part.cause} {percent(part.share)}" for part in account.parts)
        blocks.append(Line("update", f"= {words}; promised ΔL {number(account.predicted)}"))
    elif account.unknown:
        blocks.append(Line("note", f"{account.unknown}: showing data only", "bad" if account.record.trainable else ""))
    if account.stepped and not _is_sparse(account) and not account.record.dtype.is_complex:
        few = account.record.count <= WHOLE
        blocks.append(account.entries(n=WHOLE if few else SOME_ENTRIES))
    blocks.extend(Line("note", note, "bad") for note in account.record.notes)
    equality = account.equality
    if equality is not None:
        blocks.append(Line("Σ", f"after = the formula's: {equality}", "good" if equality.holds else "bad"))
    return Receipt(tuple(blocks))


def _is_sparse(account: ParameterAccount) -> bool:
    return account.gradient is not None and account.gradient.is_sparse


def _title(account: ParameterAccount) -> str:
    record = account.record
    parts = [account.name, shape_words(account.shape), str(record.dtype).removeprefix("torch.")]
    parts += [f"also {name}" for name in record.aliases[:2]]
    parts.append("in no optimizer" if account.optimizer is None else f"{account.optimizer.name}, group {record.group}")
    return " · ".join(parts)


def _lines_table(account: ParameterAccount) -> ResultTable:
    found = account.summaries
    records = [_line("θ before" if account.stepped else "θ", "", found["before"])] if "before" in found else []
    raw = account.raw_gradient
    if raw is not None and account.gradient is not None and raw is not account.gradient:
        records.append(_line("raw gradient", "as backward left it", summary(raw)))
    if "gradient" in found:
        records.append(_line("gradient, g", "as step() got it" if account.stepped else "", found["gradient"]))
    records += [_line(name, formula, of_stage) for name, formula, of_stage in account.stages]
    if "update" in found:
        records += [_line("update", "after − before", found["update"]), _line("θ after", "", found["after"])]
    return ResultTable(tuple(records), _LINES)


def _line(name: str, formula: str, of: Summary) -> dict[str, Any]:
    return {
        "line": name, "formula": formula, "mean_abs": of.mean_abs, "norm": of.norm, "least": of.least,
        "largest": of.largest, "zeros": of.zeros, "spread": of.sparkline,
    }  # fmt: skip


def entries_table(
    account: ParameterAccount, places: Sequence[tuple[int, ...]], made: Recomputed | None = None
) -> ResultTable:
    """Entries at places, with every line of the formula; `made` is the step made again, where somebody has it."""
    tensors: dict[str, tuple[str, Tensor]] = {}
    for key, header, tensor in (
        ("before", "before", account.before), ("gradient", "gradient", account.gradient),
        ("update", "update", account.update), ("after", "after", account.after),
    ):  # fmt: skip
        if tensor is not None:
            tensors[key] = (header, tensor.to_dense() if tensor.is_sparse else tensor)
    raw = account.raw_gradient
    if raw is not None and raw is not account.gradient:
        tensors["raw_gradient"] = ("raw gradient", raw.to_dense() if raw.is_sparse else raw)
    if not account.unknown:
        for stage in (made or account.recomputed()).stages:
            if stage.name != "step":  # it is the update, before it was rounded to θ's spacing
                tensors[stage.name] = (stage.name, stage.value)
    kind = "text" if account.record.dtype.is_complex else "number"
    columns = [Column("entry", "entry", "name")] + [Column(key, header, kind) for key, (header, _) in tensors.items()]
    records = [
        {"entry": _place_words(place)} | {key: _value(tensor[place]) for key, (_, tensor) in tensors.items()}
        for place in places
    ]
    return ResultTable(tuple(records), tuple(columns), _entries_title(account, places))


def _place_words(place: tuple[int, ...]) -> str:
    return str(place) if len(place) != 1 else str(place[0])


def _value(entry: Tensor) -> float | str:
    return str(entry.item()) if entry.is_complex() else float(entry)


def _entries_title(account: ParameterAccount, places: Sequence[tuple[int, ...]]) -> str:
    count = account.record.count
    return "" if len(places) == count else f"{len(places):,} of {count:,} entries"
