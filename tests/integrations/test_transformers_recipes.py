"""Do the recipes of docs/transformers.md run as they stand there, and train as without xent?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

pytest.importorskip("transformers")
from tests.distributed.processes import Raised, on_processes
from tests.integrations.tiny_models import tiny, tokens
from xent.integrations.transformers import DeferredLogits, accelerate

__all__ = ["on_processes"]
_BLOCKS = re.findall(r"```python\n(.*?)```", Path("docs/transformers.md").read_text("utf-8"), re.DOTALL)
# Steps of 0.1 along gradients that agree within 2e-5 of their largest entry, which is below 1 in these models.
_WEIGHT = 2e-5


def _recipe(*marks: str) -> str:
    """The one block that holds all of these."""
    (block,) = [block for block in _BLOCKS if all(mark in block for mark in marks)]
    return block


def _without_xent(block: str) -> str:
    plain, count = re.subn(r"^with .*accelerate\(model\):.*$", "if True:", block, flags=re.MULTILINE)
    assert count == 1
    return plain


def _weights_after(block: str, **names: Any) -> dict[str, Tensor]:
    """The weights of a tiny model that a recipe has trained."""
    model = tiny("llama")
    names.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=0.1))
    exec(block, {"torch": torch, "dist": dist, "accelerate": accelerate, "model": model, **names})
    return {name: _whole(weight).detach().clone() for name, weight in model.named_parameters()}


def _whole(weight: Any) -> Tensor:
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def _assert_trained_alike(made: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    start = dict(tiny("llama").named_parameters())
    assert {name.removeprefix("module.") for name in made} == set(own)
    assert any((own[name] - weight).abs().max() > 100 * _WEIGHT for name, weight in start.items())  # it has trained
    for name, weight in own.items():
        torch.testing.assert_close(made[name], weight, rtol=0, atol=_WEIGHT, msg=name)


def _batches() -> list[dict[str, Tensor]]:
    """Four batches of two texts; the first has ignored labels, so that a mean of means would show."""
    whole = tokens(8)
    return [{name: tensor[begin : begin + 2] for name, tensor in whole.items()} for begin in range(0, 8, 2)]


def _loader() -> Any:
    """The same batches in a DataLoader."""
    rows: Any = [{name: tensor[row] for name, tensor in tokens(8).items()} for row in range(8)]
    return torch.utils.data.DataLoader(rows, batch_size=2)


@pytest.fixture
def no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeferredLogits, "tensor", lambda self: pytest.fail("the logits were made"))


@pytest.mark.usefixtures("no_logits")
def test_accelerate_with_gradient_accumulation() -> None:
    library = pytest.importorskip("accelerate")
    block = _recipe("accelerator.prepare", "accelerator.accumulate")

    def trained(block: str) -> dict[str, Tensor]:
        accelerator = library.Accelerator(cpu=True, gradient_accumulation_steps=2)
        return _weights_after(block, accelerator=accelerator, loader=_loader())

    _assert_trained_alike(trained(block), trained(_without_xent(block)))


@pytest.mark.usefixtures("no_logits")
def test_micro_batches_add_up_to_the_whole_batch() -> None:
    made = _weights_after(_recipe("micro_batches"), micro_batches=_batches())
    model = tiny("llama")
    model(**tokens(8)).loss.backward()  # the truth: one batch
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    _assert_trained_alike(made, {name: weight.detach() for name, weight in model.named_parameters()})


@pytest.mark.slow
@pytest.mark.usefixtures("no_logits")
@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("handle.undo()", {}),
        ("handle.undo()", {"activation_checkpointing": True}),
        ("handle.undo()", {"torch_compile": True, "torch_compile_backend": "aot_eager"}),
        ("get_peft_model", {}),
    ],
)
def test_the_trainer(mark: str, options: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import Trainer, TrainingArguments

    if "activation_checkpointing" in options and not hasattr(TrainingArguments, "activation_checkpointing"):
        options = {"gradient_checkpointing": True}  # its name before transformers 5.2x
    block = _recipe(mark, "Trainer")

    def trained(block: str) -> dict[str, Tensor]:
        arguments = TrainingArguments(
            str(tmp_path), max_steps=3, per_device_train_batch_size=2, learning_rate=0.5, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, optim="sgd", **options,
        )  # fmt: skip
        torch.manual_seed(0)  # the first weights of LoRA
        names = {"Trainer": Trainer, "LoraConfig": peft.LoraConfig, "get_peft_model": peft.get_peft_model}
        return _weights_after(block, arguments=arguments, tokens=_loader().dataset, **names)

    made, own = trained(block), trained(_without_xent(block))
    if mark == "handle.undo()":
        _assert_trained_alike(made, own)
        return
    assert max(weight.abs().max() for name, weight in own.items() if "lora_B" in name) > 100 * _WEIGHT  # 0 at first
    for name, weight in own.items():
        torch.testing.assert_close(made[name], weight, rtol=0, atol=_WEIGHT, msg=name)


def _of_one_process() -> dict[str, Tensor]:
    """Two steps, each on the two batches that two ranks have."""
    model, batches = tiny("llama"), _batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for first, second in (batches[:2], batches[2:]):
        model(**{name: torch.cat([first[name], second[name]]) for name in first}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: weight.detach() for name, weight in model.named_parameters()}


def _of_this_rank(rank: int) -> list[dict[str, Tensor]]:
    DeferredLogits.tensor = lambda self: pytest.fail("the logits were made")
    return _batches()[rank::2]


def data_parallel(rank: int, size: int) -> dict[str, Tensor]:
    from torch.nn.parallel import DistributedDataParallel

    block = _recipe("DistributedDataParallel(model)")
    return _weights_after(block, DistributedDataParallel=DistributedDataParallel, loader=_of_this_rank(rank))


def data_parallel_that_looks_for_unused_parameters(rank: int, size: int) -> dict[str, Tensor]:
    from torch.nn.parallel import DistributedDataParallel

    def wrapped(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model, find_unused_parameters=True)

    block = _recipe("DistributedDataParallel(model)")
    return _weights_after(block, DistributedDataParallel=wrapped, loader=_of_this_rank(rank))


def sharded(rank: int, size: int) -> dict[str, Tensor]:
    from torch.distributed.fsdp import fully_shard

    def on_the_cpu(module: nn.Module) -> nn.Module:
        return fully_shard(module, mesh=dist.device_mesh.init_device_mesh("cpu", (size,)))

    return _weights_after(_recipe("fully_shard(model)"), fully_shard=on_the_cpu, loader=_of_this_rank(rank))


def a_head_by_itself(rank: int, size: int) -> str:
    from torch.distributed.fsdp import fully_shard

    model, mesh = tiny("llama"), dist.device_mesh.init_device_mesh("cpu", (size,))
    fully_shard(model.lm_head, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with pytest.raises(Exception, match="head") as caught, accelerate(model):
        model(**_of_this_rank(rank)[0])
    return str(caught.value)


def prepared_by_accelerate(rank: int, size: int) -> dict[str, Tensor]:
    """accelerate's own two processes: a mean of the ranks' means, with and without xent."""
    import os

    from accelerate import Accelerator

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    DeferredLogits.tensor = lambda self: pytest.fail("the logits were made")
    block = _recipe("accelerator.prepare", "accelerator.accumulate")
    weights = []
    for source in (block, _without_xent(block)):
        weights.append(_weights_after(source, accelerator=Accelerator(cpu=True), loader=_loader()))
    assert Accelerator(cpu=True).num_processes == size
    _assert_trained_alike(*weights)
    return weights[0]


@pytest.mark.slow
def test_two_processes(on_processes: Any) -> None:
    checks = (
        data_parallel, data_parallel_that_looks_for_unused_parameters, sharded, a_head_by_itself, prepared_by_accelerate
    )  # fmt: skip
    found = on_processes(2, *checks, limit=240, timeout=120)
    own = _of_one_process()
    for rank in found:
        for value in rank.values():
            assert not isinstance(value, Raised), value
        for check in checks[:3]:
            _assert_trained_alike(rank[check.__name__], own)
        assert "shard the model as one unit with its head" in rank["a_head_by_itself"]
    # accelerate gives each rank every second batch, and one step takes the mean of two means.
    first, second = (rank["prepared_by_accelerate"] for rank in found)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert any((weight - own[name]).abs().max() > _WEIGHT for name, weight in first.items())
