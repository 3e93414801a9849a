"""What an observed block does: backward passes, unscaling, steps; every hook is removed when it ends."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from xent.inspection._gradient_changes import Pair, change_between
from xent.inspection._patches import listened
from xent.inspection._reach import leaves_behind
from xent.inspection._step_records import LossRecord, OptimizerRecord, ParameterRecord
from xent.inspection._tensor_copies import copied, fingerprint, same_bits
from xent.inspection._tensor_summary import summary
from xent.inspection._watched_parameters import Watched, named, route_of


class StepEvents:
    """Listens to a block, from `start` to `stop`."""

    def __init__(self, watched: Watched, optimizers: list[OptimizerRecord], losses: LossRecord) -> None:
        self.watched, self.optimizers, self.losses = watched, optimizers, losses
        self._stack = ExitStack()
        self._depth = [0] * len(optimizers)
        self._taken: list[list[tuple[Tensor, ParameterRecord]] | None] = [None] * len(optimizers)
        self._entry: dict[int, tuple[Any, ...]] = {}
        self._old_gradients: dict[int, tuple[Tensor, int]] = {}

    def start(self, *, hears_steps: bool = True) -> None:
        """Begin to listen; to steps too, unless somebody who does calls `step_begins` and `step_ended`."""
        with self._stack:
            for parameter, record in self.watched.parameters:
                self._note_entry(parameter, record)
                if parameter.requires_grad and parameter.is_leaf:
                    handle = parameter.register_post_accumulate_grad_hook(self._gradient_arrived)
                    self._stack.callback(handle.remove)
            for optimizer in self.watched.optimizers if hears_steps else ():
                self._stack.callback(optimizer.register_step_pre_hook(self.step_begins).remove)
                self._stack.callback(optimizer.register_step_post_hook(self.step_ended).remove)
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
        self._old_gradients.clear()

    # what was there before

    def _note_entry(self, parameter: Tensor, record: ParameterRecord) -> None:
        mine = record.optimizer is not None
        self._entry[id(parameter)] = (
            fingerprint(parameter) if mine else (parameter._version,), parameter.data_ptr(), parameter._version,
        )  # fmt: skip
        gradient = parameter.grad
        if gradient is not None and mine:
            record.raw = copied(gradient)
            self._old_gradients[id(parameter)] = (gradient, gradient._version)

    # backward

    def _backward_begins(self, tensors: Any, *args: Any, **kwargs: Any) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        for root in roots:
            if not self.losses.given:
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
        if not record.backwards:
            record.onto_old = self._is_old(parameter)
        record.backwards += 1
        if parameter.grad is not None and record.optimizer is not None:
            record.raw = copied(parameter.grad)

    def _is_old(self, parameter: Tensor) -> bool:
        """Whether the gradient is the one of before with nothing done to it but this one addition."""
        gradient, version = self._old_gradients.pop(id(parameter), (None, 0))
        return gradient is not None and parameter.grad is gradient and gradient._version == version + 1

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
        self._depth[number] += 1
        if self._depth[number] > 1:  # a step that calls its super().step() runs the hooks twice
            return None
        self._taken[number] = None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._take(number, optimizer)
            return None

        def closure_first(*given: Any) -> Any:
            try:
                loss = closure(*given)
            except BaseException:
                self._depth[number] = 0  # torch calls no hook after a step that failed
                raise
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
                self._take_parameter(parameter, record, optimizer, scale)
                taken.append((parameter, record))
                pair = _unscaled_pair(record, of_optimizer.unscaled)
                if pair is not None:
                    pairs.append(pair)
        of_optimizer.change = change_between(pairs)

    def _take_parameter(
        self, parameter: Tensor, record: ParameterRecord, optimizer: Optimizer, scale: Tensor | None
    ) -> None:
        gradient = copied(parameter.grad) if parameter.grad is not None else torch.zeros_like(parameter)
        if scale is not None:  # a fused kernel unscales by itself
            gradient = gradient / scale.to(gradient.device)
        alike = record.raw is not None and same_bits(record.raw, gradient)
        record.gradient = record.raw if alike else gradient
        record.before = copied(parameter)
        state = optimizer.state.get(parameter, {})
        record.state = {name: copied(value) if isinstance(value, Tensor) else value for name, value in state.items()}
        entry = self._entry[id(parameter)]
        if not record.steps and fingerprint(parameter) != entry[0]:
            record.notes.append("changed outside the optimizer before the step")
        if record.raw is None:
            record.raw = record.gradient

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
        printed, place, version = self._entry[id(parameter)]
        if parameter.data_ptr() != place:
            record.notes.append("its storage was replaced (param.data = …, or .to())")
        if record.after is not None:
            if not same_bits(parameter.detach(), record.after):
                record.notes.append("changed outside the optimizer after the step")
        elif record.optimizer is not None:
            record.unstepped = summary(parameter)
            if fingerprint(parameter) != printed:
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
