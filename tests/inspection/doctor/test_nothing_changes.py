"""Training under the doctor gives the same bits, the same exceptions and the same functions afterwards.

Compared bit by bit: nothing may differ at all, because a check that moved one random number or one version of a tensor
would make a program that is examined another program.
"""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo import trace_rules
from torch.utils.checkpoint import checkpoint

import xent
from tests.inspection.doctor.support import examined, found
from xent.inspection.examination import _sessions


def model_and_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))
    return model, torch.randn(12, 6), torch.randint(4, (12,))


def plain(model, x, y, optimizer):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return loss


def by_hand(model, x, y, optimizer):
    optimizer.zero_grad()
    loss = -model(x).log_softmax(1)[torch.arange(len(y)), y].mean()
    loss.backward()
    optimizer.step()
    return loss


def wrong(model, x, y, optimizer):
    """Every kind of mistake that the first rules look for, so that they look."""
    loss = F.cross_entropy(model(x).softmax(1), y)
    loss.backward()
    optimizer.step()
    return loss


def checkpointed(model, x, y, optimizer):
    optimizer.zero_grad()
    loss = F.cross_entropy(checkpoint(model, x, use_reentrant=False), y)
    loss.backward()
    optimizer.step()
    return loss


def checkpointed_whole(model, x, y, optimizer):
    """The loss itself is recomputed in backward: reading what it saved would run the model once more."""
    optimizer.zero_grad()
    loss = checkpoint(lambda x: -model(x).log_softmax(1).gather(1, y[:, None]).mean(), x, use_reentrant=False)
    loss.backward()
    optimizer.step()
    return loss


def mixed_precision(model, x, y, optimizer):
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    scaler.step(optimizer)
    scaler.update()
    return loss


def penalised(model, x, y, optimizer):
    optimizer.zero_grad()
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x), y)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    loss = loss + slope.square().sum()
    loss.backward()
    optimizer.step()
    return loss


STEPS = [plain, by_hand, wrong, checkpointed, checkpointed_whole, mixed_precision, penalised]


def trained(step, *, examine: bool):
    model, x, y = model_and_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    with xent.doctor() if examine else torch.enable_grad():
        for _ in range(7):
            losses.append(step(model, x, y, optimizer).detach())
    state = [*losses, *model.state_dict().values(), torch.get_rng_state()]
    return state, model


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_training_run_gives_the_same_bits(step):
    without, _ = trained(step, examine=False)
    with_, _ = trained(step, examine=True)
    assert all(torch.equal(one, other) for one, other in zip(without, with_, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
def test_a_compiled_step_is_traced_whole(dtype, is_known):
    def loss_of(x, y):
        return F.cross_entropy(x * 2, y)

    torch._dynamo.reset()
    trace_rules.get_torch_obj_rule_map.cache_clear()
    if is_known:  # dynamo knew the loss before the doctor came: it stays a call, by its name, in the code of the graph
        trace_rules.get_torch_obj_rule_map()
    x, y = torch.randn(5, 3, dtype=dtype), torch.tensor([0, 1, 2, 0, 1])
    with xent.doctor() as report:
        compiled = torch.compile(loss_of, fullgraph=True, backend="eager")
        inside = compiled(x, y)
    assert torch.equal(inside, loss_of(x, y))
    assert not report.findings


def test_functions_and_methods_are_given_back():
    names = ("cross_entropy", "nll_loss", "binary_cross_entropy", "kl_div")
    before = [getattr(F, name) for name in names]
    methods = [torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad, torch.optim.Optimizer.zero_grad]
    methods += [torch.optim.Optimizer.__init__, nn.Module.zero_grad, torch.nn.utils.clip_grad_norm_]

    def now():
        return [torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad, torch.optim.Optimizer.zero_grad,
                torch.optim.Optimizer.__init__, nn.Module.zero_grad, torch.nn.utils.clip_grad_norm_]  # fmt: skip

    def fails():
        with xent.doctor(), xent.doctor():
            assert F.cross_entropy is not before[0]
            assert torch.Tensor.backward is not methods[0]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert [getattr(F, name) for name in names] == before
    assert now() == methods
    assert not _sessions.all_sessions()


def test_an_accelerated_function_is_observed_and_both_are_undone():
    before = F.cross_entropy
    x = torch.randn(3, 4, requires_grad=True)
    with xent.doctor() as report, xent.accelerate():
        F.cross_entropy(x.softmax(1), torch.tensor([0, 1, 2]))
    assert F.cross_entropy is before
    assert [finding.rule for finding in report.findings] == ["softmax-before-cross-entropy"]
    with xent.accelerate(), xent.doctor() as report:
        F.cross_entropy(x.softmax(1), torch.tensor([0, 1, 2]))
    assert F.cross_entropy is before
    assert [finding.rule for finding in report.findings] == ["softmax-before-cross-entropy"]


def test_the_exception_is_torchs_own():
    def raised():
        try:
            F.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 5]))
        except Exception as error:
            return error
        raise AssertionError

    plain_error = raised()
    with xent.doctor() as report:
        error = raised()
    assert type(error) is type(plain_error)
    assert str(error) == str(plain_error)
    assert report.findings[0].raised == "IndexError: Target 5 is out of bounds."


