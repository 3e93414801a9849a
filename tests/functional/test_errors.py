"""What each error says, what torch's callers can catch it as, and that it comes before any work.

Each entry pins the whole text: what was got; what is needed: what to do.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import xent
from xent import errors

f = torch.zeros


def i(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.int64)


def t(*values) -> torch.Tensor:
    return torch.tensor(values)


sparse = xent.SparseTarget
CE, LINEAR, NLL = xent.cross_entropy, xent.linear_cross_entropy, xent.nll_loss
BCE, LOGITS = xent.binary_cross_entropy, xent.binary_cross_entropy_with_logits
NEED_OF_4 = "it must lie in [-2, 1]: pass the dimension that holds the classes"
TEXTS = [
    # (function, tensors, options, class, text)
    (CE, (f(()), t(0)), {}, errors.ShapeError,
     "input is a scalar; it needs a dimension of classes: pass shape (C,) or (N, C)"),
    (CE, (i(2, 3), i(2)), {}, errors.DtypeError,
     "input has dtype torch.int64; it is floating point: pass input.float()"),
    (CE, ([[0.0]], i(1)), {}, errors.DtypeError, "input is a list; it is a tensor: pass torch.tensor(input)"),
    (CE, (f(2, 3), [0, 1]), {}, errors.DtypeError, "target is a list; it is a tensor: pass torch.tensor(target)"),
    (CE, (f(4, 9, 7), i(4, 9)), {}, errors.ShapeError,
     "target has shape (4, 9) but logits of shape (4, 9, 7) have classes in dim 1; class indices need shape (4, 7), "
     "probabilities (4, 9, 7): pass input.movedim(-1, 1), or dim=-1"),
    (CE, (f(4, 9, 7), i(36)), {}, errors.ShapeError,
     "target has shape (36,) but logits of shape (4, 9, 7) have classes in dim 1; class indices need shape (4, 7), "
     "probabilities (4, 9, 7): pass target.reshape((4, 9)) and dim=-1 if the classes are last"),
    (CE, (f(4, 7, 9), i(36)), {}, errors.ShapeError,
     "target has shape (36,) but logits of shape (4, 7, 9) have classes in dim 1; class indices need shape (4, 9), "
     "probabilities (4, 7, 9): pass target.reshape((4, 9)) if its order is that of the rows"),
    (CE, (f(4, 7), i(4, 1)), {}, errors.ShapeError,
     "target has shape (4, 1) but logits of shape (4, 7) have classes in dim 1; class indices need shape (4,), "
     "probabilities (4, 7): pass target.squeeze(-1)"),
    (CE, (f(4, 7), i(3)), {}, errors.ShapeError,
     "target has shape (3,) but logits of shape (4, 7) have classes in dim 1; class indices need shape (4,), "
     "probabilities (4, 7): pass one target for each row"),
    (CE, (f(3, 0), i(3)), {}, errors.ShapeError,
     "logits of shape (3, 0) have 0 classes; a loss needs at least one: pass logits"),
    (CE, (f(4, 7), f(4)), {}, errors.DtypeError,
     "target of shape (4,) has dtype torch.float32; class indices are integers: pass target.long(), or probabilities "
     "of the logits' shape (4, 7)"),
    (CE, (f(4, 7), i(4, 7)), {}, errors.DtypeError,
     "target has the logits' shape (4, 7) and dtype torch.int64; a target of that shape holds class probabilities, "
     "which are floating point: pass target.float(), or target.argmax(1) if it is one-hot"),
    (CE, (f(4, 7), f(4, 7)), {"ignore_index": 2}, errors.OptionError,
     "ignore_index=2 with class probabilities; only class indices can be ignored: leave it out, and pass row_weight=0 "
     "for the rows to leave out"),
    (CE, (f(3, 4), t(1, 4, 2)), {}, errors.TargetRangeError,
     "1 of 3 targets are out of bounds (4; the first at row [1]); with C=4 classes a target lies in [0, 3] or is "
     "ignore_index=-100: classes count from 0: pass target - 1"),
    (CE, (f(3, 4), t(-1, 7, 2)), {}, errors.TargetRangeError,
     "2 of 3 targets are out of bounds (-1 to 7; the first at row [0]); with C=4 classes a target lies in [0, 3] or is "
     "ignore_index=-100: mend the labels"),
    (CE, (f(3, 4), t(1, 4, -100)), {}, errors.TargetRangeError,
     "1 of 3 targets are out of bounds (4; the first at row [1]); with C=4 classes a target lies in [0, 3] or is "
     "ignore_index=-100: classes count from 0: pass torch.where(target == -100, target, target - 1)"),
    (CE, (f(3, 4), t(1, 4, 2)), {"ignore_index": 0}, errors.TargetRangeError,
     "1 of 3 targets are out of bounds (4; the first at row [1]); with C=4 classes a target lies in [0, 3] or is "
     "ignore_index=0: mend the labels"),
    (CE, (f(1, 9), torch.tensor([156], dtype=torch.uint8)), {}, errors.TargetRangeError,
     "1 of 1 targets are out of bounds (156; the first at row [0]); with C=9 classes a target lies in [0, 8] or is "
     "ignore_index=-100: mend the labels"),
    (CE, (f(3, 4), i(3), f(3)), {}, errors.ShapeError,
     "weight has shape (3,); class weights need shape (4,), one for each class in dim 1 of the logits (3, 4): pass one "
     "weight for each class (row_weight= weighs rows)"),
    (CE, (f(3, 4), i(3), i(4)), {}, errors.DtypeError,
     "weight has dtype torch.int64; weights are floating point: pass weight.float()"),
    (CE, (f(3, 4), i(3), [1.0] * 4), {}, errors.DtypeError,
     "weight is a list; it is a tensor or None: pass torch.tensor(weight)"),
    (CE, (f(3, 4), i(3)), {"row_weight": f(2)}, errors.ShapeError,
     "row_weight has shape (2,); it must broadcast to the rows (3,): pass one weight for each row"),
    (CE, (f(3, 4), i(3)), {"dim": 2}, errors.DimensionError, f"dim=2 for input of shape (3, 4); {NEED_OF_4}"),
    (CE, (f(3, 4), i(3)), {"dim": 1.0}, errors.DtypeError, "dim is a float; it is an integer: pass int(dim)"),
    (CE, (f(3, 4), i(3)), {"shift": -1}, errors.OptionError,
     "shift=-1; it counts positions ahead, 0 or more: pass shift=1 for the next token"),
    (CE, (f(4), t(1).squeeze()), {"shift": 1}, errors.ShapeError,
     "shift=1 for one unbatched row; a shift needs a sequence of rows: pass shift=0"),
    (CE, (f(3, 4), i(3)), {"reduction": "avg"}, errors.OptionError,
     "reduction='avg'; it is one of 'none', 'mean', 'sum': pass one of these three"),
    (CE, (f(3, 4), i(3)), {"reduction": "sum", "normalizer": 3}, errors.OptionError,
     "normalizer with reduction='sum'; a normalizer replaces the denominator of the mean: pass reduction='mean', or "
     "divide the result yourself"),
    (CE, (f(3, 4), i(3)), {"normalizer": 0}, errors.OptionError,
     "normalizer=0; it must be positive: pass such a value"),
    (CE, (f(3, 4), i(3)), {"normalizer": f(2)}, errors.OptionError,
     "normalizer of shape (2,); it is one number: pass its sum"),
    (CE, (f(3, 4), i(3)), {"label_smoothing": 1.5}, errors.OptionError,
     "label_smoothing=1.5; it must be between 0 and 1: pass such a value"),
    (CE, (f(3, 4), i(3)), {"label_smoothing": "0.1"}, errors.DtypeError,
     "label_smoothing is a str; it is a number, between 0 and 1: pass float(label_smoothing)"),
    (CE, (f(3, 4), i(3)), {"z_loss": -1.0}, errors.OptionError,
     "z_loss=-1.0; it must be finite and not negative: pass such a value"),
    (CE, (f(3, 4), i(3)), {"softcap": 0.0}, errors.OptionError,
     "softcap=0.0; it must be positive and finite, or None: pass such a value"),
    (CE, (f(3, 4), i(3)), {"logit_scale": float("inf")}, errors.OptionError,
     "logit_scale=inf; it must be finite: pass such a value"),
    (CE, (f(3, 4), i(3)), {"ignore_index": 1.5}, errors.DtypeError,
     "ignore_index is a float; it is an integer: pass int(ignore_index)"),
    (CE, (f(3, 4), i(3)), {"ignore_index": 2**70}, errors.OptionError,
     "ignore_index=1180591620717411303424; targets are 64-bit integers, from -2**63 to 2**63 - 1: pass one of these, "
     "such as -100"),
    (CE, (f(3, 4), i(3).to("meta")), {}, errors.DeviceError,
     "target is on meta and input on cpu; the tensors of a loss live on one device: pass target.to(input.device)"),
    (CE, (f(3, 4), sparse(f(3, 2), f(3, 2))), {}, errors.DtypeError,
     "target.indices has dtype torch.float32; class indices are integers: pass target.indices.long()"),
    (CE, (f(3, 4), sparse(i(3, 2), i(3, 2))), {}, errors.DtypeError,
     "target.probabilities has dtype torch.int64; class probabilities are floating point: pass "
     "target.probabilities.float()"),
    (CE, (f(3, 4), sparse(i(3, 2), f(3, 1))), {}, errors.ShapeError,
     "target has indices of shape (3, 2) and probabilities of shape (3, 1); each index has one probability: pass "
     "tensors of one shape"),
    (CE, (f(3, 4, 5), sparse(i(3, 2, 5), f(3, 2, 5))), {}, errors.ShapeError,
     "target has indices of shape (3, 2, 5) for rows of shape (3, 5); a sparse target is (*rows, k), the k ≥ 1 entries "
     "of a row last: pass the entries in the last dimension, and as many rows as the logits have"),
    (CE, (f(3, 4), sparse(i(3, 0), f(3, 0))), {}, errors.ShapeError,
     "target has indices of shape (3, 0) for rows of shape (3,); a sparse target is (*rows, k), the k ≥ 1 entries of a "
     "row last: pass the entries in the last dimension, and as many rows as the logits have"),
    (CE, (f(2, 4), sparse(t([0, 4], [1, -100]), f(2, 2))), {}, errors.TargetRangeError,
     "1 of 4 targets are out of bounds (4; the first at row [0, 1]); with C=4 classes a target lies in [0, 3] or is "
     "ignore_index=-100: mend the labels"),
    (CE, (f(3, 4), sparse([0], f(3, 1))), {}, errors.DtypeError,
     "target.indices is a list; it is a tensor: pass torch.tensor(target.indices)"),
    (LINEAR, (f(3, 4), f(5, 2, 4), sparse(i(3, 2), f(3, 2))), {}, errors.OptionError,
     "a sparse target with K-dimensional linear_weight; a sparse target has k entries for each hidden state: pass "
     "linear_weight of shape (C, D), or probabilities of all classes"),
    (NLL, (f(3, 4), sparse(i(3, 2), f(3, 2))), {}, errors.DtypeError,
     "target is a SparseTarget; nll_loss takes class indices: pass target.argmax(1), or logits and probabilities to "
     "xent.cross_entropy"),
    (NLL, (f(3, 4), f(3, 4)), {}, errors.DtypeError,
     "target has the shape of input, (3, 4); nll_loss takes class indices: pass target.argmax(1), or logits and "
     "probabilities to xent.cross_entropy"),
    (LINEAR, (f(3, 4), f(5, 6), i(3)), {}, errors.ShapeError,
     "input of shape (3, 4) has 4 features in dim 1 and linear_weight (5, 6) takes 6; the two must be equal: pass "
     "linear_weight as (C, D), as nn.Linear holds it, or the right dim="),
    (LINEAR, (f(3, 4), f(4), i(3)), {}, errors.ShapeError,
     "linear_weight has shape (4,); it is (C, D): pass the weight of a Linear"),
    (LINEAR, (f(()), f(5, 4), i(3)), {}, errors.ShapeError,
     "input is a scalar; it needs a dimension of features: pass shape (D,) or (N, D)"),
    (LINEAR, (f(3, 4), f(5, 4).double(), i(3)), {}, errors.DtypeError,
     "input is torch.float32 and linear_weight torch.float64; a product needs one dtype outside autocast: pass "
     "linear_weight.to(input.dtype)"),
    (LINEAR, (f(3, 4), f(5, 4), i(3)), {"linear_bias": f(5).double()}, errors.DtypeError,
     "input is torch.float32 and linear_bias torch.float64; a product needs one dtype outside autocast: pass "
     "linear_bias.to(input.dtype)"),
    (LINEAR, (f(3, 4), f(5, 4), i(3)), {"linear_bias": f(4)}, errors.ShapeError,
     "linear_bias has shape (4,); it needs one entry for each logit, (5,): pass the bias of the same Linear"),
    (LINEAR, (f(4), f(5, 2, 4), t(1, 1)), {}, errors.ShapeError,
     "input of shape (4,) with features in dim 0 and linear_weight (5, 2, 4); K-dimensional logits need batched input "
     "with the features last: pass input of shape (N, D)"),
    (LINEAR, (f(3, 4), f(5, 2, 4), i(3, 2)), {"shift": 1}, errors.OptionError,
     "shift=1 with K-dimensional linear_weight; a shift runs along a sequence of hidden states: pass linear_weight of "
     "shape (C, D)"),
    (LINEAR, (f(3, 2, 4), f(5, 4), i(6)), {}, errors.ShapeError,
     "target has shape (6,) but logits of shape (3, 2, 5) have classes in dim 2; class indices need shape (3, 2), "
     "probabilities (3, 2, 5): pass target.reshape((3, 2)) if its order is that of the rows"),
    (LINEAR, (f(3, 4), f(5, 4), i(3)), {"dim": 5}, errors.DimensionError,
     f"dim=5 for input of shape (3, 4); {NEED_OF_4}"),
    (BCE, (f(3, 1), f(3)), {}, errors.ShapeError,
     "target has shape (3,) and input (3, 1); each element of input has its target: pass target.reshape(input.shape) "
     "if their order agrees, or target.float().unsqueeze(1) for input (N, 1)"),
    (BCE, (t(1.5, 0.25), f(2)), {}, errors.ProbabilityError,
     "input lies in [0.25, 1.5]; probabilities lie in [0, 1]: pass torch.sigmoid(logits), or the logits to "
     "binary_cross_entropy_with_logits"),
    (BCE, (t(0.5, 0.25), t(4.0, 0.0)), {}, errors.ProbabilityError,
     "target lies in [0, 4]; probabilities lie in [0, 1]: pass probabilities; class indices belong to "
     "xent.cross_entropy"),
    (LOGITS, (f(3), f(3), f(2)), {}, errors.ShapeError,
     "weight has shape (2,); it must broadcast to input (3,): pass one value for each element, column or row"),
    (LOGITS, (f(3), f(3), f(2, 3)), {}, errors.ShapeError,
     "weight of shape (2, 3) would enlarge input (3,) to (2, 3); a weight belongs to an element of input: give input "
     "its full shape first"),
    (LOGITS, (f(3), f(3).to(torch.complex64)), {}, errors.DtypeError,
     "target has dtype torch.complex64; targets are real: pass target.real"),
    (LOGITS, (f(3), f(3)), {"pos_weight": f(3).to(torch.complex64)}, errors.DtypeError,
     "pos_weight has dtype torch.complex64; pos_weights are real: pass pos_weight.real"),
    (CE, (f(3, 4), i(3)), {"normalizer": torch.tensor(1j)}, errors.DtypeError,
     "normalizer has dtype torch.complex64; it is real: pass normalizer.real"),
    (xent.log_softmax, (f(3), 0), {"dtype": "float32"}, errors.DtypeError,
     "dtype is a str; it is a torch.dtype: pass such as torch.float32"),
    (xent.token_logprobs, (f(3, 4), f(3, 4)), {}, errors.DtypeError,
     "target holds probabilities; a score is that of one class for each row: pass class indices"),
    (xent.token_logprobs, (f(3, 4), sparse(i(3, 2), f(3, 2))), {"top": 1}, errors.DtypeError,
     "target holds probabilities; a score is that of one class for each row: pass class indices"),
    (xent.token_logprobs, (f(3, 4), f(3, 5, 2)), {"linear_weight": f(5, 2, 4)}, errors.DtypeError,
     "target holds probabilities; a score is that of one class for each row: pass class indices"),
    (xent.token_logprobs, (f(3, 4), i(3)), {"linear_bias": f(4)}, errors.OptionError,
     "linear_bias without linear_weight; logits as they are have no layer: pass linear_weight, or no bias"),
    (xent.log_softmax, (f(3), 1), {}, errors.DimensionError,
     "dim=1 for input of shape (3,); it must lie in [-1, 0]: pass the dimension that holds the classes"),
    (xent.log_softmax, (t(1.0), 5), {}, errors.DimensionError,
     "dim=5 for input of shape (1,); it must lie in [-1, 0]: pass the dimension that holds the classes"),
    (xent.logsumexp, (t(1.0), (0, 5)), {}, errors.DimensionError,
     "dim=5 for input of shape (1,); it must lie in [-1, 0]: pass the dimension that holds the classes"),
    (xent.log_softmax, ([1.0], 0), {}, errors.DtypeError, "input is a list; it is a tensor: pass torch.tensor(input)"),
    (xent.logsumexp, ([1.0], 0), {}, errors.DtypeError, "input is a list; it is a tensor: pass torch.tensor(input)"),
    (xent.logsumexp, (f(3, 4), (0, 0)), {}, errors.ShapeError,
     "dim=(0, 0) for 2 dimensions; each is summed once: name each dim once"),
]  # fmt: skip
NAMES_OF_TEXTS = [f"{row[0].__name__}-{row[3].__name__}-{number}" for number, row in enumerate(TEXTS)]


@pytest.mark.parametrize(("function", "tensors", "options", "kind", "text"), TEXTS, ids=NAMES_OF_TEXTS)
def test_text(function, tensors, options, kind, text):
    before = [x.clone() if isinstance(x, torch.Tensor) and x.device.type == "cpu" else None for x in tensors]
    with pytest.raises(kind) as caught:
        function(*tensors, **options)
    error = caught.value
    assert str(error) == text
    assert text == f"{error.got}; {error.need}: {error.do}"
    assert isinstance(error, errors.XentError)
    for now, then in zip(tensors, before, strict=True):
        assert then is None or (torch.equal(now, then) and now._version == 0)


def test_every_class_that_a_loss_raises_is_pinned():
    raised = {kind for _, _, _, kind, _ in TEXTS} | {errors.BackendError}  # BackendError: max_memory, below
    of_others = {errors.XentError, errors.DataError, errors.RunError, errors.DependencyError, errors.NotExplained}
    of_others |= {errors.DistributedError}
    every = {k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.XentError)}
    assert raised == every - of_others  # those of recipes, files, explanations and ranks have tests of their own


SAME_PLACE = [
    (CE, F.cross_entropy, (f(4, 7), i(3)), {}),
    (CE, F.cross_entropy, (f(4, 7, 2), i(4, 3)), {}),
    (CE, F.cross_entropy, (f(4, 7), f(4)), {}),
    (CE, F.cross_entropy, (f(4, 7), f(4, 7)), {"ignore_index": 2}),
    (CE, F.cross_entropy, (f(4, 7), i(4), f(3)), {}),
    (CE, F.cross_entropy, (f(4, 7), i(4)), {"label_smoothing": 1.5}),
    (CE, F.cross_entropy, (f(4, 7), i(4)), {"reduction": "avg"}),
    (CE, F.cross_entropy, (f(3, 4), t(1, 4, 2)), {}),
    (CE, F.cross_entropy, ([[0.0]], i(1)), {}),
    (NLL, F.nll_loss, (f(3, 4), t(1, 4, 2)), {}),
    (NLL, F.nll_loss, (f(3, 4), i(2)), {}),
    (BCE, F.binary_cross_entropy, (f(3, 1), f(3)), {}),
    (BCE, F.binary_cross_entropy, (t(1.5), t(0.0)), {}),
    (BCE, F.binary_cross_entropy, (t(0.5), t(4.0)), {}),
    (LOGITS, F.binary_cross_entropy_with_logits, (f(3, 1), f(3)), {}),
    (LOGITS, F.binary_cross_entropy_with_logits, (f(3), f(3), f(2)), {}),
    (xent.log_softmax, F.log_softmax, (f(3), 1), {}),
    (xent.log_softmax, F.log_softmax, (t(1.0), 5), {}),
    (xent.log_softmax, F.log_softmax, ([1.0], 0), {}),
    (xent.logsumexp, torch.logsumexp, (f(3), 1), {}),
    (xent.logsumexp, torch.logsumexp, (t(1.0), 5), {}),
    (xent.logsumexp, torch.logsumexp, (f(3, 4), (0, 0)), {}),
]


@pytest.mark.parametrize(
    ("ours", "torchs", "arguments", "options"),
    SAME_PLACE,
    ids=[f"{row[1].__name__}-{n}" for n, row in enumerate(SAME_PLACE)],
)
def test_code_that_catches_torchs_error_catches_ours(ours, torchs, arguments, options):
    try:
        torchs(*arguments, **options)
    except Exception as error:
        theirs = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        if not isinstance(arguments[0], torch.Tensor):
            theirs = TypeError  # F.log_softmax([1.0]) fails as any list without .log_softmax does
    else:
        pytest.fail("torch raises nothing here: leave the entry out")
    with pytest.raises(theirs) as caught:
        ours(*arguments, **options)
    assert isinstance(caught.value, errors.XentError)


def test_errors_come_before_any_work():
    """A wrong target is named although the product could not be held: 10^12 logits were never made."""
    hidden, head = f(1, 1).expand(10**6, 8), f(1, 1).expand(10**6, 8)
    with pytest.raises(errors.ShapeError, match="target has shape"):
        LINEAR(hidden, head, i(3))
    with pytest.raises(errors.TargetRangeError):
        LINEAR(hidden, head, torch.full((10**6,), 10**6))


def test_max_memory():
    hidden, head, target = f(3, 4), f(5, 4), i(3)
    with xent.backend("reference"), pytest.raises(errors.BackendError) as caught:
        LINEAR(hidden, head, target, max_memory=59)
    assert str(caught.value) == (
        "max_memory=59 bytes; the reference backend holds the logits whole, 60 bytes: raise max_memory, or pass "
        "fewer rows at a time"
    )
    with xent.backend("reference"):
        torch.testing.assert_close(LINEAR(hidden, head, target, max_memory=60), torch.tensor(5.0).log())
        assert LINEAR(f(1, 3, 4), head, i(1, 3), shift=1, max_memory=40).isfinite()  # 2 rows · 5 classes · 4 bytes


def test_meta_targets_and_inputs_are_checked_by_shape_alone():
    loss = CE(f(3, 4, device="meta"), i(3).to("meta"))
    assert (loss.shape, loss.device.type) == ((), "meta")
