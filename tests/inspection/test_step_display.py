"""What a ledger shows: text of at most 100 columns, Rich of any width, HTML that is closed and inert, plain JSON."""

from __future__ import annotations

import doctest
import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import xent
from tests.inspection.test_receipt import Tags
from xent.report._table import width

ROOT = Path(__file__).parents[2]
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3
EVIL = "<script>alert(1)</script>&\"'漢字" * 3


def ledger_of(layers: int = 1, **options) -> xent.StepLedger:
    torch.manual_seed(0)
    body = [module for _ in range(layers) for module in (nn.Linear(4, 4), nn.Tanh())]
    model = nn.Sequential(*body, nn.Linear(4, 3))
    named = [(f"{EVIL if options.get('evil') else ''}{name}", p) for name, p in model.named_parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(options.get("steps", 2)):
        with xent.step(named, optimizer, closure=lambda: F.cross_entropy(model(X), Y)) as ledger:
            F.cross_entropy(model(X), Y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            optimizer.zero_grad()
    return ledger


def shown_parts(ledger) -> list:
    parts = [ledger, ledger.parameters(), ledger.by_layer(), ledger.accounts[0], ledger.accounts[0].entries()]
    return parts + ([ledger.first_step.entries()] if ledger.first_step else [])


@pytest.mark.parametrize("layers", [1, 40])
@pytest.mark.parametrize("evil", [False, True])
def test_no_line_is_wider_than_a_screen(layers, evil):
    ledger = ledger_of(layers, evil=evil)
    for line in "\n".join(str(part) for part in shown_parts(ledger)).splitlines():
        assert width(line) <= 100, line
    assert "\n" not in repr(ledger)
    assert len(str(ledger).splitlines()) <= 32


def test_of_many_parameters_the_worst_are_shown():
    ledger = ledger_of(40)
    assert "… 74 more, shown are the worst: ledger.parameters() has all" in str(ledger)
    assert len(ledger.parameters()) == len(ledger.accounts) == 82
    ratios = [record["ratio"] for record in ledger.parameters()]
    assert ratios == sorted(ratios, reverse=True)
    assert len(ledger.parameters(n=5)) == 5
    assert [record["parameter"] for record in ledger.parameters("first", 2)] == ["0.weight", "0.bias"]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_terminals_of_every_width(columns):
    out = io.StringIO()
    console = Console(file=out, width=columns, force_terminal=True, color_system="truecolor")
    for part in shown_parts(ledger_of()):
        console.print(part)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert all(width(line) <= columns for line in plain.splitlines())
    assert "equal (0 ulp)" in " ".join(plain.split())


def test_html_is_closed_escaped_and_alone():
    ledger = ledger_of(evil=True, steps=1)
    for part in shown_parts(ledger):
        html = part._repr_html_()
        tags = Tags()
        tags.feed(html)
        assert not tags.open
        assert "script" not in tags.seen
        assert "http" not in html.split("</style>")[1]
    assert ledger._repr_html_().count("<details>") == 4


def test_json_holds_what_a_page_needs():
    ledger = ledger_of()
    read = json.loads(json.dumps(ledger.to_dict(), allow_nan=False))
    assert read["optimizers"][0]["change"]["kind"] == "scaled"
    assert read["loss"]["measured"] == pytest.approx(read["loss"]["after"] - read["loss"]["before"])
    for parameter, account in zip(read["parameters"], ledger.accounts, strict=True):
        assert sum(part["share"] for part in parameter["parts"]) == pytest.approx(1, abs=1e-5)
        assert sum(parameter["summaries"]["update"]["histogram"]) == account.record.count
        assert parameter["entries"][0]["after"] is not None
        assert parameter["equality"]["holds"]
    assert read["sets"]["differences"] == []


def test_a_step_into_nothing_is_null_in_json_and_said():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    parameter.grad = torch.tensor([1.0, torch.nan, torch.inf])
    with xent.step(optimizer) as ledger:
        optimizer.step()
    assert ledger.equality.holds
    json.dumps(ledger.to_dict(), allow_nan=False)
    summary = ledger.accounts[0].summaries["after"]
    assert (summary.not_finite, sum(summary.histogram)) == (2, 1)
    assert "not finite" in str(ledger)


def test_entries_in_full():
    account = ledger_of().parameter("0.weight")
    table = account.entries([(0, 1), (-1, 2)])
    assert [record["entry"] for record in table] == ["(0, 1)", "(3, 2)"]
    for record, place in zip(table, [(0, 1), (3, 2)], strict=True):
        assert record["before"] == float(account.before[place])
        assert record["gradient"] == float(account.gradient[place])
        assert record["update"] == float(account.update[place])
        assert record["after"] == float(account.after[place])
        assert record["raw_gradient"] == float(account.raw_gradient[place])
    largest = account.entries(n=3)
    sizes = [abs(record["update"]) for record in largest]
    assert sizes[0] == float(account.update.abs().max())
    assert len(ledger_of().parameter("2.bias").entries()) == 3


def test_frame():
    pytest.importorskip("pandas")
    frame = ledger_of().to_frame()
    assert list(frame["parameter"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert frame["this gradient"].notna().all()


def test_the_page_is_what_it_prints():
    text = (ROOT / "docs/step.md").read_text(encoding="utf-8")
    lines = "".join("\n" if line.startswith("```") else line for line in text.splitlines(keepends=True))
    page = doctest.DocTestParser().get_doctest(lines, {}, "step.md", "docs/step.md", 0)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(page)
    assert result.attempted > 15
    assert not result.failed


def test_the_ledger_in_the_readme_is_printed():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What a step did")[1].split("\n## ")[0]
    code, shown = re.findall(r"```(?:python)?\n(.*?)```", section, flags=re.S)[:2]
    namespace: dict = {}
    exec(code, namespace)
    assert str(namespace["ledger"]) == shown.rstrip("\n")
