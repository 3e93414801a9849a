"""`python -m xent.bench.page`: docs/performance.md and the README, their tables made from the results files.

The text stands in the pages themselves; what lies between `<!-- measured: NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xent.bench import results
from xent.bench.pictures import picture_name
from xent.bench.table import spread, summary

_MIB = 2**20
_MARK = {True: "yes", False: "**no**", None: "not measured"}
_BLOCK = re.compile(r"(<!-- measured: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOTHING_YET = "No results yet: `make bench`.\n"
PAGES = (Path("docs/performance.md"), Path("README.md"))
_SHORT = {
    "cross-entropy": (
        "forward-float32-4096x32000",
        "both-float32-4096x32000",
        "both-bfloat16-4096x32000",
        "both-float32-4096x32000-smoothing",
        "both-float32-4x32000x1024",
        "both-float32-8x19x256x512",
        "both-float32-65536x10",
        "both-float32-64x10",
    ),
    "linear": ("float32-2048x768x50257", "float32-2048x768x50257-half-ignored", "float32-4096x2048x32000",
               "float32-1024x2304x256000"),
}  # fmt: skip
_IN_SHORT = ("xent", "naive", "torch", "compiled", "chunked", "cce", "optax")
_UNCHUNKED = {"linear": "torch"}  # which is the naive form in one function


def fill(page: str, all_results: Sequence[dict[str, Any]]) -> str:
    """The page with every measured block made anew."""

    def block(match: re.Match[str]) -> str:
        question, _, part = match[2].rpartition("-")
        mine = [result for result in all_results if result["question"] == question]
        text = "\n".join(filter(None, map(_PARTS[part], mine))) or _NOTHING_YET
        return f"{match[1]}\n{text}\n{match[3]}"

    return _BLOCK.sub(block, page)


def machine_part(result: dict[str, Any]) -> str:
    """Where, with what, when, and who was missing."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    dates = sorted(contest["measured_at"] for contest in result["contests"])
    loads = [contest["load_before"] for contest in result["contests"] if contest["load_before"] is not None]
    lines = [
        f"{machine['cpu']} ({', '.join(machine['instruction_sets'])}), {machine['cores']} cores, "
        f"{machine['threads']} threads, {machine['memory_gib']} GiB, {machine['system']}, transparent huge pages "
        f"`{machine['transparent_huge_pages']}`; {versions}."
    ]
    if dates:
        load = f"; load of the machine before a contest at most {max(loads):.1f}" if loads else ""
        lines.append(
            f"Measured from {dates[0]} to {dates[-1]}{load}. {summary(result)[0].upper()}{summary(result)[1:]}."
        )
    lines += [f"Not here: {result['labels'][name]} ({reason})." for name, reason in result["absent"].items()]
    return "\n\n".join(lines) + "\n"


def picture_part(result: dict[str, Any]) -> str:
    """The picture that `xent.bench.pictures` draws of the same file."""
    return f"![Speed against the number of logits](pictures/{picture_name(result)})\n"


def needs_part(result: dict[str, Any]) -> str:
    """What is required, and whether it is reached."""
    rows = [
        f"| {contest['title']} | {'' if need['of'] == 'xent' else need['of'] + ': '}{need['text']} | {need['shown']} "
        f"| {_MARK[need['reached']]} |"
        for contest in result["contests"]
        for need in contest["needs"]
    ]
    return "\n".join(["| work | required | measured | reached |", "|---|---|---:|---|", *rows]) + "\n"


