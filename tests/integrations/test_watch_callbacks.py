"""The callbacks of trainers: a run of theirs is written down as it went."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.inspection.watching.test_watch import records

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the frameworks warn of this small machine


def test_lightning(tmp_path: Path):
    lightning = pytest.importorskip("lightning")
    from xent.integrations.lightning import Watch

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"width": 6})
            self.layer = torch.nn.Linear(6, 3)

        def training_step(self, batch, index):
            return F.cross_entropy(self.layer(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.log("val_loss", F.cross_entropy(self.layer(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    rows = DataLoader(TensorDataset(torch.randn(16, 6), torch.randint(3, (16,))), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=2, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[Watch(tmp_path / "run", every=1)],
    )  # fmt: skip
    trainer.fit(Module(), rows, rows)
    path = tmp_path / "run" / "records.jsonl"
    steps = records(path, "step")
    assert [(step["step"], step["count"], len(step["micro_batches"])) for step in steps] == [
        (number, 8, 2) for number in range(1, 5)
    ]
    assert records(path, "run")[0]["config"] == {"width": 6}
    assert [each["split"] for each in records(path, "evaluation")] == ["validation"] * 2
    assert records(path, "end")[0]["status"] == "done"


def test_transformers(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    from xent.integrations.transformers import Watch

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                 num_attention_heads=2, max_position_embeddings=16)
    )  # fmt: skip
    tokens = [torch.randint(40, (9,)) for _ in range(8)]
    rows = [{"input_ids": each, "labels": each} for each in tokens]
    options = transformers.TrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=3,
        report_to=[], use_cpu=True, save_strategy="no", logging_steps=1, disable_tqdm=True, eval_strategy="no",
    )  # fmt: skip
    watch = Watch(tmp_path / "run", every=1, decode=lambda ids: " ".join(map(str, ids)))
    transformers.Trainer(model, options, train_dataset=rows, callbacks=[watch]).train()
    path = tmp_path / "run" / "records.jsonl"
    steps = records(path, "step")
    assert [(step["step"], step["count"]) for step in steps] == [(number, 4 * 8) for number in (1, 2, 3)]
    assert all(3 < step["loss"] < 5 for step in steps)  # ln 40 = 3.69
    assert records(path, "run")[0]["config"]["max_steps"] == 3
    assert records(path, "end")[0]["status"] == "done"
