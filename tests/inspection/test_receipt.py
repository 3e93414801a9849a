"""What is shown: the receipt as text, in a terminal, in a notebook; in no case more than 100 columns."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

import xent
from tests.inspection.written_losses import IGNORED, OF_XENT, WRITTEN, W, logits
from xent.errors import DependencyError
from xent.report._optional import needed
from xent.report._table import width

NOTEBOOK = torch.tensor([[-0.0153, 0.0258], [-0.0802, -0.0404], [0.0309, 0.0406]])
RECEIPT = """\
cross_entropy · mean over 3 rows · 2 classes · float32
 row  target    logit       p   −ln p   bits  p−y (÷3)  predicted  context
   0       1   0.0258  0.5103   0.6728  0.971   −0.1632  1          the quick brown fox jumped
   1       0  −0.0802  0.4901   0.7132  1.029   −0.1700  1          over the lazy dog near
   2       1   0.0406  0.5024   0.6883  0.993   −0.1659  1          the bank of the river
 ruler  0 ├──────────────────────────────────────────────────────│────●┤ 0.6931
        0.6915 nats = 0.9976 bits · perplexity 1.997 · label prior 0.6365 · guessing ln 2 = 0.6931
 read   nll_loss of log_softmax · reduction='mean' · ignore_index=-100 · no smoothing, no weights
 Σ      2.0744 ÷ 3 rows = 0.6915     torch 0.6915     equal (0 ulp)"""


def explained(**names):
    x = NOTEBOOK.clone().requires_grad_()
    return xent.explain(F.cross_entropy(x, torch.tensor([1, 0, 1])), **names)


def test_the_receipt_of_the_notebook():
    rows = ["the quick brown fox jumped", "over the lazy dog near", "the bank of the river"]
    shown, _, checks = str(explained(row_names=rows)).partition("\n checks ")  # their number grows with the rules
    assert "nothing found" in checks
    assert (
        shown.replace("−ln p   bits", "−ln p  bits").split() == RECEIPT.replace("−ln p   bits", "−ln p  bits").split()
    )
    assert repr(explained()) == ("<Explanation: cross_entropy · mean over 3 rows · 2 classes: 0.6915, equal (0 ulp)>")


@pytest.mark.parametrize("case", [*WRITTEN, *OF_XENT], ids=str)
def test_no_line_is_wider_than_a_screen(case):
    explanation = xent.explain(
        case.loss(20 * logits()), class_names=["漢字の長い名前" * 3, "e\u0301" * 30, "c", "d", "e"]
    )
    texts = [str(explanation), str(explanation.rows()), str(explanation.by_class()), str(explanation.suspects())]
    if all(term.scores.normalised for term in explanation.terms):
        texts.append(str(explanation.gradient()))
    for line in "\n".join(texts).splitlines():
        assert width(line) <= 100, line
    assert "\n" not in repr(explanation)


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_terminals_of_every_width(columns):
    out = io.StringIO()
    Console(file=out, width=columns, force_terminal=True, color_system="truecolor").print(explained())
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert all(width(line) <= columns for line in plain.splitlines())
    assert "equal (0" in " ".join(plain.split())
    assert "…" not in plain


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.open.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onload", "onerror"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_closed_escaped_and_alone():
    evil = "<script>alert(1)</script>&\"'"
    explanation = explained(class_names=[evil, evil], row_names=[evil] * 3)
    ledger = explanation.tokens([evil, evil], [[0, 1, 0]])
    parts = [
        explanation,
        explanation.gradient(),
        explanation.by_class(),
        explanation.suspects(),
        explanation.rows(),
        ledger,
    ]
    for part in parts:
        html = part._repr_html_()
        tags = Tags()
        tags.feed(html)
        assert not tags.open
        assert "script" not in tags.seen
        assert "<script>" not in html
        assert "http" not in html.split("</style>")[1]
        assert "prefers-color-scheme:dark" in html
    assert "<details>" in explanation._repr_html_()


def test_json_holds_what_a_page_needs(tmp_path):
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(0)).requires_grad_()
    explanation = xent.explain(F.cross_entropy(x, torch.tensor([5, 299, -100])))
    path = explanation.save(tmp_path / "x.json")
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(explanation.to_dict()))
    for row, record in enumerate(read["terms"][0]["rows"][:2]):
        classes = record["classes"]
        logit = torch.tensor(classes["logit"], dtype=torch.float64)
        torch.testing.assert_close(logit, x.detach()[row, classes["number"]].double(), rtol=1e-6, atol=1e-6)
        rest = torch.tensor([*classes["log_p"], classes["rest"]["log_p"]], dtype=torch.float64)
        assert float(rest.logsumexp(0)) == pytest.approx(0, abs=1e-6)
        assert len(classes["number"]) + classes["rest"]["count"] == 300
        assert record["class"] in classes["number"]
    assert read["equality"]["holds"]


def test_infinities_and_nan_are_null_in_json(tmp_path):
    x = torch.tensor([[0.0, -torch.inf], [0.0, torch.nan]], requires_grad=True)
    explanation = xent.explain(F.cross_entropy(x, torch.tensor([1, 0]), reduction="none"))
    assert explanation.equality.holds
    assert "∞" in str(explanation)
    json.loads(explanation.save(tmp_path / "x.json").read_text())


def test_weighted_and_ignored_rows_are_shown():
    shown = str(xent.explain(F.cross_entropy(logits(), IGNORED, W)))
    assert "ignored" in shown
    assert "÷ 3.75 (Σ weight)" in shown
    assert "ignore_index=-100 (2 rows)" in shown


def test_of_many_rows_the_worst_are_shown():
    x = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.arange(500) % 7
    explanation = xent.explain(F.cross_entropy(x, y))
    cost = F.cross_entropy(x, y, reduction="none")
    assert [record["row"] for record in explanation.rows(n=5)] == cost.topk(5).indices.tolist()
    assert "… the worst 5 of 500 rows" in str(explanation)
    assert len(str(explanation).splitlines()) <= 24


def test_a_library_that_is_not_there_is_named():
    with pytest.raises(
        DependencyError, match=r"nix is not installed; a plot needs it: pip install nix, or 'xent\[explain\]'"
    ):
        needed("nix.part", "a plot")


def test_plot_and_frame():
    pytest.importorskip("altair")
    chart = explained().plot().to_dict()
    assert len(json.dumps(chart)) > 500
    pytest.importorskip("pandas")
    assert list(explained().to_frame()["target"]) == ["1", "0", "1"]