def times_part(result: dict[str, Any]) -> str:
    """Every contest with all of its contestants."""
    head = ["contestant", "median ms", "±", "rounds", "speed", "extra MiB", "× logits", "gradient error"]
    parts = []
    for contest in result["contests"]:
        parts.append(f"**{contest['title']}** (xent ran on {contest['backend']['chosen']})\n")
        parts += [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
        for name, record in contest["contestants"].items():
            parts.append(f"| {result['labels'][name]} | {' | '.join(_cells(record, contest))} |")
        parts.append("")
    return "\n".join(parts)


def roofline_part(result: dict[str, Any]) -> str:
    """What the large contests must move at least, and how long the measured read bandwidth takes for it."""
    rows = []
    for contest in result["contests"]:
        read, own = (contest["contestants"].get(name, {}).get("median_ms") for name in ("read", "xent"))
        if not read or not own or contest["num_logits"] < 2**24:
            continue
        passes = 3 if contest["backward"] else 1
        bandwidth = contest["logits_bytes"] / (read / 1e3) / 1e9
        gigabytes = passes * contest["logits_bytes"] / 1e9
        rows.append(
            f"| {contest['title']} | {gigabytes:.2f} | {bandwidth:.1f} | {passes * read:.1f} | {own:.1f} "
            f"| {100 * passes * read / own:.0f} % |"
        )
    head = "| work | least GB | read GB/s | at that rate, ms | xent, ms | of the bound |"
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|", *rows]) + "\n"


def short_part(result: dict[str, Any]) -> str:
    """Time and memory of a few contests, the fastest in bold, of a machine where everybody took part."""
    if result["absent"]:
        return ""
    contests = [contest for contest in result["contests"] if contest["name"] in _SHORT[result["question"]]]
    names = [name for name in _IN_SHORT if name in result["labels"] and name != _UNCHUNKED.get(result["question"])]
    rows = []
    for contest in contests:
        records = [contest["contestants"].get(name, {}) for name in names]
        times = [record.get("median_ms", record.get("single_ms", float("inf"))) for record in records]
        cells = [_short_cell(record, time, time == min(times)) for record, time in zip(records, times, strict=True)]
        rows.append(f"| {contest['title']} | {' | '.join(cells)} |")
    head = f"| {result['machine']['cpu']}, {result['machine']['threads']} threads | "
    head += " | ".join(_whole_label(result["labels"], name) for name in names)
    return "\n".join([f"{head} |", f"|---|{'---:|' * len(names)}", *rows]) + "\n"


def _whole_label(labels: dict[str, str], name: str) -> str:
    """A label that begins with … goes on from the one before it; ours is short, for the table is wide."""
    if name == "xent":
        return name
    names = list(labels)
    before = labels[names[names.index(name) - 1]]
    return f"{before} {labels[name]}" if labels[name].startswith("…") else labels[name]


def _short_cell(record: dict[str, Any], milliseconds: float, fastest: bool) -> str:
    if math.isinf(milliseconds):
        return record.get("note", "not measured")
    time = f"{milliseconds / 1e3:.3g} s" if milliseconds >= 1e3 else f"{milliseconds:.3g} ms"
    time = f"**{time}**" if fastest else time
    return time if record.get("extra_bytes") is None else f"{time}, {record['extra_bytes'] / _MIB:,.0f} MiB"


def _cells(record: dict[str, Any], contest: dict[str, Any]) -> list[str]:
    error = "" if "gradient_error" not in record else f"{record['gradient_error']:.1e}"
    if "median_ms" not in record:
        return [record.get("note", "not timed"), "", "", "", *_memory_cells(record, contest), error]
    return [
        f"{record['median_ms']:,.4g}",
        spread(record),
        str(record["rounds"]),
        f"{record['ratio']:.2f}×" if "ratio" in record else "",
        *_memory_cells(record, contest),
        error,
    ]


def _memory_cells(record: dict[str, Any], contest: dict[str, Any]) -> list[str]:
    extra = record.get("extra_bytes")
    return ["", ""] if extra is None else [f"{extra / _MIB:,.0f}", f"{extra / contest['logits_bytes']:.2f}"]


_PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "machine": machine_part,
    "picture": picture_part,
    "needs": needs_part,
    "times": times_part,
    "roofline": roofline_part,
    "short": short_part,
}


def main() -> None:
    """Rewrite the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=results.DIRECTORY)
    parser.add_argument("--page", type=Path, nargs="+", default=PAGES)
    options = parser.parse_args()
    for page in options.page:
        page.write_text(fill(page.read_text(encoding="utf-8"), results.load_all(options.results)), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
