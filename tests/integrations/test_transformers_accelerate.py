"""Is the loss of a transformers model, made without its logits, its own; and everything else as before?"""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
from tests.integrations.tiny_models import CONFIGURATIONS, VOCABULARY, gradients, tiny, tokens
from xent.errors import DtypeError, OptionError
from xent.integrations.transformers import DeferredLogits, accelerate

# Both are float32 sums of the same ~30 rows in another order: a few roundings of 6e-8 each, a hundred times fewer
# than a wrong row (1/30) would show.
_LOSS, _GRADIENT = 2e-6, 2e-5


def _step(model: Any, **inputs: Any) -> tuple[float, dict[str, Tensor]]:
    output = model(**inputs)
    output.loss.backward()
    return output.loss.item(), gradients(model)


def _assert_same(made: tuple[float, dict[str, Tensor]], own: tuple[float, dict[str, Tensor]]) -> None:
    assert made[0] == pytest.approx(own[0], rel=_LOSS)
    assert made[1].keys() == own[1].keys()
    for name, gradient in own[1].items():
        error = (made[1][name] - gradient).abs().max().item()
        assert error <= _GRADIENT * max(gradient.abs().max().item(), 1e-3), name


@pytest.fixture
def no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a table of all logits is made after all."""
    monkeypatch.setattr(DeferredLogits, "tensor", lambda self: pytest.fail("the logits were made"))


@pytest.mark.usefixtures("no_logits")
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_loss_and_every_gradient_are_the_models_own(kind: str) -> None:
    model, inputs = tiny(kind), tokens()
    own = _step(model, **inputs)
    with accelerate(model):
        made = _step(model, **inputs)
    _assert_same(made, own)


@pytest.mark.usefixtures("no_logits")
@pytest.mark.parametrize("count", [7, torch.tensor(40)])
def test_the_number_of_items_divides_the_sum(count: Any) -> None:
    model, inputs = tiny("llama"), tokens()
    own = _step(model, **inputs, num_items_in_batch=count)
    with accelerate(model):
        _assert_same(_step(model, **inputs, num_items_in_batch=count), own)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite"])
def test_logits_that_are_asked_for_are_the_models_own(kind: str) -> None:
    model, inputs = tiny(kind), tokens()
    own = model(**inputs).logits
    with accelerate(model):
        logits = model(**inputs).logits
        assert isinstance(logits, DeferredLogits)
        assert logits.shape == own.shape
        assert (logits.dtype, logits.device) == (own.dtype, own.device)
        assert torch.equal(logits.tensor(), own)
        assert torch.equal(logits.argmax(-1), own.argmax(-1))
        assert torch.equal(torch.softmax(logits, -1), own.softmax(-1))
        torch.testing.assert_close((logits[:, -1] + 1).detach(), own[:, -1].detach() + 1)
        for index in ((..., -1, slice(None)), (0,), (slice(None), slice(2, 5)), (..., slice(0, 9)), (0, 1, 2), (...,)):
            torch.testing.assert_close(torch.as_tensor(logits[index] * 1.0).detach(), own[index].detach())
        assert torch.equal(model(input_ids=inputs["input_ids"]).logits, own)  # without labels: a plain tensor


def test_evaluation_and_generation_run_as_before() -> None:
    model, inputs = tiny("llama").eval(), tokens()
    with torch.no_grad():
        own = model(**inputs)
        prompt = inputs["input_ids"][:1, :4]
        text = model.generate(
            prompt, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        with accelerate(model):
            output = model(**inputs)
            again = model.generate(
                prompt, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
    assert isinstance(output.logits, Tensor)
    assert torch.equal(output.logits, own.logits)
    assert torch.equal(output.loss, own.loss)
    assert torch.equal(text.sequences, again.sequences)
    assert all(torch.equal(one, two) for one, two in zip(text.logits, again.logits, strict=True))


def test_it_is_undone_on_exit_and_after_an_error() -> None:
    model = tiny("llama")
    before = (dict(model.__dict__), dict(model.lm_head.__dict__))
    with pytest.raises(IndexError), accelerate(model):
        model(input_ids=torch.tensor([[999]]), labels=torch.tensor([[1]]))
    assert before[0].keys() == model.__dict__.keys()
    assert before[1].keys() == model.lm_head.__dict__.keys()
    handle = accelerate(model)
    with pytest.raises(OptionError, match="accelerated already"):
        accelerate(model)
    handle.undo()
    handle.undo()
    assert isinstance(model(**tokens()).logits, Tensor)
    with pytest.raises(OptionError, match="undone"), handle:
        pass


def test_a_copy_has_its_own_head() -> None:
    model, inputs = tiny("llama"), tokens()
    own = model(**inputs).loss.item()
    with accelerate(model):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.lm_head.weight.zero_()
        assert twin(**inputs).loss.item() == pytest.approx(torch.tensor(VOCABULARY).log().item(), rel=1e-6)
        assert model(**inputs).loss.item() == pytest.approx(own, rel=_LOSS)


def test_an_operation_that_needs_the_logits_is_refused_by_name() -> None:
    model = tiny("llama")
    model.loss_function = lambda logits, labels, vocab_size, **_: logits.logsumexp(-1).mean()
    with accelerate(model), pytest.raises(OptionError, match="LlamaForCausalLM applies logsumexp to its logits"):
        model(**tokens())
    model.loss_function = lambda logits, labels, vocab_size, **_: torch.softmax(logits, -1).mean()
    with accelerate(model), pytest.raises(OptionError, match="LlamaForCausalLM applies softmax to its logits"):
        model(**tokens())


def test_a_change_in_place_is_refused_inside_the_forward_and_after_it() -> None:
    def masking(logits: Any, labels: Any, vocab_size: int, **_: Any) -> Any:
        logits[..., :2] = -1e4
        return logits.sum()

    model = tiny("llama")
    with accelerate(model):
        logits = model(**tokens()).logits
        for change in (lambda: logits.__setitem__(0, 0.0), lambda: logits.clamp_(-1, 1)):
            with pytest.raises(OptionError, match=r"the change would be lost: take logits = outputs.logits.tensor\(\)"):
                change()
        assert not hasattr(logits, "_repr_html_")  # what a notebook asks for makes no logits
        model.loss_function = masking
        with pytest.raises(OptionError, match=r"LlamaForCausalLM applies .* to its logits before it returns"):
            model(**tokens())


def test_on_the_meta_device() -> None:
    model, inputs = tiny("llama").to("meta"), {name: value.to("meta") for name, value in tokens().items()}
    with accelerate(model):
        loss = model(**inputs).loss
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta")


def test_a_head_that_is_no_plain_layer_is_refused_by_name() -> None:
    class Quantized(nn.Linear):
        pass

    model = tiny("llama")
    model.lm_head = Quantized(16, VOCABULARY)
    with pytest.raises(DtypeError, match=r"LlamaForCausalLM: its head is a .*Quantized"):
        accelerate(model)
    with pytest.raises(DtypeError, match="LlamaModel has no head"):
        accelerate(tiny("llama").model)
    with pytest.raises(DtypeError, match="Linear has no get_output_embeddings"):
        accelerate(nn.Linear(2, 2))


def test_a_head_replaced_since_is_said() -> None:
    model = tiny("llama")
    with accelerate(model):
        model.resize_token_embeddings(VOCABULARY + 3)
        with pytest.raises(OptionError, match="was replaced since"):
            model(**tokens())


@pytest.mark.usefixtures("no_logits")
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_half_precision_is_no_further_from_the_truth(kind: str) -> None:
    model, inputs = tiny(kind).bfloat16(), tokens()
    truth = copy.deepcopy(model).double()(**inputs).loss.item()
    own = model(**inputs).loss.item()
    with accelerate(model):
        made = model(**inputs).loss
    assert made.dtype == torch.float32
    # The logits are never rounded to eight bits; what the layers below did is the same: 2⁻⁸ of a logit of about 1.
    assert abs(made.item() - truth) <= abs(own - truth) + 2**-8


@pytest.mark.usefixtures("no_logits")
def test_under_autocast() -> None:
    model, inputs = tiny("llama"), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        own = _step(model, **inputs)
        with accelerate(model):
            made = _step(model, **inputs)
    assert made[0] == pytest.approx(own[0], abs=2**-8)
    assert made[1].keys() == own[1].keys()


@pytest.mark.usefixtures("no_logits")
def test_under_gradient_checkpointing() -> None:
    model, inputs = tiny("llama"), tokens()
    own = _step(model, **inputs)
    enable = "activation_checkpointing_enable"  # its name since transformers 5.2x
    getattr(model, enable if hasattr(model, enable) else "gradient_checkpointing_enable")()
    runs: list[nn.Module] = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, _: runs.append(module))
    with accelerate(model):
        _assert_same(_step(model, **inputs), own)
    assert len(runs) == 2  # forward, and again for backward, where it stops as soon as it can


@pytest.mark.slow
@pytest.mark.usefixtures("no_logits")
@pytest.mark.parametrize(
    ("kind", "accelerated_first", "backend"),
    [("gemma2", True, "aot_eager"), ("llama", False, "aot_eager"), ("llama", True, "inductor")],
)
def test_under_compile(kind: str, accelerated_first: bool, backend: str) -> None:
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("inductor compiles C++")
    model, inputs = tiny(kind), tokens()
    own = _step(model, **inputs)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with accelerate(model if accelerated_first else compiled):
        output = compiled(**inputs)
        output.loss.backward()
        _assert_same((output.loss.item(), gradients(model)), own)
    assert isinstance(compiled(**inputs).logits, Tensor)


def test_with_torchs_losses_accelerated_too() -> None:
    import xent

    model, inputs = tiny("gemma2"), tokens()
    own = _step(model, **inputs)
    with xent.accelerate(), accelerate(model):
        _assert_same(_step(model, **inputs), own)


@pytest.mark.usefixtures("no_logits")
@pytest.mark.parametrize("save_head", [False, True])
def test_under_lora(save_head: bool) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = {"modules_to_save": ["lm_head"]} if save_head else {}
    lora = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=2, lora_alpha=4, **options)
    model, inputs = peft.get_peft_model(tiny("llama"), lora), tokens()
    own = _step(model, **inputs)
    with accelerate(model):
        _assert_same(_step(model, **inputs), own)
    assert isinstance(model(**inputs).logits, Tensor)


def test_lora_on_the_head_is_refused_by_name() -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"], r=2)
    with pytest.raises(DtypeError, match=r"LlamaForCausalLM: its head is a peft\..*Linear"):
        accelerate(peft.get_peft_model(tiny("llama"), lora))


@pytest.mark.slow
def test_under_the_trainer(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    inputs = tokens(8)
    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(8)]

    def trained(accelerated: bool) -> tuple[list[float], dict[str, Tensor]]:
        model = tiny("gemma2")
        arguments = TrainingArguments(
            str(tmp_path / str(accelerated)), max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            logging_steps=1, report_to=[], use_cpu=True, eval_strategy="steps", eval_steps=2, save_strategy="no",
            disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)  # pyright: ignore
        if accelerated:
            with accelerate(model):
                trainer.train()
        else:
            trainer.train()
        losses = [entry[name] for entry in trainer.state.log_history for name in ("loss", "eval_loss") if name in entry]
        return losses, dict(model.state_dict())

    own, made = trained(False), trained(True)
    assert len(own[0]) == 6
    assert made[0] == pytest.approx(own[0], rel=1e-4)  # logged with four decimals
    for name, weight in own[1].items():
        torch.testing.assert_close(made[1][name], weight, rtol=1e-3, atol=2e-5)  # four Adam steps of 5e-5


_PROGRAM = """
import sys, torch
from tests.integrations.tiny_models import tiny
from xent.bench.memory import peak_extra_bytes
from xent.integrations.transformers import accelerate
torch.set_num_threads(1)
tokens = torch.randint(3, 24000, (32, 64))
for kind in sys.argv[1:]:
    model = tiny(kind, vocab_size=24000)
    def step():
        model.zero_grad(set_to_none=True)
        model(input_ids=tokens, labels=tokens).loss.backward()
    model(input_ids=tokens[:1, :4], labels=tokens[:1, :4]).loss.backward()
    plain = peak_extra_bytes(step)
    with accelerate(model):
        print(kind, plain, peak_extra_bytes(step), flush=True)
"""
_MEASURED = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gpt2",
    "phi",
    "opt",
    "gpt_neox",
    "granite",
    "cohere",
    "bart",
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak resident memory from /proc")
def test_a_step_never_holds_the_logits() -> None:
    """2,048 rows of 24,000 classes: 197 MB, which the model's own step holds twice, with their gradient.

    Half a table is more than a chunk of 64 MiB at most, the gradients of 3 MB and the layers.
    """
    table = 2048 * 24000 * 4
    command = [sys.executable, "-c", _PROGRAM, *_MEASURED]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    assert [line.split()[0] for line in said] == list(_MEASURED)
    for kind, plain, accelerated in map(str.split, said):
        assert int(plain) > 2 * table, kind
        assert int(accelerated) < table / 2, kind
