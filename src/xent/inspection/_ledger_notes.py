"""What else a ledger says: differences between the sets of parameters, what happened outside the optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xent.inspection._ledger_sets import ParameterSets
from xent.report import Line

if TYPE_CHECKING:
    from xent.inspection._ledger import StepLedger

_NAMES = 4  # names that a line gives before it counts the rest


def set_lines(sets: ParameterSets) -> list[Line]:
    """How many parameters are in each of the three sets, and which are not in all."""
    counts = [
        (sets.reached, "reach the loss"),
        (sets.registered, "in the model"),
        (sets.optimized, "in an optimizer"),
    ]
    known = [f"{len(names):,} {what}" for names, what in counts if names is not None]
    frozen = f" · {len(sets.frozen):,} frozen" if sets.frozen else ""
    lines = [Line("sets", " · ".join(known) + frozen, "" if sets.differences else "good")]
    lines += [Line("", f"{what}: {listed(names)}", "bad") for what, names in sets.differences]
    return lines


def listed(names: Sequence[str]) -> str:
    """a, b, c, d and 12 more."""
    rest = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")


def note_lines(ledger: StepLedger) -> list[Line]:
    """What happened to parameters and gradients beside the step."""
    lines = []
    records = [account.record for account in ledger.accounts]
    passes = max((record.backwards for record in records), default=0)
    if passes > 1:
        lines.append(Line("note", f"{passes} backward passes added up in one gradient"))
    old = [record.name for record in records if record.onto_old]
    if old:
        lines.append(Line("note", f"backward added to a gradient of before the block: {listed(old)}", "bad"))
    notes: dict[str, list[str]] = {}
    for record in records:
        for note in record.notes:
            notes.setdefault(note, []).append(record.name)
    lines += [Line("note", f"{listed(names)}: {note}", "bad") for note, names in notes.items()]
    tied = [f"{record.name} = {' = '.join(record.aliases)}" for record in records if record.aliases]
    if tied:
        lines.append(Line("note", f"one parameter under several names: {listed(tied)}"))
    return lines + _gradient_lines(ledger)


_LEFT = {"None": "None (cleared)", "zeros": "zeros (cleared)", "kept": "kept as they were", "changed": "changed"}


def _gradient_lines(ledger: StepLedger) -> list[Line]:
    left = Counter(
        account.record.gradient_at_exit
        for account in ledger.accounts
        if account.record.raw is not None and account.record.optimizer is not None
    )
    if not left:
        return []
    if len(left) == 1:
        return [Line("end", f"gradients when the block ended: {_LEFT[next(iter(left))]}")]
    words = ", ".join(f"{count:,} {_LEFT[state]}" for state, count in left.items())
    return [Line("end", f"gradients when the block ended: {words}")]