def test_a_warning_of_torch_names_the_users_line():
    def warned():
        with pytest.warns(UserWarning, match="batchmean") as records:
            F.kl_div(torch.zeros(2, 3).log_softmax(1), torch.full((2, 3), 1 / 3))
        return [(record.filename, record.lineno) for record in records]

    before = warned()
    with xent.doctor():
        assert warned() == before
    assert before[0][0] == __file__


def test_no_tensor_and_no_graph_is_kept():
    x = torch.randn(4, 3, requires_grad=True)
    with xent.doctor():
        logits = (x * 2).softmax(1)
        loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
        loss.backward()
        references = [weakref.ref(logits), weakref.ref(loss)]
        del logits, loss
        gc.collect()
        assert [reference() for reference in references] == [None, None]


def test_findings_and_places_do_not_grow_with_the_run():
    with xent.doctor() as report:
        session = _sessions.all_sessions()[-1]
        sizes = []
        x = torch.randn(4, 3, requires_grad=True)
        for number in range(300):
            F.cross_entropy(x.softmax(1), torch.tensor([0, 1, 2, 0])).backward()
            if number in (9, 299):
                sizes.append((len(session._places), len(session._findings), len(session._sites)))
    assert sizes[0] == sizes[1]
    assert report.findings[0].count == 9  # calls 1, 2, 3, 5, 10, 20, 50, 100, 200


def test_nested_doctors_each_see_what_happens_inside():
    x, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    with xent.doctor() as outer:
        F.cross_entropy(x, y)
        with xent.doctor(mute=["softmax-before-cross-entropy"]) as inner:
            F.cross_entropy(x.softmax(1), y)
    assert len(outer.findings) == 1
    assert not inner.findings


def test_threads_are_counted_together():
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    failures = []

    def work():
        try:
            for _ in range(50):
                logits = x.clone().requires_grad_()
                F.cross_entropy(logits.softmax(1), y).backward()
        except Exception as error:
            failures.append(error)

    with xent.doctor() as report:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert [finding.rule for finding in report.findings] == ["softmax-before-cross-entropy"]


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, place):
        F.cross_entropy(torch.eye(3), torch.tensor([0, 1, 2]))  # in a worker: nobody looks
        assert not _sessions.all_sessions() or torch.utils.data.get_worker_info() is None
        return torch.tensor(float(place))


def test_workers_of_a_loader_have_nothing_to_report():
    with xent.doctor():
        loader = torch.utils.data.DataLoader(Numbers(), batch_size=4, num_workers=2, multiprocessing_context="fork")
        assert torch.cat(list(loader)).tolist() == list(range(8))
        assert _sessions.all_sessions()


def test_a_comment_on_any_line_of_the_call_mutes_it():
    report = examined("""
import torch, torch.nn.functional as F
x = torch.randn(4, 3, requires_grad=True)
y = torch.tensor([0, 1, 2, 0])
F.cross_entropy(x.softmax(1), y)  # xent: ignore[softmax-before-cross-entropy]
F.cross_entropy(
    x.softmax(1),  # xent: ignore[all-ignored, softmax-before-cross-entropy]
    y,
)
F.cross_entropy(x.softmax(1), y)
""")
    assert found(report) == [("softmax-before-cross-entropy", 9)]


def test_code_that_torch_scripts_still_scripts():
    with xent.doctor():

        @torch.jit.script
        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(x, y)

    assert loss_of(torch.zeros(2, 4), torch.tensor([0, 1])).item() == pytest.approx(1.3863, abs=1e-4)


def test_values_that_cannot_be_read_are_a_reason():
    with xent.doctor(only=["softmax-before-cross-entropy"]) as report, torch.no_grad():
        F.cross_entropy(torch.empty(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta"))
    assert report.checked == ()
    assert report.unchecked[0].reason == "values are not there (meta or fake tensors)"


def test_per_sample_gradients_go_on():
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])

    def one(row, label):
        return F.cross_entropy(row.softmax(0), label)

    gradients = torch.func.vmap(torch.func.grad(one))(x, y)
    with xent.doctor():
        assert torch.equal(torch.func.vmap(torch.func.grad(one))(x, y), gradients)
