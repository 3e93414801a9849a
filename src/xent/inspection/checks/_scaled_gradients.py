"""Gradients that are clipped while they still carry the factor of a GradScaler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, GradientEvent
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._run import Run

_MOST_CLIPS = 64  # between two backwards


@dataclass(frozen=True)
class _Clip:
    parameters: frozenset[int]
    site: CallSite | None


class _ClipBeforeUnscale(Watcher):
    """A clip after the last backward, then GradScaler.step() of an optimizer that was not unscaled before the clip."""

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._clips: list[_Clip] = []
        self._unscaled: set[int] = set()  # optimizers, since the last backward
        self._saw_scaler = False

    def at_wake(self) -> None:
        self._clips.clear()
        self._unscaled.clear()

    def at_backward(self, backward: BackwardCall) -> None:
        if not backward.is_grad:
            self._clips.clear()
            self._unscaled.clear()  # new gradients are scaled; scaler.step() itself unscales after it was judged

    def at_gradients(self, event: GradientEvent) -> Iterator[Found] | None:
        key = id(event.optimizer)
        if event.kind == "clip" and len(self._clips) < _MOST_CLIPS:
            self._clips.append(_Clip(frozenset(map(id, event.parameters)) - self._owned_unscaled(), event.site))
        elif event.kind == "unscale":
            self._unscaled.add(key)
        elif event.kind == "scaler_step":
            self._saw_scaler = True
            was_unscaled = key in self._unscaled
            self._unscaled.discard(key)
            if not was_unscaled:
                return self._judged(event)
        return None

    def _owned_unscaled(self) -> set[int]:
        """Parameters of the optimizers that are unscaled: their clip is right."""
        return {
            id(parameter)
            for optimizer in self.run.live_optimizers()
            if id(optimizer) in self._unscaled
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def _judged(self, event: GradientEvent) -> Iterator[Found]:
        scaler, optimizer = event.scaler, event.optimizer
        if optimizer is None or not scaler.is_enabled() or not self._clips:
            return
        scale = float(scaler.get_scale())
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for clip in self._clips:
            if scale != 1 and clip.parameters & held:
                yield Found(
                    message=f"gradients were clipped while still multiplied by the loss scale {scale:,.0f}: "
                    f"the bound acts as 1/{scale:,.0f} of what was asked for, and cuts nearly every step down to it.",
                    fix="call scaler.unscale_(optimizer) before the clipping",
                    proof=f"no unscale_() of this {type(optimizer).__name__} between its backward() and the clip; "
                    "scaler.step() unscaled after it",
                    values={"scale": scale},
                    site=clip.site,
                )

    def at_end(self) -> None:
        if not self._saw_scaler:
            raise NotChecked("no GradScaler was used")


_HEAD = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
for _ in range(3):
    optimizer.zero_grad()
    x, y = torch.randn(32, 8), torch.randint(3, (32,))
    scaler.scale(F.cross_entropy(model(x), y)).backward()
{}    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
"""

RULES = (
    Rule(
        slug="clip-before-unscale",
        severity="error",
        certainty="proof",
        title="gradients are clipped while still scaled by GradScaler",
        needs=("a GradScaler",),
        watcher=_ClipBeforeUnscale,
        example=_HEAD.format(""),
        corrected=_HEAD.format("    scaler.unscale_(optimizer)\n"),
    ),
)
