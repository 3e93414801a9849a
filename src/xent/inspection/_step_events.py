"""What an observed block does: backward passes, unscaling, steps; every hook is removed when it ends."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from xent.inspection._gradient_changes import Pair, change_between
from xent.inspection._hooks import eager, is_nested_step
from xent.inspection._patches import listened
from xent.inspection._reach import leaves_behind
from xent.inspection._step_records import LossRecord, OptimizerRecord, ParameterRecord
from xent.inspection._tensor_copies import copied, fingerprint, same_bits
from xent.inspection._tensor_summary import summary
from xent.inspection._watched_parameters import Watched, named, route_of


@dataclass
class _Waiting:
    """The gradient that the next step of a parameter finds.

    Attributes:
        raw: as backward left it.
        held: the tensor in `.grad` that this is a copy of, and its version then.
        backwards: how many passes of the block added to it since it was cleared.
        onto_old: whether the first of them added to a gradient that was there before the block.
        is_stepped: whether a step has had it.
    """

    raw: Tensor | None = None
    held: Tensor | None = None
    version: int = 0
    backwards: int = 0
    onto_old: bool = False
    is_stepped: bool = False

    def holds(self, gradient: Tensor | None) -> bool:
        """Whether it is still the gradient, and not one that somebody put in its place by hand."""
        return self.backwards > 0 or self.held is gradient

    def was_added_to(self, gradient: Tensor | None) -> bool:
        """Whether a pass that just ended only added to it: in place, or with `create_graph` in a new tensor."""
        if gradient is None or self.held is None:
            return False
        return gradient.requires_grad or (gradient is self.held and gradient._version == self.version + 1)


class StepEvents:
    """Listens to a block, from `start` to `stop`."""

    def __init__(self, watched: Watched, optimizers: list[OptimizerRecord], losses: LossRecord) -> None:
        self.watched, self.optimizers, self.losses = watched, optimizers, losses
        self._stack = ExitStack()
        self._depth = [0] * len(optimizers)
        self._taken: list[list[tuple[Tensor, ParameterRecord]] | None] = [None] * len(optimizers)
        self._entry: dict[int, tuple[Any, ...]] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._losses_before: list[int] = [0] * len(optimizers)  # how many each optimizer's last step had

    def start(self, *, hears_steps: bool = True) -> None:
        """Begin to listen; to steps too, unless somebody who does calls `step_begins` and `step_ended`."""
        with self._stack:
            for parameter, record in self.watched.parameters:
                self._note_entry(parameter, record)
                if parameter.requires_grad and parameter.is_leaf:
                    handle = parameter.register_post_accumulate_grad_hook(self._gradient_arrived)
                    self._stack.callback(handle.remove)
            for optimizer in self.watched.optimizers if hears_steps else ():
                self._stack.callback(optimizer.register_step_pre_hook(eager(self.step_begins)).remove)
                self._stack.callback(optimizer.register_step_post_hook(eager(self.step_ended)).remove)
            listened(self._stack, torch.autograd, "backward", self._backward_begins, lambda *args, **kwargs: None)
            scaler = torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
            listened(self._stack, scaler, "unscale_", lambda one, *args: one.get_scale(), self._unscaled)
            listened(self._stack, scaler, "step", self._steps_so_far, self._scaler_stepped)
            self._stack = self._stack.pop_all()

    def stop(self) -> None:
        """Remove every hook and note how things were left."""
        self._stack.close()
        for parameter, record in self.watched.parameters:
            self._note_exit(parameter, record)
        self._compare_names()
        self.losses.unscaled = max((one.unscaled for one in self.optimizers), default=1.0)
        self._entry.clear()
        self._waiting.clear()

    # what was there before

    def _note_entry(self, parameter: Tensor, record: ParameterRecord) -> None:
        mine = record.optimizer is not None
        self._entry[id(parameter)] = (
            fingerprint(parameter) if mine else (parameter._version,), parameter.data_ptr(), parameter._version,
        )  # fmt: skip
        gradient = parameter.grad
        if gradient is not None and mine:
            self._waiting[id(parameter)] = _Waiting(copied(gradient), gradient, gradient._version)

    # backward

    def _backward_begins(self, tensors: Any, *args: Any, **kwargs: Any) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        again = any(taken is not None for taken in self._taken)  # a closure's further evaluations, of moved parameters
        for root in roots:
            if not self.losses.given and not again:
                self.losses.note(root)
            self.walk(root)

    def walk(self, loss: Tensor) -> None:
        """Note which leaves a loss reaches."""
        self.losses.seen = True
        for leaf in leaves_behind(loss):
            record = self.watched.record_of(leaf)
            if record is not None:
                record.reached = True
            elif isinstance(leaf, torch.nn.Parameter):
                self.losses.strangers.append(tuple(leaf.shape))

    def _gradient_arrived(self, parameter: Tensor) -> None:
        record = self.watched.record_of(parameter)
        if record is None:
            return
        record.reached = True
        gradient, waiting = parameter.grad, self._waiting.get(id(parameter), _Waiting())
        if waiting.is_stepped or (waiting.backwards and not waiting.was_added_to(gradient)):
            waiting = _Waiting()
        if not waiting.backwards:
            waiting.onto_old = waiting.was_added_to(gradient)
        self._waiting[id(parameter)] = waiting
        waiting.backwards += 1
        if gradient is not None and record.optimizer is not None:
            waiting.raw, waiting.held, waiting.version = copied(gradient), gradient, gradient._version

    # GradScaler

    def _unscaled(self, scale: float, scaler: Any, optimizer: Any, *args: Any) -> None:
        del scaler, args
        number = self._number(optimizer)
        if number is not None:
            self.optimizers[number].unscaled = scale

    def _steps_so_far(self, scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> int | None:
        number = self._number(optimizer)
        return None if number is None else self.optimizers[number].steps

    def _scaler_stepped(self, steps: int | None, scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        number = self._number(optimizer)
        if number is not None and self.optimizers[number].steps == steps:
            self.optimizers[number].skipped += 1

    def _number(self, optimizer: Any) -> int | None:
        inner = getattr(optimizer, "optimizer", optimizer)
        for number, one in enumerate(self.watched.optimizers):
            if one is inner or one is optimizer:
                return number
        return None

    # step

    def step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """A hook of torch's optimizers; what it gives takes the place of the arguments."""
        number = self._number(optimizer)
        if number is None:
            return None
        if self._depth[number] and not is_nested_step(lambda one: one is optimizer):
            self._depth[number] = 0  # torch calls no hook after a step that failed
        self._depth[number] += 1
        if self._depth[number] > 1:  # a step that calls its super().step() runs the hooks twice
            return None
        self._taken[number] = None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._take(number, optimizer)
            return None

        def closure_first(*given: Any) -> Any:
            loss = closure(*given)
            self._take(number, optimizer)  # torch's steps call the closure first, then use the gradients
            return loss

        if len(args) > 1:
            return (args[0], closure_first, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_first}

    def _take(self, number: int, optimizer: Optimizer) -> None:
        """Copy what the step starts from."""
        if self._taken[number] is not None:
            return
        taken: list[tuple[Tensor, ParameterRecord]] = []
        self._taken[number] = taken
        of_optimizer = self.optimizers[number]
        if of_optimizer.steps:
            self._forget_losses(number)
        self._losses_before[number] = len(self.losses.values)
        of_optimizer.groups = [_options(group) for group in optimizer.param_groups]
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            of_optimizer.unscaled = float(scale)
        pairs: list[Pair] = []
        for place, group in enumerate(optimizer.param_groups):
            route = route_of(group, group["params"])
            for parameter in group["params"]:
                record = self.watched.record_of(parameter)
                if record is None or parameter.grad is None:
                    continue
                record.group, record.options, record.route = place, of_optimizer.groups[place], route
                record.optimizer = number if record.optimizer is None else record.optimizer  # add_param_group
                self._take_parameter(parameter, record, optimizer, scale)
                taken.append((parameter, record))
                pair = _unscaled_pair(record, of_optimizer.unscaled)
                if pair is not None:
                    pairs.append(pair)
        of_optimizer.change = change_between(pairs)

    def _forget_losses(self, number: int) -> None:
        """The losses of an optimizer's earlier step are not those of the one that comes, which is the one shown."""
        earlier = self._losses_before[number]
        self.losses.forget(earlier)
        self._losses_before = [max(0, known - earlier) for known in self._losses_before]

    def _take_parameter(
        self, parameter: Tensor, record: ParameterRecord, optimizer: Optimizer, scale: Tensor | None
    ) -> None:
        gradient = copied(parameter.grad) if parameter.grad is not None else torch.zeros_like(parameter)
        if scale is not None:  # a fused kernel unscales by itself
            gradient = gradient / scale.to(gradient.device)
        self._take_raw(parameter, record)
        alike = record.raw is not None and same_bits(record.raw, gradient)
        record.gradient = record.raw if alike else gradient
        record.before = copied(parameter)
        state = optimizer.state.get(parameter, {})
        record.state = {name: copied(value) if isinstance(value, Tensor) else value for name, value in state.items()}
        if not record.steps and self._is_changed(parameter):
            record.notes.append("changed outside the optimizer before the step")
        if record.raw is None:
            record.raw = record.gradient

    def _is_changed(self, parameter: Tensor) -> bool:
        """Whether it was written to since the block began; of one that no optimizer had then by its version."""
        printed = self._entry[id(parameter)][0]
        return ((parameter._version,) if len(printed) == 1 else fingerprint(parameter)) != printed

    def _take_raw(self, parameter: Tensor, record: ParameterRecord) -> None:
        """What backward left for the parameter; nothing where a gradient came otherwise."""
        waiting = self._waiting.get(id(parameter))
        if waiting is None or not waiting.holds(parameter.grad):
            record.raw, record.backwards, record.onto_old = None, 0, False
            return
        waiting.is_stepped = True
        record.raw, record.backwards, record.onto_old = waiting.raw, waiting.backwards, waiting.onto_old

    def step_ended(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """A hook of torch's optimizers."""
        number = self._number(optimizer)
        if number is None:
            return
        self._depth[number] -= 1
        if self._depth[number]:
            return
        found = getattr(optimizer, "found_inf", None)
        if found is not None and float(found):  # a fused kernel that GradScaler told to do nothing
            self._taken[number] = None
            return
        self.optimizers[number].steps += 1
        for parameter, record in self._taken[number] or ():
            record.after = copied(parameter)
            record.steps += 1
            self.optimizers[number].state_names |= optimizer.state.get(parameter, {}).keys()
        self._taken[number] = None

    # how it was left

    def _note_exit(self, parameter: Tensor, record: ParameterRecord) -> None:
        if record.after is None:
            self._take_raw(parameter, record)
        _, place, version = self._entry[id(parameter)]
        if parameter.data_ptr() != place:
            record.notes.append("its storage was replaced (param.data = …, or .to())")
        if record.after is not None:
            if not same_bits(parameter.detach(), record.after):
                record.notes.append("changed outside the optimizer after the step")
        elif record.optimizer is not None:
            record.unstepped = summary(parameter)
            if self._is_changed(parameter):
                record.notes.append("changed, and no optimizer stepped it")
        elif parameter._version != version:
            record.notes.append("written to, and in no optimizer")
        record.gradient_at_exit = _gradient_words(parameter, record)

    def _compare_names(self) -> None:
        """Whether the module still holds the tensors it held."""
        if self.watched.model is None:
            return
        now = dict(named(self.watched.model))
        for parameter, record in self.watched.parameters:
            if record.registered and now.get(record.name) is not parameter:
                what = "is gone from the model" if record.name not in now else "is another tensor in the model now"
                stays = "; the optimizer still has the old one" if record.optimizer is not None else ""
                record.notes.append(f"{what}{stays}")


def _unscaled_pair(record: ParameterRecord, scale: float) -> Pair | None:
    """The gradient as backward left it, unscaled, and as step() got it."""
    if record.raw is None or record.gradient is None or record.gradient.is_sparse:
        return None
    return record.raw if scale == 1.0 else record.raw / scale, record.gradient


def _options(group: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in kept.items()}


def _gradient_words(parameter: Tensor, record: ParameterRecord) -> str:
    gradient = parameter.grad
    if gradient is None:
        return "None"
    if not gradient.is_sparse and not bool(gradient.any()):
        return "zeros"
    return "kept" if record.gradient is None or same_bits(gradient.detach(), record.gradient) else "changed"
