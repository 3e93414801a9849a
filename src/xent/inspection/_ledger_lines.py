"""The receipt of a step: parameters, the formula with its numbers, the loss, the sets, on one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from xent.inspection._ledger_notes import note_lines, set_lines
from xent.inspection._optimizer_formulas import Formula
from xent.inspection._parameter_account import ParameterAccount
from xent.inspection._step_records import OptimizerRecord
from xent.report import Column, Line, Receipt, ResultTable, RulerLine, Title
from xent.report._numbers import MINUS, factor, number

if TYPE_CHECKING:
    from xent.inspection._ledger import StepLedger

ALL_PARAMETERS = 12  # as many are shown as they come; of more, the worst
SOME_PARAMETERS = 8
Block = Title | Line | RulerLine | ResultTable

_SIZES = (
    Column("parameter", "parameter", "text", 32),
    Column("shape", "shape", "text", 16),
    Column("before", "|θ|"),
    Column("gradient", "|gradient|"),
    Column("update", "|update|"),
    Column("ratio", "÷ ‖θ‖", "percent"),
)
_CAUSES = {"this gradient": "from g", "earlier steps": "from past", "weight decay": "from decay"}
_SPREAD = Column("spread", f"{MINUS}  spread  +", "name")
_BECAUSE = Column("because", "note", "text", 28)


def ledger_receipt(ledger: StepLedger) -> Receipt:
    """All blocks, in order."""
    blocks: list[Block] = [Title(_title(ledger))]
    if ledger.is_open:
        return Receipt((*blocks, Line("note", "the block is not over yet: print the ledger after it", "bad")))
    few = len(ledger.accounts) <= ALL_PARAMETERS
    shown = ledger.ordered("first" if few else "worst")[: ALL_PARAMETERS if few else SOME_PARAMETERS]
    table = parameters_table(shown)
    if not few:
        rest = len(ledger.accounts) - len(shown)
        below = (
            f"   … {rest:,} more, shown are the worst: ledger.parameters() has all, ledger.by_layer() adds them up",
        )
        table = ResultTable(table.records, table.columns, "", below)
    blocks.append(table)
    for place, optimizer in enumerate(ledger.optimizers):
        blocks.extend(_optimizer_lines(ledger, place, optimizer))
    blocks.extend(_first_step_lines(ledger))
    blocks.extend(_loss_lines(ledger))
    blocks.extend(set_lines(ledger.sets))
    blocks.extend(note_lines(ledger))
    blocks.extend(_closing(ledger))
    return Receipt(tuple(blocks))


def _title(ledger: StepLedger) -> str:
    steps = [_step_words(ledger, place, one) for place, one in enumerate(ledger.optimizers) if one.steps]
    dtypes = Counter(str(account.record.dtype).removeprefix("torch.") for account in ledger.accounts)
    count, entries = len(ledger.accounts), sum(account.record.count for account in ledger.accounts)
    return " · ".join((
        " + ".join(steps) or "no step", f"{count:,} {'parameter' if count == 1 else 'parameters'}",
        f"{entries:,} {'entry' if entries == 1 else 'entries'}", " and ".join(dtypes),
    ))  # fmt: skip


def _step_words(ledger: StepLedger, place: int, optimizer: OptimizerRecord) -> str:
    taken = [account.record.taken for account in ledger.accounts if account.record.optimizer == place]
    before = [one.steps_before for one in taken if one is not None and "step" in optimizer.state_names]
    known = [number_of for number_of in before if number_of is not None]
    return f"step {max(known) + 1:.0f} of {optimizer.name}" if known else f"a step of {optimizer.name}"


def parameters_table(accounts: Iterable[ParameterAccount], title: str = "") -> ResultTable:
    """Parameters, one line each."""
    chosen = list(accounts)
    records = tuple(_record(account) for account in chosen)
    causes = [cause for cause in _CAUSES if any(part.cause == cause for account in chosen for part in account.parts)]
    columns = list(_SIZES)
    if any(record["because"] for record in records):
        columns.append(_BECAUSE)
    if len(causes) > 1:
        columns += [Column(cause, _CAUSES[cause], "percent") for cause in causes]
    return ResultTable(records, (*columns, _SPREAD), title)


def _record(account: ParameterAccount) -> dict[str, Any]:
    found = account.summaries

    def mean(name: str) -> float | None:
        return found[name].mean_abs if name in found else None

    return {
        "parameter": account.name, "shape": shape_words(account.shape), "before": mean("before"),
        "gradient": mean("gradient"), "update": mean("update"), "after": mean("after"), "ratio": account.update_ratio,
        "spread": found["update"].sparkline if "update" in found else "", "because": because(account),
    } | {part.cause: part.share for part in account.parts}  # fmt: skip


def shape_words(shape: Sequence[int]) -> str:
    """200×200."""
    return "×".join(map(str, shape)) or "scalar"


def because(account: ParameterAccount) -> str:
    """What is the matter with a parameter; "" where nothing is."""
    record, equality = account.record, account.equality
    if record.notes:
        return record.notes[0]
    if equality is not None and not equality.holds:
        return f"NOT EQUAL: {equality.apart:,} entries"
    if account.unknown:
        return "frozen" if not record.trainable and account.optimizer is None else account.unknown
    if account.summaries["after"].not_finite:
        return f"{account.summaries['after'].not_finite:,} not finite"
    return "did not move" if account.summaries["update"].norm == 0 else ""


def percent(share: float) -> str:
    """62 %, −0.1 %."""
    return f"{100 * share:.{0 if abs(share) >= 0.0995 or share == 0 else 1}f} %".replace("-", MINUS)


def _optimizer_lines(ledger: StepLedger, place: int, optimizer: OptimizerRecord) -> list[Block]:
    blocks: list[Block] = []
    formula = optimizer.formula
    if isinstance(formula, Formula):
        blocks.append(Line("step", f"{optimizer.name}: {formula.equation}"))
    else:
        blocks.append(Line("step", f"{formula}: showing data only"))
    groups = optimizer.groups
    for number_of, group in enumerate(groups[:4]):
        prefix = f"group {number_of}: " if len(groups) > 1 else ""
        blocks.append(Line("", prefix + options_words(group)))
    if len(groups) > 4:
        blocks.append(Line("", f"… {len(groups) - 4} more groups"))
    if optimizer.unscaled != 1.0:
        blocks.append(Line("scale", f"GradScaler divided every gradient by {factor(optimizer.unscaled)}"))
    if optimizer.skipped:
        text = f"GradScaler left out {_times(optimizer.skipped, 'step')} of {optimizer.name}: a gradient is not finite"
        blocks.append(Line("scale", text, "bad"))
    if optimizer.change is not None:
        blocks.append(Line("clip", str(optimizer.change)))
    if optimizer.steps > 1:
        blocks.append(Line("note", f"{optimizer.steps} steps of {optimizer.name} in the block; the last one is shown"))
    return blocks


_SAID = ("momentum", "dampening", "nesterov", "betas", "alpha", "centered", "eps", "lr_decay", "momentum_decay",
         "amsgrad", "maximize", "foreach", "fused", "capturable", "differentiable")  # fmt: skip
_NEVER_ZERO = ("eps",)


def options_words(group: dict[str, Any]) -> str:
    """The options of a group that are not at their zero: lr 0.01 · betas 0.9, 0.999 · eps 1e-08 · no weight decay."""
    parts = [_lr_words(group)] if "lr" in group else []
    for name in _SAID:
        value = group.get(name)
        if value is True:
            parts.append(name)
        elif value and not isinstance(value, bool):
            values = value if isinstance(value, tuple | list) else [value]
            parts.append(f"{name} {', '.join(factor(float(one)) for one in values)}")
    if "weight_decay" in group:
        decay = float(group["weight_decay"])
        kind = "decoupled" if group.get("decoupled_weight_decay") else "added to the gradient"
        parts.append(f"weight decay {factor(decay)}, {kind}" if decay else "no weight decay")
    return " · ".join(parts)


def _lr_words(group: dict[str, Any]) -> str:
    lr = float(group["lr"])
    initial = group.get("initial_lr")  # schedulers of torch keep the first one here
    if initial is None:
        return f"lr {factor(lr)}"
    times = f"{factor(lr / float(initial))} × " if float(initial) else ""
    return f"lr {factor(lr)} (schedule: {times}{factor(float(initial))})"


def _first_step_lines(ledger: StepLedger) -> list[Block]:
    first = ledger.first_step
    if first is None:
        return []
    lr = "lr" if first.lr is None else factor(first.lr)
    near = f"{_times(first.near, 'entry')} with |g| < 99 ε moved less" if first.near else "no |g| is near ε"
    still = f"{_times(first.still, 'entry')} with g = 0 stayed" if first.still else "none is 0"
    listed = ": ledger.first_step.entries()" if first.near else ""
    text = f"m̂ = g and √v̂ = |g| at the first step, so each entry moves by {MINUS}{lr}·sign(g); {still}, {near}{listed}"
    return [Line("first", text)]


def _times(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"


def _loss_lines(ledger: StepLedger) -> list[Block]:
    promise = ledger.promise
    several = f" (Σ of {len(ledger.losses.values)})" if len(ledger.losses.values) > 1 else ""
    before = "" if promise.loss_before is None else f"{number(promise.loss_before)}{several}"
    if not ledger.steps:
        return [Line("loss", before)] if before else []
    promised = f"promised ΔL = Σ g·Δθ = {number(promise.predicted)}"
    if promise.measured is None or promise.loss_after is None:
        how = "" if not before else " · not measured: give xent.step a closure, or call ledger.measure"
        return [Line("loss", " · ".join(part for part in (before, promised) if part) + how)]
    text = f"{before} → {number(promise.loss_after)} · {promised} · measured {number(promise.measured)}"
    if promise.ratio is None:
        return [Line("loss", f"{text} · too small for the digits of the loss")]
    wrong = promise.ratio < 0
    words = ", the other way: the step is longer than its gradient holds" if wrong else ""
    return [Line("loss", f"{text} · ratio {_ratio(promise.ratio)}{words}", "bad" if wrong else "")]


def _ratio(value: float) -> str:
    return number(value, 2) if abs(value) >= 0.1 else number(value, 3)


def _closing(ledger: StepLedger) -> list[Block]:
    known = [account for account in ledger.accounts if account.equality is not None]
    worst = ledger.equality
    if worst is None:
        return []
    entries = sum(account.record.count for account in known)
    wrong = [account for account in known if account.equality is not None and not account.equality.holds]
    text = f"after = the formula's, recomputed for {entries:,} {'entry' if entries == 1 else 'entries'}: "
    if not wrong:
        return [Line("Σ", f"{text}{worst}", "good")]
    account = max(wrong, key=lambda one: one.equality.ulps if one.equality else 0.0)
    at = account.equality
    shown = "" if at is None else f"; {account.name}{list(at.worst)} is {number(at.value)}, not {number(at.derived)}"
    hint = "a hook after the step, or another kernel, did something else"
    return [Line("Σ", f"{text}{_times(len(wrong), 'parameter')} NOT EQUAL{shown}: {hint}", "bad")]


def ledger_html(ledger: StepLedger) -> str:
    """The receipt for a notebook; below it, folded, the account of each parameter that is shown."""
    from xent.report._notebook import html_receipt

    few = len(ledger.accounts) <= ALL_PARAMETERS
    shown = [] if ledger.is_open else ledger.ordered("first" if few else "worst")[:ALL_PARAMETERS]
    return html_receipt(ledger.receipt, folded=[(account.name, account.receipt) for account in shown])
