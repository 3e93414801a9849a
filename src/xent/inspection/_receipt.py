"""The receipt of an explanation: every number between logit and loss, on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent.inspection._landmarks import Landmarks
from xent.inspection._reduction_words import counted_words
from xent.inspection._shown_rows import chosen_rows, rows_table
from xent.inspection._term import Term, exact_sum
from xent.inspection.examination._report_receipt import check_lines
from xent.report import Line, Receipt, ResultTable, RulerLine, Title
from xent.report._numbers import factor as typed
from xent.report._numbers import number

if TYPE_CHECKING:
    from xent.inspection._explanation import Explanation

ALL_ROWS = 8  # as many are shown as they come; of more, the worst
SOME_ROWS = 5
Block = Title | Line | RulerLine | ResultTable


def receipt_of(explanation: Explanation) -> Receipt:
    """All blocks, in order."""
    blocks: list[Block] = []
    several = len(explanation.terms) + len(explanation.rests) > 1
    if several:
        blocks.append(Title(_sum_title(explanation)))
    for place, term in enumerate(explanation.terms):
        blocks.extend(_term_blocks(explanation, place, term, several))
    for rest in explanation.rests:
        value = f": {number(rest.value)}" if explanation.is_sum else ""
        blocks.append(Line("and", f"{rest.written}{value}, made again; no cross-entropy, no rows"))
    blocks.extend(_closing(explanation, several))
    return Receipt(tuple(blocks))


def _sum_title(explanation: Explanation) -> str:
    parts = [number(explanation.value_of(term)) for term in explanation.terms]
    parts += [number(rest.value) for rest in explanation.rests]
    dtype = str(explanation.equality.dtype).removeprefix("torch.")
    if not explanation.is_sum:
        count = len(explanation.terms)
        return f"a function of {count} {'loss' if count == 1 else 'losses'} · {dtype}"
    added = " + ".join(parts).replace("+ −", "− ")
    return f"{number(explanation.equality.derived)} = {added} · {len(parts)} terms · {dtype}"


def heading(term: Term, dtype: str = "", is_sum: bool = True) -> str:
    """cross_entropy · mean over 3 rows · 2 classes · float32; `is_sum`: whether the term adds its rows to the value."""
    parts = [term.kind]
    if not is_sum:
        mean = "the mean over " if term.row_weight is None and term.reduction == "mean" else ""
        parts.append(f"a function of {mean}{counted_words(term)}")
    elif term.num_values is not None:
        parts.append(f"{term.num_values:,} values of {counted_words(term)}")
    elif term.reduction == "mean":
        times = "" if term.factor == 1 else f"{typed(term.factor)} × "
        over = term.denominator_words
        if over[:1].isdigit():
            parts.append(f"{times}mean over {over}" if " " in over else f"{times}sum ÷ {over}")
        else:
            parts.append(f"{times}sum ÷ {over} = {typed(term.denominator)}")
    elif term.reduction == "none":
        parts.append(f"each of {_rows(term.num_rows, term.is_binary)}")
    else:
        times = "" if term.factor == 1 else f"{typed(term.factor)} × "
        parts.append(f"{times}sum over {counted_words(term)}")
    if not term.is_binary:
        parts.append(f"{term.num_classes:,} {'class' if term.num_classes == 1 else 'classes'}")
    return " · ".join([*parts, dtype] if dtype else parts)


def _term_blocks(explanation: Explanation, place: int, term: Term, several: bool) -> list[Block]:
    dtype = "" if several else str(explanation.equality.dtype).removeprefix("torch.")
    title = heading(term, dtype, explanation.is_sum)
    blocks: list[Block] = [Title(f"term {place + 1}: {title}" if several else title)]
    few = term.num_rows <= ALL_ROWS
    rows = chosen_rows(term, "first" if few else "worst", ALL_ROWS if few else SOME_ROWS)
    table = rows_table(term, rows, explanation.names)
    if not few:
        table = ResultTable(
            table.records, table.columns, "", (f"   … the worst {len(rows)} of {term.num_rows:,} rows",)
        )
    blocks.append(table)
    if several:
        blocks.append(Line("Σ", _sum_words(term, explanation)))
    blocks.extend(_facts(explanation, term))
    return blocks


def _facts(explanation: Explanation, term: Term) -> list[Block]:
    blocks: list[Block] = []
    landmarks = explanation.landmarks_of(term)
    if landmarks is not None and (explanation.is_sum or term.row_weight is None):
        blocks.append(ruler_line(landmarks, term))
        blocks.append(Line("", _landmark_words(landmarks, term)))
    blocks.append(Line("read", options_read(term)))
    blocks.extend(Line("note", note) for note in term.notes)
    return blocks


def ruler_line(landmarks: Landmarks, term: Term) -> RulerLine:
    """The loss between its floor and guessing."""
    del term
    marks = [(landmarks.uniform, f"ln {landmarks.num_classes}")]
    if landmarks.label_prior < landmarks.uniform * (1 - 1e-12):
        marks.insert(0, (landmarks.label_prior, "label prior"))
    if landmarks.floor:
        marks.insert(0, (landmarks.floor, "floor"))
    return RulerLine(landmarks.nats, tuple(marks))


def _landmark_words(landmarks: Landmarks, term: Term) -> str:
    parts = [f"{number(landmarks.nats)} nats{_unit(landmarks, term)} = {number(landmarks.bits)} bits",
             f"perplexity {number(landmarks.perplexity, 3)}"]  # fmt: skip
    if landmarks.floor:
        parts.append(f"floor {number(landmarks.floor)} = entropy of the targets")
    parts.append(f"label prior {number(landmarks.label_prior)}")
    parts.append(f"guessing ln {landmarks.num_classes:,} = {number(landmarks.uniform)}")
    return " · ".join(parts)


def _unit(landmarks: Landmarks, term: Term) -> str:
    """What the nats are for; nothing to say for a plain mean."""
    if abs(landmarks.mass - 1) < 1e-6 and term.factor == 1:
        return ""
    if term.is_plain or (term.target is None and term.class_weight is None and term.row_weight is None):
        return " an element" if term.is_binary else " a row"
    return " for a weight of 1"


def options_read(term: Term) -> str:
    """What the graph says of the options, defaults included."""
    uncounted, ignored = ~term.counted, 0
    if term.target is not None and not term.is_binary and term.ignore_index is not None:
        ignored = int((uncounted & (term.target == term.ignore_index)).sum())
    masked = int(uncounted.sum()) - ignored
    parts = [term.written]
    if term.num_values is None:
        parts.append(f"reduction={term.reduction!r}")
    if not term.is_binary and term.ignore_index is not None:
        parts.append(f"ignore_index={term.ignore_index}{f' ({_rows(ignored)})' if ignored else ''}")
    if masked:
        parts.append(f"{_rows(masked, term.is_binary)} left out by a factor of 0")
    smoothed = f"label_smoothing={typed(term.label_smoothing)}" if term.label_smoothing else ""
    weighed = "pos_weight" if term.is_binary else "class weight"
    given = [
        name for name, value in ((weighed, term.class_weight), ("row weight", term.row_weight)) if value is not None
    ]
    parts += [part for part in (smoothed, *given) if part]
    missing = ([] if smoothed or term.is_binary else ["no smoothing"]) + ([] if given else ["no weights"])
    if missing:
        parts.append(", ".join(missing))
    if term.z_part is not None:
        parts.append(f"z-term {number(float((term.upstream * term.z_part)[term.counted].sum()))}")
    return " · ".join(parts)


def _rows(count: int, elements: bool = False) -> str:
    noun = "element" if elements else "row"
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _sum_words(term: Term, explanation: Explanation) -> str:
    total = number(term.total)
    alone = len(explanation.terms) == 1 and not explanation.rests and explanation.equality.elements == 1
    value = number(explanation.equality.derived if alone else explanation.value_of(term))
    times = "" if term.factor == 1 else f" × {typed(term.factor)}"
    if not explanation.is_sum:
        return _inside_words(term)
    if term.reduction == "mean":
        words = term.denominator_words
        denominator = words if words[:1].isdigit() else f"{typed(term.denominator)} ({words})"
        return f"{total} ÷ {denominator}{times} = {value}"
    return f"{total}{times} = {value}" if times else total


def _inside_words(term: Term) -> str:
    """The sum of rows that the value is a function of, without the factors, which are derivatives."""
    if term.row_weight is not None:
        return f"{number(exact_sum(term.surprisal[term.counted]))} without the factors"
    if term.reduction != "mean" or not term.denominator:
        return number(term.total)
    return f"{number(term.total)} ÷ {term.denominator_words} = {number(term.total / term.denominator)}"


def _closing(explanation: Explanation, several: bool) -> list[Block]:
    equality = explanation.equality
    shown = number(equality.value)
    made = f"{equality.made_by} {shown}     {equality}"
    if equality.elements > 1:
        made = f"{equality.made_by}'s {equality.elements:,} values, each compared: {equality}"
    if not explanation.is_sum and not several:
        text = f"{_inside_words(explanation.terms[0])}; the function of it {number(equality.derived)}     {made}"
    elif several or not explanation.terms:
        text = f"{number(equality.derived)}     {made}"
    else:
        text = f"{_sum_words(explanation.terms[0], explanation)}     {made}"
    blocks: list[Block] = [Line("Σ", text, "good" if equality.explained else "bad")]
    blocks.extend(Line("note", note, "" if equality.explained else "bad") for note in explanation.notes)
    if explanation.checks is not None:
        blocks.extend(check_lines(explanation.checks))
    return blocks
