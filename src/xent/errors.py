"""The errors of xent: every one says what it got, what it needs and what to do.

Each class is also the built-in class that `torch.nn.functional` raises in the same place, so that code written
around torch's functions keeps working when it calls xent's.
"""

from __future__ import annotations


class XentError(Exception):
    """Base of all errors that xent raises on purpose.

    Attributes:
        got: what was passed, with the numbers.
        need: the condition that it does not meet.
        do: the change that mends it.
    """

    def __init__(self, got: str, need: str, do: str) -> None:
        super().__init__(got, need, do)
        self.got, self.need, self.do = got, need, do

    def __str__(self) -> str:
        return f"{self.got}; {self.need}: {self.do}"


class ShapeError(XentError, ValueError, RuntimeError):
    """Tensors whose shapes do not fit each other."""


class DimensionError(ShapeError, IndexError):
    """A dim that the tensor does not have."""


class DtypeError(XentError, TypeError, RuntimeError):
    """A tensor, or an argument, of the wrong type."""


class OptionError(XentError, ValueError, RuntimeError):
    """An option with a value outside its range, or options that exclude each other."""


class TargetRangeError(XentError, ValueError, IndexError):
    """Class indices outside [0, C)."""


class ProbabilityError(XentError, ValueError, RuntimeError):
    """Probabilities outside [0, 1]."""


class BackendError(XentError, ValueError, RuntimeError):
    """A backend asked for by name that can't do this call."""


class DataError(XentError, ValueError):
    """Data on disk that is missing, truncated or not what its name says."""


class RunError(XentError, ValueError):
    """A run directory that can't be written, read or resumed."""


class DeviceError(XentError, ValueError, RuntimeError):
    """Tensors of one call that live on different devices."""


class DistributedError(XentError, RuntimeError):
    """A call that the ranks of a group make together, and one of them did not or could not."""


class NotExplained(XentError, ValueError):  # noqa: N818  (what it says of the loss)
    """A loss value whose way from the logits can't be read."""


class DependencyError(XentError, ImportError):
    """A library that only this call needs is not installed."""
