"""The file of a page: small for large losses, whole or not there, and what a page can't be made of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import xent
from xent.errors import DataError, OptionError, ShapeError
from xent.inspection import _page_rows
from xent.report._page import seen

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
TARGET = torch.tensor([0, 2])


def explained(**names):
    return xent.explain(LOGITS, TARGET, **names)


def data_of(path: Path) -> dict:
    """What the page moves."""
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.S)[1]
    )


@pytest.mark.slow
def test_a_page_of_8192_by_50257_is_small(tmp_path):
    """Ten classes, the target and one rest for each of 56 rows: under a megabyte, where the logits are 1.6 GB."""
    weight = torch.randn(50257, 4)
    loss = xent.explain(torch.randn(8192, 4), torch.randint(50257, (8192,)), linear_weight=weight)
    path = loss.save(tmp_path / "x.html")
    assert path.stat().st_size < 1_000_000
    (term,) = data_of(path)["terms"]
    assert len(term["rows"]) + term["others"]["count"] == 8192
    assert all(row["rest"]["count"] + len(row["classes"]) == 50257 for row in term["rows"])


def test_the_rows_and_the_others_add_up_to_the_value(tmp_path):
    x, y = torch.randn(500, 7, dtype=torch.float64), torch.randint(7, (500,))
    (term,) = data_of(xent.explain(x, y).save(tmp_path / "x.html"))["terms"]
    middle = len(_page_rows.TEMPERATURES) // 2
    assert _page_rows.TEMPERATURES[middle] == 1
    for step, T in enumerate(_page_rows.TEMPERATURES):
        others = sum(group["adds"][step] for group in term["others"]["groups"])
        whole = float(F.cross_entropy(x / T, y))
        here = torch.tensor([row["row"] for row in term["rows"]])
        assert others + float(F.cross_entropy(x[here] / T, y[here], reduction="sum")) / 500 == pytest.approx(
            whole, rel=1e-12
        )
    widths = [row["width"] for row in term["rows"]] + [group["width"] for group in term["others"]["groups"]]
    assert sum(widths) == pytest.approx(1, rel=1e-12)


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    content = explained().save(tmp_path / "x.html").read_text("utf-8")
    assert not re.search(r"(src|href)=[\"'](?!data:,|#)", content)
    assert "@import" not in content
    assert "url(" not in content
    assert content.count("http") == content.count("http-equiv") + content.count("http://www.w3.org/2000/svg")
    assert not re.search(r"\sstyle=|\son[a-z]+=", content)  # the policy refuses both


def test_receipt_tables_and_code_stand_on_the_page(tmp_path):
    explanation = explained(class_names=["cat", "dog", "owl"])
    content = explanation.save(tmp_path / "x.html").read_text("utf-8")
    for words in (
        "1.7213 ÷ 2 rows = 0.8606",
        "equal (0 ulp)",
        "by class",
        "labels the model contradicts",
        "import torch",
        "owl",
    ):
        assert words in content


def test_numbers_that_json_does_not_have(tmp_path):
    """A class that is masked away, a row of NaN: the first can be moved in, and the page reads both back."""
    x = LOGITS.clone()
    x[0, 2] = -torch.inf
    (term,) = data_of(xent.explain(x, TARGET).save(tmp_path / "x.html"))["terms"]
    assert term["why"] is None
    assert term["rows"][0]["x"][2] == {"number": "-Infinity"}
    x[1] = torch.nan
    (term,) = data_of(xent.explain(x, TARGET).save(tmp_path / "x.html"))["terms"]
    assert term["rows"][1]["cost"] == {"number": "NaN"}


def test_a_page_replaces_the_one_before_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.html"
    path.write_text("before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="No space left"):
        explained().save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.html"]
    assert path.read_text() == "before"
    monkeypatch.undo()
    explained().save(path)
    assert path.read_text().startswith("<!doctype html>")
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    probe = Path("/proc/self/status").read_text()
    return int(re.search(r"Umask:\s*(\d+)", probe)[1], 8)


def test_what_a_page_can_not_be_written_to(tmp_path):
    for path, words in ((tmp_path / "x.pdf", "suffix '.pdf'"), (tmp_path / "none/x.html", "no folder")):
        with pytest.raises(OptionError, match=words):
            explained().save(path)
    (tmp_path / "d.html").mkdir()
    with pytest.raises(OptionError, match="is a folder"):
        explained().save(tmp_path / "d.html")


def test_images_beside_the_rows(tmp_path):
    images = torch.tensor([[0.0, 0.5, 1.0, 2.0], [1.0, 0.0, torch.nan, 0.25]])
    (term,) = data_of(explained().save(tmp_path / "x.html", images=images))["terms"]
    assert [row["image"] for row in term["rows"]] == [{"side": 2, "hex": "0080ffff"}, {"side": 2, "hex": "ff000040"}]
    for wrong in (torch.zeros(3, 4), torch.zeros(2, 5)):
        with pytest.raises(ShapeError, match="one square image for each row"):
            explained().save(tmp_path / "x.html", images=wrong)


def test_tokens_and_their_contexts(tmp_path):
    words = ["<pad>", "the", " quick"]
    loss = F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET)
    path = xent.explain(loss).save(tmp_path / "x.html", tokenizer=words, input_ids=[[1, 2]])
    (term,) = data_of(path)["terms"]
    assert term["names"] == {"0": "<pad>", "1": "the", "2": "␣quick"}
    assert [row["name"] for row in term["rows"]] == ["the", "the ␣quick"]
    assert "␣quick" in path.read_text("utf-8").split('id="receipt"')[1]


def test_factors_that_follow_their_rows_are_no_weighted_sum():
    x = LOGITS.clone().requires_grad_()
    each = F.cross_entropy(x, TARGET, reduction="none")
    linear = (
        each.mean(),
        (each * torch.tensor([0.5, 2.0])).sum() / 3,
        each[1] - 0.5 * each[0],
        torch.stack([each[0], each[1]]).mean(),
    )
    assert all(xent.explain(loss).is_linear for loss in linear)
    curved = (
        (each * (1 - (-each).exp()) ** 2).mean(),  # focal: its node saves 1 − p, whose graph is not read
        each.mean().exp(),
        (each * each).mean(),
        each[0] / each[1],
        each.square().sum().sqrt(),
    )
    assert not any(xent.explain(loss).is_linear for loss in curved)


def test_unseen_characters_are_shown_as_their_code():
    assert seen("a\u202eb\x00\ud800\n\tc") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩\n\tc"
