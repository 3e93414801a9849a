"""What native/bindings.cpp offers."""

from collections.abc import Mapping

from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray

class Problem:
    def __init__(
        self,
        logits: Array,
        target: Array | None,
        probabilities: Array | None = None,
        class_weight: Array | None = None,
        row_weight: Array | None = None,
    ) -> None: ...
    def set_options(
        self,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        softcap: float,
        logit_scale: float,
        class_weight_sum: float,
    ) -> None: ...
    def is_one_pass(self) -> bool: ...
    def counted_rows(self) -> tuple[int, int]: ...

class Upstream:
    def __init__(
        self,
        loss: Array | None = None,
        lse: Array | None = None,
        entropy: Array | None = None,
        saved_lse: Array | None = None,
        saved_entropy: Array | None = None,
        saved_mass: Array | None = None,
        saved_lse_low: Array | None = None,
    ) -> None: ...

class ShardRows:
    def __init__(
        self,
        logits: Array,
        target: Array,
        first_class: int,
        ignore_index: int,
        softcap: float,
        logit_scale: float,
    ) -> None: ...
    def counted(self) -> int: ...
    def message_bytes(self) -> int: ...
    def encode(
        self, lse: Array | None, exact_lse: Array | None, lse_low: Array | None, message: Array, threads: int
    ) -> None: ...
    def merge(
        self, messages: Array, starts: list[int], z_loss: float, loss: Array, lse: Array, threads: int
    ) -> None: ...
    def put_target_gradients(
        self, lse: Array, of_loss: Array | None, of_lse: Array | None, gradient: Array, threads: int
    ) -> None: ...

def isa() -> str: ...
def supported_isas() -> list[str]: ...
def cross_entropy(problem: Problem, outputs: Mapping[str, Array], threads: int) -> int: ...
def nll_loss(problem: Problem, outputs: Mapping[str, Array], threads: int) -> int: ...
def cross_entropy_gradient(
    problem: Problem, upstream: Upstream, gradient: Array, streaming: bool, threads: int
) -> None: ...
def cross_entropy_both(
    problem: Problem, outputs: Mapping[str, Array], upstream_loss: Array, gradient: Array, threads: int
) -> None: ...
def sum_of_rows(values: Array, threads: int) -> float: ...
def nll_loss_gradient(problem: Problem, upstream: Upstream, gradient: Array, threads: int) -> None: ...
def log_softmax(input: Array, output: Array, threads: int) -> None: ...
def log_softmax_gradient(log_probabilities: Array, upstream: Array, gradient: Array, threads: int) -> None: ...
def logsumexp(input: Array, lse: Array, exact_lse: Array, threads: int) -> None: ...
def logsumexp_gradient(input: Array, exact_lse: Array, upstream: Array, gradient: Array, threads: int) -> None: ...
def binary_cross_entropy(
    logits: Array, target: Array, weight: Array | None, positive_weight: Array | None, loss: Array, threads: int
) -> None: ...
def binary_cross_entropy_gradient(
    logits: Array,
    target: Array,
    weight: Array | None,
    positive_weight: Array | None,
    upstream: Array,
    gradient: Array,
    threads: int,
) -> None: ...
def advise_huge_pages(buffer: Array) -> bool: ...
def apply(function: str, x: Array, y: Array) -> None: ...
