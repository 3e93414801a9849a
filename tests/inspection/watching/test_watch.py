"""`xent.watch`: the records say what happened, and nothing that happens is changed by it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xent
from xent.errors import DtypeError, OptionError, RunError
from xent.inspection.watching._recording import Recording


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recording, "strict", True)  # a fault of the recording fails the test, not only the recording


def records(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record for record in found if kind in (None, record["kind"])]


def small() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(25, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 4))
    return model, torch.rand(10, 25), torch.randint(4, (10,))


def loop(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor, steps: int) -> None:
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def bits(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.parameters()]


def test_every_record_says_what_happened(tmp_path: Path):
    model, x, y = small()
    model.eval()  # no dropout: the loss can be computed again
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = bits(model)
    loss = F.cross_entropy(model(x), y)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    with xent.watch(model, optimizer, tmp_path / "run", every=1, class_names=list("abcd")) as watching:
        loop(model, optimizer, x, y, 3)
    path = watching.path
    assert path == tmp_path / "run" / "records.jsonl"
    found = records(path)
    assert [found[0]["kind"], found[-1]["kind"]] == ["run", "end"]
    assert (found[0]["layers"], found[0]["num_parameters"]) == (["0", "3"], 25 * 12 + 12 + 12 * 4 + 4)
    assert (found[-1]["status"], found[-1]["steps"]) == ("done", 3)

    step, *_ = records(path, "step")
    assert step["loss"] == pytest.approx(loss.item(), rel=1e-7)  # one float32 division and its inverse
    assert (step["sum_nll"], step["count"]) == (pytest.approx(10 * loss.item(), rel=1e-6), 10)
    assert step["accuracy"] == pytest.approx(float((model_before(before, x).argmax(1) == y).float().mean()))
    share = torch.bincount(y, minlength=4).double() / 10
    prior = float(torch.special.entr(share).sum())
    assert step["ruler"] == {"floor": 0.0, "prior": pytest.approx(prior), "uniform": math.log(4), "num_classes": 4}
    assert step["learning_rates"] == [0.5]
    assert set(step["seconds"]) == {"data", "forward", "loss", "backward", "step", "other"}
    assert all(step["seconds"][phase] > 0 for phase in ("forward", "loss", "backward", "step"))

    first, second = records(path, "layers")[0]["layers"]
    expected = math.hypot(float(gradient[0].norm()), float(gradient[1].norm()))
    assert first["gradient_norm"] == pytest.approx(expected, rel=1e-6)
    assert first["update_norm"] == pytest.approx(0.5 * expected, rel=1e-5)  # lr · gradient, rounded in the weights
    weight = math.hypot(float(before[0].norm()), float(before[1].norm()))
    assert first["update_ratio"] == pytest.approx(first["update_norm"] / weight, rel=1e-6)
    dead = float(((gradient[0] == 0).all(1) & (gradient[1] == 0)).float().mean())
    assert (first["dead_fraction"], second["dead_fraction"]) == (pytest.approx(dead), 0.0)

    classes = records(path, "classes")[0]["classes"]
    assert sum(each["count"] for each in classes) == 10
    assert sum(each["count"] * each["loss"] for each in classes) == pytest.approx(step["sum_nll"], rel=1e-5)
    assert [each["name"] for each in classes] == ["abcd"[each["class"]] for each in classes]
    assert sum(each["count"] for each in records(path, "calibration")[0]["bins"]) == 10
    worst = records(path, "worst_rows")[0]["rows"]
    nats = F.cross_entropy(model_before(before, x), y, reduction="none")
    assert [row["row"] for row in worst] == nats.argsort(descending=True).tolist()
    assert [row["loss"] for row in worst] == pytest.approx(nats.sort(descending=True).values.tolist(), rel=1e-5)
    picture = worst[0]["picture"]
    assert (picture["width"], picture["height"]) == (5, 5)
    assert picture["pixels"] == (x[worst[0]["row"]] * 255).round().int().tolist()
    ledger = records(path, "ledger")[0]["ledger"]
    assert [each["name"] for each in ledger["parameters"]] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert all(each["equality"]["holds"] for each in ledger["parameters"])


def model_before(parameters: list[Tensor], x: Tensor) -> Tensor:
    first, bias, second, last = parameters
    return (x @ first.T + bias).relu() @ second.T + last


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("every", [None, 1, 3])
def test_watching_changes_no_bit(tmp_path: Path, name: str, every: int | None):
    found = []
    for watched in (False, True):
        model, x, y = small()
        optimizer = OPTIMIZERS[name](model.parameters())
        block = xent.watch(model, optimizer, tmp_path / "run", every) if watched else nullcontext()
        with block:
            loop(model, optimizer, x, y, 25)
        found.append([*bits(model), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_everything_is_given_back(tmp_path: Path):
    functional = [(F, "cross_entropy"), (F, "nll_loss"), (xent.functional, "cross_entropy"), (xent, "cross_entropy")]
    methods = [(torch.optim.Optimizer, "zero_grad"), (torch.amp.GradScaler, "step")]
    places: list[tuple[Any, str]] = [*functional, *methods, (torch.autograd, "backward")]
    before = [getattr(owner, name) for owner, name in places]
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.watch(model, optimizer, tmp_path / "run"):
        loop(model, optimizer, x, y, 30)
    assert all(getattr(owner, name) is one for (owner, name), one in zip(places, before, strict=True))
    hooks = (model._forward_hooks, model._forward_pre_hooks, optimizer._optimizer_step_pre_hooks,
             optimizer._optimizer_step_post_hooks)  # fmt: skip
    assert not any(hooks)


def test_micro_batches_keep_their_own_denominators(tmp_path: Path):
    # Ragged batches whose means are averaged: 2 of 8 tokens in one, 8 of 8 in the other.
    model, x, _ = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    targets = [torch.tensor([0, 1] + [-100] * 8), torch.tensor([2] * 10)]
    sums = [F.cross_entropy(model.eval()(x), y, reduction="sum").item() for y in targets]
    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        for y in targets:
            (F.cross_entropy(model(x), y) / 2).backward()
        optimizer.step()
    (step,) = records(watching.path, "step")
    assert [each["count"] for each in step["micro_batches"]] == [2, 10]
    assert [each["sum_nll"] for each in step["micro_batches"]] == pytest.approx(sums, rel=1e-6)
    assert step["loss"] == pytest.approx(sum(sums) / 12, rel=1e-6)  # not the mean of the two means


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_and_reductions_give_one_denominator(tmp_path: Path, reduction: str):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = torch.tensor([1.0, 2.0, 0.5, 4.0])
    expected = F.cross_entropy(model.eval()(x), y, weight).item()
    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        F.cross_entropy(model(x), y, weight, reduction=reduction).sum().backward()
        optimizer.step()
    (step,) = records(watching.path, "step")
    assert step["count"] == pytest.approx(float(weight[y].sum()))
    assert step["loss"] == pytest.approx(expected, rel=1e-6)


def test_probability_and_binary_targets_and_smoothing_have_their_rulers(tmp_path: Path):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    soft = torch.full((10, 4), 0.1).scatter_(1, y.unsqueeze(1), 0.7)
    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        for loss in (
            lambda: F.cross_entropy(model(x), soft),
            lambda: F.cross_entropy(model(x), y, label_smoothing=0.4),
            lambda: F.binary_cross_entropy_with_logits(model(x), F.one_hot(y, 4).float()),
        ):
            loss().backward()
            optimizer.step()
    of_soft, smoothed, binary = (each["ruler"] for each in records(watching.path, "step"))
    floor = -0.7 * math.log(0.7) - 3 * 0.1 * math.log(0.1)  # q = 0.6·onehot + 0.4/4: the same row
    assert of_soft["floor"] == pytest.approx(floor, rel=1e-6)
    assert smoothed["floor"] == pytest.approx(floor, rel=1e-6)
    share = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert binary == {"floor": 0.0, "prior": pytest.approx(share), "uniform": math.log(2), "num_classes": 2}


def test_tokens_of_a_linear_loss_are_text(tmp_path: Path):
    torch.manual_seed(0)
    embedding = nn.Embedding(30, 8)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    tokens = torch.randint(26, (3, 7))
    expected = -xent.token_logprobs(embedding(tokens), tokens, linear_weight=embedding.weight, shift=1)
    names = {"decode": lambda ids: "".join(chr(97 + each) for each in ids)}
    with xent.watch(embedding, optimizer, tmp_path / "run", every=1, **names) as watching:
        xent.linear_cross_entropy(embedding(tokens), embedding.weight, tokens, shift=1).backward()
        optimizer.step()
    (pieces,) = records(watching.path, "tokens")
    assert [each["text"] for each in pieces["pieces"]] == [chr(97 + each) for each in tokens[0, 1:].tolist()]
    assert [each["nats"] for each in pieces["pieces"]] == pytest.approx(expected[0].tolist(), rel=1e-4)
    (step,) = records(watching.path, "step")
    assert (step["count"], step["sum_nll"]) == (18, pytest.approx(float(expected.detach().sum()), rel=1e-5))
    assert records(watching.path, "worst_rows")[0]["rows"][0]["text"]


def test_a_closure_is_one_step_and_its_first_loss(tmp_path: Path):
    found = []
    for watched in (False, True):
        model, x, y = small()
        model.eval()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

        def closure(model=model, optimizer=optimizer, x=x, y=y) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        first = F.cross_entropy(model(x), y).item()
        with xent.watch(model, optimizer, tmp_path / "run", 1) if watched else nullcontext() as watching:
            for _ in range(3):
                optimizer.step(closure)
        found.append(bits(model))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    steps = records(watching.path, "step")
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert (steps[0]["loss"], steps[0]["count"]) == (pytest.approx(first, rel=1e-6), 10)
    assert all(layer["gradient_norm"] > 0 for layer in records(watching.path, "layers")[0]["layers"])


def test_a_loss_inside_a_closure_after_micro_batches_outside_counts(tmp_path: Path):
    # Lightning accumulates so: the last micro-batch runs in the closure of the step.
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure() -> None:
        F.cross_entropy(model(x[:3]), y[:3]).backward()

    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        F.cross_entropy(model(x), y).backward()
        optimizer.step(closure)  # pyright: ignore[reportArgumentType, reportCallIssue]
    (step,) = records(watching.path, "step")
    assert [each["count"] for each in step["micro_batches"]] == [10, 3]


def test_an_ignored_class_is_not_right(tmp_path: Path):
    model, x, _ = small()
    y = torch.zeros(10, dtype=torch.long)
    y[0] = 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        F.cross_entropy(model(x) + torch.tensor([9.0, 0, 0, 0]), y, ignore_index=0).backward()
        optimizer.step()
    assert records(watching.path, "step")[0]["accuracy"] == 0.0


def test_a_step_that_a_scaler_leaves_out_is_no_step(tmp_path: Path):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        for factor in (1.0, math.inf, 1.0):
            scaler.scale(F.cross_entropy(model(x), y) * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    steps = records(watching.path, "step")
    assert [(step["step"], step["count"]) for step in steps] == [(1, 10), (2, 10)]


def test_two_optimizers_on_one_loss_and_on_two(tmp_path: Path):
    model, x, y = small()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.SGD(model[3].parameters(), lr=0.2)
    with xent.watch(model, [first, second], tmp_path / "run", every=1) as watching:
        for _ in range(2):
            F.cross_entropy(model(x), y).backward()
            first.step()
            second.step()
            model.zero_grad()
    steps = records(watching.path, "step")
    assert [(step["step"], step["optimizer"], step["count"]) for step in steps] == [(1, 0, 10), (3, 0, 10)]
    layers = [[each["name"] for each in record["layers"]] for record in records(watching.path, "layers")]
    assert layers == [["0"], ["3"]] * 2


def test_another_threads_loss_is_not_this_runs(tmp_path: Path):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other, _, _ = small()

    def elsewhere() -> None:
        F.cross_entropy(other(x), y).backward()

    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        loop(model, optimizer, x, y, 1)
    assert [step["count"] for step in records(watching.path, "step")] == [10]


def test_a_validation_without_gradient_is_no_loss_of_the_step(tmp_path: Path):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        with torch.no_grad():
            F.cross_entropy(model(x), y)
        loop(model, optimizer, x, y, 1)
        watching.evaluation("validation", loss=1.5, count=10)
        watching.rows("validation", model(x), y, x)
    assert records(watching.path, "step")[0]["count"] == 10
    assert records(watching.path, "evaluation")[0]["loss"] == 1.5
    assert records(watching.path, "classes")[-1]["split"] == "validation"


def test_the_doctor_looks_at_the_first_steps(tmp_path: Path):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.watch(model, optimizer, tmp_path / "run") as watching:
        for _ in range(25):
            F.cross_entropy(model(x).softmax(1), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        (finding,) = [each for each in records(watching.path, "finding") if each["severity"] == "error"]
    assert finding["rule"] == "softmax-before-cross-entropy"
    assert (finding["step"], Path(finding["file"]).name) == (21, Path(__file__).name)
    assert "softmax" in finding["source"]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted"), (SystemExit(0), "done")]
)
def test_an_exception_ends_the_records_and_goes_on(tmp_path: Path, error: BaseException, status: str):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watching = xent.watch(model, optimizer, tmp_path / "run")
    with pytest.raises(type(error)), watching:  # noqa: PT012  (the block is what is tested)
        loop(model, optimizer, x, y, 2)
        raise error
    (end,) = records(watching.path, "end")
    assert (end["status"], end["steps"]) == (status, 2)
    assert (end["error"] == "ValueError: no") is (status == "failed")


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (lambda m, o: xent.watch(m, o, every=0), OptionError, "every=0; it counts steps: pass a number from 1 on"),
        (lambda m, o: xent.watch(m, []), OptionError, "there is no optimizer; steps are counted by an optimizer's"),
        (lambda m, o: xent.watch(3, o), DtypeError, "model is int; a run is watched for torch modules: pass the model"),
        (lambda m, o: xent.watch(m, 3), DtypeError, "optimizer is int; a step is that of a torch.optim.Optimizer"),
        (lambda m, o: xent.watch(m, o, colour=1), OptionError, "colour=…; watch knows name, config, class_names"),
        (lambda m, o: xent.watch(m, o, "/proc/no").__enter__(), RunError, "/proc/no can't be written ("),
    ],
)
def test_what_it_refuses(given: Callable[[Any, Any], Any], error: type[Exception], words: str):
    model, _, _ = small()
    with pytest.raises(error) as caught:
        given(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert str(caught.value).startswith(words)
