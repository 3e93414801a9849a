"""Where a loss comes from, drawn: the rows, the largest cost first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from xent.inspection._shown_rows import row_records
from xent.inspection._term import Term
from xent.report._optional import needed

if TYPE_CHECKING:
    from xent.inspection._explanation import Explanation

_BARS = 60


def chart_of(explanation: Explanation, term: Term) -> Any:
    """A bar for each of the rows that add most, and rules at the mean, the label prior and ln C."""
    altair = needed("altair", "plot")
    adds = torch.where(term.counted, term.cost, -torch.inf)
    rows = torch.sort(adds, descending=True, stable=True).indices[: min(_BARS, term.num_counted)]
    records = [
        {"row": record["position"], "loss": record["loss"], "target": record["target"], "p": record["p"],
         "predicted": record["predicted"], "place": place,
         "answer": "right" if record["right"] else "wrong"}
        for place, record in enumerate(row_records(term, rows, explanation.names))
    ]  # fmt: skip
    bars = (
        altair.Chart(altair.Data(values=records))
        .mark_bar()
        .encode(
            x=altair.X("row:N", sort=altair.EncodingSortField("place"), title="row, the largest loss first"),
            y=altair.Y("loss:Q", title="loss of the row, nats"),
            color=altair.Color("answer:N", scale=altair.Scale(domain=["right", "wrong"], range=["#4c78a8", "#e45756"])),
            tooltip=["row:N", "loss:Q", "target:N", "p:Q", "predicted:N"],
        )
    )
    chart = bars
    landmarks = explanation.landmarks_of(term)
    if landmarks is not None:
        marks = [
            {"nats": landmarks.nats, "what": "mean"},
            {"nats": landmarks.label_prior, "what": "label prior"},
            {"nats": landmarks.uniform, "what": f"ln {landmarks.num_classes}"},
        ]
        for place, mark in enumerate(marks):  # words beside one another, for lines that lie close
            base = altair.Chart(altair.Data(values=[mark])).encode(y="nats:Q")
            rule = base.mark_rule(strokeDash=[4, 3]).encode(tooltip=["what:N", "nats:Q"])
            words = base.mark_text(align="right", dx=-4 - 90 * place, dy=-6).encode(
                text="what:N", x=altair.value("width")
            )
            chart = chart + rule + words
    return chart.properties(width=640, height=240, title=f"{term.kind}: {len(records)} of {term.num_rows:,} rows")
