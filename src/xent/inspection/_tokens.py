"""The rows of a language model's loss as tokens: context → target → p → nats → bits → perplexity so far → rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xent.errors import DtypeError, OptionError, ShapeError
from xent.inspection._shown_rows import checked_count
from xent.inspection._term import Term
from xent.report import Column, ResultTable

_TOP = 3
_CONTEXT = 22  # characters of a context that are shown
_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\x00": "␀"}


def token_ledger(term: Term, tokenizer: Any, input_ids: Any, n: int | None) -> ResultTable:
    """A record for each row, in order; `n` limits them."""
    if term.target is None:
        raise OptionError("probability targets", "tokens are class indices", "use .rows()")
    text = text_of(tokenizer)
    contexts = contexts_of(term, input_ids, text)
    count = term.num_rows if n is None else min(checked_count(n), term.num_rows)
    special = _special_ids(tokenizer)
    records: list[dict[str, Any]] = []
    total, seen = 0.0, 0
    for rows in torch.arange(count).split(max(1, (1 << 21) // max(term.num_classes, 1))):
        log_p = term.log_probs(rows)
        top = log_p.topk(min(_TOP, term.num_classes), dim=-1)
        for place, row in enumerate(rows.tolist()):
            target, counted = int(term.target[row]), bool(term.counted[row])
            record: dict[str, Any] = {"row": row, "position": term.position(row), "context": contexts(row)}
            record["target_id"], record["mark"] = target, _mark(target, counted, special)
            record["target"] = text(target) if counted or 0 <= target < term.num_classes else "·"
            record["shown"] = record["target"] + (f" ({record['mark']})" if record["mark"] else "")
            if counted:
                nats = float(term.surprisal[row])
                total, seen = total + nats, seen + 1
                own = log_p[place, target]
                record |= {"p": math.exp(-nats), "nats": nats, "bits": nats / math.log(2), "mean": total / seen,
                           "perplexity": math.exp(min(total / seen, 709.0)),
                           "rank": 1 + int((log_p[place] > own).sum())}  # fmt: skip
            record["top"] = [(text(int(i)), math.exp(float(v))) for v, i in zip(top.values[place], top.indices[place],
                                                                               strict=True)]  # fmt: skip
            record["guesses"] = "  ".join(f"{word} {p:.2f}" for word, p in record["top"])
            records.append(record)
    below = (f"   … {term.num_rows - count:,} more rows",) if count < term.num_rows else ()
    title = f"{count:,} tokens · {seen:,} counted"
    return ResultTable(tuple(records), _columns(records), title, below)


def _columns(records: Sequence[dict[str, Any]]) -> tuple[Column, ...]:
    columns = [Column("position", "row", "name")]
    if any(record["context"] is not None for record in records):
        columns.append(Column("context", "context", "name", _CONTEXT))
    columns.append(Column("shown", "→ target", "text", 16))
    columns += [
        Column("p", "p"), Column("nats", "nats"), Column("bits", "bits", "bits"), Column("mean", "mean"),
        Column("perplexity", "perpl.", "bits"), Column("rank", "rank", "integer"),
        Column("guesses", "guesses", "text", 36),
    ]  # fmt: skip
    return tuple(columns)


def text_of(tokenizer: Any) -> Callable[[int], str]:
    """The text of a token, whitespace visible; its number without a tokenizer."""
    if tokenizer is None:
        return str
    if isinstance(tokenizer, dict):
        by_id = {value: key for key, value in tokenizer.items()} if _is_vocabulary(tokenizer) else tokenizer
        return lambda token: visible(str(by_id.get(token, token)))
    if isinstance(tokenizer, Sequence):
        return lambda token: visible(str(tokenizer[token])) if 0 <= token < len(tokenizer) else str(token)
    if hasattr(tokenizer, "decode"):
        return lambda token: visible(tokenizer.decode([token])) if token >= 0 else str(token)
    if hasattr(tokenizer, "id_to_token"):
        return lambda token: visible(tokenizer.id_to_token(token) or str(token))
    raise DtypeError(
        f"tokenizer is a {type(tokenizer).__name__}",
        "it has decode or id_to_token, or is a list or dict of texts",
        "pass such an object, or none to see ids",
    )


def _is_vocabulary(table: dict[Any, Any]) -> bool:
    return bool(table) and isinstance(next(iter(table)), str)


def visible(text: str) -> str:
    """The text with its whitespace and control characters shown."""
    shown = "".join(_VISIBLE.get(character, character) for character in text)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)


def _special_ids(tokenizer: Any) -> dict[int, str]:
    names = ("pad", "eos", "bos", "unk", "sep", "cls", "mask")
    found = {getattr(tokenizer, f"{name}_token_id", None): name for name in reversed(names)}
    return {int(token): name for token, name in found.items() if isinstance(token, int)}


def _mark(target: int, counted: bool, special: dict[int, str]) -> str:
    kind = special.get(target, "")
    return (f"{kind}, ignored" if kind else "ignored") if not counted else kind


def contexts_of(
    term: Term, input_ids: Any, text: Callable[[int], str], most: int = _CONTEXT
) -> Callable[[int], str | None]:
    """For each row, the end of what the model had read, at most so many characters of it."""
    if input_ids is None:
        return lambda row: None
    ids = torch.as_tensor(input_ids).cpu()
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise DtypeError(f"input_ids has dtype {ids.dtype}", "token ids are integers", "pass input_ids.long()")
    shape = term.row_shape
    ids = ids.reshape(-1, ids.shape[-1]) if ids.ndim > 1 else ids.reshape(1, -1)
    length = shape[-1] if len(shape) > 1 else term.num_rows // max(len(ids), 1)
    if length * len(ids) != term.num_rows or ids.shape[-1] < length:
        raise ShapeError(
            f"input_ids has shape {tuple(ids.shape)} and the loss {term.num_rows} rows of shape {shape}",
            "each sequence of ids holds at least one id for each of its rows",
            "pass the ids that the model read for these rows",
        )

    def context(row: int) -> str:
        sequence, place = divmod(row, length)
        return _end(ids[sequence, : place + 1], text, most)

    return context


def _end(ids: Tensor, text: Callable[[int], str], most: int) -> str:
    """The last characters of a context."""
    words: list[str] = []
    for token in reversed(ids.tolist()):
        words.insert(0, text(token))
        if sum(map(len, words)) + len(words) > most:
            break
    joined = " ".join(words)
    return joined if len(joined) <= most else "…" + joined[-(most - 1) :]
