"""`LossTerms` as the numbers that an operation of torch.library takes, and back."""

from __future__ import annotations

from torch import Tensor

from xent.terms import LossTerms

# Of every operation on rows: logits to row weight, then these.
SCHEMA = (
    "Tensor logits, Tensor target, Tensor? probabilities, Tensor? weight, Tensor? row_weight, "
    "int ignore_index, float label_smoothing, float z_loss, float softcap, float logit_scale"
)


def flat(terms: LossTerms) -> tuple[int, float, float, float, float]:
    """The options that are numbers; a soft cap of 0 is none."""
    softcap = 0.0 if terms.softcap is None else float(terms.softcap)
    scale = float(terms.logit_scale)
    return terms.ignore_index, float(terms.label_smoothing), float(terms.z_loss), softcap, scale


def terms_of(weight: Tensor | None, row_weight: Tensor | None, *numbers: float) -> LossTerms:
    """The options again; their reduction is the caller's business."""
    ignore_index, label_smoothing, z_loss, softcap, logit_scale = numbers
    return LossTerms(
        ignore_index=int(ignore_index),
        label_smoothing=label_smoothing,
        weight=weight,
        row_weight=row_weight,
        z_loss=z_loss,
        softcap=softcap or None,
        logit_scale=logit_scale,
        reduction="none",
    )
